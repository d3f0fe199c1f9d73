package runtime

import (
	bkclient "github.com/moby/buildkit/client"
)

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

// busy is what goes on beside the steps.
type busy struct {
	exports int // outputs, and results for other nodes, under way
	caches  int // caches under way
	ends    bool
}

// follow notes which steps run.
func (n *nodeRun) follow(changes []change, st *bkclient.SolveStatus) {
	for _, c := range changes {
		switch {
		case c.done:
			delete(n.running, c.vertex)
		case n.conn != nil:
			n.running[c.vertex] = true
		}
	}
	for _, v := range st.Vertexes {
		if v.Error != "" && v.Completed != nil {
			delete(n.running, v.Digest)
		}
	}
}

// pace tells the watch which phase the run is in.
func (r *run) pace() {
	if r.Watch != nil {
		r.Watch.Enter(r.phase())
	}
}

func (r *run) phase() string {
	connected := false
	for _, n := range r.nodes {
		if len(n.running) > 0 {
			return phaseSteps
		}
		connected = connected || n.conn != nil
	}
	switch {
	case r.busy.exports > 0:
		return phaseExport
	case r.busy.caches > 0:
		return phaseCache
	case r.busy.ends:
		return phaseEnd
	case !connected:
		return phaseConnect
	}
	return phaseSolve
}
