package partition

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// exact proves that no plan is shorter than the one it returns, or says that it
// could not. It is for small problems: up to maxExactNodes nodes and a few dozen
// vertices.
//
// Branch and bound on executions. For every vertex, the dearest first, it decides
// which nodes execute it; everything else follows, but for the source of a fetch
// with several and the node of a target whose root no allowed node executes, which
// are enumerated last. A partial decision is dropped when a bound on every schedule
// of it is not below the best plan: earliest times without contention, work of sets
// of tasks on one node between their earliest start and their tail, and all work
// over all nodes in the same way. Decisions that pass are scheduled by branch and
// bound over active schedules (Giffler and Thompson, 1960).
//
// Bounds and dominance hold for schedules that may leave a slot idle on purpose,
// which a plan cannot express. So what is proven is at least what was asked; when
// only a schedule with idling would be shorter, the plan is returned without proof.
//
// Two dominance rules, both safe because leaving a task out never lengthens such a
// schedule: a vertex that one chain alone needs is executed on one node only, and a
// node executes a vertex only if it needs it or exports it.
type exact struct{}

func (exact) Name() string { return "exact" }

// maxExactNodes bounds the 2^nodes ways to execute one vertex.
const maxExactNodes = 8

// exactBudget is the default number of bound computations and scheduled tasks: some
// seconds.
const exactBudget = 100_000_000

func (s exact) Plan(ctx context.Context, p Problem, o Options) (Plan, error) {
	r, err := newRun(ctx, p, o)
	if err != nil {
		return Plan{}, fmt.Errorf("plan with %s: %w", s.Name(), err)
	}
	limit := o.Budget
	if limit == 0 {
		limit = exactBudget
	}
	r.o.Budget = min(r.o.budget(), DefaultBudget) // the rest is for the proof
	best, proven, spent := r.prove(r.search(r.starts()), limit)
	plan, err := r.finishProven(s.Name(), best, proven)
	plan.Spent = spent && !plan.Proven && !plan.Stopped
	return plan, err
}

// prove looks for a plan shorter than d, and reports whether there is none shorter
// than the one it returns. It gives up after limit steps, which are then spent.
func (r *run) prove(d *draft, limit int) (best *draft, proven, spent bool) {
	e := newBranching(r, d, limit)
	proven = e.solve()
	r.steps += e.steps
	return e.best, proven, e.out
}

func (r *run) finishProven(name string, d *draft, proven bool) (Plan, error) {
	plan, err := r.finish(name, d)
	if err == nil && proven {
		plan.Proven = true
		plan.Bound.Max = plan.Schedule.Makespan
	}
	return plan, err
}

type branching struct {
	r     *run
	m     *model
	sim   *simulator
	best  *draft
	upper float64 // makespan of best
	// missed is the shortest schedule found that no plan could be made of.
	missed float64

	limit, steps int
	out          bool // limit reached or ctx done

	verts  []int32 // what the targets need, ascending
	order  []int32 // the same, in order of decision
	must   []bool
	single []bool // needed by one chain only
	roots  [][]int32
	nodes  int

	exec    []uint32 // per vertex: nodes that execute it
	decided []bool
	run     []uint32
	warm    []uint32
	alike   []int // per node: the smallest node of its class
	quantum float64

	early [][]float64 // per vertex and node: when it can be held
	ready [][]float64 // ... when its inputs can
	tail  [][]float64 // per vertex and node: what must follow its execution there
	first []float64   // per vertex: earliest start anywhere
	rest  []float64   // per vertex: smallest tail anywhere

	items []item
	cuts  []float64
	open  []int32
	costs []float64
}

type item struct{ head, work, tail float64 }

func newBranching(r *run, best *draft, limit int) *branching {
	m := r.m
	e := &branching{
		r: r, m: m, sim: newSimulator(m), best: best.clone(), missed: math.Inf(1),
		limit: limit, must: m.must(), roots: make([][]int32, m.nv), nodes: m.nn,
		single: make([]bool, m.nv), exec: make([]uint32, m.nv), decided: make([]bool, m.nv),
		first: make([]float64, m.nv), rest: make([]float64, m.nv),
	}
	e.upper, _ = e.sim.makespan(e.best)
	for t, v := range m.root {
		e.roots[v] = append(e.roots[v], int32(t))
	}
	e.verts = slices.Clone(newClosure(m).of32(m.root))
	needed := make([]bool, m.nv)
	for _, v := range e.verts {
		needed[v] = true
	}
	for i := len(e.verts) - 1; i >= 0; i-- {
		v := e.verts[i]
		users, chain := 0, true
		for _, c := range m.consumers(int(v)) {
			if needed[c] {
				users++
				chain = chain && e.single[c]
			}
		}
		e.single[v] = users == 0 && len(e.roots[v]) == 1 || users == 1 && chain && len(e.roots[v]) == 0
	}
	e.order = slices.Clone(e.verts)
	slices.SortStableFunc(e.order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(m.cost[b], m.cost[a]), cmp.Compare(b, a))
	})
	if m.nn <= maxExactNodes {
		e.prepare()
	}
	return e
}

