package sched

import (
	"fmt"
	"slices"
)

// A step with [Vertex.Once] has one result in a run. The node that executes it, or holds it and
// builds on it, owns it. A unit that needs the step is submitted to no other node before the
// result can be fetched. What waits for it in vain has the owner send it: the units with
// [Unit.OnDemand] do that.
//
// A result that belongs to nobody any more may be made anew: its owner is lost, or has given up
// what it was submitted. A result that could not be sent is built by each node that needs it.

// maxSends is how often a result is sent before it counts as unsendable: through the registry,
// through the client, and once more.
const maxSends = 3

// results are the owners and senders of the steps that have one result.
type results struct {
	some    bool                 // there are any
	by      []NodeID             // by vertex: the owner, valid as far as owner says so; NoNode = none
	sender  []UnitID             // by vertex: what sends it on demand, or NoUnit
	planned []UnitID             // by vertex: what sends it by the plan or a new one, or NoUnit
	sends   []int                // by vertex: how often it was sent on demand
	free    bits                 // steps that could not be sent
	keeper  map[VertexID]NodeID  // who has results of steps that others are to concede to it
	open    map[VertexID]opening // steps that may have begun for what was taken back
	reaches []bool               // by unit: there is one below it
	waiting []*part              // that wait for one

	stamp []uint32
	epoch uint32
	stack []VertexID
	found []VertexID
}

func (s *Scheduler) newResults() results {
	nv := len(s.cfg.Vertices)
	c := results{
		by: make([]NodeID, nv), sender: make([]UnitID, nv), planned: make([]UnitID, nv), sends: make([]int, nv), free: newBits(nv),
		keeper: map[VertexID]NodeID{}, open: map[VertexID]opening{}, reaches: make([]bool, len(s.cfg.Units)), stamp: make([]uint32, nv),
	}
	below := make([]bool, nv) // the vertex or one below it is such a step
	for v := range s.cfg.Vertices {
		c.by[v], c.sender[v], c.planned[v] = NoNode, NoUnit, NoUnit
		below[v] = s.cfg.Vertices[v].Once
		for _, in := range s.inputs[v] {
			below[v] = below[v] || below[in]
		}
		c.some = c.some || below[v]
	}
	for id, u := range s.cfg.Units {
		c.reaches[id] = below[u.Root]
		switch {
		case u.OnDemand:
			if !u.Stage {
				c.sender[u.Root] = UnitID(id)
			}
			s.turn(UnitID(id), over)
		case u.Early:
			c.planned[u.Root] = UnitID(id)
		}
	}
	return c
}

// claimWarm makes nodes own what they hold at the start and the plan builds on.
func (s *queues) claimWarm() {
	if !s.once.some {
		return
	}
	for _, n := range s.nodes {
		for _, p := range n.parts {
			s.claim(n, p.units)
		}
	}
}

// owner returns the node whose result of v counts, nil when there is none.
func (s *fleet) owner(v VertexID) *node {
	id := s.once.by[v]
	if id == NoNode {
		return nil
	}
	n := s.nodes[id]
	if n.state != lost {
		if n.isAt(v) || isPlanned(s, n, v) {
			return n
		}
	}
	s.once.by[v] = NoNode
	return nil
}

// own makes n, which executes v, its owner if nobody is and it has one result.
func own(s *fleet, n *node, v VertexID) {
	if s.cfg.Vertices[v].Once && !s.cached.has(v) && s.owner(v) == nil {
		s.once.by[v] = n.id
	}
}

// executes reports whether v is under way on n.
func (n *node) executes(v VertexID) bool {
	return slices.ContainsFunc(n.running, func(r running) bool { return r.v == v })
}

// isAt reports whether n holds v, executes it, or was submitted something that needs it.
func (n *node) isAt(v VertexID) bool {
	_, wanted := n.sub.m[v]
	return wanted || n.held.has(v) || n.executes(v)
}

