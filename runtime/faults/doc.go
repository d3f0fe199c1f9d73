// Package faults holds the standing fault suite: its tests run the real executable on
// three real nodes and a real registry, with a proxy before each that loses, holds
// back or cuts off what passes, and with daemons that are killed or stopped, or whose
// disk is full. A run must end, and its targets must have the digests of an
// undisturbed run, unless nobody could have built them: then it must say why.
//
// The seed of a run decides the kind of fault, the node and the moment. `make faults` does
// 66 runs and prints a table of how each ended and how long the fault took to be noticed;
// `make test` does the first twelve. A seed that failed is repeated by
//
//	DBAKE_BUILDKITD=bin/buildkitd go test -tags integration ./runtime/faults -run TestFaults -v -args -seed N -runs 1
package faults
