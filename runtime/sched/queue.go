package sched

import (
	"cmp"
	"container/heap"
	"slices"
)

// queues are the parts that nobody was given yet, and the nodes that are to be looked at.
type queues struct {
	estimator
	pools []*lane
	class []ownerHeap // of nodes that others may take something from, by node.class

	dirty    []*part  // whose readiness may have changed
	hungry   nodeHeap // to be fed
	idle     []*node  // may hold nodes that are idle no longer
	held     []*node  // lag, and were given nothing for that reason
	fresh    []*node  // became idle in this step
	touched  []*node  // whose predicted finish may have changed
	pooled   bool     // something in a pool became ready
	stopping bool     // nothing is submitted any more
}

// part is a partition, or what is left of one, that has not been submitted.
type part struct {
	units  []UnitID // in topological order
	lane   *lane
	pos    int64 // order within the lane; ties by first unit
	slot   int   // index in lane.parts
	heap   int   // index in lane.ready or, when it watches, in lane.parked; or -1
	why    Why
	pooled bool // came from the pool and returns there
	delay  bool // back off before it starts
	flawed bool // a step of it is executed again
	dirty  bool // readiness must be looked at
	// watch is the generation of its entries in node.watch, where it waits for a step under way;
	// 0 = it does not wait.
	watch  int
	gen    int
	orphan NodeID // the node it was lost with, or NoNode
}

// lane is a queue of parts: of one node, or of those pool partitions that the same
// nodes may run.
type lane struct {
	n     *node  // nil for a pool
	key   string // of a pool: which nodes may run its units
	parts []*part
	ready partHeap
	// parked are the parts that wait for steps under way.
	parked partHeap
	back   int64 // position after the last
	front  int64 // position before the first
}

func (l *lane) insert(p *part, atFront bool) {
	if atFront {
		l.front--
		p.pos = l.front
	} else {
		p.pos = l.back
		l.back++
	}
	p.lane, p.slot, p.heap, p.watch = l, len(l.parts), -1, 0
	l.parts = append(l.parts, p)
}

func (l *lane) remove(p *part) {
	l.unready(p)
	last := l.parts[len(l.parts)-1]
	l.parts[p.slot] = last
	last.slot = p.slot
	l.parts[len(l.parts)-1] = nil
	l.parts = l.parts[:len(l.parts)-1]
	p.lane = nil
}

// unready takes p out of the ready or the parked parts.
func (l *lane) unready(p *part) {
	l.unpark(p)
	if p.heap >= 0 {
		heap.Remove(&l.ready, p.heap)
	}
}

// unpark ends the wait of p.
func (l *lane) unpark(p *part) {
	if p.watch != 0 {
		heap.Remove(&l.parked, p.heap)
		p.watch = 0
	}
}

// sortedParts returns the parts in order.
func (l *lane) sortedParts() []*part {
	ps := slices.Clone(l.parts)
	slices.SortFunc(ps, comparePos)
	return ps
}

func comparePos(a, b *part) int {
	switch {
	case a.pos < b.pos:
		return -1
	case a.pos > b.pos:
		return 1
	}
	return 0
}

// partHeap holds parts of a lane, each in at most one heap, first position first.
type partHeap []*part

func (h partHeap) Len() int           { return len(h) }
func (h partHeap) Less(i, j int) bool { return h[i].pos < h[j].pos }
func (h partHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heap, h[j].heap = i, j
}
func (h *partHeap) Push(x any) {
	p := x.(*part)
	p.heap = len(*h)
	*h = append(*h, p)
}
func (h *partHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	p.heap = -1
	return p
}

// ownerHeap holds the nodes of one class that have something queued, latest
// predicted finish first, ties by id.
type ownerHeap []*node

func (h ownerHeap) Len() int { return len(h) }
func (h ownerHeap) Less(i, j int) bool {
	if h[i].ends != h[j].ends {
		return h[i].ends > h[j].ends
	}
	return h[i].id < h[j].id
}
func (h ownerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].owner, h[j].owner = i, j
}
func (h *ownerHeap) Push(x any) {
	n := x.(*node)
	n.owner = len(*h)
	*h = append(*h, n)
}
func (h *ownerHeap) Pop() any {
	old := *h
	n := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	n.owner = -1
	return n
}

// nodeHeap is a set of nodes, smallest id first.
type nodeHeap []*node

func (h nodeHeap) Len() int           { return len(h) }
func (h nodeHeap) Less(i, j int) bool { return h[i].id < h[j].id }
func (h nodeHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *nodeHeap) Push(x any)        { *h = append(*h, x.(*node)) }
func (h *nodeHeap) Pop() any {
	old := *h
	n := old[len(old)-1]
	*h = old[:len(old)-1]
	return n
}

// enqueue puts units, as p, into a lane.
func (s *queues) enqueue(l *lane, units []UnitID, atFront bool, p *part) {
	if len(units) == 0 {
		return
	}
	p.units = slices.Clone(units)
	slices.SortFunc(p.units, func(a, b UnitID) int { return cmp.Compare(s.rank[a], s.rank[b]) })
	l.insert(p, atFront)
	for _, u := range p.units {
		s.units[u].part = p
		s.turn(u, queued)
		if l.n != nil {
			l.n.all.add(s.cfg.Units[u].Root)
		}
	}
	s.markDirty(p)
	if l.n != nil {
		s.touch(l.n)
	}
}

// unqueue takes a unit out of its part.
func (s *queues) unqueue(id UnitID) {
	p := s.units[id].part
	if p == nil {
		return
	}
	s.units[id].part = nil
	if !s.isOver(id) {
		s.turn(id, idle)
	}
	p.units = slices.DeleteFunc(p.units, func(u UnitID) bool { return u == id })
	l := p.lane
	if l == nil {
		return
	}
	if l.n != nil {
		l.n.all.drop(s.cfg.Units[id].Root)
		s.touch(l.n)
	}
	if len(p.units) == 0 {
		l.remove(p)
		return
	}
	s.markDirty(p)
}

// touch marks n's predicted finish as stale.
func (s *queues) touch(n *node) {
	if !n.isTouched {
		n.isTouched = true
		s.touched = append(s.touched, n)
	}
}

// wake marks n as to be fed.
func (s *queues) wake(n *node) {
	s.touch(n)
	if !n.isHungry && n.state == up {
		n.isHungry = true
		heap.Push(&s.hungry, n)
	}
}

// retouch brings the heaps of owners up to date.
func (s *queues) retouch() {
	for i := 0; i < len(s.touched); i++ { // a node can be touched once more meanwhile
		n := s.touched[i]
		n.isTouched = false
		s.wakeParts(n)
		h := &s.class[n.class]
		if !n.owns() {
			if n.owner >= 0 {
				heap.Remove(h, n.owner)
			}
			continue
		}
		n.ends = float64(s.now) + s.remaining(n)
		if n.owner < 0 {
			heap.Push(h, n)
		} else {
			heap.Fix(h, n.owner)
		}
	}
	s.touched = s.touched[:0]
}

func (s *queues) markDirty(p *part) {
	if p != nil && !p.dirty {
		p.dirty = true
		s.dirty = append(s.dirty, p)
	}
}

func (s *queues) wakeDependents(id UnitID) {
	for _, d := range s.rdeps[id] {
		s.markDirty(s.units[d].part)
	}
}
