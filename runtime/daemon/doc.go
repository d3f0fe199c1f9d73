// Package daemon is one BuildKit node: reaching it, asking it, and having it work.
//
// [Dial] connects to the nodes of a command; the [Pool] looks after them from then on.
// [Ask] and [Inspect] look at nodes once. A pool also answers for the compiler: what an image
// is ([Images]), what a remote definition holds ([Definitions]), what a foreign frontend makes
// of a target ([Gateway]).
//
// A build gets a [Connection] to each node, which is a [Daemon] as long as it lasts. The
// package knows nothing of jobs, plans and schedules: a Daemon is given definitions, and
// reports by BuildKit's status. Failures have the types of package fault.
//
// # Links
//
// A pool keeps one connection (link) to each node, from Dial to Close, and asks a node that
// says nothing for a sign of life. A link ends when it breaks or when nothing at all has been
// heard for the timeout. Every call through it ends then: nothing waits for a silent node,
// whatever it is waiting for. A link is never mended: the pool makes another one, as often as
// it takes.
//
// # On a node
//
//   - One session serves a whole build (session.go): directories, image layouts, secrets,
//     agents, credentials and caches in directories. So a directory is sent once, however
//     many targets read it. The client's layouts and caches are only read; a secret that a
//     target does not declare is not served, although other targets of the session declare
//     it.
//
//   - Partitions are evaluated one solve each, several at a time, in one build that
//     holds the results (evaluation.go). A partition is one definition whose last op joins
//     its units; a node from before BuildKit 0.31, which does not know that op, gets
//     one solve for each unit. While a build knows a step that failed, its failure stays; so
//     a step is executed again in another build, which takes the results over.
//
//   - An export is a build of its own that asks for the same digests: the daemon
//     answers from memory, and a step that ignores the cache runs once all the
//     same. Outputs that come to the client as files have a session each, since
//     the daemon finds their receiver by the number of the exporter alone.
//
//   - Caches are read before the first solve that imports them, and left out with a
//     warning when they are not read in time (cacheread.go, cachereach.go).
//
//   - What fails because of a registry is tried again, and an export that a silent registry
//     holds up is given up: see [Patiently].
//
// What an exporter is given (results, image configs, platforms, attestations) is
// what the Dockerfile frontend would have returned, so that an image is, to the
// digest, the one that BuildKit makes of the target. Its provenance describes the
// frontend, its options and the sources as BuildKit's does; it differs in the names
// of local directories, in base images being named by digest, and in the steps of
// mode=max, which are those of the merged graph. For a context that is a URL, and
// for a foreign frontend, it holds a part of what was asked for.
//
// # Tests
//
// One suite (conformance_test.go) passes on a daemon that is simulated (package simnode) and
// on a real one.
package daemon
