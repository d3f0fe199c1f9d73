package sched

import (
	"fmt"
	"slices"
	"time"
)

// outcomes returns the end of every unit. A unit that could not be built because something it
// depends on failed is skipped, even when it was part of the same submission and failed with
// it. The answer then does not depend on what was submitted together.
func (s *fates) outcomes() []Outcome {
	out := make([]Outcome, len(s.units))
	order := make([]UnitID, len(s.units))
	for i := range s.units {
		out[i] = s.units[i].out
		order[s.rank[i]] = UnitID(i)
	}
	for _, id := range order {
		o := &out[id]
		switch o.State {
		case Built:
			o.Reason = ""
			continue
		case Unpublished:
			continue
		}
		cause := NoUnit
		for _, d := range s.deps[id] {
			c := out[d].Because
			switch out[d].State {
			case Failed:
				c = d
			case Unpublished:
				c = NoUnit // it is there
			}
			if c != NoUnit && (cause == NoUnit || c < cause) {
				cause = c
			}
		}
		switch {
		case cause != NoUnit:
			o.State, o.Because, o.Node, o.Vertex = Skipped, cause, NoNode, NoVertex
			o.Reason = fmt.Sprintf("%s failed", s.cfg.Units[cause].Name)
		case o.State == Failed, !s.stopping:
		case o.Submits > 0:
			o.Reason = "stopped while running: " + s.reason
		default:
			o.Reason = s.reason
		}
	}
	return out
}

// Outcomes returns the ends of all units so far, indexed by UnitID. A unit that is still to
// come is NotStarted without a reason. The slice is the caller's.
func (s *Scheduler) Outcomes() []Outcome { return s.outcomes() }

// Moves returns the units that changed their node so far, in order of time. The slice is
// the caller's.
func (s *Scheduler) Moves() []Move { return slices.Clone(s.moves) }

// Done reports whether Finish was returned.
func (s *Scheduler) Done() bool { return s.finished }

// NodeStatus is a node as the scheduler sees it.
type NodeStatus struct {
	Up bool
	// Drains says that it is to go, and Drained that it has nothing left to do.
	Drains, Drained bool
	Err             string // of the last loss
	// Open is the number of units submitted and not finished, except those on demand.
	Open int
	// Queued are the units not submitted, in order.
	Queued []UnitID
	// Speed is the configured speed corrected by what was measured.
	Speed float64
	// Ends is when it is expected to be done, since the start of the run.
	Ends time.Duration
}

// open counts the units that n was given and that have not ended, except those on demand.
func (s *Scheduler) open(n *node) int {
	open := 0
	for _, r := range n.runs {
		for _, m := range r.units {
			if m.st.lives() && !s.cfg.Units[m.id].OnDemand {
				open++
			}
		}
	}
	return open
}

// Status returns the state of all nodes, indexed by NodeID. It costs time in
// proportion to nodes and queued units.
func (s *Scheduler) Status() []NodeStatus {
	out := make([]NodeStatus, len(s.nodes))
	for i, n := range s.nodes {
		out[i] = NodeStatus{
			Up: n.state == up, Err: n.err, Open: s.open(n),
			Drains: n.drains, Drained: n.drains && len(n.runs) == 0 && len(n.parts) == 0,
			Speed: n.speed / s.slowness(n),
			Ends:  s.now + time.Duration(s.remaining(n)),
		}
		for _, p := range n.sortedParts() {
			out[i].Queued = append(out[i].Queued, p.units...)
		}
	}
	return out
}
