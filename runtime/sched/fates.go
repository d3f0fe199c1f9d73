package sched

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// fates decide the ends of submissions and units: which units are submitted again and
// where, which have failed, and which end with them. They answer with commands.
type fates struct {
	policy
	lastRun  PartitionID // the highest that was given out
	deferred int         // units whose outputs wait for the other units
	reason   string      // why nothing is submitted any more; "" while stopping is not set
	moves    []Move      // in order of time
	trials   map[VertexID]*trial
	out      []Command // of the event that is being taken in, in order
	sending  []sending // in the order in which they began
}

func (s *fates) emit(c Command) { s.out = append(s.out, c) }

// submitPart submits what is ready of p, as far as the limit of jobs allows.
func (s *fates) submitPart(n *node, p *part) {
	ids := slices.Clone(s.pick(n, p.units))
	if left := s.jobsLeft(); len(ids) > left {
		ids = ids[:left]
	}
	l := p.lane
	for _, u := range ids {
		s.units[u].part = nil
		if l.n == nil {
			n.all.add(s.cfg.Units[u].Root)
		}
	}
	if len(ids) == len(p.units) {
		l.remove(p)
	} else {
		l.unready(p)
		p.units = slices.DeleteFunc(p.units, func(u UnitID) bool { return slices.Contains(ids, u) })
		s.markDirty(p)
	}
	s.submit(n, ids, p)
}

// submit opens a submission. The units are counted in n.all already.
func (s *fates) submit(n *node, ids []UnitID, p *part) {
	s.lastRun++
	r := &run{id: s.lastRun, n: n, building: len(ids), live: len(ids), pooled: p.pooled, waits: true, since: s.now}
	n.sub.by = r.id
	n.waiting++
	for i, id := range ids {
		u := &s.units[id]
		u.runs = append(u.runs, ref{r, i})
		s.turn(id, submitted)
		u.out.Submits++
		r.units = append(r.units, member{id: id})
		n.sub.add(s.cfg.Units[id].Root)
	}
	s.runs[r.id] = r
	n.runs = append(n.runs, r)
	forgo(s, n, ids) // what is not there now comes too late
	s.claim(n, ids)
	n.live += len(ids)
	s.inflight += len(ids)
	var delay time.Duration
	if p.delay {
		delay = s.backoff(ids)
	}
	s.touch(n)
	reportRelics(s, n, ids)
	s.emit(Submit{Partition: r.id, Node: n.id, Units: ids, Why: p.why, Delay: delay})
}

// takeBack ends a submission, queues its unfinished units at its node, and returns that
// part.
func (s *fates) takeBack(r *run, reason string) *part {
	leaveOpen(s, r)
	p := &part{why: Planned, pooled: r.pooled, orphan: NoNode}
	var units []UnitID
	for i := range r.units {
		if r.units[i].st != building {
			continue
		}
		units = append(units, r.units[i].id)
		s.advance(r, i, recalled)
	}
	r.canceled = true
	s.emit(CancelPartition{Partition: r.id, Reason: reason, Recalled: true})
	s.enqueue(&r.n.lane, units, true, p)
	return p
}

func (s *fates) cancel(r *run, reason string) {
	if !r.canceled {
		r.canceled = true
		s.commit(r)
		s.emit(CancelPartition{Partition: r.id, Reason: reason})
	}
}

// cancelRuns cancels the submissions that match, in order.
func (s *fates) cancelRuns(match func(*run) bool) {
	ids := make([]PartitionID, 0, len(s.runs))
	for id := range s.runs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if match(s.runs[id]) {
			s.cancel(s.runs[id], s.reason)
		}
	}
}

// ending is how a submission has ended.
type ending struct {
	reason    string // "" when nothing failed
	retryable bool   // what failed may pass
	lost      bool   // its node is lost
}