// isPlanned reports whether a new plan has n execute v and send it, see planSending.
func isPlanned(s *fleet, n *node, v VertexID) bool {
	id := s.once.planned[v]
	return s.sends(n, id) && s.cfg.Units[id].OnDemand
}

// elsewhere returns the node from which n has to take v, nil when n may execute it or
// finds it in the registry.
func (s *fleet) elsewhere(n *node, v VertexID) *node {
	if !s.once.some || !s.cfg.Vertices[v].Once || s.cached.has(v) || s.once.free.has(v) {
		return nil
	}
	if o := s.owner(v); o != n {
		return o
	}
	return nil
}

// walk calls visit with the units' roots and what is below them, from above. It goes below
// a vertex when visit returns true.
func (s *fleet) walk(units []UnitID, visit func(VertexID) bool) {
	c := &s.once
	c.epoch++
	if c.epoch == 0 { // wrapped around
		clear(c.stamp)
		c.epoch = 1
	}
	c.stack = c.stack[:0]
	for _, u := range units {
		if c.reaches[u] {
			c.stack = append(c.stack, s.cfg.Units[u].Root)
		}
	}
	for len(c.stack) > 0 {
		v := c.stack[len(c.stack)-1]
		c.stack = c.stack[:len(c.stack)-1]
		if c.stamp[v] == c.epoch {
			continue
		}
		c.stamp[v] = c.epoch
		if visit(v) {
			c.stack = append(c.stack, s.inputs[v]...)
		}
	}
}

// missing returns the steps that n would have to execute for the units although
// another node owns them. The slice is valid until the next call.
func (s *fleet) missing(n *node, units []UnitID) []VertexID {
	c := &s.once
	c.found = c.found[:0]
	if !c.some {
		return nil
	}
	s.walk(units, func(v VertexID) bool {
		switch {
		case n.held.has(v), s.cached.has(v):
			return false
		case s.elsewhere(n, v) != nil, s.kept(v), isOpen(s, n, v):
			c.found = append(c.found, v)
			return false
		}
		return true
	})
	return c.found
}

// claim makes n own what it executes, or holds, for the units.
func (s *queues) claim(n *node, units []UnitID) {
	if !s.once.some {
		return
	}
	s.walk(units, func(v VertexID) bool {
		if s.cfg.Vertices[v].Once && !s.cached.has(v) && s.owner(v) == nil {
			if _, wanted := n.sub.m[v]; wanted || n.held.has(v) {
				s.once.by[v] = n.id
			}
		}
		return true
	})
}

// await has the results that p waits for sent to n, if another node owns them.
func (s *queues) await(n *node, p *part) {
	if n == nil || !s.once.some || s.stopping {
		return
	}
	var list []VertexID
	for _, id := range slices.Clone(p.units) {
		missing := s.missing(n, []UnitID{id})
		if len(missing) == 0 || !s.inOrder(id) {
			continue
		}
		u := &s.cfg.Units[id]
		if u.OnDemand && slices.Contains(missing, u.Root) || u.OnDemand && !u.Stage && !isPlanned(&s.fleet, n, u.Root) || isNeedless(s, n, id) {
			s.retire(id) // it is sent by somebody else now, or needed no more
			continue
		}
		list = append(list, missing...)
	}
	if len(list) == 0 {
		return
	}
	if !slices.Contains(s.once.waiting, p) {
		s.once.waiting = append(s.once.waiting, p)
	}
	s.demand(list)
}

// demand has results sent by the nodes that own them.
func (s *queues) demand(list []VertexID) {
	for _, v := range list {
		id, o, planned := s.once.sender[v], s.owner(v), s.once.planned[v]
		switch {
		case o == nil, s.kept(v), s.once.free.has(v): // the last is waited for only until it is known who has begun it
			continue
		case s.sends(o, planned) && s.inOrder(planned): // else it may come after what waits for it
			continue
		case id == NoUnit:
			s.unsent(v)
			continue
		}
		u := &s.units[id]
		if p := u.part; p != nil && p.lane != &o.lane {
			s.retire(id)
		}
		if u.state != over {
			continue // on its way
		}
		if s.once.sends[v] == maxSends {
			s.unsent(v)
			continue
		}
		s.once.sends[v]++
		queueSending(s, o, id, true)
		s.wake(o)
	}
}

