// Package sched decides a run: which units are submitted to which node and when, what an
// idle node steals, what is retried, and what happens when a node is lost, a unit fails or
// the user cancels. It carries nothing out.
//
// A [Scheduler] is a state machine. Its driver, for real daemons or a simulator, passes it
// every [Event] in the order seen and carries out the returned commands:
//
//	s, err := sched.New(cfg)
//	for ev := range events {
//		for _, cmd := range s.Step(ev) {
//			carryOut(cmd) // ends when cmd is a Finish
//		}
//	}
//
// There is no clock (events carry the time since the start of the run), no
// goroutine, no I/O and no randomness: the same events give the same commands. A
// Scheduler is not safe for concurrent use; one loop owns it.
//
// # Protocol
//
// Every node starts out expected: its part of the plan waits for it. The driver sends [NodeUp]
// when it can be used and [NodeLost] when it cannot. Each node gets one of them, sooner or
// later.
//
// [Submit] asks for one solve of some units on one node and gives it a number, the
// [PartitionID], which no other submission of the run shares. The driver then
// reports, for that number: VertexStarted and VertexDone while steps run, UnitBuilt
// for each unit whose root is there, UnitExported once its outputs are where they
// belong, UnitFailed, and last of all PartitionEnded. Nothing that comes later for
// that number is read.
//
// Outputs are written only when the scheduler says [Export]. It does so in the
// answer to UnitBuilt or never: two nodes can work on the same unit (see below),
// and only the first may publish it. A driver never waits for an Export that was
// not in that answer, unless the answer was [Defer]: with [Options.DeferOutput]
// every Export follows once all units are built, so that a build which fails has
// written nothing, and with [Unit.Gates] once these are finished. If a gate fails,
// [Release] follows instead. A deferred unit counts as finished for what comes after it.
//
// [CancelPartition] asks for an early end; PartitionEnded is still owed.
// [Abandon] says that the node is gone and that nothing is owed. [Finish] is the
// last command and reports what became of every unit.
//
// # Precedence
//
// After holds back a unit until the named units are finished, outputs included.
// When a unit fails, whatever names it is skipped.
// A stage that is to be published early for another node is a unit of its own.
//
// # Feeding a node
//
// A submission that has begun is not taken back, so a node gets the next partition only
// when a slot would stand idle: while fewer submitted steps are ready or running
// than it has slots (plus [Options.Ahead]), and only a partition that has a step to
// start now. One that would merely wait for a step under way stays in the queue,
// where others can steal it. With Config.Begin a part is submitted also when the plan
// begins it before the node's next slot is free: the daemon would give that slot to
// another step. A node that is behind its plan has parts which it did not begin, and
// gets no more for that reason.
//
// All that is for nodes whose slots somebody gave. For the others [Node.SlotsAssumed] holds:
// their slots serve predictions only. They are given every partition that has a step to start,
// since the daemon knows its limits itself.
//
// A part whose largest step does not fit into the node's memory beside those of what is
// submitted waits until one of them is done ([Vertex.Memory], [Node.Memory]).
//
// # Stealing
//
// A node with nothing to start looks at the queues of the nodes that will finish last and takes
// the partition, or a part of it, that it would finish earliest, counting every step it neither
// holds nor can fetch. It takes it only when its pessimistic finish (Graham's bound: work/slots
// + path*(1-1/slots)) is before the owner's optimistic one by a margin. A step that the owner
// executes for other units anyhow is executed a second time only when that spares the owner
// more work. Estimates are corrected by what the run measures: a step measured anywhere is
// known everywhere, a node's steps show its speed, all steps together show how far the
// estimates are off, and a step that runs longer than predicted is predicted to take longer
// still.
//
// When nothing is queued, a submission is recalled whose node, being busy, has begun none of
// its steps some seconds later. It is cancelled, the thief gets its part, and the rest is
// submitted again. What has begun is never recalled.
//
// Estimates may still be wrong. So the node that was stolen from may, once it has
// nothing else to do, start the same units itself when it would now finish them
// before the thief: the first to build a unit exports it, the other is cancelled.
// That bounds what a bad steal can cost. In the same way a node that has a slot free and
// nothing queued starts what another node has begun and would end with much later: its
// prediction was bad.
//
// # Nodes that come
//
// [NodeUp] says what a node holds that was not there, or was lost. Its driver may then plan
// anew ([Scheduler.Outlook], [NewPlan]): what waits in queues is given to nodes as the new
// plan says, and what was submitted stays. The new plan also says which node executes a step
// with one result that nobody has begun, and when, and which steps a node builds before what stands
// on them, as that waits for results of others ([Unit.Stage]). What it did not foresee is left to
// thieves.
//
// # Nodes that are to go
//
// A node that drains ([NodeDrain]) ends what it was given, gets nothing that another node may
// build, and takes nothing. Its queue goes to the others at once. A submission that was not
// begun after some seconds goes back, too, unless a step of it may have one result: that it has
// begun is known only when the node says so. The node sends the results that it alone holds and
// others will need.
//
// # Slow nodes
//
// Each step that a node does, and each under way that is late, is weighed against what it would
// take if the node had become slow. The other nodes show how far predictions are off. When the
// evidence is beyond doubt the node lags. Then it is given only those of its own parts that no
// other node would finish sooner, with all that this one has to do. What it has not begun is
// stolen or recalled, and a node with a free slot starts what it is executing. What it executes
// is expected to take elsewhere what was predicted. Steps that are done in time end the doubt.
//
// Before that, a node is suspected whose step takes more than twice as long as expected, and
// longer than predictions are usually off. On small clusters there is hardly ever more
// evidence. A node that has nothing to start builds the unit too, as if the other lagged.
// It also executes what a slow or late node was to send to it.
//
// A transfer that is late is replaced in the same way (tardy.go): a node that waits for nothing else
// executes what it was to be sent, when that is expected to end sooner.
//
// # Steps with one result
//
// A vertex with Once belongs to the node that executes it, or holds it and builds on it. A unit
// that needs it is not submitted to another node before it is in the registry. Whatever waits
// has the owner send it ([Unit.OnDemand]), at once, for that takes no slot. A thief counts on
// it, but takes nothing that would make it the owner of what its victim needs for others. No
// unit that needs it is built twice at once. When the owner is lost before it has sent the
// vertex, this belongs to nobody, and the finished units that rest on it are built again with
// those that need it ([Reopen]), if another node can. A node that comes back may have the lost
// result. A node that was told to execute the step meanwhile, and has not begun, concedes it: what
// it was told is taken back, and once it has confirmed that it executed nothing, the result that
// exists is that of the run. Once another node has executed the step, the one that came back is
// given nothing that rests on it, unless there is no other node for that ([Differ]).
//
// # Loss and failure
//
// Units of a lost node go where they are expected to finish earliest. Those that
// had been submitted count an attempt; [Options.MaxAttempts] of them make the unit
// fail with the node's error. A failure marked Retryable counts the same way. A step
// that ran and failed is executed again as often as [Options.RetrySteps] says, and nothing
// is cancelled meanwhile. Any other failure is final: without [Options.KeepGoing] nothing more is submitted and
// what runs is cancelled, but for submissions whose outputs are being written, which
// end first; with it, everything that does not depend on the failed
// unit is still built, the innocent members of a failed submission included.
//
// With KeepGoing the outcome of every unit, the blame for skipped ones included,
// does not depend on the order of events.
//
// # Cost
//
// The needs of a node (steps to run, and load) are kept by reference counts over the graph, so that
// moving a unit costs the steps it adds or frees; queues are heaps. What Step does is
// logarithmic in nodes and units, apart from the loss of a node, which looks at
// every node for each of its partitions.
//
// # Parts
//
// The machine has layers, each of which embeds the one below and knows nothing of those
// above. All have the receiver s: what is below is used as if it stood in the same place.
//
//   - graph: steps and units, which do not change (graph.go)
//   - fleet: what each node holds and does, how far units are (unit.go), and whose results of
//     steps with one result count (fleet.go, once.go)
//   - speeds: how long steps take and how fast nodes are, as measured (speed.go, lag.go)
//   - estimator: when nodes would be done with what (estimate.go, demand.go, memory.go)
//   - queues: the parts that nobody was given yet, in lanes (queue.go)
//   - policy: what a node is given, or may take (dispatch.go, and the questions of steal.go)
//   - fates: what becomes of submissions and units: what is submitted, fails, is tried
//     again (retry.go, the whole rule; trial.go for steps that failed) or ends with others (fates.go, member.go)
//   - thieves: nodes that take work from each other or build it a second time (steal.go)
//   - Scheduler: events in, commands out (sched.go)
//
// The states of a unit and those of a unit in a submission are two types, each with one
// function that moves it (turn, advance) and counts what is counted by state. Invariants
// stand at the fields; the random tests check them after each event.
//
// # Sources
//
// Graham, Bounds on multiprocessing timing anomalies (1969), theorem 1. Page, Continuous
// inspection schemes (1954), the cumulative sum. Acar,
// Blelloch and Blumofe, The data locality of work stealing (SPAA 2000). BuildXL's
// ChooseWorkerCpu and Bazel's dynamic execution as documented by their projects.
package sched
