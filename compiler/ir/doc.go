// Package ir holds the words that every floor of dbake shares: project, target,
// group, unit and source range.
//
// Everything here is plain data. A [Project] is immutable once the compiler has
// returned it; its targets stand in topological order (a target's links and
// depends_on edges point only at earlier entries), so that later passes are
// loops forwards or backwards and need no graph search of their own.
//
// A value's place in the user's files is kept beside it, in [Target.Origins], so
// that whoever finds a problem later, up to the running build, can still point at
// a line. The package knows neither HCL nor compose nor BuildKit.
package ir
