// Package runtime carries plans out on BuildKit nodes.
//
// [Run] builds and exports a [Build] on the nodes of a pool. What to do when is decided by
// runtime/sched; this package reports to it what happens and carries its commands out.
//
// What a single node can do, whatever the run, is package daemon. The other subpackages are
// what both stand on (fault, layout, cacheentry, output, publish, watchdog, registry), and
// what finds and starts nodes (nodeset, local). None of them knows this one.
//
// # A run
//
// One goroutine, the caller of Run, owns the state of a run and the scheduler. All
// else, solves, exports and health checks, are workers: each holds what it was
// started with and reports by message. Run returns when none is left, whatever
// happened, and with a [Result] that accounts for every job. Cancelling the
// context asks the scheduler to end the run; nothing is cut off behind its back.
//
// The run itself is small: it feeds the scheduler with events, carries out its commands,
// and reports to the parts what concerns them. Each part is a type with one idea, and only its
// methods write its fields (parts_test.go checks that):
//
//   - work: what is to be built, and which step belongs to whom; it does not change, so
//     workers share it (work.go)
//   - workers: the goroutines, and the messages by which they report (workers.go)
//   - submissions: jobs that a node was given as one solve, with their states and those
//     of their units (submission.go)
//   - nodeRuns: what a node is to the run, with its states, and what waits for it
//     (noderun.go); an attendant is the worker that reaches for it (attend.go)
//   - accounts: the ends of jobs and the failures behind them, from which the Result is
//     made (accounts.go); trials are the steps among these that ran and failed (trials.go)
//   - reporter: the events for the observer, and the warnings (reporter.go)
//   - exports: the outputs of jobs, joined images, and tags that are set right
//     (exports.go, join.go, tags.go); outputs that are withheld, to be published together
//     (package output), are left to a batch of package publish
//   - caches: what is decided about caches before the first solve (cache.go); waves write
//     those of clusters (cachewaves.go, joincache.go), unwritten are those that targets
//     could not write (unwritten.go)
//   - exchange: results that travel from node to node (exchange.go)
//   - lostResults and unread: results that a node cannot read any more, and files that it
//     was not sent (lostcache.go, unread.go)
//   - bases: base images that are passed on (bases.go)
//   - drains: nodes that are to go (drain.go)
//   - replans: plans of what is left, when nodes come (replan.go)
//   - activity: the phase that the run is in (phase.go)
//
// drive.go is where they meet: the commands of the scheduler, and the reports of solves
// and exports.
//
// # Results on nodes
//
//   - All solves that share a step import the same caches: a vertex keeps the sources
//     that it had when it was first looked up. Results that other nodes sent come on
//     top. Exports import none, since the node holds what they ask for.
//
//   - Caches of clusters are written by export-only solves, too, while the node still
//     builds (Writer of cachepolicy), and the client joins their parts.
//
//   - What a node builds for others, as the plan says (Exchange of internal/plan), is
//     a partition of its own whose export is a cache of that one result. It is
//     written to the cache registry or, without one, into a directory of the client
//     that lasts as long as the run; solves that begin later import it by digest.
//
// # Status
//
// The status streams of a node's solves overlap, and each repeats the past of the
// vertices it meets. An execution is counted by vertex and start time, whatever
// stream reports it; observers get nothing twice.
//
// # Nodes that come and go
//
// A run sees a node as a sequence of connections, each a link with a session. While
// there is none for a moment, what the node was doing waits, and is done again there.
// After that, or at once when the node was silent, the node is lost: its work goes to
// others. It may come back; a node that did not answer to Dial joins in the same way,
// without a part in the plan.
//
// Pushes under way on a node that is lost may still end there. So the run checks their tags
// when all is done, and sets right those that stand for something else than it reports. It
// cannot check a registry that only nodes reach, and says so.
//
// # Failures
//
// A failed step fails the jobs that need it and is reported once, as a [StepError]
// with its place in the Dockerfile and its last output. The type of its cause (package
// fault) decides what follows: StepFailed and Rejected are final, Unavailable is tried
// again, and what a node could not do for want of space or the like, NodeSick, is tried on
// other nodes; a node that fails all it is given is given up. With RetrySteps of
// runtime/sched a step that failed is executed again.
//
// # Several nodes for one target
//
// A target is several jobs (Choose of internal/plan) when no node can run all of its platforms,
// or when it ends sooner that way. Each job pushes its part by digest; the client joins them
// into the index that one node would have pushed, and names it. Outputs other than a pushed
// image are refused.
package runtime
