package sched

import (
	"fmt"
	"slices"
	"time"
)

// A node that drains is to go. It ends what it was given, or gives it back if it has surely not
// begun it. It sends what it alone holds and others need. It gets nothing new, but for what no
// other node may build. Until it goes, it counts as up.

// NodeDrain reports that a node is to go, or that it is to stay after all.
type NodeDrain struct {
	At   time.Duration
	Node NodeID
	On   bool
}

func (e NodeDrain) at() time.Duration { return e.At }

// drain takes in that a node is to go or to stay.
func drain(s *fates, e NodeDrain) {
	n := s.node(e.Node)
	if n == nil || n.drains == e.On {
		return
	}
	n.drains = e.On
	s.touch(n)
	s.wake(n)
	if e.On {
		evacuate(s, n)
		return
	}
	for _, o := range s.nodes {
		evacuate(s, o) // there was nobody to give it to, perhaps
	}
}

// evacuate gives what a node that drains has not begun to others, and has it send its
// results that they need.
func evacuate(s *fates, n *node) {
	if !n.drains || n.state == lost || s.stopping {
		return
	}
	for _, r := range s.recallable(n) {
		if !r.canceled && !risksOnce(s, r) && slices.ContainsFunc(r.units, func(m member) bool { return m.st == building && mayLeave(s, n, m.id) }) {
			s.takeBack(r, fmt.Sprintf("%s drains, and had not begun it", n.name))
		}
	}
	for _, p := range slices.Backward(n.sortedParts()) { // each goes to the front
		var leaving []UnitID
		for _, u := range p.units {
			if mayLeave(s, n, u) {
				leaving = append(leaving, u)
			}
		}
		for _, u := range leaving {
			s.unqueue(u)
		}
		s.place(&part{units: leaving, why: Recalled, pooled: p.pooled, delay: p.delay, flawed: p.flawed, orphan: n.id})
	}
	sendOff(s, n)
}

// risksOnce reports whether a submission would execute a step that may have one result. Whether
// the step has begun is known only when the node says so.
func risksOnce(s *fates, r *run) bool {
	found := false
	var units []UnitID
	for _, m := range r.units {
		units = append(units, m.id)
	}
	s.walk(units, func(v VertexID) bool {
		if r.n.held.has(v) || s.cached.has(v) {
			return false
		}
		found = found || s.cfg.Vertices[v].Once
		return !found
	})
	return found
}

// mayLeave reports whether a unit that waits on n, which drains, can be built elsewhere.
func mayLeave(s *fates, n *node, u UnitID) bool {
	unit := &s.cfg.Units[u]
	if unit.OnDemand {
		return !n.isAt(unit.Root) // else n sends what it has
	}
	if unit.Early && s.owner(unit.Root) == n {
		return false
	}
	return slices.ContainsFunc(s.nodes, func(o *node) bool {
		return replaces(o, n) && s.suits(u, o) &&
			!slices.ContainsFunc(s.missing(o, []UnitID{u}), func(v VertexID) bool { return s.once.sender[v] == NoUnit })
	})
}

// replaces reports whether o may do the work of n, which drains.
func replaces(o, n *node) bool { return o != n && !o.drains && o.state != lost }

// sendOff has n send its results that others will need.
func sendOff(s *fates, n *node) {
	if !s.once.some {
		return
	}
	var open []UnitID
	for id := range s.units {
		u := &s.units[id]
		if u.state == over || s.cfg.Units[id].OnDemand || slices.ContainsFunc(u.runs, func(x ref) bool { return x.r.n == n }) {
			continue
		}
		open = append(open, UnitID(id))
	}
	var list []VertexID
	s.walk(open, func(v VertexID) bool {
		if s.cached.has(v) || s.once.free.has(v) {
			return false
		}
		if s.cfg.Vertices[v].Once && s.owner(v) == n {
			if s.once.sender[v] != NoUnit && s.once.sends[v] < maxSends {
				list = append(list, v)
			}
			return false
		}
		return true
	})
	s.demand(list)
}

// wakeDraining has nodes that drain looked at again: nobody else may be left for something.
func wakeDraining(s *queues) {
	for _, n := range s.nodes {
		if n.drains {
			s.wake(n)
		}
	}
}

// spared reports whether n is to leave these units to others, as it drains.
func (s *fleet) spared(n *node, units []UnitID) bool {
	return n.drains && slices.ContainsFunc(s.nodes, func(o *node) bool { return replaces(o, n) && s.suitsAll(units, o) })
}
