// Package llbmerge makes one graph of the LLB definitions of many units, in which
// equal work is one vertex.
//
// [Merge] brings every op into a canonical form, computes its digest anew from
// the bottom up, and keeps each digest once. [Graph.Slice] turns any subset of the
// units back into a definition.
//
// # Canonical form
//
// Two ops become one vertex exactly if their canonical forms are the same bytes.
// These differ from what a frontend wrote in the following ways only.
//
//   - An op is encoded deterministically: attributes are a map, and ordinary
//     encoding gives one op several digests.
//   - The session of OCI layouts is removed: the session of the solve serves them.
//   - The worker constraints of an op that ignores the cache take a form of their
//     own, see below.
//   - Local sources are named for their directory and widened, see below.
//
// Everything else that makes a difference is in the bytes already and keeps ops
// apart: network and security mode, devices, cache mounts and how they are shared,
// proxies, hosts, limits of processes, the platform.
//
// # Metadata
//
// What is said of an op besides its bytes is joined over the units that share it,
// in a slice over those of the slice: the least name, all capabilities, the looser
// resource limits (as a node does for one step of several builds), export to the
// cache if any unit asks for it. Ids of progress groups are random; they are
// replaced by ones that depend on the unit and the name of the group. Source maps keep the place in every unit's own Dockerfile.
//
// # Ignoring the cache
//
// That an op is to ignore the cache is metadata too, and a definition has room for
// one entry for each digest: merged as they are, either a unit that asked for a
// fresh result would get a cached one, or units that did not would lose their
// cache. So an op that ignores the cache gets another digest than its twin that
// does not, by the form of its worker constraints: the message is absent, or, if
// it holds filters, the last one is there twice. Neither changes what the message
// says, and it is no part of an op's cache key: that is made of the exec, file,
// source, merge, diff, build or passthrough message and of the platform
// (solver/llbsolver/ops in BuildKit, CacheMap of each). The result of the one is
// therefore found in the cache by the other, and the node's own rule holds for
// two that run at the same time: the op that may use the cache may be answered by
// the one that ignores it, never the other way round (mergeTo in
// solver/scheduler.go, LoadOrStore in solver/index.go). The digest depends on the
// unit's own metadata alone, not on who else is in the graph.
//
// # Local sources
//
// A frontend gives every local source a random id, and narrows it to the paths
// that one Dockerfile needs. Two targets over one directory would share nothing and
// send it twice. In the graph, the sources that agree on the directory
// ([Unit.Locals]), on exclude and include patterns, on the way files are compared
// and on every other attribute become one, which follows the paths of all of
// them. If one of them is not narrowed, neither is the result. The random id and
// the session are removed, and the shared key hint is a function of what the
// sources agree on, so that a node finds its previous copy of the directory even
// if the paths have changed.
//
// The union is over all units that are given to Merge, that is, of the project;
// a slice keeps it. The digest of a local source, and of what depends on it, is
// therefore a function of the project, and the same on every node and in every
// slice. No other digest depends on which units are present.
//
// Widening must not change what a build sees. A source is widened only if all its
// uses in the unit select from it nothing but paths that it follows itself: as
// the source of a copy, or as a bind mount without output whose selector is such a
// path. This is how the Dockerfile frontend writes them. Then:
//
//   - The files at a selected path are the same. A followed path becomes an include
//     pattern of the transfer, which takes along what is below it and the targets
//     of symbolic links on the way. So the narrow source has all files there that
//     the excludes leave, and the wide one, with the same excludes, cannot have
//     more.
//   - A wildcard selects the same files. As a pattern of the transfer it matches
//     whatever the copy matches with it, so the narrow source has every match; and
//     files that other units need do not match. "COPY . ." follows no paths, hence
//     is not narrowed and makes the union everything.
//   - Cache keys are the same. The key of a local source is of its session and never
//     found again; copies and mounts are found by the checksum of what they
//     select.
//   - The excludes of a .dockerignore apply to the whole directory, before and after
//     widening; sources with different ones are different vertices.
//
// The one thing that can change is an error: a link that is found below a selected
// directory, or by a wildcard in one, may point out of it, to a file that only
// another unit transfers. A copy that would have failed on it then succeeds.
//
// Any other use may see all of a source: the root of a build, the input of a merge,
// the root of a container, a frontend that narrows the directory and copies "/".
// Such a source is a vertex of its own, as is one whose paths would be patterns of
// another meaning among others ("!x", "[a-z]").
//
// # Laws
//
// With = for graphs that agree in all that can be seen of them, and cut(g, u) for
// the unit u with the definition g.Slice(u) and no renaming:
//
//   - commutative: Merge(x, y) = Merge(y, x);
//   - idempotent: merging the cuts of all units of g gives g;
//   - associative: Merge(x, y, z) = merging the cuts of Merge(x, y) and of Merge(z);
//   - slicing commutes with merging: g.Slice(s) is, byte for byte, the slice s of
//     the merged cuts of s;
//   - every digest is the digest of its bytes, in the graph and on the node;
//   - every input is in the graph exactly once and stands before its users;
//   - a slice holds what its units need and nothing else, and BuildKit loads it;
//   - time and memory are linear in the size of the definitions.
//
// Malformed definitions are errors, never panics.
package llbmerge