func (e *branching) prepare() {
	m := e.m
	e.run, e.warm = make([]uint32, m.nv), make([]uint32, m.nv)
	for v := range m.nv {
		e.run[v] = uint32(m.set(m.run[m.plat[v]], 0)[0])
		e.warm[v] = uint32(m.set(m.warm, v)[0])
	}
	e.alike = make([]int, m.nn)
	for _, c := range m.classes() {
		e.alike[c.node] = c.node
	}
	for n := range m.nn {
		e.alike[n] = n
		for k := range n {
			if m.twins(k, n) {
				e.alike[n] = k
				break
			}
		}
	}
	rows := func() [][]float64 {
		out := make([][]float64, m.nv)
		for v := range out {
			out[v] = make([]float64, m.nn)
		}
		return out
	}
	e.early, e.ready, e.tail = rows(), rows(), rows()
	// Whole seconds make the work of any set of vertices whole, and bounds sharper.
	e.quantum = 1
	for _, v := range e.verts {
		if m.cost[v] != math.Trunc(m.cost[v]) {
			e.quantum = 0
		}
	}
}

// twins reports whether two nodes differ in name only.
func (m *model) twins(a, b int) bool {
	if m.slots[a] != m.slots[b] || m.from[a] != m.from[b] || !m.equalPace(a, b) {
		return false
	}
	for _, sets := range [][][]uint64{m.run, m.allowSet} {
		for _, set := range sets {
			if hasBit(set, a) != hasBit(set, b) {
				return false
			}
		}
	}
	for v := range m.nv {
		if m.isWarm(v, a) != m.isWarm(v, b) {
			return false
		}
	}
	return true
}

// solve reports whether e.best is proven.
func (e *branching) solve() bool {
	if e.upper <= float64(e.r.bound.Max)*(1+1e-12) {
		return true
	}
	if e.m.nn > maxExactNodes || e.m.machine != nil {
		return false // what nodes share is not enumerated
	}
	e.decide(0, 0)
	return !e.out && e.missed >= e.below()
}

// below is what a schedule must be shorter than to be of interest.
func (e *branching) below() float64 { return e.upper * (1 - 1e-9) }

func (e *branching) tick(n int) bool {
	before := e.steps >> 16
	e.steps += n
	if e.steps > e.limit || e.steps>>16 != before && e.r.ctx.Err() != nil {
		e.out = true
	}
	return !e.out
}

// decide chooses the nodes that execute order[depth]; used are the nodes that any
// decision has mentioned.
func (e *branching) decide(depth int, used uint32) {
	if !e.tick(len(e.verts)) || e.bound() >= e.below() {
		return
	}
	if depth == len(e.order) {
		e.leaf()
		return
	}
	v := int(e.order[depth])
	e.decided[v] = true
	all := uint32(1)<<e.nodes - 1
	for set := uint32(0); set <= all; set++ {
		size := bits.OnesCount32(set)
		switch {
		case set&^e.run[v] != 0, set&e.warm[v] != 0:
			continue
		case size == 0 && e.must[v]:
			continue
		case size > 1 && (e.single[v] || e.m.once[v]):
			continue
		case !e.canonical(set, used):
			continue
		}
		e.exec[v] = set
		e.decide(depth+1, used|set)
		if e.out {
			break
		}
	}
	e.exec[v] = 0
	e.decided[v] = false
}

// canonical reports whether set takes unused nodes of a class in order: any other choice is
// the same with the nodes renamed.
func (e *branching) canonical(set, used uint32) bool {
	for fresh := set &^ used; fresh != 0; fresh &= fresh - 1 {
		n := bits.TrailingZeros32(fresh)
		for k := e.alike[n]; k < n; k++ {
			if e.alike[k] == e.alike[n] && (used|set)>>k&1 == 0 {
				return false
			}
		}
	}
	return true
}

