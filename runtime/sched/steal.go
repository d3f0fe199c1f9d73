package sched

import (
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	// triesPerStep bounds the nodes that were idle already and look again at what
	// others have: with hundreds of them each event would cost too much. They take
	// turns.
	triesPerStep = 4
	// ownersPerClass and partsPerOwner bound what one idle node looks at.
	ownersPerClass = 3
	partsPerOwner  = 16
	// maxMoves is how often a unit may change its node by being stolen. It ends any taking back
	// and forth.
	maxMoves = 3
	// margin is the part of the owner's remaining time that a steal must win:
	// estimates are not better than that, and moving is not free. With steps off by
	// a factor between 0.3 and 3, less makes more steals that turn out bad; more
	// gives away good ones.
	margin = 0.2
	// maxWaits bounds how deep the chain of a unit's waits is followed.
	maxWaits = 4
	// risk is the part by which steps that were never measured are expected to take
	// longer when a thief must run them: the owner's share of the same error counts
	// on both sides, the thief's set-up does not.
	risk = 0.25
	// settling is how long a submission is left alone: that it has begun is known
	// only when the node says so.
	settling = 2 * time.Second
)

// thieves let nodes take work from each other, and build units a second time when another node
// is slow at them.
type thieves struct{ fates }

// steal lets idle nodes take work and reports whether one did.
func (s *thieves) steal() bool {
	var try []*node
	try = append(try, s.fresh...)
	s.fresh = s.fresh[:0]
	turns := min(triesPerStep, len(s.idle))
	try = append(try, s.idle[:turns]...)
	s.idle = append(s.idle[:0], s.idle[turns:]...)
	moved := false
	for _, n := range try {
		if n.drains || !s.wants(n) || !n.spare(s.cfg.Options.Ahead) || len(n.ready) > 0 {
			n.isIdle = false
			continue
		}
		if s.cfg.Options.Steal && s.jobsLeft() > 0 && (s.take(n) || s.hedge(n) || s.speculate(n)) {
			n.isIdle = false
			moved = true
			s.wake(n)
			continue
		}
		s.idle = append(s.idle, n)
	}
	return moved
}

// loot is something that could be stolen.
type loot struct {
	p           *part // nil when it was submitted
	r           *run
	units       []UnitID
	owner       *node
	pos         int64   // in the queue of the owner
	here, there float64 // nanoseconds from now
	exec        float64
	bare        bool // the thief executes what was still to be sent to it
}

// arrival is a unit of a node's queue that waits for what another node sends.
type arrival struct {
	in   float64 // nanoseconds until it can be submitted, at least
	path float64 // its longest chain from then on
}

// arrivals are the units of a node's queue that wait for what others send.
type arrivals struct {
	list []arrival
	exec float64 // what they are to execute together, on one slot
}

func (s *estimator) arrivals(n *node) arrivals {
	var a arrivals
	var units []UnitID
	for _, p := range n.parts[:min(partsPerOwner, len(n.parts))] {
		for _, u := range p.units {
			if in := s.due(u, maxWaits); in > 0 {
				units = append(units, u)
				a.list = append(a.list, arrival{in: in, path: s.survey(n, []UnitID{u}, false).path})
			}
		}
	}
	if len(units) > 0 {
		a.exec = s.survey(n, units, false).exec
	}
	return a
}

// after is the least time until all of it is done when the node is busy with
// something else first. It is 0 when that is done before anything arrives.
func (a arrivals) after(busy, slots float64) float64 {
	first, end := math.Inf(1), 0.
	for _, x := range a.list {
		first = min(first, x.in)
		end = max(end, max(x.in, busy)+x.path)
	}
	if busy <= first {
		return 0
	}
	return max(end, max(first, busy)+a.exec/slots)
}

// due is a lower bound on the time until a unit's inputs are there, following at most depth
// waits in a chain.
func (s *estimator) due(u UnitID, depth int) float64 {
	var latest float64
	for _, d := range s.cfg.Units[u].After {
		unit := &s.units[d]
		if s.available(d) || depth == 0 {
			continue
		}
		var n *node
		switch {
		case len(unit.runs) > 0:
			n = unit.runs[0].r.n
		case unit.part != nil:
			n = unit.part.lane.n
		}
		at := s.due(d, depth-1) + s.transfer(s.cfg.Units[d].Root)
		if n != nil {
			at += s.survey(n, []UnitID{d}, true).path
		}
		latest = max(latest, at)
	}
	return latest
}

