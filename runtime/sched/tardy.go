package sched

import (
	"maps"
	"slices"
)

// A result that is being sent for much longer than was expected is not waited for without end. A
// node that has nothing else to do executes what it was to be sent, when it would be done sooner,
// with the unit that waits, than the transfer. That a transfer is late says nothing of how long it
// goes on: as for steps, it is expected to take half as long again as it has taken. So nothing is
// executed before the wait was about as long as the execution, and no wait costs much more than
// twice the better of the two. When nobody waits for the transfer any more, it ends [Unpublished]. A step with one
// result that another node has executed is waited for all the same.

// tardy is how many times longer than expected a transfer takes, at least, until it is late:
// others may share the way.
const tardy = 2

// sending is a result on its way to other nodes.
type sending struct {
	r     *run
	id    UnitID
	since int64 // nanoseconds since the start of the run
}

// noteSending notes that a member of r has come from one state to another.
func noteSending(s *fates, r *run, m member, from memberState) {
	switch {
	case !s.cfg.Units[m.id].Early || s.cfg.Units[m.id].OnDemand:
	case m.st == exporting:
		s.sending = append(s.sending, sending{r, m.id, int64(s.now)})
	case from == exporting:
		s.sending = slices.DeleteFunc(s.sending, func(x sending) bool { return x.r == r && x.id == m.id })
	}
}

// overtake has nodes execute what they are sent too late, and reports whether one does.
func overtake(s *fates) bool {
	if len(s.sending) == 0 || !s.cfg.Options.Steal || s.cfg.Options.NoHedge {
		return false
	}
	late := lateSendings(s)
	some := false
	for _, d := range slices.Sorted(maps.Keys(late)) {
		for _, u := range s.rdeps[d] {
			p := s.units[u].part
			if p == nil || p.lane.n == nil {
				continue
			}
			if n := p.lane.n; n.state == up && !n.drains && s.wants(n) && n.spare(0) && len(n.ready) == 0 && outrun(s, n, u, late) {
				waive(s, n, u, late)
				some = true
			}
		}
	}
	if some {
		dropUnawaited(s, late)
	}
	return some
}

// lateSendings returns, by unit, for how many more nanoseconds results are expected to be on their
// way that are late.
func lateSendings(s *fates) map[UnitID]float64 {
	late := map[UnitID]float64{}
	for _, x := range s.sending {
		if age := float64(int64(s.now) - x.since); age > max(brief, tardy*sendTime(s, x.r.n)) {
			late[x.id] = (overdue - 1) * age
		}
	}
	return late
}

// sendTime is how long all that n sends is expected to take, in nanoseconds.
func sendTime(s *fates, n *node) float64 {
	own, all := 0., 0.
	for _, x := range s.sending {
		t := s.transfer(s.cfg.Units[x.id].Root)
		if all += t; x.r.n == n {
			own += t
		}
	}
	if links := s.cfg.Network.Links; links > 0 {
		own = max(own, all/float64(links))
	}
	return own
}

// outrun reports whether n, which waits for u's inputs, would be done with u sooner if it executed
// what it is sent too late. All that u still waits for must be late, and sent to n.
func outrun(s *fates, n *node, u UnitID, late map[UnitID]float64) bool {
	units := []UnitID{u}
	rest, sent := 0., s.promises(n, units)
	for _, d := range s.deps[u] {
		wait, isLate := late[d]
		if !s.available(d) && (!isLate || !slices.Contains(sent, s.cfg.Units[d].Root)) {
			return false
		}
		rest = max(rest, wait)
	}
	if rest == 0 || !s.bears(n, units) {
		return false
	}
	there := rest + s.survey(n, units, true).path
	s.unpromised = n
	r := s.survey(n, units, true)
	s.unpromised = nil
	here := s.latest(n, r) + risk*r.unsure/s.part(n, float64(n.slots))
	return r.ok && !r.early && here < sooner*there
}

// waive has n execute what it is sent too late for u, and all its units wait no longer for that.
func waive(s *fates, n *node, u UnitID, late map[UnitID]float64) {
	sent := forgo(s, n, []UnitID{u})
	for _, p := range n.parts {
		for _, id := range p.units {
			before := len(s.deps[id])
			s.deps[id] = slices.DeleteFunc(slices.Clone(s.deps[id]), func(d UnitID) bool {
				_, isLate := late[d]
				return isLate && slices.Contains(sent, s.cfg.Units[d].Root)
			})
			if len(s.deps[id]) < before {
				s.markDirty(p)
			}
		}
	}
}

// dropUnawaited ends those of the late sendings that no unit waits for any more.
func dropUnawaited(s *fates, late map[UnitID]float64) {
	for _, x := range slices.Clone(s.sending) {
		if _, isLate := late[x.id]; !isLate || slices.ContainsFunc(s.rdeps[x.id], func(u UnitID) bool { return !s.isOver(u) && slices.Contains(s.deps[u], x.id) }) {
			continue
		}
		u := &s.units[x.id]
		u.out.State, u.out.Node, u.out.Reason = Unpublished, x.r.n.id, "nobody waits for it any more"
		s.conclude(x.id)
	}
}
