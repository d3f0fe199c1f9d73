// Package live shows a run on a terminal while it happens: the work and the queue of every
// node, the progress of every target, and the log of any target.
//
// A [Model] is what is on the screen. It has no clock and asks no terminal: the time and
// the size are fields, so that the same events, keys and times make the same frame. A
// [Display] owns the terminal, in one goroutine, and shows a frame of its model ten times a
// second. It takes events without ever waiting for the terminal: a slow or lost one holds
// nothing up.
//
// The frame has the height of the terminal and its parts have fixed places, however
// much happens at once, so that nothing jumps. The mouse is left to the terminal, for
// text to be selected with it.
package live