// take moves to n the part that n would finish first, if that is early enough. It looks at what
// the nodes that will finish last have queued, or submitted without having begun it.
func (s *thieves) take(n *node) bool {
	waiting := s.arrivals(n)
	best := s.bestQueued(n, waiting)
	if best == nil {
		best = s.bestSubmitted(n, waiting)
	}
	if best == nil {
		return false
	}
	s.move(n, best)
	return true
}

// owners calls look for the nodes that will finish last.
func (s *queues) owners(n *node, look func(owner *node)) {
	for c := range s.class {
		h := s.class[c]
		// The first three of a heap contain its first two, and usually its third.
		for _, owner := range h[:min(ownersPerClass, len(h))] {
			if owner != n {
				look(owner)
			}
		}
	}
}

// bestQueued returns the best of what is not submitted.
func (s *policy) bestQueued(n *node, waiting arrivals) *loot {
	var best *loot
	s.owners(n, func(owner *node) {
		for i := range min(partsPerOwner, len(owner.parts)) {
			p := owner.parts[len(owner.parts)-1-i]
			if l := s.assess(n, owner, p.units, waiting); l != nil {
				l.p, l.pos = p, p.pos
				best = l.better(best)
			}
		}
	})
	return best
}

// bestSubmitted returns the best of what was submitted and has not begun.
func (s *policy) bestSubmitted(n *node, waiting arrivals) *loot {
	var best *loot
	s.owners(n, func(owner *node) {
		for _, r := range s.recallable(owner) {
			s.several = s.several[:0]
			for _, m := range r.units {
				s.several = append(s.several, m.id)
			}
			if l := s.assess(n, owner, s.several, waiting); l != nil {
				l.r = r
				best = l.better(best)
			}
		}
	})
	return best
}

// better returns the loot that is there first. Of two that are there together it returns the
// one later in its queue.
func (l *loot) better(best *loot) *loot {
	if best == nil || l.here < best.here || l.here == best.here && l.pos > best.pos {
		return l
	}
	return best
}

// recallable returns submissions that n had the time to begin and did not, the last
// ones first.
func (s *estimator) recallable(n *node) []*run {
	if n.waiting == 0 {
		return nil
	}
	var list []*run
	for _, r := range slices.Backward(n.runs) {
		if len(list) == partsPerOwner {
			break
		}
		if r.waits && s.now >= r.since+settling && !slices.ContainsFunc(r.units, func(m member) bool { return len(s.units[m.id].runs) > 1 }) {
			list = append(list, r)
		}
	}
	return list
}

// assess returns the units of some that n should take, or nil: all of them, or else the
// last half, or else the last one. What n waits for itself comes first.
func (s *policy) assess(n, owner *node, all []UnitID, waiting arrivals) *loot {
	rest := s.remaining(owner)
	for k := len(all); k > 0; k /= 2 {
		if k < len(all)/2 {
			k = 1
		}
		units := all[len(all)-k:]
		if !s.stealable(n, units) || s.robs(n, owner, units) {
			continue
		}
		r := s.surveyFrom(n, owner, units)
		if !r.ok || r.early {
			continue
		}
		again := s.again(n, owner)
		slots := s.part(n, float64(n.slots))
		here := s.latest(n, r) + risk*r.unsure/slots
		here = max(here, waiting.after(max(r.path, r.exec/slots), slots))
		there := rest
		if here > there*(1-margin) {
			// The owner cannot be faster than the longest chain of the units.
			there = max(there, s.survey(owner, units, false).path)
		}
		if here > there*(1-margin) || s.relief(owner, units) <= again {
			continue
		}
		return &loot{units: slices.Clone(units), owner: owner, here: here, there: there, exec: r.exec + r.fetch, bare: r.bare}
	}
	return nil
}

// again returns the work, at the speed of the owner, that the owner has begun and n would have
// to do for the units of the last survey.
func (s *estimator) again(n, owner *node) float64 {
	sum := 0.
	for _, r := range owner.running {
		if s.stamp[r.v] != s.epoch || s.cached.has(r.v) || n.fetches.has(r.v) || s.elsewhere(n, r.v) != nil {
			continue
		}
		if _, anyhow := n.all.m[r.v]; !anyhow {
			sum += s.exec(owner, r.v)
		}
	}
	return sum
}

// stealable reports whether all the units could be submitted to n at once.
func (s *estimator) stealable(n *node, units []UnitID) bool {
	for _, u := range units {
		if s.units[u].moves >= maxMoves || !s.suits(u, n) {
			return false
		}
	}
	if len(s.pick(n, units)) == len(units) {
		return true
	}
	// Or once the results of other nodes that they wait for have been sent.
	missing := s.missing(n, units)
	if len(missing) == 0 || slices.ContainsFunc(missing, func(v VertexID) bool { return s.once.sender[v] == NoUnit }) {
		return false
	}
	return len(s.pickOrdered(n, units)) == len(units)
}

