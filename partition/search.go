package partition

import (
	"cmp"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// score orders plans: a shorter makespan first, then less effort, then fewer
// targets moved from where the last plan had them.
type score struct {
	makespan float64
	effort   float64 // executed work at speed 1, that of cold mounts included, and time on links
	moved    int
}

func (a score) less(b score) bool {
	switch {
	case a.makespan != b.makespan:
		return a.makespan < b.makespan
	case a.effort != b.effort:
		return a.effort < b.effort
	}
	return a.moved < b.moved
}

// searcher improves one draft by simulated annealing. A move changes a few wishes
// of the draft; what does not pay is taken back from a log.
type searcher struct {
	r   *run
	m   *model
	sim *simulator
	rng *rand.Rand
	revision
	now    score
	need   []uint64  // who holds what in cur
	finish []float64 // when each node ends in cur
	byEnd  []int32   // nodes by finish
	on     [][]int32 // targets of each node in cur

	best      *draft
	bestScore score

	steps  int
	lower  float64 // no plan is shorter
	weight float64 // of effort in the objective
	pinned bool    // targets stay on their nodes

	cum    []float64 // running sums of vertex costs, to draw vertices by cost
	drawn  []int32   // vertices some target needs
	mark   []int32
	turn   int32
	stack  []int32
	byRoot [][]int32 // targets by root vertex
}

const (
	// effortWeight is what one second less of effort, spread over all slots, is worth
	// in seconds of makespan: it leads the search out of plateaus, and away from
	// plans that move results about for next to nothing.
	effortWeight = 0.1
	// linkWeight is the effort of one second on a link.
	linkWeight = 1
	// again: one move in this many is followed by another before the plan is judged.
	again = 5
)

func newSearcher(r *run, seed uint64, lower float64) *searcher {
	m := r.m
	s := &searcher{
		r: r, m: m, sim: newSimulator(m), revision: revision{words: m.w}, rng: rand.New(rand.NewPCG(r.o.Seed, seed)),
		finish: make([]float64, m.nn), on: make([][]int32, m.nn),
		need: make([]uint64, m.nv*m.w), mark: make([]int32, m.nv), byRoot: make([][]int32, m.nv), lower: lower,
	}
	roots := make([]int32, 0, m.nt)
	for t, v := range m.root {
		s.byRoot[v] = append(s.byRoot[v], int32(t))
		roots = append(roots, v)
	}
	s.drawn = slices.Clone(newClosure(m).of32(roots))
	for n := range m.nn {
		s.byEnd = append(s.byEnd, int32(n))
	}
	sum := 0.0
	for _, v := range s.drawn {
		sum += m.cost[v]
		s.cum = append(s.cum, sum)
	}
	capacity := 0.0
	for n := range m.nn {
		capacity += m.capacity(n)
	}
	s.weight = effortWeight / capacity
	return s
}

// begin makes d the draft to improve.
func (s *searcher) begin(d *draft) {
	s.cur = d.clone()
	s.cur.build = nil
	if s.cur.order == nil {
		s.cur.order = make([][]int32, s.m.nn)
	}
	s.now, _ = s.try(math.Inf(1))
	s.look()
	s.best, s.bestScore = s.cur.clone(), s.now
}

// look notes what moves want to know about the schedule of cur.
func (s *searcher) look() {
	copy(s.need, s.sim.need)
	clear(s.finish)
	for i, n := range s.sim.where {
		s.finish[n] = max(s.finish[n], s.sim.end[i])
	}
	for n := range s.on {
		s.on[n] = s.on[n][:0]
	}
	for t, n := range s.cur.node {
		s.on[n] = append(s.on[n], int32(t))
	}
	slices.SortFunc(s.byEnd, func(a, b int32) int {
		return cmp.Or(cmp.Compare(s.finish[a], s.finish[b]), cmp.Compare(a, b))
	})
}

// again makes d the current draft but remembers the best so far.
func (s *searcher) again(d *draft) {
	s.cur.copyFrom(d)
	if len(s.cur.order) == 0 {
		s.cur.order = make([][]int32, s.m.nn)
	}
	s.now, _ = s.try(math.Inf(1))
	s.look()
	if s.now.less(s.bestScore) {
		s.best.copyFrom(s.cur)
		s.bestScore = s.now
	}
}

// objective is the quantity that annealing minimises.
func (s *searcher) objective(a score) float64 { return a.makespan + s.weight*a.effort }

// try schedules cur. It reports false as soon as the objective must exceed limit.
func (s *searcher) try(limit float64) (score, bool) {
	sim, m := s.sim, s.m
	sim.derive(s.cur)
	if sim.broken {
		s.steps++
		return score{makespan: math.Inf(1)}, false
	}
	sim.list(s.cur.node)
	s.steps += len(sim.kind) + len(sim.need)/8 // what derive walks counts where there are many nodes
	out := score{}
	for i, k := range sim.kind {
		if k == Exec {
			out.effort += m.work(int(sim.vert[i]), int(sim.where[i]))
		} else {
			out.effort += linkWeight * sim.dur[i]
		}
	}
	cut := limit - s.weight*out.effort
	sim.rank(s.cur.order)
	if sim.mustExceed(cut) {
		return out, false
	}
	out.makespan = sim.play(cut)
	s.steps += sim.played
	if out.makespan > cut {
		return out, false
	}
	if prev := s.r.o.Previous; prev != nil {
		for t, n := range s.cur.node {
			if prev[t] >= 0 && int32(prev[t]) != n {
				out.moved++
			}
		}
	}
	return out, true
}

// anneal runs until steps reaches limit, cooling from hot to cold, both fractions
// of the first makespan.
func (s *searcher) anneal(limit int, hot, cold float64) {
	first := s.now.makespan
	begin := s.steps
	moves, stall := 0, 0
	temp := 0.0
	for s.steps < limit && stall < 10_000 {
		if moves&63 == 0 {
			if s.r.ctx.Err() != nil || s.bestScore.makespan <= s.lower {
				return
			}
			done := float64(s.steps-begin) / float64(limit-begin)
			temp = first * hot * math.Pow(cold/hot, done)
		}
		moves++
		s.undo = s.undo[:0]
		ok := s.move()
		for ok && s.rng.IntN(again) == 0 {
			s.move()
		}
		if !ok {
			s.rollback()
			stall++
			continue
		}
		stall = 0
		allowed := s.objective(s.now) - temp*math.Log(1-s.rng.Float64())
		var next score
		next, ok = s.try(allowed + 1e-9)
		if !ok {
			s.rollback()
			continue
		}
		s.accept(next)
		if next.less(s.bestScore) {
			s.best.copyFrom(s.cur)
			s.bestScore = next
		}
	}
}

// polish accepts only plans that are no worse in any respect, without spending
// makespan for anything.
func (s *searcher) polish(limit int) {
	s.restart()
	weight := s.weight
	s.weight = 0
	defer func() { s.weight = weight }()
	for k := 0; s.steps < limit && k < 20*limit; k++ {
		if k&63 == 0 && (s.r.ctx.Err() != nil || s.r.settled(s.bestScore)) {
			return
		}
		s.undo = s.undo[:0]
		if !s.move() {
			s.rollback()
			continue
		}
		s.keepIfNoWorse()
	}
}

// tidy takes out, one by one, what the plan is no shorter for: a target whose result
// is fetched goes where it is built, and what is fetched is built if that costs
// less than the transfer. Random moves seldom find these among all others.
func (s *searcher) tidy(limit int) {
	s.restart()
	weight := s.weight
	s.weight = 0
	defer func() { s.weight = weight }()
	spent := func() bool { return s.steps >= limit || s.r.ctx.Err() != nil }
	for better := true; better && !spent(); {
		before := s.bestScore
		for t := 0; t < s.m.nt && !spent(); t++ {
			root := int(s.m.root[t])
			n, q := int(s.cur.node[t]), int(s.sim.src[root])
			if q < 0 || q == n || !hasBit(s.m.set(s.sim.pull, root), n) || !s.m.allows(t, q) {
				continue
			}
			s.undo = s.undo[:0]
			s.setNode(int32(t), q)
			s.keepIfNoWorse()
			s.sim.derive(s.cur)
		}
		for v := 0; v < s.m.nv && !spent(); v++ {
			for n := 0; n < s.m.nn && !spent(); n++ {
				if !hasBit(s.m.set(s.sim.pull, v), n) || !s.m.runs(v, n) {
					continue
				}
				s.undo = s.undo[:0]
				s.setFetch(v, n, false)
				s.keepIfNoWorse()
				s.sim.derive(s.cur)
			}
		}
		better = s.bestScore.less(before)
	}
}

// stability is the share of the makespan that a plan may be longer than the
// shortest found if it leaves more targets where the last plan had them: moving one
// makes caches cold, which no estimate shows.
const stability = 0.02

// homeward takes targets back to where the last plan had them as long as that
// costs next to no time.
func (s *searcher) homeward() {
	prev := s.r.o.Previous
	if prev == nil {
		return
	}
	weight := s.weight
	s.weight = 0
	defer func() { s.weight = weight }()
	limit := s.bestScore.makespan * (1 + stability)
	for t, n := range prev {
		if n < 0 || int(n) >= s.m.nn || s.cur.node[t] == int32(n) || !s.m.allows(t, int(n)) || s.r.ctx.Err() != nil {
			continue
		}
		for _, fetch := range []bool{false, true} {
			s.undo = s.undo[:0]
			s.setNode(int32(t), int(n))
			s.settleIn(int(s.m.root[t]), int(n), fetch)
			if next, ok := s.try(limit); ok {
				s.accept(next)
				s.best.copyFrom(s.cur)
				s.bestScore = next
				break
			}
			s.rollback()
		}
	}
}

func (s *searcher) keepIfNoWorse() {
	next, ok := s.try(s.bestScore.makespan)
	if !ok || s.bestScore.less(next) {
		s.rollback()
		return
	}
	s.accept(next)
	if next.less(s.bestScore) {
		s.best.copyFrom(s.cur)
		s.bestScore = next
	}
}

// restart goes on from the best draft so far.
func (s *searcher) restart() {
	s.cur.copyFrom(s.best)
	s.now, _ = s.try(math.Inf(1))
	s.look()
}

func (s *searcher) accept(next score) {
	s.now = next
	s.look()
}

// drawVertex returns a needed vertex, expensive ones more often.
func (s *searcher) drawVertex() int {
	if s.rng.IntN(3) > 0 && len(s.cum) > 0 && s.cum[len(s.cum)-1] > 0 {
		x := s.rng.Float64() * s.cum[len(s.cum)-1]
		i, _ := slices.BinarySearch(s.cum, x)
		return int(s.drawn[min(i, len(s.drawn)-1)])
	}
	return int(s.drawn[s.rng.IntN(len(s.drawn))])
}

// drawBit returns a random member of set, -1 if it is empty.
func (s *searcher) drawBit(set []uint64) int {
	n := countBits(set)
	if n == 0 {
		return -1
	}
	k := s.rng.IntN(n)
	for i, word := range set {
		if c := bits.OnesCount64(word); k >= c {
			k -= c
			continue
		}
		for ; k > 0; k-- {
			word &= word - 1
		}
		return i<<6 + bits.TrailingZeros64(word)
	}
	return -1
}

// targetsOf returns the targets that need v, in no particular order.
func (s *searcher) targetsOf(v int) []int32 {
	s.turn++
	s.stack = append(s.stack[:0], int32(v))
	s.mark[v] = s.turn
	var out []int32
	for i := 0; i < len(s.stack); i++ {
		u := s.stack[i]
		out = append(out, s.byRoot[u]...)
		for _, c := range s.m.consumers(int(u)) {
			if s.mark[c] != s.turn {
				s.mark[c] = s.turn
				s.stack = append(s.stack, c)
			}
		}
	}
	return out
}

// move changes cur a little; false if it could not.
func (s *searcher) move() bool {
	m, rng := s.m, s.rng
	if m.nn == 1 {
		return s.moveOrder()
	}
	k := rng.IntN(100)
	if s.pinned && k < 50 {
		k += 50
	}
	switch {
	case s.pinned && k >= 80 && k < 88:
		return s.toggleFetch()
	case k < 30:
		return s.moveTarget()
	case k < 50:
		return s.swapTargets()
	case k < 70:
		return s.toggleFetch()
	case k < 80:
		return s.moveSource()
	case k < 88:
		return s.moveGroup()
	case k < 92:
		return s.shareAll()
	}
	return s.moveOrder()
}

// drawNode returns a node that allows t, other than the one it is on.
func (s *searcher) drawNode(t int) int {
	for range 8 {
		if n := s.rng.IntN(s.m.nn); n != int(s.cur.node[t]) && s.m.allows(t, n) {
			return n
		}
	}
	return -1
}

// drawTarget prefers targets on nodes that end late.
func (s *searcher) drawTarget() int {
	if s.guided() {
		n := s.byEnd[len(s.byEnd)-1-s.rng.IntN(1+len(s.byEnd)/16)]
		if on := s.on[n]; len(on) > 0 {
			return int(on[s.rng.IntN(len(on))])
		}
	}
	t := s.rng.IntN(s.m.nt)
	if s.rng.IntN(2) == 0 {
		u := s.rng.IntN(s.m.nt)
		if s.finish[s.cur.node[u]] > s.finish[s.cur.node[t]] {
			return u
		}
	}
	return t
}

// guided decides whether a draw is made among the extremes. The more nodes there
// are, the less likely is a blind draw to touch the ones that matter.
func (s *searcher) guided() bool { return s.rng.IntN(s.m.nn+8) > 11 }

func (s *searcher) moveTarget() bool {
	t := s.drawTarget()
	n := s.drawNode(t)
	if s.guided() {
		n = int(s.byEnd[s.rng.IntN(1+len(s.byEnd)/4)])
		if n == int(s.cur.node[t]) || !s.m.allows(t, n) {
			return false
		}
	}
	if n < 0 {
		return false
	}
	if s.rng.IntN(2) == 0 {
		if o := s.drawNode(t); o >= 0 && s.finish[o] < s.finish[n] {
			n = o
		}
	}
	s.setNode(int32(t), n)
	switch s.rng.IntN(4) {
	case 0:
		s.settleIn(int(s.m.root[t]), n, true)
	case 1:
		s.settleIn(int(s.m.root[t]), n, false)
	}
	return true
}

// settleIn lets node n, new to root, fetch whatever of it others hold, or build all of it.
func (s *searcher) settleIn(root, n int, fetch bool) {
	m := s.m
	s.turn++
	s.mark[root] = s.turn
	s.stack = append(s.stack[:0], int32(root))
	for i := 0; i < len(s.stack); i++ {
		u := int(s.stack[i])
		need := m.set(s.need, u)
		if hasBit(need, n) || m.isWarm(u, n) {
			continue
		}
		get := fetch && u != root && countBits(need) > 0
		if hasBit(m.set(s.cur.fetch, u), n) != get {
			s.setFetch(u, n, get)
		}
		for k, v := range m.inputs(u) {
			if k > 0 && get {
				break
			}
			if s.mark[v] != s.turn {
				s.mark[v] = s.turn
				s.stack = append(s.stack, v)
			}
		}
	}
}

func (s *searcher) swapTargets() bool {
	a, b := s.drawTarget(), s.rng.IntN(s.m.nt)
	na, nb := s.cur.node[a], s.cur.node[b]
	if na == nb || !s.m.allows(a, int(nb)) || !s.m.allows(b, int(na)) {
		return false
	}
	s.setNode(int32(a), int(nb))
	s.setNode(int32(b), int(na))
	return true
}

// toggleFetch makes one node fetch what it built or the other way round.
func (s *searcher) toggleFetch() bool {
	v := s.drawVertex()
	n := s.drawBit(s.m.set(s.need, v))
	if n < 0 || s.m.isWarm(v, n) {
		return false
	}
	s.setFetch(v, n, !hasBit(s.m.set(s.cur.fetch, v), n))
	return true
}

// moveSource lets some node fetch v from another place, perhaps one that then
// builds v for this alone.
func (s *searcher) moveSource() bool {
	v := s.drawVertex()
	need := s.m.set(s.need, v)
	n := s.drawBit(need)
	if n < 0 {
		return false
	}
	q := s.rng.IntN(s.m.nn+1) - 1
	if q == n || q < 0 && !s.m.cached[v] || q >= 0 && !s.m.runs(v, q) && !s.m.isWarm(v, q) {
		return false
	}
	s.setSource(v, q)
	s.setFetch(v, n, true)
	return true
}

// moveGroup moves all targets of one node that share a vertex to another.
func (s *searcher) moveGroup() bool {
	v := s.drawVertex()
	from := s.drawBit(s.m.set(s.need, v))
	to := s.rng.IntN(s.m.nn)
	if from < 0 || from == to {
		return false
	}
	some := false
	for _, t := range s.targetsOf(v) {
		if int(s.cur.node[t]) == from && s.m.allows(int(t), to) {
			s.setNode(t, to)
			some = true
		}
	}
	return some
}

// shareAll makes every node fetch v, or every node build it.
func (s *searcher) shareAll() bool {
	v := s.drawVertex()
	need := s.m.set(s.need, v)
	if countBits(need) < 2 {
		return false
	}
	on := s.rng.IntN(2) == 0
	for n := range s.m.nn {
		if hasBit(need, n) {
			s.setFetch(v, n, on)
		}
	}
	if on {
		if q := s.drawBit(need); s.m.runs(v, q) || s.m.isWarm(v, q) {
			s.setSource(v, q)
		}
	}
	return true
}

// moveOrder lets a vertex go first on some node, or later again.
func (s *searcher) moveOrder() bool {
	n := s.rng.IntN(s.m.nn)
	old := s.cur.order[n]
	if len(old) > 0 && s.rng.IntN(2) == 0 {
		i := s.rng.IntN(len(old))
		list := slices.Delete(slices.Clone(old), i, i+1)
		if s.rng.IntN(3) > 0 {
			list = slices.Insert(list, s.rng.IntN(len(list)+1), old[i])
		}
		s.setOrder(n, list)
		return true
	}
	v := s.drawVertex()
	if n = s.drawBit(s.m.set(s.need, v)); n < 0 {
		return false
	}
	old = s.cur.order[n]
	if slices.Contains(old, int32(v)) || len(old) > 12 {
		return false
	}
	s.setOrder(n, slices.Insert(slices.Clone(old), s.rng.IntN(len(old)+1), int32(v)))
	return true
}