// bound returns a lower bound on every schedule of the decisions made so far.
func (e *branching) bound() float64 {
	m := e.m
	inf := math.Inf(1)
	most := 0.0
	for _, v32 := range e.verts {
		v := int(v32)
		in := m.inputs(v)
		avail := inf
		e.first[v] = inf
		for p := range e.nodes {
			ready := 0.0
			for _, u := range in {
				ready = max(ready, e.early[u][p])
			}
			e.ready[v][p] = ready
			at := inf
			if e.warm[v]>>p&1 != 0 {
				at = 0
			} else if e.runs(v, p) {
				at = ready + m.exec(v, p)
				e.first[v] = min(e.first[v], ready)
			}
			e.early[v][p] = at
			avail = min(avail, at)
		}
		if m.cached[v] {
			avail = 0
		} else {
			avail += m.ship[v]
		}
		for p := range e.nodes {
			if e.decided[v] && e.exec[v]>>p&1 != 0 {
				continue
			}
			parent := 0.0
			if len(in) > 0 {
				parent = e.early[in[0]][p]
			}
			e.early[v][p] = min(e.early[v][p], max(avail, parent)+m.ship[v])
		}
		for _, t := range e.roots[v] {
			soonest := inf
			for p := range e.nodes {
				if m.allows(int(t), p) {
					soonest = min(soonest, e.early[v][p])
				}
			}
			most = max(most, soonest)
		}
		if e.decided[v] {
			for p := range e.nodes {
				if e.exec[v]>>p&1 != 0 {
					most = max(most, e.early[v][p])
				}
			}
		}
	}
	if most >= e.below() {
		return most
	}
	e.tails()
	most = max(most, e.perNode())
	if most >= e.below() {
		return most
	}
	return max(most, e.overall())
}

func (e *branching) runs(v, p int) bool {
	if e.decided[v] {
		return e.exec[v]>>p&1 != 0
	}
	return e.run[v]>>p&1 != 0
}

// tails computes what must follow the end of an execution of v on p.
func (e *branching) tails() {
	m := e.m
	for i := len(e.verts) - 1; i >= 0; i-- {
		v := int(e.verts[i])
		only := e.decided[v] && bits.OnesCount32(e.exec[v]) == 1 && e.warm[v] == 0 && !m.cached[v]
		e.rest[v] = math.Inf(1)
		for p := range e.nodes {
			t := 0.0
			for _, c := range m.consumers(v) {
				t = max(t, e.follows(v, p, int(c), only))
			}
			e.tail[v][p] = t
			if e.runs(v, p) {
				e.rest[v] = min(e.rest[v], t)
			}
		}
		// Wherever v runs first, each consumer follows on some node.
		if !e.decided[v] && !e.single[v] && e.must[v] {
			t := 0.0
			for _, c := range m.consumers(v) {
				if e.must[c] {
					least := math.Inf(1)
					for q := range e.nodes {
						if e.runs(int(c), q) {
							least = min(least, m.exec(int(c), q)+e.tail[c][q])
						}
					}
					t = max(t, least)
				}
			}
			e.rest[v] = t
		}
	}
}

// follows is what must follow the end of an execution of v on p because of its consumer
// c; only says that there is no other place to have v from.
func (e *branching) follows(v, p, c int, only bool) float64 {
	m := e.m
	switch {
	case e.decided[c] && (only || e.exec[v]>>p&1 != 0):
		t := 0.0
		for q := range e.nodes {
			if e.exec[c]>>q&1 == 0 {
				continue
			}
			if q == p {
				t = max(t, m.exec(c, q)+e.tail[c][q])
			} else if only {
				t = max(t, 2*m.ship[v]+m.exec(c, q)+e.tail[c][q])
			}
		}
		return t
	case !e.decided[c] && e.must[c] && (only || e.single[v]):
		// v comes from p alone, and c runs somewhere.
		least := math.Inf(1)
		for q := range e.nodes {
			if e.run[c]>>q&1 == 0 {
				continue
			}
			x := m.exec(c, q) + e.tail[c][q]
			if q != p {
				x += 2 * m.ship[v]
			}
			least = min(least, x)
		}
		return least
	}
	return 0
}