// close ends a submission and returns what must be submitted again: at most one
// part for each fate, so that units that belong together stay together.
func (s *fates) close(r *run, e ending) []*part {
	delete(s.runs, r.id)
	settleOpen(s, r)
	r.n.runs = slices.DeleteFunc(r.n.runs, func(x *run) bool { return x == r })
	s.forgetStray(r.n)
	several := r.live > 1
	units := map[fate][]UnitID{}
	for i := range r.units {
		st := r.units[i].st
		if id := r.units[i].id; s.leaves(r, i) {
			f := s.decide(id, r, st, e, several)
			units[f] = append(units[f], id)
		}
	}
	if s.stopping {
		return nil
	}
	var ps []*part
	group := func(units []UnitID, delay bool) {
		// A failure in this loop may have ended units that were collected before it.
		units = slices.DeleteFunc(units, s.isOver)
		if len(units) == 0 {
			return
		}
		flawed := slices.ContainsFunc(units, func(u UnitID) bool { return s.units[u].confined })
		ps = append(ps, &part{units: units, why: Rescued, pooled: r.pooled, delay: delay, flawed: flawed, orphan: r.n.id})
	}
	settleKept(s)
	group(units[innocent], false)
	group(units[again], !e.lost && !r.again)
	for _, u := range units[alone] {
		group([]UnitID{u}, false)
	}
	return ps
}

// leaves ends the work of a submission, which has ended, on a unit. It reports whether no
// other submission works on the unit and it is still needed.
func (s *fates) leaves(r *run, i int) bool {
	id, st := r.units[i].id, r.units[i].st
	if st == settled || st == recalled {
		return false
	}
	if st.lives() {
		s.advance(r, i, denied)
	}
	switch {
	case s.units[id].state != idle || s.stopping:
		return false
	case s.cfg.Units[id].OnDemand:
		s.retire(id)
		return false
	case s.doomed(id):
		s.skip(id)
		return false
	}
	return true
}

// fate is the treatment of a unit whose submission has ended without its result.
type fate int

const (
	failed   fate = iota
	again         // submitted again, for it may be what failed
	innocent      // submitted again, as something else has failed
	alone         // submitted again by itself, to find out
)

// decide returns the fate of a unit that was in the state st when its submission ended, and
// fails the unit if that is its fate. several is set when other units were open, too.
func (s *fates) decide(id UnitID, r *run, st memberState, e ending, several bool) fate {
	switch {
	case st == retry:
		return again
	case st == denied:
		// Its other submission has ended without a result.
		return innocent
	case !e.lost && (r.blamed || r.canceled):
		return innocent
	case r.again:
		return again
	case e.lost || e.reason == "" || e.retryable:
		why := cmp.Or(e.reason, "the submission ended without its result")
		if e.lost {
			why = fmt.Sprintf("lost with node %s: %s", r.n.name, e.reason)
		}
		yes, ending := s.mayRetry(id, r.n, passing)
		if yes {
			return again
		}
		s.fail(id, r.n.id, why+ending)
		return failed
	case several && s.cfg.Options.KeepGoing:
		return alone
	}
	s.fail(id, r.n.id, e.reason)
	return failed
}

// place gives a part without a node to the one expected to finish it first: a node
// that is up if there is one, else one that is still expected.
func (s *fates) place(p *part) {
	p.units = slices.DeleteFunc(p.units, func(u UnitID) bool {
		if s.cfg.Units[u].OnDemand {
			s.retire(u)
		}
		return s.isOver(u)
	})
	if len(p.units) == 0 || s.stopping {
		return
	}
	if p.pooled {
		s.toPool(p)
		return
	}
	n, here := s.bestNode(p.units)
	if n == nil {
		if len(p.units) == 1 {
			s.unplaceable(p.units[0])
			return
		}
		for _, u := range slices.Backward(slices.Clone(p.units)) {
			s.place(&part{units: []UnitID{u}, why: p.why, delay: p.delay, orphan: p.orphan})
		}
		return
	}
	if p.orphan != NoNode && p.orphan != n.id {
		switch from := s.nodes[p.orphan]; {
		case p.flawed:
			p.why = Retried
		case (p.why == Recalled || from.drains) && from.state != lost:
			p.why = Recalled
		default:
			p.why = Rescued
		}
		s.moves = append(s.moves, Move{At: s.now, Why: p.why, Units: slices.Clone(p.units), From: p.orphan, To: n.id, Here: here})
	}
	s.enqueue(&n.lane, p.units, true, p)
	s.wake(n)
}

