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
	// cross is, per direction, when each of the links that all nodes share is free; empty where
	// their own are the only limit. crossers are the tasks that need one.
	cross    [2][]float64
	crossers [2][]int32
	start    []float64
	by       [][]int32 // per resource: its tasks
	items    []item
	head     []float64
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
		if d := a.direction(r); d >= 0 {
			a.crossers[d] = append(a.crossers[d], int32(i))
		}
	}
	for d := range a.cross {
		a.cross[d] = make([]float64, e.m.links)
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
	for d := range a.cross {
		clear(a.cross[d])
	}
}

// direction is an index into cross for the tasks of a resource, -1 if they need none of these.
func (a *active) direction(r int) int {
	if a.e.m.links == 0 {
		return -1
	}
	return r%3 - 1
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
	tasks, d := a.by[r], a.direction(r)
	if d >= 0 {
		tasks = a.crossers[d]
	}
	var rivals []int32
	for _, i := range tasks {
		if a.end[i] < 0 && a.waits[i] == 0 && (a.head[i] < ends || int(i) == pick) {
			rivals = append(rivals, i)
		}
	}
	slices.SortStableFunc(rivals, func(x, y int32) int { return cmp.Compare(a.level[y], a.level[x]) })
	head := slices.Clone(a.head)
	for _, i := range rivals {
		own := a.free[int(a.where[i])*3+int(a.kind[i])]
		unit := bestFit(own, head[i])
		was := own[unit]
		a.start[i], a.end[i] = head[i], head[i]+a.dur[i]
		own[unit] = a.end[i]
		link, before := -1, 0.0
		if d >= 0 {
			link = bestFit(a.cross[d], head[i])
			before = a.cross[d][link]
			a.cross[d][link] = a.end[i]
		}
		for _, j := range a.succs[i] {
			a.waits[j]--
		}
		if a.step(left - 1) {
			return true
		}
		for _, j := range a.succs[i] {
			a.waits[j]++
		}
		own[unit] = was
		if d >= 0 {
			a.cross[d][link] = before
		}
		a.end[i] = -1
		if a.e.out {
			return false
		}
	}
	return false
}

// bestFit returns the unit that became free last before the start: it fits best.
func bestFit(free []float64, start float64) int {
	unit := -1
	for k, f := range free {
		if f <= start && (unit < 0 || f > free[unit]) {
			unit = k
		}
	}
	return unit
}

// hopeless sets the earliest start of every task left and bounds the rest.
func (a *active) hopeless(below float64) bool {
	// Tasks are listed so that edges lead to larger ones, After edges excepted; a
	// head missed because of those is only weaker.
	for i := range a.n {
		if a.end[i] >= 0 {
			continue
		}
		r := int(a.where[i])*3 + int(a.kind[i])
		h := slices.Min(a.free[r])
		if d := a.direction(r); d >= 0 {
			h = max(h, slices.Min(a.cross[d]))
		}
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
		if a.tooMuch(tasks, len(a.free[r]), below) {
			return true
		}
	}
	for d, tasks := range a.crossers {
		if a.tooMuch(tasks, len(a.cross[d]), below) {
			return true
		}
	}
	return false
}

// tooMuch reports whether those of the tasks that are left take so many units beyond a time.
func (a *active) tooMuch(tasks []int32, units int, below float64) bool {
	if len(tasks) < 2 {
		return false
	}
	a.items = a.items[:0]
	for _, i := range tasks {
		if a.end[i] < 0 {
			a.items = append(a.items, item{a.head[i], a.dur[i], a.level[i] - a.dur[i]})
		}
	}
	return len(a.items) > 1 && setBound(a.items, float64(units))*(1-1e-12) >= below
}
