package runtime

import "github.com/dbake/dbake/internal/stopwatch"

// The phases of a run. When several things go on at once, the first of them counts.
const (
	phaseSteps   = "run steps"
	phaseExport  = "write outputs"
	phaseCache   = "write caches"
	phaseConnect = "connect"
	// phaseSolve is the time in which nodes neither run steps nor write anything:
	// they look results up, read caches and directories and pull images.
	phaseSolve = "look up, read, pull"
	phaseEnd   = "end"
)

// activity counts the work of a run beside its steps, and sets the phase of the watch. It
// belongs to the loop.
type activity struct {
	watch   *stopwatch.Watch // nil when nobody measures
	nodes   nodeRuns
	exports int // outputs, and results for other nodes, under way
	caches  int // caches under way
	ends    bool
}

// export adds n, which may be negative, to the exports under way; cache does so for caches.
func (a *activity) export(n int) { a.exports += n }

func (a *activity) cache(n int) { a.caches += n }

// end notes that only the nodes' release is left to do.
func (a *activity) end() { a.ends = true }

// pace sets the phase of the watch.
func (a *activity) pace() {
	if a.watch != nil {
		a.watch.Enter(a.phase())
	}
}

func (a *activity) phase() string {
	reached := false
	for _, n := range a.nodes {
		if n.busy() {
			return phaseSteps
		}
		reached = reached || n.conn != nil
	}
	switch {
	case a.exports > 0:
		return phaseExport
	case a.caches > 0:
		return phaseCache
	case a.ends:
		return phaseEnd
	case !reached:
		return phaseConnect
	}
	return phaseSolve
}
