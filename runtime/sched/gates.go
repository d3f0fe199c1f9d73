package sched

import "slices"

// A unit with [Unit.Gates] is built like any other, and its outputs wait until all of its
// gates are finished. If one of them fails, the outputs are not written, and the unit ends as
// [Unpublished]; for what comes after it, it counts as finished.

// gate reports whether the outputs of a unit may be written as far as its gates go. shut is set
// when they never may. because is the unit that shut them, NoUnit for a gate that failed before
// the run.
func (s *fleet) gate(id UnitID) (open, shut bool, because UnitID) {
	unit := &s.cfg.Units[id]
	if unit.Shut {
		return false, true, NoUnit
	}
	open = true
	for _, g := range unit.Gates {
		switch u := &s.units[g]; {
		case u.state != over:
			open = false
		case u.out.State != Built:
			return false, true, g
		}
	}
	return open, false, NoUnit
}

// defers reports whether the outputs of a unit that was just built have to wait.
func (s *fleet) defers(id UnitID) bool {
	open, _, _ := s.gate(id)
	return !open || s.cfg.Options.DeferOutput && !s.cfg.Units[id].Early
}

// writeDeferred asks for the outputs that wait, once their gates are open and, where outputs
// are deferred, every unit is built or has failed.
func (s *fates) writeDeferred() {
	if s.deferred == 0 || s.cfg.Options.DeferOutput && slices.ContainsFunc(s.units, func(u unit) bool { return u.state < granted }) {
		return
	}
	eachDeferred(s, func(r *run, i int) {
		if open, _, _ := s.gate(r.units[i].id); open {
			s.advance(r, i, exporting)
			s.emit(Export{Partition: r.id, Unit: r.units[i].id})
		}
	})
}

// closeGates gives up the outputs that wait behind a gate that has failed, and reports
// whether there were any.
func closeGates(s *fates) bool {
	before := s.deferred
	if before > 0 {
		eachDeferred(s, func(r *run, i int) {
			if _, shut, because := s.gate(r.units[i].id); shut {
				withhold(s, r, i, because)
			}
		})
	}
	return s.deferred < before
}

// eachDeferred calls do with the units whose outputs wait, in order.
func eachDeferred(s *fates, do func(r *run, i int)) {
	for id := range s.units {
		r := s.units[id].granted
		if r == nil {
			continue
		}
		if _, i := s.find(r.id, UnitID(id)); r.units[i].st == deferred {
			do(r, i)
		}
	}
}

// withhold ends a unit that was built and whose outputs will not be written.
func withhold(s *fates, r *run, i int, because UnitID) {
	id := r.units[i].id
	s.advance(r, i, settled)
	u := &s.units[id]
	u.out.State, u.out.Node, u.out.Because, u.out.Reason = Unpublished, r.n.id, because, "a gate failed"
	if because != NoUnit {
		u.out.Reason = s.cfg.Units[because].Name + " failed"
	}
	s.emit(Release{Partition: r.id, Unit: id})
	s.conclude(id)
}
