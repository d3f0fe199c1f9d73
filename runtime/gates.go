package runtime

import (
	"slices"

	"github.com/dbake/dbake/runtime/sched"
)

// gates returns units with the gates of their targets. Targets that are only built for others
// publish nothing. A gate that is not built has its outputs from an earlier run, or could not
// be prepared.
func (w *work) gates(units []sched.Unit) []sched.Unit {
	units = slices.Clone(units)
	jobs := map[string][]sched.UnitID{} // by target
	for i, j := range w.Jobs {
		jobs[j.Target.Name] = append(jobs[j.Target.Name], sched.UnitID(i))
	}
	for i, j := range w.Jobs {
		if j.Target.Linked {
			continue
		}
		for _, name := range j.Target.Gates {
			units[i].Gates = append(units[i].Gates, jobs[name]...)
			units[i].Shut = units[i].Shut || slices.Contains(w.Faulty, name)
		}
	}
	return units
}

// closedBy says which gate keeps a job from being published.
func (w *work) closedBy(u sched.UnitID, o sched.Outcome) string {
	if o.Because != sched.NoUnit {
		return "test " + w.Jobs[o.Because].Target.Name + " failed"
	}
	for _, name := range w.Jobs[u].Target.Gates {
		if slices.Contains(w.Faulty, name) {
			return "test " + name + " failed"
		}
	}
	return "a test failed"
}
