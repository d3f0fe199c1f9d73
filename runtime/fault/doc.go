// Package fault gives the failures of builds their types.
//
// Errors of a node lose their type on the way through gRPC: only their text is left. This
// package alone reads such text, and says which version of BuildKit it is from. Whoever
// decides what follows asks with errors.As:
//
//   - [Unavailable]: the surroundings failed; it is tried again
//   - [NodeSick]: the node failed; another one is tried
//   - [StepFailed]: a step ran and failed
//   - [Rejected]: all else; it is final
//
// [InputError] and [OutputError] are failures of this machine, for which no node is to blame.
package fault
