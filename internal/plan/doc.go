// Package plan runs the compile stages in order and holds what they lead to: the
// [Build], all that is known of a project before a node is chosen, and the [Plan],
// which node builds what.
//
//	project ─► frontend ─► llbmerge ─► Build ─► partition ─► Plan
//
// "dbake plan" prints a Plan, "dbake build" executes it; both come from the same
// functions, so what is shown is what is done. A Plan has a JSON form that can be
// kept and built later: only the node and the order of each job are read back,
// all else in it is for people.
//
// A job is what is placed on a node as one: a target with all its platforms, so
// that one node exports the whole image.
package plan
