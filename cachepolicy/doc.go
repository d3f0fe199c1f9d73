// Package cachepolicy decides which cache references a build imports and exports:
// one mode=max export for each cluster of units, not for each target, and the same
// list of imports for every solve of a cluster.
//
// [Decide] is a pure function of its input: no clock, no network, no BuildKit. Its
// imports do not depend on where units are placed, so they can be decided before
// the first solve and stay the same when units move; its exports follow the
// placement, so they are decided again once it is known where units were in fact
// built. Every entry of a [Policy], and everything left out, carries the name of
// the rule that decided and a reason in words. Input in another order gives the
// same Policy. Safe for concurrent use; nothing of the input is kept or changed.
//
// [Decide] says what is written when all is built. Where the parts of a cluster can be
// joined by this machine, a [Writer] says it while nodes still build: what is new is
// written as soon as it is large enough, and joined to what the registry is known to
// hold; where nothing is new, nothing is written.
//
// # Facts about BuildKit
//
// Read in v0.33 and v0.34; the rules follow from them.
//
//   - A vertex collects the cache sources of the solves that load it, but one
//     that is being looked up already does not look again (solver/jobs.go,
//     loadUnlocked). Solves with different imports therefore hit or miss by
//     chance of timing. Hence: one list, the union, for every solve of a cluster.
//     Solves of two clusters share no step, and the keys of the sources that they
//     share are the same in every cache (cachemanager.go, getID). Hence: a list
//     for each cluster.
//   - Each solve reads each of its imports anew, manifest and config
//     (solver/llbsolver/bridge.go, loadResult), and starts doing so at once.
//     Hence: few references, and none that is known to be absent.
//   - An import of type registry is known by its ref alone (cmKey); of two
//     entries with one ref and other attributes the first counts.
//   - What a vertex found in one cache names its result there and nowhere else: the
//     vertex after it is looked up under that name only (solver/combinedcache.go,
//     solver/cachemanager.go, getID). Of two caches imported side by side, the
//     second is of no use behind a step that the first one had. Hence: the parts
//     of a cluster are joined to one cache, and where that exists nothing else is
//     imported for it.
//   - A cache that is imported after a vertex was looked up finds the vertex only by
//     what it is made of, and only if it holds every key of every input but the
//     first (solver/cachemanager.go, getIDFromDeps). A directory of the client has
//     a key of its session, too, which no cache holds. So as long as some solve
//     keeps a vertex that copies from a directory, caches that come later are of no
//     use behind it. And once such a vertex has ended, its key of the session finds
//     it in the node's own cache, so that the import is not asked (solver/edge.go).
//     Hence: an image stands in for a result that was sent late, behind a COPY that
//     the node knows (package runtime/daemon).
//   - An import that fails costs one line in the progress and the hits it would
//     have given, nothing else.
//   - An importer reads at most 1 MiB of manifest and of config
//     (cache/remotecache/import.go, readBlob). A record is about 361 bytes of
//     config, so some 2,900 records fit; a larger cache is written without
//     complaint and can never be read. Hence: split by records, with a margin.
//   - An export replaces its ref. Hence: no two exports to one ref.
//   - One exporter takes all results of a solve (solver/llbsolver/export.go,
//     runCacheExporters). Hence: one export can hold a whole cluster, shared
//     steps once.
//   - An export without layers is skipped silently.
//   - Two exports of one solve to one registry ref are refused (control/control.go,
//     findDuplicateCacheOptions).
//
// # Names
//
// A cluster is exported to REPOSITORY:PREFIX-CLUSTER. CLUSTER is [Name] of its
// units: the first target's name and a hash of the unit ids. It does not depend on
// what the units contain, so an edited step still finds the cache of the last run;
// nor on the number of nodes or on other clusters. Where a cluster is built on
// several nodes or is too large for one ref, -0, -1, … follow, in the order of the
// smallest unit id of each part, which again is independent of node numbers. A
// build of fewer or more targets of a cluster has another name, since its export
// holds other records; it still reads the former by the rule "sibling". PREFIX is
// "dbake", or the tag given with the repository: a tag for each branch keeps
// branches apart.
//
// # Rules for imports, first match wins
//
//	no-cache    nothing is imported when the user asked for no cache
//	duplicate   a ref that is imported already is left out
//	target      cache-from of a target is imported, for all targets of its cluster
//	absent      a ref that the registry was asked for and does not have is left out
//	target-part further parts of a target's own cache that was written by several nodes
//	cluster     the refs of the clusters of this build
//	limit       siblings beyond 16 are left out, with a warning
//	sibling     other refs with the same prefix: earlier builds of other sets of targets
//
// # Rules for cluster exports, first match wins
//
//	not-built      a cluster none of whose units was built is not exported
//	partly-built   what was built of a cluster is exported under the name of those units,
//	               so that the cluster's ref keeps what it has of the others
//	too-large      one unit alone exceeds the importer's limit: exported, with a warning
//	cluster-split  a cluster, or a node's part of it, is cut to stay below the limit
//	cluster-node   a cluster built on several nodes has one ref for each node
//	cluster        a cluster has one ref
//
// # Rules for cache-to of targets, first match wins
//
//	not-built    no unit of the target has a node
//	inline       goes into the image; there is nothing to overwrite
//	target-part  a target whose platforms are built on several nodes: the first part
//	             keeps the place as written, the others get -1, -2, …
//	target       as written, with the target's own export
//
// Two targets that export to one place are warned of: the last to finish would
// overwrite the other.
package cachepolicy
