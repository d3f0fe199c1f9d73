// Package quietstart puts off the first garbage collection of the program that imports it,
// until its heap is as large as 32 MiB. A short command ends before that: with the usual
// first goal, of 4 MiB, it spends a third of its time on collections while packages are
// initialised, which keep nearly all that they allocate. From the first collection on
// everything is as usual, so a large heap is no larger.
//
// The import does it: packages that need little are initialised early. GOGC, where it is
// set, is left alone.
package quietstart

import (
	"os"
	"runtime"
	"runtime/debug"
)

// The first goal is 4 MiB times percent / 100.
const percent = 800

func init() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
		afterCollection(func() { debug.SetGCPercent(100) })
	}
}

// afterCollection calls f once, after the next collection.
func afterCollection(f func()) {
	type garbage struct{ self *garbage }
	g := &garbage{}
	g.self = g // with a pointer it is an object of its own
	runtime.AddCleanup(g, func(f func()) { f() }, f)
}
