// Package real measures builds on real nodes: how well a plan predicts what a build
// takes, and how strategies compare.
//
// Nodes are started on this machine, with base images made from what it has. One
// build teaches the cost history. Then, for as many rounds as asked for, every
// strategy builds the project once on nodes that hold nothing, taking turns, so that
// a machine that gets slower or faster does so for all of them. Predictions rest on
// the first build alone.
//
// The time of a build is that of the run: from the first solve to the end of the
// last export. Reading the definition and planning are not in it.
package real