// queueSending puts a unit on demand, which is over, into the queue of n.
func queueSending(s *queues, n *node, id UnitID, atFront bool) {
	s.turn(id, idle)
	s.units[id] = unit{out: Outcome{Node: NoNode, Because: NoUnit, Vertex: NoVertex, Submits: s.units[id].out.Submits}}
	s.cfg.Units[id].Nodes = []NodeID{n.id}
	s.enqueue(&n.lane, []UnitID{id}, atFront, &part{orphan: NoNode})
}

// forgive has the attempts to send v, or what stands on it, not count: v failed before there was
// anything to send.
func (s *queues) forgive(v VertexID) {
	for above, id := range s.once.sender {
		if id == NoUnit || s.once.sends[above] == 0 {
			continue
		}
		s.walk([]UnitID{id}, func(x VertexID) bool {
			if x == v {
				s.once.sends[above] = 0
			}
			return s.once.sends[above] > 0
		})
	}
}

// sends reports whether n is going to build a unit, or does.
func (s *fleet) sends(n *node, id UnitID) bool {
	if id == NoUnit || s.isOver(id) {
		return false
	}
	u := &s.units[id]
	if u.part != nil {
		return u.part.lane == &n.lane
	}
	return slices.ContainsFunc(u.runs, func(x ref) bool { return x.r.n == n })
}

// pickWanted returns a ready part of n that sends what other nodes wait for, nil when there is
// none. The part has no step to run that n does not run anyhow, and takes no slot.
func (s *queues) pickWanted(n *node) *part {
	if !s.once.some || n.state != up {
		return nil
	}
	for _, p := range n.ready {
		if u := s.cfg.Units[p.units[0]]; u.OnDemand && !u.Stage && n.isAt(u.Root) {
			return p
		}
	}
	return nil
}

// retire ends a unit on demand that is not finished; it can be asked for again.
func (s *queues) retire(id UnitID) {
	if s.isOver(id) {
		return
	}
	s.unqueue(id)
	s.turn(id, over)
	s.reconsider()
}

// unsent lets each node that needs v build it.
func (s *queues) unsent(v VertexID) {
	if s.once.free.has(v) {
		return
	}
	s.once.free.set(v)
	s.reconsider()
}

// reconsider looks again at what waits for results of other nodes.
func (s *queues) reconsider() {
	if !s.once.some {
		return
	}
	for _, p := range s.once.waiting {
		s.markDirty(p)
	}
	s.once.waiting = s.once.waiting[:0]
	s.pooled = s.pooled || len(s.pools) > 0
}

// vertexMissed takes back the units that n was given in the belief that it could fetch v.
func (s *Scheduler) vertexMissed(e VertexMissed) {
	n := s.node(e.Node)
	if n == nil || !s.validVertex(e.Vertex) || !s.cached.has(e.Vertex) || !s.cfg.Vertices[e.Vertex].Once || n.held.has(e.Vertex) {
		return
	}
	s.cached.unset(e.Vertex)
	if o := s.owner(e.Vertex); o == nil || o == n {
		s.unsent(e.Vertex) // what n does is all there is
		s.reconsider()
		return
	}
	for _, r := range slices.Clone(n.runs) {
		if r.canceled || r.writes() || !s.needs(r, e.Vertex) {
			continue
		}
		s.takeBack(r, fmt.Sprintf("%s cannot read what was sent to it", n.name))
	}
	s.reconsider()
}

// needs reports whether a submission that has not built all of it needs v.
func (s *fleet) needs(r *run, v VertexID) bool {
	found := false
	s.walk(r.toBuild(), func(x VertexID) bool {
		found = found || x == v
		return !found && !r.n.held.has(x)
	})
	return found
}

