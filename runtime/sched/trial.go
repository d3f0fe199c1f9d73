package sched

import (
	"cmp"
	"slices"
)

// trial is what is known of a step that ran and failed.
type trial struct {
	failures []failedRun // in the order in which they were reported
	before   int         // how many of them came before it succeeded somewhere
	// last is set when it is executed once more at most, over when it is not executed again.
	last, over bool
}

// failedRun is an execution of a step that failed.
type failedRun struct {
	vertex VertexID
	node   NodeID
	number int // among those of the step on the node, from 1
	way    string
}

// same reports whether f and g are one execution.
func (f failedRun) same(g failedRun) bool {
	return f.vertex == g.vertex && f.node == g.node && f.number == g.number
}

// flaw notes that a unit failed because a step of it ran and failed on n, and returns
// what kind of failure that is. This is the rule for executing a step again, all of it:
//
//   - It is executed again [Options.RetrySteps] times at most, however many units need it:
//     what several units report is one execution.
//   - Once it has succeeded somewhere, it is flaky, and what failed before counts no more:
//     another node has to execute it anew when a step above it is executed again there.
//   - What failed in the same way on two nodes is executed once more at most, unless it
//     is known to be flaky.
//   - It is executed again where it has failed least often, and elsewhere than this time
//     if another node may build the unit. While that is open, the unit has not failed.
//   - A unit that reports what it has reported before met the old failure again, and
//     counts an attempt.
//   - A unit on demand only sends the result, and is not tried again: those that wait for it
//     execute the step. When that may not be, as without retries, they have failed.
func (s *fates) flaw(e UnitFailed, n *node) fault {
	f := failedRun{e.Vertex, n.id, e.Execution, e.Way}
	t := s.trials[e.Vertex]
	if t == nil {
		t = &trial{}
		s.trials[e.Vertex] = t
	}
	u := &s.units[e.Unit]
	known := slices.ContainsFunc(t.failures, f.same)
	if known && u.flaw.same(f) && u.confined {
		return passing
	}
	u.flaw = f
	if !known {
		t.fail(f, s.cfg.Options.RetrySteps, s.cfg.Vertices[e.Vertex].Flaky)
		s.noteStop(n, e.Vertex)
		s.forgive(e.Vertex)
	}
	if s.cfg.Units[e.Unit].OnDemand {
		failWaiting(s, e, n, t)
		return final
	}
	if t.over {
		return final
	}
	s.confine(e.Unit, n, t)
	return flawed
}

// failWaiting fails what would execute a step again that is not to be executed again, after the
// attempt to send its result has failed on n. What is submitted reports that itself.
func failWaiting(s *fates, e UnitFailed, n *node, t *trial) {
	if !t.over || s.cached.has(e.Vertex) || slices.ContainsFunc(s.nodes, func(n *node) bool { return n.held.has(e.Vertex) }) {
		return
	}
	for i := range s.units {
		id := UnitID(i)
		if u := &s.units[id]; u.state < submitted && !s.cfg.Units[id].OnDemand && s.restsOn(id, e.Vertex) && !s.stopping {
			u.out.Vertex = e.Vertex
			s.fail(id, n.id, e.Err)
		}
	}
}

// fail adds a failure that is news; limit is how often the step is executed again.
func (t *trial) fail(f failedRun, limit int, flaky bool) {
	t.failures = append(t.failures, f)
	alike := slices.ContainsFunc(t.failures, func(g failedRun) bool { return g.node != f.node && g.way == f.way })
	t.over = t.over || t.last || len(t.failures)-t.before > limit
	t.last = t.last || alike && !flaky && t.before == 0
}

// pass notes that the step was executed and succeeded.
func (t *trial) pass() {
	if t != nil && !t.over {
		t.before, t.last = len(t.failures), false
	}
}

// on is how often the step has failed on a node.
func (t *trial) on(n NodeID) int {
	count := 0
	for _, f := range t.failures {
		if f.node == n {
			count++
		}
	}
	return count
}

// confine has a unit built where the step has failed least often, and not on failed if
// another node may build it.
func (s *fates) confine(id UnitID, failed *node, t *trial) {
	u := &s.units[id]
	if !u.confined {
		u.confined, u.home = true, s.cfg.Units[id].Nodes
	}
	s.cfg.Units[id].Nodes = u.home
	var may []NodeID
	for _, n := range s.nodes {
		if n != failed && n.state != lost && s.cfg.allows(id, n.id) {
			may = append(may, n.id)
		}
	}
	if len(may) == 0 {
		may = []NodeID{failed.id}
	}
	least := t.on(slices.MinFunc(may, func(a, b NodeID) int { return cmp.Compare(t.on(a), t.on(b)) }))
	s.cfg.Units[id].Nodes = slices.DeleteFunc(may, func(n NodeID) bool { return t.on(n) > least })
}

// unconfine lets units be built anywhere again when their nodes are lost.
func (s *fates) unconfine() {
	for id := range s.units {
		u := &s.units[id]
		if !u.confined || u.state == over || s.usable([]UnitID{UnitID(id)}) {
			continue
		}
		s.cfg.Units[id].Nodes = u.home
		if p := u.part; p != nil && p.lane.n == nil {
			s.unqueue(UnitID(id)) // from the lane of those nodes
			s.toPool(&part{units: []UnitID{UnitID(id)}, why: p.why, pooled: true, delay: p.delay, flawed: p.flawed, orphan: NoNode})
		}
	}
}

// Trial returns how often a step ran and failed. over is set when it is not executed again.
func (s *Scheduler) Trial(v VertexID) (failures int, over bool) {
	t := s.trials[v]
	if t == nil {
		return 0, false
	}
	return len(t.failures), t.over
}