// relief is the work that the owner is spared without the units, on one slot. What
// they have to write does not count, nor what it does for other units anyhow.
func (s *estimator) relief(owner *node, units []UnitID) float64 {
	before := s.execLoad(&owner.all) + float64(owner.all.load[byFetch])
	for _, u := range units {
		owner.all.drop(s.cfg.Units[u].Root)
	}
	after := s.execLoad(&owner.all) + float64(owner.all.load[byFetch])
	written := 0.
	for i, u := range units {
		root := s.cfg.Units[u].Root
		seen := slices.ContainsFunc(units[:i], func(w UnitID) bool { return s.cfg.Units[w].Root == root })
		if _, stays := owner.all.m[root]; !stays && !seen && s.cfg.Vertices[root].Output && !owner.held.has(root) {
			written += s.exec(owner, root)
		}
	}
	for _, u := range units {
		owner.all.add(s.cfg.Units[u].Root)
	}
	return before - after - written
}

// move carries a steal out.
func (s *thieves) move(n *node, l *loot) {
	why := Stolen
	if l.r != nil {
		why, l.p = Recalled, s.recall(l.r, n)
	}
	if l.bare {
		forgo(&s.fates, n, l.units)
	}
	spared := s.relief(l.owner, l.units) * l.owner.speed / n.speed
	for _, u := range l.units {
		s.unqueue(u)
		s.units[u].moves++
	}
	l.owner.given = append(l.owner.given, gift{units: l.units, to: n.id})
	s.enqueue(&n.lane, l.units, false, &part{why: why, pooled: l.p.pooled, delay: l.p.delay, orphan: NoNode})
	s.moves = append(s.moves, Move{
		At: s.now, Why: why, Units: slices.Clone(l.units), From: l.owner.id, To: n.id,
		Here: s.now + time.Duration(l.here), There: s.now + time.Duration(l.there),
		Setup: time.Duration(max(0, l.exec-spared)),
	})
}

// recall takes back a submission that has not begun, for thief to take some of it. It returns
// the part that the submission has become in the queue of its node.
func (s *thieves) recall(r *run, thief *node) *part {
	return s.takeBack(r, fmt.Sprintf("taken by %s before it began", thief.name))
}

// hedge starts units that were stolen from n on n as well, when n would now finish
// them before the thief does.
func (s *thieves) hedge(n *node) bool {
	if s.cfg.Options.NoHedge {
		return false
	}
	for i := 0; i < len(n.given); i++ {
		g := &n.given[i]
		thief := s.nodes[g.to]
		g.units = slices.DeleteFunc(g.units, func(id UnitID) bool {
			u := &s.units[id]
			if u.state >= granted || len(u.runs) > 1 || u.flunked {
				return true
			}
			// Queued again, or on its way somewhere else: that is not for us.
			return len(u.runs) == 1 && u.runs[0].r.n != thief || len(u.runs) == 0 && (u.part == nil || u.part.lane != &thief.lane)
		})
		if len(g.units) == 0 {
			n.given = slices.Delete(n.given, i, i+1)
			i--
			continue
		}
		if slices.ContainsFunc(g.units, func(id UnitID) bool { return len(s.units[id].runs) == 0 }) {
			continue // still in the thief's queue: an ordinary steal
		}
		if len(s.pick(n, g.units)) < len(g.units) || len(g.units) > s.jobsLeft() {
			continue
		}
		r := s.survey(n, g.units, true)
		if !r.ok {
			continue
		}
		here := s.latest(n, r)
		there := s.survey(thief, g.units, false).path
		if here >= there {
			continue
		}
		units := g.units
		n.given = slices.Delete(n.given, i, i+1)
		s.double(n, &loot{units: units, owner: thief, here: here, there: there})
		return true
	}
	return false
}

// sooner is the part of the owner's best remaining time for a unit within which a second build
// of it must be done.
const sooner = 0.9

// speculate starts on n, which has a slot free and nothing of its own for it, a unit that
// another node is building and would end with much later: that node has become slow, or its
// work takes longer than predicted. The first to build the unit exports it.
func (s *thieves) speculate(n *node) bool {
	if s.cfg.Options.NoHedge || !n.spare(0) {
		return false
	}
	busy := len(n.ready)+len(n.parked) > 0
	if busy && !s.anyLags() {
		return false
	}
	var best *loot
	for _, owner := range s.latestOwners(n) {
		if busy && !s.lags(owner) {
			continue
		}
		for _, r := range owner.runs {
			for _, m := range r.units {
				if l := s.second(n, owner, m); l != nil && (best == nil || l.there-l.here > best.there-best.here) {
					best = l
				}
			}
		}
	}
	if best == nil {
		return false
	}
	s.double(n, best)
	return true
}

