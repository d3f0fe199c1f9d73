package sched

import "slices"

// fleet is the state of the nodes and the registry: their holdings, their work, and whose
// results count.
type fleet struct {
	graph
	nodes  []*node
	units  []unit
	left   int                  // units that are not over
	runs   map[PartitionID]*run // submissions that have not ended
	cached bits                 // what the registry holds
	once   results
}

func (s *fleet) node(id NodeID) *node {
	if id < 0 || int(id) >= len(s.nodes) {
		return nil
	}
	return s.nodes[id]
}

func (s *fleet) allowsAll(units []UnitID, n *node) bool {
	for _, u := range units {
		if !s.cfg.allows(u, n.id) {
			return false
		}
	}
	return true
}

func (s *fleet) anyAllows(units []UnitID) bool {
	return slices.ContainsFunc(s.nodes, func(n *node) bool { return s.allowsAll(units, n) })
}

// usable reports whether some node that is up or expected may run all the units.
func (s *fleet) usable(units []UnitID) bool {
	return slices.ContainsFunc(s.nodes, func(n *node) bool { return n.state != lost && s.allowsAll(units, n) })
}

// find returns the submission and the place of a unit in it.
func (s *fleet) find(p PartitionID, u UnitID) (*run, int) {
	r := s.runs[p]
	if r == nil || u < 0 || int(u) >= len(s.units) {
		return nil, 0
	}
	for _, ref := range s.units[u].runs {
		if ref.r == r {
			return r, ref.i
		}
	}
	return nil, 0
}

// available reports whether the results of a unit are there for others.
func (s *fleet) available(id UnitID) bool {
	u := &s.units[id]
	if u.out.State == Built || u.out.State == Unpublished {
		return true
	}
	return slices.ContainsFunc(u.runs, func(x ref) bool {
		m := x.r.units[x.i]
		return m.st == deferred || m.st == exporting && m.waited
	})
}

// pick returns those of the units, which are in topological order, that may be
// submitted to n now (n == nil: to any node), in one submission. The slice is valid
// until the next call.
func (s *fleet) pick(n *node, units []UnitID) []UnitID {
	return s.gather(units, func(id UnitID) bool {
		return s.inOrder(id) && (n == nil || len(s.missing(n, []UnitID{id})) == 0)
	})
}

// pickOrdered is pick for units that may wait for results of other nodes.
func (s *fleet) pickOrdered(n *node, units []UnitID) []UnitID {
	return s.gather(units, func(id UnitID) bool { return s.inOrder(id) })
}

// gather returns those of the units that may.
func (s *fleet) gather(units []UnitID, may func(UnitID) bool) []UnitID {
	s.picked = s.picked[:0]
	for _, id := range units {
		if may(id) {
			s.picked = append(s.picked, id)
		}
	}
	return s.picked
}

// inOrder reports whether the units that a unit comes after are available.
func (s *fleet) inOrder(id UnitID) bool {
	return !slices.ContainsFunc(s.deps[id], func(d UnitID) bool { return !s.available(d) })
}
