// Package stopwatch divides the time of a command into phases.
//
// At any moment a [Watch] is in one phase, so its phases add up to the time since the first
// [Watch.Enter].
package stopwatch

import (
	"slices"
	"time"
)

// Phase is what a command did for a while, perhaps in several pieces.
type Phase struct {
	Name string
	// Wall is the time that passed, CPU the processor time of this process in it; 0
	// where the system does not say.
	Wall, CPU time.Duration
}

// Watch measures phases. It is used by one goroutine. A nil Watch measures nothing.
type Watch struct {
	phases []Phase
	in     int // index of phases; -1 is none
	since  time.Time
	spent  time.Duration // processor time of the process at since

	now func() time.Time
	cpu func() time.Duration
}

// New returns a watch that is in no phase.
func New() *Watch { return &Watch{in: -1, now: time.Now, cpu: ProcessTime} }

// Enter ends the phase that the watch is in and begins the named one, or goes on with
// it.
func (w *Watch) Enter(name string) {
	if w == nil || w.in >= 0 && w.phases[w.in].Name == name {
		return
	}
	w.Stop()
	w.in = slices.IndexFunc(w.phases, func(p Phase) bool { return p.Name == name })
	if w.in < 0 {
		w.in = len(w.phases)
		w.phases = append(w.phases, Phase{Name: name})
	}
	w.since, w.spent = w.now(), w.cpu()
}

// Stop ends the phase that the watch is in; it is in none then.
func (w *Watch) Stop() {
	if w == nil || w.in < 0 {
		return
	}
	p := &w.phases[w.in]
	p.Wall += w.now().Sub(w.since)
	p.CPU += w.cpu() - w.spent
	w.in = -1
}

// Phases returns what was measured until the last change of phase, in the order in
// which the phases were first entered.
func (w *Watch) Phases() []Phase {
	if w == nil {
		return nil
	}
	return slices.Clone(w.phases)
}