// toPool returns a part to the front of its pool.
func (s *fates) toPool(p *part) {
	groups := [][]UnitID{p.units}
	if len(p.units) > 1 && !s.anyAllows(p.units) {
		groups = singles(p.units)
	}
	for _, g := range groups {
		if !s.usable(g) {
			for _, u := range slices.Clone(g) {
				if !s.isOver(u) {
					s.unplaceable(u)
				}
			}
			continue
		}
		key := s.allowKey(g)
		i := slices.IndexFunc(s.pools, func(l *lane) bool { return l.key == key })
		if i < 0 {
			i = len(s.pools)
			s.pools = append(s.pools, &lane{key: key})
		}
		// Not a copy: the new part need not be looked at again because p had to.
		s.enqueue(s.pools[i], g, true, &part{why: p.why, pooled: p.pooled, delay: p.delay, orphan: NoNode})
	}
}

// checkPools fails the units that no node can run any longer.
func (s *fates) checkPools() {
	for _, l := range s.pools {
		if len(l.parts) == 0 || s.usable(l.parts[0].units) {
			continue
		}
		for _, p := range l.sortedParts() {
			for _, u := range slices.Clone(p.units) {
				if !s.isOver(u) {
					s.unplaceable(u)
				}
			}
		}
	}
}

// unplaceable fails a unit because no node is left for it.
func (s *fates) unplaceable(u UnitID) {
	reason := "no node left that may build it"
	for _, n := range s.nodes {
		if n.state == lost && s.cfg.allows(u, n.id) {
			reason = fmt.Sprintf("%s; %s: %s", reason, n.name, n.err)
			break
		}
	}
	s.fail(u, NoNode, reason)
}

// fail ends a unit for good.
func (s *fates) fail(id UnitID, n NodeID, reason string) {
	if s.cfg.Units[id].OnDemand {
		s.retire(id) // it is asked for again, or else built where it is needed
		return
	}
	u := &s.units[id]
	if reason == "" {
		reason = "failed"
	}
	u.out.State, u.out.Node, u.out.Reason = Failed, n, reason
	s.conclude(id)
	if !s.cfg.Options.KeepGoing {
		s.stop(fmt.Sprintf("%s failed", s.cfg.Units[id].Name))
		return
	}
	s.skipDependents(id)
}

func (s *fates) stop(reason string) {
	if s.stopping {
		return
	}
	s.stopping, s.reason = true, reason
}

// skipDependents ends everything queued that needs a unit which failed. Submissions end by
// themselves: one that shares the failing step then fails with it.
func (s *fates) skipDependents(id UnitID) {
	for _, d := range s.rdeps[id] {
		if u := &s.units[d]; u.state < submitted {
			s.skip(d)
		}
	}
}

func (s *fates) skip(id UnitID) {
	s.unqueue(id)
	s.units[id].out.State = Skipped
	s.conclude(id)
	s.skipDependents(id)
}

// conclude closes a unit whose outcome is set, wherever else it is worked on.
func (s *fates) conclude(id UnitID) {
	u := &s.units[id]
	s.turn(id, over)
	u.out.At = s.now
	s.unqueue(id)
	for _, x := range slices.Clone(u.runs) {
		s.advance(x.r, x.i, denied)
		if x.r.live == 0 {
			s.cancel(x.r, fmt.Sprintf("%s is finished elsewhere", s.cfg.Units[id].Name))
		}
	}
	s.wakeDependents(id)
}
