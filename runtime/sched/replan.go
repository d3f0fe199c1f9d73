package sched

import (
	"maps"
	"slices"
	"time"
)

// When a node comes that nobody expected, thieves would take from the others one part at a
// time. So its driver plans anew what is left ([Scheduler.Outlook]), and the new plan says
// where what has not been submitted is to wait. What was submitted stays.

// Outlook is what is left of a run.
type Outlook struct {
	// Queued are the units that wait in the queue of a node, and that another plan may give
	// to others, ascending.
	Queued []UnitID
	// Begun are the units that each node was submitted and has not built.
	Begun [][]UnitID
	// Nodes says which nodes may be planned for: those that are up, and do not drain.
	Nodes []bool
	// Speed is that of each node, as it is for this run.
	Speed []float64
	// Holds are the vertices that each node holds, ascending.
	Holds [][]VertexID
	// Filled are the cache mounts that each node has filled, sorted.
	Filled [][]string
	// Cached are the vertices that the registry holds, ascending.
	Cached []VertexID
	// Cost is what each vertex takes at speed 1, as far as the run shows.
	Cost []time.Duration
	// Owner is the node whose result of a step with one result counts, where there is one.
	Owner map[VertexID]NodeID
	// UnderWay are the steps that are being executed.
	UnderWay []UnderWay
}

// UnderWay is a step that a node is executing.
type UnderWay struct {
	Node   NodeID
	Vertex VertexID
	Left   time.Duration // of it, at speed 1
}

// Outlook returns what is left of the run.
func (s *Scheduler) Outlook() Outlook { return outlook(&s.queues) }

func outlook(s *queues) Outlook {
	o := Outlook{Cost: make([]time.Duration, len(s.cfg.Vertices)), Owner: map[VertexID]NodeID{}}
	for v := range o.Cost {
		o.Cost[v] = time.Duration(s.cost(VertexID(v)))
		if n := s.owner(VertexID(v)); n != nil && !s.cached.has(VertexID(v)) && !s.once.free.has(VertexID(v)) {
			o.Owner[VertexID(v)] = n.id
		}
		if s.cached.has(VertexID(v)) {
			o.Cached = append(o.Cached, VertexID(v))
		}
	}
	for _, n := range s.nodes {
		var holds []VertexID
		for v := range s.cfg.Vertices {
			if n.held.has(VertexID(v)) {
				holds = append(holds, VertexID(v))
			}
		}
		var begun []UnitID
		for _, r := range n.runs {
			for _, m := range r.units {
				if m.st == building && !s.cfg.Units[m.id].Early {
					begun = append(begun, m.id)
				}
			}
		}
		for _, r := range n.running {
			o.UnderWay = append(o.UnderWay, UnderWay{n.id, r.v, time.Duration(s.rest(r, s.exec(n, r.v)) * s.pace(n, r.v) / s.slowness(n))})
		}
		o.Filled = append(o.Filled, slices.Sorted(maps.Keys(n.filled)))
		o.Holds, o.Begun = append(o.Holds, holds), append(o.Begun, begun)
		o.Speed = append(o.Speed, n.speed/max(s.slowness(n), float64(1+n.tenants)))
		o.Nodes = append(o.Nodes, n.state == up && !n.drains)
	}
	for id := range s.units {
		if !s.stopping && s.movable(UnitID(id)) {
			o.Queued = append(o.Queued, UnitID(id))
		}
	}
	return o
}

// movable reports whether another plan may give the unit to another node.
func (s *fleet) movable(id UnitID) bool {
	u, c := &s.units[id], &s.cfg.Units[id]
	return u.state == queued && u.part.lane.n != nil && !u.part.pooled && !u.part.flawed && !u.part.delay && !c.Early && !c.OnDemand
}

// NewPlan gives what has not been submitted to nodes as a new plan does.
type NewPlan struct {
	At time.Duration
	// Plan holds, for each node, its partitions in order. What it does not name stays. A unit on
	// demand in it has the node execute its root in that place, and send it.
	Plan [][]Partition
	// Begin is when the plan begins each unit, by UnitID, as in Config; nil when it does not
	// say.
	Begin []Begin
	// Slots is how many steps at once each node is counted on from now on, by NodeID, where
	// that is a guess: nodes of one machine have what the others leave. Nil = as before.
	Slots []int
}

