package sched

import "slices"

// A node that is lost may go on with what it was given. When it comes back it has results
// of its own, which it finds before those that other nodes have made of the same steps
// meanwhile. So it is given nothing that rests on such a step while another node can
// build it.

// noteRelics notes the steps with one result that n, which is about to be forgotten, has
// executed or executes.
func (s *fleet) noteRelics(n *node) {
	if !s.once.some {
		return
	}
	for v, by := range s.once.by {
		v := VertexID(v)
		if by != n.id || s.cached.has(v) {
			continue // what was sent is what it has
		}
		if _, wanted := n.sub.m[v]; wanted || n.held.has(v) || n.executes(v) {
			if n.relics == nil {
				n.relics = newBits(len(s.cfg.Vertices))
			}
			n.relics.set(v)
		}
	}
}

// findHeld notes what n, which comes up, holds. n owns the steps with one result that the run
// does not have yet. For those that another node has made meanwhile, n has results of its own.
func findHeld(s *fates, n *node, list []VertexID) {
	if len(list) == 0 || n.state == up {
		return
	}
	var early []VertexID // others were told to execute them, and have not begun
	for _, v := range list {
		if !s.validVertex(v) {
			continue
		}
		if s.cfg.Vertices[v].Once && !s.once.free.has(v) {
			if o := s.owner(v); s.cached.has(v) || o != nil && o != n {
				if n.relics == nil {
					n.relics = newBits(len(s.cfg.Vertices))
				}
				n.relics.set(v)
				if !s.cached.has(v) && !o.held.has(v) && !o.executes(v) {
					early = append(early, v)
				}
				continue
			}
			s.once.by[v] = n.id
		}
		n.held.set(v)
	}
	s.reckon(n)
	concede(s, n, early)
}

// relicsOf returns the steps below the units for which n may have results of its own, besides
// those of the run.
func (s *fleet) relicsOf(n *node, units []UnitID) []VertexID {
	if n.relics == nil {
		return nil
	}
	var list []VertexID
	s.walk(units, func(v VertexID) bool {
		if n.relics.has(v) && !s.once.free.has(v) {
			if o := s.owner(v); s.cached.has(v) || o != nil && o != n {
				list = append(list, v)
			}
		}
		return true
	})
	slices.Sort(list)
	return list
}

// differs reports whether n is to be spared a unit because another node can build it with
// the results of the run.
func (s *fleet) differs(u UnitID, n *node) bool {
	return len(s.relicsOf(n, []UnitID{u})) > 0 && slices.ContainsFunc(s.nodes, func(m *node) bool {
		return m != n && m.state != lost && s.cfg.allows(u, m.id) && len(s.relicsOf(m, []UnitID{u})) == 0
	})
}

// suits reports whether n may be given a unit.
func (s *fleet) suits(u UnitID, n *node) bool { return s.cfg.allows(u, n.id) && !s.differs(u, n) }

func (s *fleet) suitsAll(units []UnitID, n *node) bool {
	return !slices.ContainsFunc(units, func(u UnitID) bool { return !s.suits(u, n) })
}

// relocate gives away what waits in the queue of a node that by now has another result than the
// run.
func relocate(s *fates) {
	for _, n := range s.nodes {
		if n.relics == nil {
			continue
		}
		for _, p := range n.sortedParts() {
			units := slices.Clone(p.units)
			units = slices.DeleteFunc(units, func(u UnitID) bool { return s.cfg.Units[u].OnDemand || !s.differs(u, n) })
			for _, u := range units {
				s.unqueue(u)
			}
			s.place(&part{units: units, why: Rescued, pooled: p.pooled, delay: p.delay, flawed: p.flawed, orphan: n.id})
		}
	}
}

// reportRelics says, once, that what n is given may rest on results of its own.
func reportRelics(s *fates, n *node, units []UnitID) {
	list := s.relicsOf(n, units)
	for _, v := range list {
		n.relics.unset(v)
	}
	if len(list) > 0 {
		s.emit(Differ{Node: n.id, Steps: list})
	}
}