// latestOwners returns the nodes that build something and will end last, but for n.
func (s *estimator) latestOwners(n *node) []*node {
	var list []*node
	var ends []float64
	for _, m := range s.nodes {
		if m == n || m.state != up || len(m.running) == 0 {
			continue
		}
		end := s.remaining(m)
		at := len(list)
		for at > 0 && end > ends[at-1] {
			at--
		}
		if at < ownersPerClass {
			list, ends = slices.Insert(list, at, m), slices.Insert(ends, at, end)
			list, ends = list[:min(len(list), ownersPerClass)], ends[:min(len(ends), ownersPerClass)]
		}
	}
	return list
}

// second returns the second build on n of a unit that owner builds, nil when it is not
// worth it.
func (s *policy) second(n, owner *node, m member) *loot {
	u := &s.units[m.id]
	if m.st != building || u.state >= granted || len(u.runs) > 1 || u.flunked || u.moves >= maxMoves || !s.suits(m.id, n) {
		return nil
	}
	units := []UnitID{m.id}
	if len(s.pick(n, units)) == 0 {
		return nil
	}
	doubted := !s.lags(owner)
	if doubted && len(n.ready) == 0 && s.late(owner, units) {
		s.suspect = owner
		defer func() { s.suspect = nil }()
	}
	there := s.survey(owner, units, false).path
	r := s.surveyFrom(n, owner, units)
	here, limit := s.latest(n, r), there
	if doubted { // the step is late, or badly predicted
		here += risk * r.unsure / s.part(n, float64(n.slots))
		limit *= sooner
	}
	if !r.ok || r.early || here >= limit {
		return nil
	}
	return &loot{units: units, owner: owner, here: here, there: there, bare: r.bare}
}

// late reports whether a step that n executes for the units overruns.
func (s *policy) late(n *node, units []UnitID) bool {
	s.survey(n, units, false)
	return slices.ContainsFunc(n.running, func(r running) bool { return s.stamp[r.v] == s.epoch && s.overruns(n, r) })
}

// surveyFrom is survey for units that n would take from owner, or build too. When owner is
// slow or late, n executes what is still to be sent to it.
func (s *estimator) surveyFrom(n, owner *node, units []UnitID) survey {
	r := s.survey(n, units, true)
	if r.early && (s.lags(owner) || slices.ContainsFunc(owner.running, func(x running) bool { return s.overruns(owner, x) })) && s.bears(n, units) {
		s.unpromised = n
		r = s.survey(n, units, true)
		s.unpromised = nil
		r.bare = true
	}
	return r
}

// bears reports whether n may execute what is still to be sent to it and the units need: below
// that is no step that only another node may execute.
func (s *estimator) bears(n *node, units []UnitID) bool { return len(s.missing(n, units)) == 0 }

// forgo has n execute what is still to be sent to it and the units need, and returns that.
func forgo(s *fates, n *node, units []UnitID) []VertexID {
	list := s.promises(n, units)
	for _, v := range list {
		n.fetches.unset(v)
	}
	if len(list) > 0 {
		s.reckon(n)
	}
	return list
}

// promises returns what is still to be sent to n and the units need, but for steps that only
// another node may execute.
func (s *estimator) promises(n *node, units []UnitID) []VertexID {
	var list []VertexID
	s.mark()
	s.stack = s.stack[:0]
	for _, u := range units {
		s.stack = append(s.stack, s.cfg.Units[u].Root)
	}
	for len(s.stack) > 0 {
		v := s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		if s.stamp[v] == s.epoch || n.held.has(v) || s.cached.has(v) || s.elsewhere(n, v) != nil {
			continue
		}
		s.stamp[v] = s.epoch
		if n.fetches.has(v) {
			list = append(list, v)
		}
		s.stack = append(s.stack, s.inputs[v]...)
	}
	return list
}

// double submits to n what its owner goes on building.
func (s *thieves) double(n *node, l *loot) {
	for _, u := range l.units {
		n.all.add(s.cfg.Units[u].Root)
		s.units[u].moves++
	}
	s.moves = append(s.moves, Move{
		At: s.now, Why: Hedged, Units: slices.Clone(l.units), From: l.owner.id, To: n.id,
		Here: s.now + time.Duration(l.here), There: s.now + time.Duration(l.there),
	})
	s.submit(n, l.units, &part{why: Hedged})
}
