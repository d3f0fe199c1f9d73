// Package scene holds the state of a run at a moment: its nodes, its targets, their steps
// and their output, put together from the events of the runtime.
//
// It has no clock: every event comes with the time at which it was heard, since the
// start of the run, so that the same events make the same scene. How long a step has
// been running is measured by that time, too, as the clocks of nodes differ; how long
// one took is what the node reports.
//
// Text of a scene is safe to be shown on a terminal and holds no passwords. The output of
// steps is kept in memory, its middle only as far as there is room.
//
// A [Scene] is not safe for concurrent use.
package scene
