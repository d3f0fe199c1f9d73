package sched

import (
	"container/heap"
	"slices"
	"time"
)

// policy decides which units a node is given, and which it may take from others.
type policy struct {
	queues
	inflight int // units submitted and not finished or deferred, duplicates counted
}

// refresh looks again at the parts whose readiness may have changed.
func (s *queues) refresh() {
	for i := 0; i < len(s.dirty); i++ {
		p := s.dirty[i]
		p.dirty = false
		l := p.lane
		if l == nil {
			continue
		}
		if len(s.pick(l.n, p.units)) == 0 {
			l.unready(p)
			s.await(l.n, p)
			continue
		}
		l.unpark(p)
		if p.heap < 0 {
			heap.Push(&l.ready, p)
		}
		if l.n != nil {
			s.wake(l.n)
		} else {
			s.pooled = true
		}
	}
	s.dirty = s.dirty[:0]
	if s.pooled {
		s.pooled = false
		for _, n := range slices.Concat(s.idle, s.fresh) {
			s.wake(n)
		}
		wakeDraining(s) // which are not among the idle
	}
}

// wakeParts returns the parts of n that waited for steps which n now holds, or no
// longer runs, to the ready ones.
func (s *queues) wakeParts(n *node) {
	for _, v := range n.sub.gone {
		s.noteStop(n, v)
		for _, w := range n.watch[v] {
			if w.p.watch == w.gen && w.p.lane == &n.lane {
				n.unpark(w.p)
				heap.Push(&n.ready, w.p)
				s.wake(n)
			}
		}
		delete(n.watch, v)
	}
	n.sub.gone = n.sub.gone[:0]
}

func (s *policy) jobsLeft() int {
	if s.cfg.Options.Jobs == 0 {
		return len(s.units) + 1
	}
	return s.cfg.Options.Jobs - s.inflight
}

func (s *Scheduler) dispatch() {
	for len(s.hungry) > 0 && s.jobsLeft() > 0 {
		n := heap.Pop(&s.hungry).(*node)
		n.isHungry = false
		s.fill(n)
		s.wakeParts(n)
	}
}

// width is the number of steps a node should have to choose from.
func (s *estimator) width(n *node) int { return n.slots + s.cfg.Options.Ahead }

// wants reports whether n should be given more to do.
func (s *policy) wants(n *node) bool {
	if n.state != up {
		return false
	}
	if n.assumed {
		return n.live < n.sub.ready+exportsAtOnce
	}
	return n.spare(s.cfg.Options.Ahead) && n.live < s.mostLive(n)
}

// exportsAtOnce is the number of units without a step to run that a node is given
// at once: all that is left of them is to write their outputs.
const exportsAtOnce = 64

// mostLive bounds the units that n works on at once. Units with nothing left to build would
// otherwise be submitted, that is exported, all at once.
func (s *estimator) mostLive(n *node) int { return 8 * s.width(n) }

// spare reports whether fewer steps are ready or running on n than it has slots, and ahead.
func (n *node) spare(ahead int) bool { return n.sub.ready < n.slots+ahead }

// nextDue returns the first part of n's own queue that is due, nil when there is none. A part
// is due when, by the plan, n begins it before the first of its steps under way is done:
// another step would take the slot. A node that is late has parts it did not begin; the others
// stay in its queue, where they can be stolen.
func (s *policy) nextDue(n *node) *part {
	if n.state != up || n.assumed || s.cfg.Begin == nil || n.live >= s.mostLive(n) {
		return nil
	}
	var first *part
	if len(n.ready) > 0 {
		first = n.ready[0]
	}
	if len(n.parked) > 0 && (first == nil || n.parked[0].pos < first.pos) {
		first = n.parked[0]
	}
	if first == nil {
		return nil
	}
	begin := s.cfg.Begin[first.units[0]]
	for _, u := range first.units[1:] {
		if b := s.cfg.Begin[u]; b.At < begin.At {
			begin = b
		}
	}
	free := s.nextFree(n)
	if n.fetches.has(begin.Step) { // it takes no slot
		free = max(free, float64(n.sub.load[byFetch]))
	}
	if float64(begin.At) > float64(s.now)*(1+1./64)+free || s.notBegun(n, begin.At) >= n.slots || len(s.crowds(n, first)) > 0 {
		return nil
	}
	return first
}

