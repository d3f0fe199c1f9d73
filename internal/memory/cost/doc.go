// Package cost predicts what a build step will take, from what the same step, or one
// like it, took before.
//
// A [Store] is a history of steps that really ran. It answers with the first of
// three that it has:
//
//   - measured: this very step ran before (equal [Step.Key]);
//   - similar: a step stood at the same place of the same target (equal
//     [Step.Slot]) before its command was edited or its inputs changed;
//   - prior: a guess by kind: a RUN step by the family of its command, COPY and ADD by
//     their bytes, FROM by the size of the image.
//
// Every [Prediction] says which one it was, from how many samples, and how far they
// lie apart.
//
// # Robustness
//
// A prediction is the median of recent samples, so that one run on a busy machine
// moves nothing. Samples of several nodes are made comparable by the nodes' speeds,
// and those are learned here, too: from steps that ran on more than one node, by
// alternating medians of log(duration) over steps and nodes (the median polish of
// Tukey, Exploratory Data Analysis, 1977, chapter 11), drawn towards the declared
// speed by as much weight as priorSteps shared steps have.
//
// Samples of a step that works with cache mounts say in which state it found them. Where both
// states were measured, a prediction has a time for each; they differ by at least a tenth, or the
// difference is taken for noise. Samples of one state only serve for both, as do those of a
// history that does not know the states. The speeds of nodes are compared within a state.
//
// # The file
//
// The history is one bbolt file. No process keeps it open: [Open] reads all of it
// into memory (it is bounded: maxSteps steps of maxSamples samples), [Store.Flush]
// opens it for as long as it takes to merge what was recorded with what the file says
// by then. Any number of builds may share a file. When the lock cannot be had in
// time, Open fails with [ErrLocked]; Flush puts its samples into a file beside the
// history instead, which whoever opens the history next takes in.
//
// A damaged history is moved aside, never deleted, and a new one begins;
// [Store.Notes] says so. A file that is something else is refused and left alone.
//
// History travels as JSON lines ([Store.Export], [Store.Import]): CI can carry it
// from run to run. Importing twice what is known already changes nothing.
//
// # What is not stored
//
// Commands can contain secrets. The history holds their digest and family only.
//
// A Store is safe for concurrent use. It has no clock: the caller says when a step
// ran.
package cost