func (e NewPlan) at() time.Duration { return e.At }

// replan carries a new plan out, as far as it is still possible.
func replan(s *fates, e NewPlan) {
	if s.stopping {
		return
	}
	if len(s.cfg.Begin) > 0 && len(e.Begin) == len(s.cfg.Begin) {
		s.cfg.Begin = slices.Clone(e.Begin)
	}
	for i, slots := range e.Slots {
		if n := s.node(NodeID(i)); n != nil && n.assumed && slots > 0 {
			n.slots = slots
			s.touch(n)
		}
	}
	for i, list := range e.Plan {
		n := s.node(NodeID(i))
		if n == nil || n.state != up || n.drains {
			continue
		}
		for _, p := range list {
			var stays []UnitID
			comes := map[*node][]UnitID{}
			var owners []*node
			for _, u := range p {
				if int(u) < 0 || int(u) >= len(s.units) {
					continue
				}
				if s.cfg.Units[u].Stage {
					planStage(s, n, u)
					continue
				}
				if s.cfg.Units[u].OnDemand {
					planSending(s, n, u)
					continue
				}
				if !s.movable(u) || !s.suits(u, n) {
					continue
				}
				owner := s.units[u].part.lane.n
				switch {
				case owner == n:
					stays = append(stays, u)
				case comes[owner] == nil:
					owners = append(owners, owner)
					fallthrough
				default:
					comes[owner] = append(comes[owner], u)
				}
			}
			requeue(s, n, n, stays)
			for _, owner := range owners {
				requeue(s, n, owner, comes[owner])
			}
		}
		s.wake(n)
	}
}

// planSending has n execute a step with one result in the place that the new plan gives it, and
// send it, unless another node is at that. What needs the step on other nodes waits for it.
func planSending(s *fates, n *node, id UnitID) {
	v := s.cfg.Units[id].Root
	o := s.owner(v)
	if !s.isOver(id) || s.cached.has(v) || s.once.free.has(v) || s.kept(v) || isOpen(&s.fleet, n, v) || o != nil && o != n {
		return
	}
	s.once.by[v], s.once.planned[v] = n.id, id
	queueSending(&s.queues, n, id, false)
}

// planStage has n build a step in the place that the new plan gives it, unless a node is at that
// for an earlier plan. What stands on the step may wait for results of other nodes, and the step
// would wait with it.
func planStage(s *fates, n *node, id UnitID) {
	if s.units[id].part != nil {
		s.retire(id) // the new plan counts
	}
	if s.isOver(id) && s.cfg.executes(s.cfg.Vertices[s.cfg.Units[id].Root].Platform, n.id) {
		queueSending(&s.queues, n, id, false)
	}
}

// isNeedless reports whether a unit in the queue of n is a stage that n need not build, or builds
// anyhow: what stands on it was stolen, or submitted.
func isNeedless(s *queues, n *node, id UnitID) bool {
	u := &s.cfg.Units[id]
	return u.Stage && (n.isAt(u.Root) || n.all.m[u.Root].refs < 2)
}

// requeue puts units that wait in the queue of a node at the end of that of n.
func requeue(s *fates, n, owner *node, units []UnitID) {
	if len(units) == 0 {
		return
	}
	p := &part{why: s.units[units[0]].part.why, orphan: NoNode}
	if n != owner {
		p.why = Replanned
		s.moves = append(s.moves, Move{
			At: s.now, Why: Replanned, Units: slices.Clone(units), From: owner.id, To: n.id,
			Here: s.now + time.Duration(s.latest(n, s.survey(n, units, true))), There: s.now + time.Duration(s.remaining(owner)),
		})
	}
	for _, u := range units {
		s.unqueue(u)
	}
	s.enqueue(&n.lane, units, false, p)
}