// notBegun counts the units submitted to n that the plan begins by then, but whose first
// planned step n has not begun. Those that were submitted before their time do not count.
func (s *estimator) notBegun(n *node, by time.Duration) int {
	count := 0
	for _, r := range n.runs {
		for _, m := range r.units {
			step := s.cfg.Begin[m.id].Step
			if m.st == building && s.cfg.Begin[m.id].At <= by && !n.held.has(step) && !slices.ContainsFunc(n.running, func(x running) bool { return x.v == step }) {
				count++
			}
		}
	}
	return count
}

// nextFree is the time until the first of the steps under way on n is done.
func (s *estimator) nextFree(n *node) float64 {
	first := 0.
	for i, r := range n.running {
		rest := s.rest(r, s.exec(n, r.v))
		if i == 0 || rest < first {
			first = rest
		}
	}
	return first
}

// fill submits to n until it wants no more or nothing is ready.
func (s *Scheduler) fill(n *node) {
	for {
		p := s.pickWanted(n)
		if p == nil {
			p = s.nextDue(n)
		}
		due := p != nil
		if !due && !s.wants(n) {
			return
		}
		if s.jobsLeft() <= 0 {
			s.wake(n)
			return
		}
		if !due {
			p = s.next(n)
		}
		if p != nil {
			if p = startable(&s.fates, n, p); p == nil {
				return
			}
			if wait := s.crowds(n, p); len(wait) > 0 {
				s.park(n, p, wait)
				continue
			}
		}
		switch {
		case p == nil:
			s.idles(n)
			return
		case isNeedless(&s.queues, n, p.units[0]):
			s.retire(p.units[0])
			continue
		case s.once.some && len(s.pick(n, p.units)) == 0:
			// Another node has begun since what it was ready to begin.
			n.unready(p)
			s.await(n, p)
			continue
		case p.lane.n == nil:
			// Nothing shows whose step a pooled unit would wait for; one for each
			// slot is enough.
			if n.live >= s.width(n) && len(s.nodes) > 1 {
				return
			}
		case due, n.assumed && !s.cfg.Options.Steal:
			// What waits in the queue waits there for thieves.
		default:
			if wait := s.waitsFor(n, p); len(wait) > 0 {
				s.park(n, p, wait)
				continue
			}
		}
		s.submitPart(n, p)
	}
}

// next returns the part n should take next: its own, else one from a pool.
func (s *queues) next(n *node) *part {
	if len(n.ready) > 0 {
		return n.ready[0]
	}
	var best *part
	var kept *part // waits for a result of another node
	for _, l := range s.pools {
		if len(l.ready) == 0 || !s.suitsAll(l.ready[0].units, n) || s.spared(n, l.ready[0].units) {
			continue
		}
		if !s.once.some {
			if p := l.ready[0]; best == nil || p.pos < best.pos {
				best = p
			}
			continue
		}
		for _, p := range l.ready {
			switch {
			case len(s.pick(n, p.units)) == 0:
				if kept == nil || p.pos < kept.pos {
					kept = p
				}
			case best == nil || p.pos < best.pos:
				best = p
			}
		}
	}
	if best == nil && kept != nil {
		for _, id := range slices.Clone(kept.units) {
			s.demand(slices.Clone(s.missing(n, []UnitID{id})))
		}
	}
	return best
}

// waitsFor returns the steps under way on n that p would have to wait for before it
// could start any of its own; empty when p has a step to start now, or nothing to
// build at all.
func (s *estimator) waitsFor(n *node, p *part) []VertexID {
	s.mark()
	s.stack, s.list = s.stack[:0], s.list[:0]
	for _, u := range s.pick(n, p.units) {
		s.stack = append(s.stack, s.cfg.Units[u].Root)
	}
	for len(s.stack) > 0 {
		v := s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		if s.stamp[v] == s.epoch || n.held.has(v) {
			continue
		}
		s.stamp[v] = s.epoch
		if _, ok := n.sub.m[v]; ok {
			s.list = append(s.list, v)
			continue
		}
		below := len(s.stack)
		for _, in := range n.all.follows(v, n.all.m[v].way) {
			if !n.held.has(in) {
				s.stack = append(s.stack, in)
			}
		}
		if len(s.stack) == below {
			return nil
		}
	}
	return s.list
}

// park takes p out of the ready parts until one of the steps is done. It stays in
// the queue and can be stolen.
func (s *queues) park(n *node, p *part, wait []VertexID) {
	n.unready(p)
	p.gen++
	p.watch = p.gen
	heap.Push(&n.parked, p)
	for _, v := range wait {
		n.watch[v] = append(n.watch[v], watcher{p, p.gen})
	}
}

// idles notes that n has nothing it could start.
func (s *queues) idles(n *node) {
	if !n.isIdle {
		n.isIdle = true
		s.fresh = append(s.fresh, n)
	}
}
