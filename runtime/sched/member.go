package sched

import "slices"

// member is a unit in a submission.
type member struct {
	id UnitID
	st memberState
	// waited is set when it was deferred: others may have begun in the belief that it is
	// finished.
	waited bool
}

// memberState is how far a submission is with a unit. The states are in order of
// progress, and no unit goes back.
type memberState int

const (
	building  memberState = iota
	deferred              // built, and its export is to wait
	exporting             // built, and to be exported
	// With those that follow the submission has done with the unit.
	denied   // built, but another node exports it; or given up
	retry    // failed; tried again unless that was final
	settled  // finished
	recalled // taken back before it began
)

// lives reports whether the submission still works on the unit.
func (st memberState) lives() bool { return st < denied }

// busy is 1 for a unit that counts for the limits of its node and of the run.
func (st memberState) busy() int {
	if st == building || st == exporting {
		return 1
	}
	return 0
}

// advance brings a member into a later state. All counts by state are kept here and nowhere
// else.
func (s *fates) advance(r *run, i int, to memberState) {
	m, n := &r.units[i], r.n
	from := m.st
	if to <= from {
		return
	}
	m.st = to
	noteSending(s, r, *m, from)
	if from == building {
		s.commit(r)
		root := s.cfg.Units[m.id].Root
		n.all.drop(root)
		n.sub.drop(root)
		r.building--
		s.wake(n)
	}
	n.live += to.busy() - from.busy()
	s.inflight += to.busy() - from.busy()
	switch {
	case to == deferred:
		s.deferred++
	case from == deferred:
		s.deferred--
	}
	if to == deferred {
		m.waited = true
		s.wakeDependents(m.id)
	}
	if to.lives() || !from.lives() {
		return
	}
	r.live--
	u := &s.units[m.id]
	u.runs = slices.DeleteFunc(u.runs, func(x ref) bool { return x.r == r })
	if u.granted == r {
		u.granted = nil
	}
	switch {
	case u.state == over:
	case len(u.runs) == 0:
		s.turn(m.id, idle)
	case u.granted == nil:
		s.turn(m.id, submitted)
	}
	s.wakeDependents(m.id) // what was deferred is not there any more
	s.reconsider()
	s.wake(n)
}

// toBuild returns the units that are not built yet.
func (r *run) toBuild() []UnitID {
	var units []UnitID
	for _, m := range r.units {
		if m.st == building {
			units = append(units, m.id)
		}
	}
	return units
}

// writes reports whether the outputs of some member are being written.
func (r *run) writes() bool {
	return slices.ContainsFunc(r.units, func(m member) bool { return m.st == exporting })
}