// perNode bounds each node by its decided executions.
func (e *branching) perNode() float64 {
	m := e.m
	most := 0.0
	for p := range e.nodes {
		e.items = e.items[:0]
		for _, v := range e.verts {
			if e.decided[v] && e.exec[v]>>p&1 != 0 {
				e.items = append(e.items, item{e.ready[v][p], m.exec(int(v), p), e.tail[v][p]})
			}
		}
		most = max(most, setBound(e.items, float64(m.slots[p])))
	}
	return most
}

// setBound is the largest min head + work/slots + min tail of any subset of items.
func setBound(items []item, slots float64) float64 {
	slices.SortFunc(items, func(a, b item) int { return cmp.Compare(b.tail, a.tail) })
	most := 0.0
	for _, from := range items {
		work := 0.0
		for _, x := range items {
			if x.head >= from.head {
				work += x.work
				most = max(most, from.head+work/slots+x.tail)
			}
		}
	}
	return most
}

// overall fits sets of executions, decided or not, into all nodes together.
func (e *branching) overall() float64 {
	e.cuts = e.cuts[:0]
	for _, v := range e.verts {
		if e.must[v] {
			e.cuts = append(e.cuts, e.first[v])
		}
	}
	slices.Sort(e.cuts)
	e.cuts = slices.Compact(e.cuts)
	for _, cut := range e.cuts {
		for byTail := range 2 {
			if !e.fits(cut, byTail == 1) {
				return math.Inf(1)
			}
		}
	}
	return 0
}

// fits reports whether the executions that start at cut or later, in all or without
// the last short steps, leave every node enough time: between the earliest of them
// on a node and the end less the shortest tail, less what is decided for the node,
// undecided ones must find room, each only where it fits by itself.
func (e *branching) fits(cut float64, long bool) bool {
	const short = 3 // seconds
	m := e.m
	below := e.below()
	var release, taken [maxExactNodes]float64
	for p := range release {
		release[p] = math.Inf(1)
	}
	todo, tail := 0.0, math.Inf(1)
	e.open = e.open[:0]
	for _, v32 := range e.verts {
		v := int(v32)
		if long && e.rest[v] <= short {
			continue
		}
		if e.decided[v] {
			for p := range e.nodes {
				if e.exec[v]>>p&1 != 0 && e.ready[v][p] >= cut {
					taken[p] += m.cost[v]
					tail = min(tail, e.tail[v][p])
					release[p] = min(release[p], e.ready[v][p])
				}
			}
		} else if e.must[v] && e.first[v] >= cut {
			todo += m.cost[v]
			tail = min(tail, e.rest[v])
			e.open = append(e.open, v32)
			for p := range e.nodes {
				if e.run[v]>>p&1 != 0 {
					release[p] = min(release[p], e.ready[v][p])
				}
			}
		}
	}
	for p := range e.nodes {
		span := below - tail - release[p]
		if span < 0 || math.IsInf(release[p], 1) {
			if taken[p] > 0 {
				return false
			}
			continue
		}
		room := span * m.speed[p]
		if e.quantum > 0 {
			room = math.Floor(room/e.quantum+1e-9) * e.quantum
		}
		room = room*float64(m.slots[p]) - taken[p]
		if room < -1e-9*taken[p] {
			return false
		}
		if todo -= e.packing(p, room, below); todo <= 0 {
			return true
		}
	}
	return todo <= 1e-9
}

// packing is the most work of open vertices that finds room on p, each only where it fits
// by itself.
func (e *branching) packing(p int, room, below float64) float64 {
	e.costs = e.costs[:0]
	sum := 0.0
	for _, v := range e.open {
		if e.run[v]>>p&1 != 0 && e.ready[v][p]+e.m.exec(int(v), p)+e.rest[v] < below {
			e.costs = append(e.costs, e.m.cost[v])
			sum += e.m.cost[v]
		}
	}
	switch {
	case sum <= room:
		return sum
	case e.quantum > 0 && room < 64*maxSumWords:
		return float64(largestSum(e.costs, int(room)))
	}
	return room
}

const maxSumWords = 32

// largestSum returns the largest sum of some of the costs, whole numbers, that is
// at most limit < 64*maxSumWords.
func largestSum(costs []float64, limit int) int {
	var sums [maxSumWords]uint64 // bit i: i is the sum of some of them
	sums[0] = 1
	words := limit/64 + 1
	for _, c := range costs {
		if int(c) > limit {
			continue
		}
		jump, shift := int(c)/64, uint(int(c)%64)
		for k := words - 1; k >= jump; k-- {
			x := sums[k-jump] << shift
			if shift > 0 && k > jump {
				x |= sums[k-jump-1] >> (64 - shift)
			}
			sums[k] |= x
		}
	}
	for i := limit; i > 0; i-- {
		if sums[i/64]>>(i%64)&1 != 0 {
			return i
		}
	}
	return 0
}

