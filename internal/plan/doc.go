// Package plan runs the compile stages in order and holds their results: the [Build], which
// is a project before a node is chosen, and the [Plan], which node builds what.
//
//	project ─► frontend ─► llbmerge ─► Build ─► partition ─► Plan
//
// "dbake plan" prints a Plan (internal/report), "dbake build" executes it; both come
// from the same functions, so what is shown is what is done. A plan that was made
// earlier is carried out again by [Build.Restore].
//
// A job is what is placed on a node as one: a target with all its platforms, so
// that one node exports the whole image. The jobs of a node are cut into
// partitions, each submitted as one solve.
//
// # What is remembered of a step
//
// Digests in the merged graph depend on which targets are built together, since
// local sources are widened to what all of them read. So steps are known to the
// memory of nodes and to the cost history by names of their own:
//
//   - the operation: what the step and all below it do, whatever is in the files.
//     Costs are kept by it;
//   - the result: the operation with names, modes and contents of the files that
//     are read, which is what a node compares, too. An edited file changes the
//     results of exactly the steps that read it and of those above them; a fresh
//     checkout changes nothing. What a node holds by this name is planned to cost
//     nothing. Unchanged files are not read again (internal/memory/filesum);
//   - place and form: where in which Dockerfile the step stands, and what it does
//     there apart from its inputs. They explain why a result is not held ([Why]).
//
// # What a plan counts
//
// Steps, base images that have to be fetched, and the writing of outputs, which runs
// on the node that has built the target when that is done. A node is planned to do as
// much at once as it has slots; it does not keep to that, so what it took is
// remembered in proportion ([Build.Record]). Sending directories and opening sessions
// are not counted.
//
// # What is held
//
// Nodes hold the results that the ledger (internal/memory/warm) remembers and that they
// have not thrown away since ([Node]). A cache in a registry holds what the build had that
// wrote it ([Build.WithCache]); such results are fetched where that is predicted to end
// sooner than building them. A cache that a build on another machine wrote is read by the
// run, but not known to the plan.
//
// # Results that nodes take from each other
//
// A step that the targets of two nodes share is executed by both, or by one from which
// the other takes the result, whichever is predicted to end sooner. A result travels as
// a cache of its own, through the cache registry or else through the client, and the
// other node reads it before it needs the step ([Exchange]). A cache rather than an image
// in the step's place: the graph, and with it the provenance of images and the keys under
// which nodes remember results, are those of a build on one node.
//
// Steps that may give another result the second time have one in a run ([Build.Freedom]):
// a shared RUN is bound to one node, and with it what its layers stand on and what stands
// on its, since they travel together. Where the rule stands:
//
//   - the problem says which vertices have one result; every plan obeys
//     (partition.Vertex.Once);
//   - Exchange has a step for each of them that is sent on demand, besides those that the
//     plan sends: runtime/sched asks for it when a node turns out to need it, after a
//     steal, a loss or a prediction that was wrong, and submits nothing before it is there;
//   - runtime sends it through the registry, else through the client, and only when both
//     fail the step is built again.
//
// Sources are not sent, nor results of steps that have several: nodes that need them
// execute them. What a URL held when a node fetched it stands in its source as the
// checksum; steps that several targets share and that read it run on that node.
//
// A node that takes a result still reads the directories that the steps below it were made
// from: a cache is looked into in that way.
package plan