// robs reports whether n, by taking the units from owner, would execute a step with one result
// that the owner needs for other units as well. The owner would then wait for n.
func (s *estimator) robs(n, owner *node, units []UnitID) bool {
	if !s.once.some || !slices.ContainsFunc(units, func(u UnitID) bool { return s.once.reaches[u] }) {
		return false
	}
	for _, u := range units {
		owner.all.drop(s.cfg.Units[u].Root)
	}
	found := false
	s.walk(units, func(v VertexID) bool {
		if found || n.held.has(v) || s.cached.has(v) || s.elsewhere(n, v) != nil {
			return false
		}
		if _, stays := owner.all.m[v]; stays && s.cfg.Vertices[v].Once && !s.once.free.has(v) {
			found = true
		}
		return !found
	})
	for _, u := range units {
		owner.all.add(s.cfg.Units[u].Root)
	}
	return found
}

// comes is the least time, in nanoseconds, until v is on n when another node owns it
// and sends it.
func (s *estimator) comes(n, o *node, v VertexID) float64 {
	t := 2 * s.transfer(v)
	if o.held.has(v) {
		return t
	}
	for _, r := range o.running {
		if r.v == v {
			return t + s.rest(r, s.exec(o, v))
		}
	}
	return t + s.exec(o, v)
}

// lostResults returns the finished units of n, which is about to be forgotten, that rest on
// results which are lost with it and needed again. It returns the steps of these results, too:
// the units are built anew with them.
func (s *fates) lostResults(n *node) (again []UnitID, lost []VertexID) {
	if !s.once.some {
		return nil, nil
	}
	gone := newBits(len(s.cfg.Vertices))
	for v, by := range s.once.by {
		if by == n.id && n.held.has(VertexID(v)) && !s.cached.has(VertexID(v)) && !s.once.free.has(VertexID(v)) {
			gone.set(VertexID(v))
		}
	}
	var open, done []UnitID
	for id := range s.units {
		u := &s.units[id]
		switch {
		case s.cfg.Units[id].OnDemand:
		case u.state != over:
			open = append(open, UnitID(id))
		case u.out.State == Built && u.out.Node == n.id && !s.cfg.Units[id].Early:
			done = append(done, UnitID(id))
		}
	}
	needed := newBits(len(s.cfg.Vertices))
	// What is built again needs more that was lost, and so on.
	for len(open) > 0 {
		s.walk(open, func(v VertexID) bool {
			if gone.has(v) && !needed.has(v) {
				needed.set(v)
				lost = append(lost, v)
			}
			return true
		})
		open = open[:0]
		done = slices.DeleteFunc(done, func(id UnitID) bool {
			rests := false
			s.walk([]UnitID{id}, func(v VertexID) bool {
				rests = rests || needed.has(v)
				return !rests
			})
			if rests {
				again, open = append(again, id), append(open, id)
			}
			return rests
		})
	}
	slices.Sort(again)
	slices.Sort(lost)
	if s.stopping || !s.cfg.Options.Whole && slices.ContainsFunc(again, func(id UnitID) bool { return !s.buildable(id, n) }) {
		again = nil // better what is there than nothing
	}
	return again, lost
}

// buildable reports whether a node other than n is up that may build the unit.
func (s *fleet) buildable(id UnitID, n *node) bool {
	return slices.ContainsFunc(s.nodes, func(o *node) bool { return o != n && o.state == up && s.cfg.allows(id, o.id) })
}

// reopen makes finished units unfinished.
func (s *fates) reopen(units []UnitID, lost []VertexID, n *node) {
	if s.stopping {
		return
	}
	for _, id := range units {
		s.turn(id, idle)
		u := &s.units[id]
		*u = unit{tries: u.tries, moves: u.moves, out: Outcome{Node: NoNode, Because: NoUnit, Vertex: NoVertex, Submits: u.out.Submits}}
	}
	if len(lost) > 0 {
		s.emit(Reopen{Node: n.id, Units: units, Lost: lost})
	}
}
