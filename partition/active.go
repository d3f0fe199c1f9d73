package partition

import (
	"cmp"
	"math"
	"slices"
)

// active enumerates active schedules of the tasks of one plan: schedules in which
// no task could start sooner without another starting later. One of them is
// shortest.
type active struct {
	e     *branching
	n     int
	kind  []Kind
	vert  []int32
	where []int32
	dur   []float64
	level []float64
	preds [][]int32
	succs [][]int32
	found float64
	end   []float64 // -1 = not scheduled yet
	waits []int32
	free  [][]float64 // per resource: when each unit is free
	start []float64
	by    [][]int32 // per resource: its tasks
	items []item
	head  []float64
}

func newActive(e *branching, d *draft) *active {
	s := e.sim
	n := len(s.kind)
	a := &active{
		e: e, n: n, kind: slices.Clone(s.kind), vert: slices.Clone(s.vert), where: slices.Clone(s.where),
		dur: slices.Clone(s.dur), level: slices.Clone(s.level[:n]), preds: make([][]int32, n), succs: make([][]int32, n),
		end: make([]float64, n), waits: make([]int32, n), start: make([]float64, n), head: make([]float64, n),
		free: make([][]float64, 3*e.m.nn), by: make([][]int32, 3*e.m.nn),
	}
	for i := range n {
		a.end[i] = -1
		for k := s.head[i]; k >= 0; k = s.edgeNx[k] {
			to := s.edgeTo[k]
			a.succs[i] = append(a.succs[i], to)
			a.preds[to] = append(a.preds[to], int32(i))
			a.waits[to]++
		}
		r := int(a.where[i])*3 + int(a.kind[i])
		a.by[r] = append(a.by[r], int32(i))
	}
	for p := range e.m.nn {
		a.free[3*p] = make([]float64, e.m.slots[p])
		a.free[3*p+1], a.free[3*p+2] = make([]float64, 1), make([]float64, 1)
	}
	a.vacate()
	return a
}

// search returns the tasks by start of a schedule shorter than the best plan.
func (a *active) search() ([]int32, bool) {
	if !a.step(a.n) {
		return nil, false
	}
	order := make([]int32, a.n)
	for i := range order {
		order[i] = int32(i)
	}
	starts := slices.Clone(a.start)
	slices.SortStableFunc(order, func(x, y int32) int {
		return cmp.Or(cmp.Compare(starts[x], starts[y]), cmp.Compare(a.level[y], a.level[x]))
	})
	for i := range a.end { // back to the beginning, for the next search
		a.end[i] = -1
		a.waits[i] = int32(len(a.preds[i]))
	}
	a.vacate()
	return order, true
}

// vacate frees every unit from when its node is there.
func (a *active) vacate() {
	for r, f := range a.free {
		for k := range f {
			f[k] = a.e.m.from[r/3]
		}
	}
}

// step schedules one more task; left are not scheduled yet. It leaves the schedule
// in place when it returns true.
func (a *active) step(left int) bool {
	below := a.e.below()
	if left == 0 {
		a.found = slices.Max(a.end)
		return a.found < below
	}
	if !a.e.tick(a.n) || a.hopeless(below) {
		return false
	}
	// The eligible task that could end first names the resource to decide on.
	pick, ends := -1, math.Inf(1)
	for i := range a.n {
		if a.end[i] < 0 && a.waits[i] == 0 && a.head[i]+a.dur[i] < ends {
			pick, ends = i, a.head[i]+a.dur[i]
		}
	}
	r := int(a.where[pick])*3 + int(a.kind[pick])
	var rivals []int32
	for _, i := range a.by[r] {
		if a.end[i] < 0 && a.waits[i] == 0 && (a.head[i] < ends || int(i) == pick) {
			rivals = append(rivals, i)
		}
	}
	slices.SortStableFunc(rivals, func(x, y int32) int { return cmp.Compare(a.level[y], a.level[x]) })
	head := slices.Clone(a.head)
	for _, i := range rivals {
		// The unit that became free last before the start fits best.
		unit := -1
		for k, f := range a.free[r] {
			if f <= head[i] && (unit < 0 || f > a.free[r][unit]) {
				unit = k
			}
		}
		was := a.free[r][unit]
		a.start[i], a.end[i] = head[i], head[i]+a.dur[i]
		a.free[r][unit] = a.end[i]
		for _, j := range a.succs[i] {
			a.waits[j]--
		}
		if a.step(left - 1) {
			return true
		}
		for _, j := range a.succs[i] {
			a.waits[j]++
		}
		a.free[r][unit] = was
		a.end[i] = -1
		if a.e.out {
			return false
		}
	}
	return false
}

// hopeless sets the earliest start of every task left and bounds the rest.
func (a *active) hopeless(below float64) bool {
	// Tasks are listed so that edges lead to larger ones, After edges excepted; a
	// head missed because of those is only weaker.
	for i := range a.n {
		if a.end[i] >= 0 {
			continue
		}
		h := slices.Min(a.free[int(a.where[i])*3+int(a.kind[i])])
		for _, j := range a.preds[i] {
			if a.end[j] >= 0 {
				h = max(h, a.end[j])
			} else if j < int32(i) {
				h = max(h, a.head[j]+a.dur[j])
			}
		}
		a.head[i] = h
		if h+a.level[i] >= below {
			return true
		}
	}
	for r, tasks := range a.by {
		if len(tasks) < 2 {
			continue
		}
		a.items = a.items[:0]
		for _, i := range tasks {
			if a.end[i] < 0 {
				a.items = append(a.items, item{a.head[i], a.dur[i], a.level[i] - a.dur[i]})
			}
		}
		if len(a.items) > 1 && setBound(a.items, float64(len(a.free[r])))*(1-1e-12) >= below {
			return true
		}
	}
	return false
}