// leaf schedules a complete decision in all ways that are left.
func (e *branching) leaf() {
	m := e.m
	d := m.newDraft()
	for _, v := range e.verts {
		m.set(d.fetch, int(v))[0] = uint64(^e.exec[v]) & (1<<e.nodes - 1)
	}
	e.placeTargets(d, 0)
}

// placeTargets enumerates the targets' nodes: any that executes the root or is warm
// with it, the first of them unless After edges make a difference; if there is
// none, any that may fetch it.
func (e *branching) placeTargets(d *draft, t int) {
	m := e.m
	if t == m.nt {
		e.chooseSources(d, m.nv-1)
		return
	}
	allowed := uint32(m.allowedSet(t)[0])
	options := allowed & (e.exec[m.root[t]] | e.warm[m.root[t]])
	switch {
	case options == 0:
		options = allowed
	case !m.ordered:
		options &= -options
	}
	for ; options != 0 && !e.out; options &= options - 1 {
		d.node[t] = int32(bits.TrailingZeros32(options))
		e.placeTargets(d, t+1)
	}
}

// chooseSources enumerates sources of fetched vertices from v down.
func (e *branching) chooseSources(d *draft, v int) {
	m := e.m
	for ; v >= 0; v-- {
		options := e.exec[v] | e.warm[v]
		if bits.OnesCount32(options) > 1 || options != 0 && m.cached[v] {
			break
		}
		d.src[v] = auto
		if m.cached[v] {
			d.src[v] = int32(Registry)
		} else if options != 0 {
			d.src[v] = int32(bits.TrailingZeros32(options))
		}
	}
	if v < 0 {
		e.schedule(d)
		return
	}
	// Nobody may fetch it at all: then one source is as good as another.
	e.sim.derive(d)
	if m.set(e.sim.need, v)[0]&^uint64(e.exec[v]|e.warm[v]) == 0 {
		d.src[v] = int32(bits.TrailingZeros32(e.exec[v] | e.warm[v]))
		e.chooseSources(d, v-1)
		return
	}
	if m.cached[v] && !e.out {
		d.src[v] = int32(Registry)
		e.chooseSources(d, v-1)
	}
	for set := e.exec[v] | e.warm[v]; set != 0 && !e.out; set &= set - 1 {
		d.src[v] = int32(bits.TrailingZeros32(set))
		e.chooseSources(d, v-1)
	}
}

// schedule looks for a schedule of d that is shorter than the best plan.
func (e *branching) schedule(d *draft) {
	sim, m := e.sim, e.m
	sim.derive(d)
	if sim.broken {
		return
	}
	for _, v := range e.verts {
		need, pull := m.set(sim.need, int(v))[0], m.set(sim.pull, int(v))[0]
		if uint32(need&^pull)&^e.warm[v] != e.exec[v] {
			return // some execution serves nobody, or another decision says the same
		}
	}
	sim.list(d.node)
	sim.rank(nil)
	if !e.tick(len(sim.kind)) || sim.mustExceed(e.below()) {
		return
	}
	if makespan := sim.play(math.Inf(1)); makespan < e.below() {
		e.improve(d, makespan)
		sim.derive(d)
		sim.list(d.node)
		sim.rank(nil)
		if sim.mustExceed(e.below()) {
			return
		}
	}
	a := newActive(e, d)
	for {
		start, ok := a.search()
		if !ok {
			return
		}
		// Order every node by the starts found; plans cannot express idling, so the
		// result may be longer.
		trial := d.clone()
		trial.order = make([][]int32, m.nn)
		for _, i := range start {
			n := a.where[i]
			if !slices.Contains(trial.order[n], a.vert[i]) {
				trial.order[n] = append(trial.order[n], a.vert[i])
			}
		}
		makespan, _ := newSimulator(m).makespan(trial)
		if makespan < e.below() {
			e.improve(trial, makespan)
			continue
		}
		e.missed = min(e.missed, a.found)
		return
	}
}

func (e *branching) improve(d *draft, makespan float64) {
	e.best, e.upper = d.clone(), makespan
}
