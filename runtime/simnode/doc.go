// Package simnode is a simulated buildkitd, for tests of everything that drives real ones.
//
// A [Node] serves BuildKit's control and gateway API over connections in memory, with the
// messages that a real daemon would send: it solves definitions, shares steps between the
// builds that are under way, keeps results, imports and exports caches in BuildKit's own
// format, asks the session of a client for files and stores, and pushes to a [Registry] in
// memory. The command of a step decides what it does; a few words of a shell are known: see
// [Behavior]. Nothing is executed, and all time is that of time.Sleep, so that in a bubble
// of testing/synctest a build takes no time at all.
//
// Connections can be slow, silent or cut; a node can be lost, come back with or without
// what it held, forget results, or fail whatever it is given.
//
// TestSeeds drives the whole client on such nodes: a project is generated and planned, and
// carried out while things happen that a seed has drawn. A seed that failed is repeated by
//
//	go test ./runtime/simnode -run TestSeeds -args -seed N -seeds 1 -trace
package simnode
