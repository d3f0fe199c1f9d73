package partition

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// auto leaves the choice of a vertex's source to derive.
const auto = -2

// draft is a plan as the search edits it: wishes, which derive turns into a
// feasible plan. Whatever its values are, a draft can be scheduled, provided each
// target is on a node that allows it.
type draft struct {
	node  []int32   // per target
	fetch []uint64  // nv*w: nodes that would rather fetch the vertex than execute it
	src   []int32   // per vertex: where its fetches come from; auto, or Registry, or a node
	build []uint64  // nv*w: extra vertices to hold; nil = none
	order [][]int32 // per node: vertices that go first; nil = none
}

func (m *model) newDraft() *draft {
	d := &draft{node: make([]int32, m.nt), fetch: make([]uint64, m.nv*m.w), src: make([]int32, m.nv)}
	for v := range d.src {
		d.src[v] = auto
	}
	return d
}

func (d *draft) clone() *draft {
	return &draft{
		node: slices.Clone(d.node), fetch: slices.Clone(d.fetch), src: slices.Clone(d.src),
		build: slices.Clone(d.build), order: slices.Clone(d.order),
	}
}

func (d *draft) copyFrom(o *draft) {
	copy(d.node, o.node)
	copy(d.fetch, o.fetch)
	copy(d.src, o.src)
	d.build = append(d.build[:0], o.build...)
	d.order = append(d.order[:0], o.order...)
}

// simulator turns plans into schedules. It reuses its memory from one plan to the
// next, so what it returns is valid until the next call; not safe for concurrent use.
type simulator struct {
	m *model

	// Set by derive, all nv*w but src.
	need  []uint64 // nodes that hold the vertex at some time
	pull  []uint64 // of those, the ones that fetch it
	apart []uint64 // of those that hold it, the ones that need it for more than the layers of a fetched one
	src   []int32  // the source of the fetches; auto if there are none
	extra []int32  // vertices whose source holds them for others only, at src[v]
	// broken is set when a needed vertex can be had from nowhere.
	broken bool

	// Tasks, in the order check.py would list them.
	kind   []Kind
	vert   []int32
	where  []int32
	dur    []float64
	level  []float64 // bottom level: the longest path from the task's start to the end
	key    []float64 // smaller goes first
	start  []float64
	end    []float64
	waits  []int32
	last   []int32 // per task: the task that released it, for critical paths
	head   []int32 // per task: first edge, -1
	edgeTo []int32
	edgeNx []int32
	slot   []int32 // per vertex: index in held of its first needing node
	held   []int32 // per vertex and needing node: the task that brings it, -1 = warm
	export []int32 // per vertex: its export task, -1
	free   []int32 // per resource
	room   []int32 // per machine: how many more tasks it runs
	// crossings are what Export and Pull tasks need beside their link; unused without model.links.
	crossings [2]crossing
	queue     [][]int32
	freed     []int32 // per resource: the task that last released a unit
	dirty     []int32
	isDirt    []bool
	events    []int32
	played    int // tasks started by the last play

	ahead            []float64 // per task: the longest path to its start
	resHead, resTail []float64 // per resource, of mustExceed
	resWork          []float64
	topo             []int32
	trace            bool
}

func newSimulator(m *model) *simulator {
	return &simulator{
		m:    m,
		need: make([]uint64, m.nv*m.w), pull: make([]uint64, m.nv*m.w), apart: make([]uint64, m.nv*m.w),
		src: make([]int32, m.nv), slot: make([]int32, m.nv), export: make([]int32, m.nv),
		free: make([]int32, 3*m.nn), queue: make([][]int32, 3*m.nn),
		freed: make([]int32, 3*m.nn), isDirt: make([]bool, 3*m.nn),
		resHead: make([]float64, 3*m.nn), resTail: make([]float64, 3*m.nn), resWork: make([]float64, 3*m.nn),
	}
}

// derive computes which vertex needs which, and in which way. Consumers of a vertex have larger
// ids, so that when the loop arrives at a vertex all that need it are known, and a
// source that would not hold it can still be made to.
func (s *simulator) derive(d *draft) {
	m, w := s.m, s.m.w
	if len(d.build) > 0 {
		copy(s.need, d.build)
	} else {
		clear(s.need)
	}
	s.extra, s.broken = s.extra[:0], false
	for t, n := range d.node {
		setBit(m.set(s.need, int(m.root[t])), int(n))
	}
	copy(s.apart, s.need)
	for v := m.nv - 1; v >= 0; v-- {
		need := s.need[v*w : v*w+w]
		pull := s.pull[v*w : v*w+w]
		warm := m.warm[v*w : v*w+w]
		run := m.run[m.plat[v]]
		wish := d.fetch[v*w : v*w+w]
		var someone, fetches uint64
		for k := range need {
			cold := need[k] &^ warm[k]
			someone |= cold
			pull[k] = cold & (wish[k] | ^run[k])
			fetches |= pull[k]
		}
		s.src[v] = auto
		if someone == 0 {
			continue
		}
		switch {
		case m.once[v] && countBits(need) > 1:
			s.src[v] = s.settleOnce(v, d.src[v], need, pull, warm, run)
		case fetches != 0:
			s.src[v] = s.settle(v, d.src[v], need, pull, warm, run)
		}
		for k := range need {
			cold := need[k] &^ warm[k]
			if cold == 0 {
				continue
			}
			exec := cold &^ pull[k]
			for i, u := range m.inputs(v) {
				s.apart[int(u)*w+k] |= exec
				if i == 0 {
					s.need[int(u)*w+k] |= cold
				} else {
					s.need[int(u)*w+k] |= exec
				}
			}
		}
	}
}

// settle picks the one source of v's fetches and makes it hold v.
func (s *simulator) settle(v int, wish int32, need, pull, warm, run []uint64) int32 {
	m := s.m
	q := int(wish)
	switch { // a wish that cannot be met falls through to pickSource
	case q == int(Registry) && m.cached[v]:
		return int32(Registry)
	case q >= 0 && (hasBit(warm, q) || hasBit(run, q)):
	default:
		q = s.pickSource(v, need, pull, warm, run)
		if q == int(Registry) {
			return int32(Registry)
		}
		if q < 0 {
			s.broken = true
			clear(pull)
			return auto
		}
	}
	if !hasBit(warm, q) {
		if !hasBit(need, q) {
			setBit(need, q)
			s.extra = append(s.extra, int32(v))
		}
		clearBit(pull, q)
		if firstBit(pull) < 0 {
			return auto // nobody takes it from there
		}
	}
	return int32(q)
}

// settleOnce picks the one place that all nodes take v from, which several need and
// one may execute; auto when nobody has to take it.
func (s *simulator) settleOnce(v int, wish int32, need, pull, warm, run []uint64) int32 {
	m := s.m
	q := int(wish)
	here := common(need, warm) // a node that needs v holds it
	switch {
	case q == int(Registry) && m.cached[v]:
	case q >= 0 && hasBit(warm, q):
	case q >= 0 && hasBit(run, q) && here < 0:
	case here >= 0 && !m.cached[v]:
		q = here
	default:
		q = s.pickSource(v, need, pull, warm, run)
	}
	if q < 0 && q != int(Registry) {
		s.broken = true
		clear(pull)
		return auto
	}
	for k := range need {
		pull[k] = need[k] &^ warm[k]
	}
	if q >= 0 && !hasBit(warm, q) {
		if !hasBit(need, q) {
			setBit(need, q)
			s.extra = append(s.extra, int32(v))
		}
		clearBit(pull, q)
	}
	if firstBit(pull) < 0 {
		return auto
	}
	return int32(q)
}

func (s *simulator) pickSource(v int, need, pull, warm, run []uint64) int {
	m := s.m
	if m.cached[v] {
		return int(Registry)
	}
	if m.anyWarm[v] {
		return firstBit(warm)
	}
	// Whoever executes it anyway, the fastest first; else whoever could.
	best := -1
	for _, among := range [2]bool{false, true} {
		for k := range need {
			set := need[k] &^ warm[k] & run[k]
			if !among {
				set &^= pull[k]
			}
			for ; set != 0; set &= set - 1 {
				n := k<<6 + bits.TrailingZeros64(set)
				if best < 0 || s.suits(v, n, best) {
					best = n
				}
			}
		}
		if best >= 0 {
			return best
		}
	}
	if n := int(m.fastest[m.class[v]]); n >= 0 {
		return n
	}
	return auto
}

// suits reports whether n is a better place than best to execute v: it holds more of what
// has one result and v needs, which cannot be executed there again, or else is faster.
func (s *simulator) suits(v, n, best int) bool {
	m := s.m
	if m.once[v] {
		held := 0
		for _, u := range m.inputs(v) {
			if m.once[u] && m.anyWarm[u] {
				if m.isWarm(int(u), n) {
					held++
				}
				if m.isWarm(int(u), best) {
					held--
				}
			}
		}
		if held != 0 {
			return held > 0
		}
	}
	return m.pace(v, n) > m.pace(v, best)
}

func infeasible(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInfeasible, fmt.Sprintf(format, args...))
}

// deriveStrict is derive for a plan from outside, which must be feasible as it stands.
func (s *simulator) deriveStrict(a Assignment) error {
	m := s.m
	if len(a.Node) != m.nt {
		return infeasible("%d targets assigned of %d", len(a.Node), m.nt)
	}
	if a.Shares != nil && len(a.Shares) != m.nn {
		return infeasible("%d shares for %d nodes", len(a.Shares), m.nn)
	}
	clear(s.need)
	clear(s.pull)
	s.extra = s.extra[:0]
	for t, n := range a.Node {
		if n < 0 || int(n) >= m.nn {
			return infeasible("target %s on unknown node %d", m.p.Targets[t].Name, n)
		}
		if !m.allows(t, int(n)) {
			return infeasible("target %s cannot run on node %s: platform", m.p.Targets[t].Name, m.p.Nodes[n].Name)
		}
		setBit(m.set(s.need, int(m.root[t])), int(n))
	}
	from := make([]map[VertexID]NodeID, m.nn)
	for n, share := range a.Shares {
		var err error
		if from[n], err = s.takeShare(n, share); err != nil {
			return err
		}
	}
	copy(s.apart, s.need)
	for v := m.nv - 1; v >= 0; v-- {
		if err := s.deriveVertex(v, from); err != nil {
			return err
		}
	}
	return nil
}

// takeShare notes what n builds by its share of a plan, and returns from where it fetches
// what.
func (s *simulator) takeShare(n int, share Share) (from map[VertexID]NodeID, err error) {
	m, name := s.m, s.m.p.Nodes[n].Name
	known := func(v VertexID) bool { return v >= 0 && int(v) < m.nv }
	for _, v := range share.Build {
		if !known(v) {
			return nil, infeasible("node %s builds unknown vertex %d", name, v)
		}
		setBit(m.set(s.need, int(v)), n)
	}
	for _, v := range share.Order {
		if !known(v) {
			return nil, infeasible("node %s orders unknown vertex %d", name, v)
		}
	}
	from = make(map[VertexID]NodeID, len(share.Fetch))
	for _, f := range share.Fetch {
		if !known(f.Vertex) || f.From < Registry || int(f.From) >= m.nn {
			return nil, infeasible("node %s fetches unknown vertex %d or from unknown node %d", name, f.Vertex, f.From)
		}
		if _, twice := from[f.Vertex]; twice {
			return nil, infeasible("node %s fetches %s twice", name, m.p.Vertices[f.Vertex].Name)
		}
		from[f.Vertex] = f.From
	}
	return from, nil
}

// deriveVertex derives which node builds v and which fetch it, and so which need its inputs. All
// that needs v must have been derived.
func (s *simulator) deriveVertex(v int, from []map[VertexID]NodeID) error {
	m, w := s.m, s.m.w
	need, pull, warm := m.set(s.need, v), m.set(s.pull, v), m.set(m.warm, v)
	vertex := m.p.Vertices[v].Name
	s.src[v] = auto
	for n := range m.nn {
		if !hasBit(need, n) || hasBit(warm, n) {
			continue
		}
		inputs := m.inputs(v)
		if q, ok := from[n][VertexID(v)]; ok {
			if s.src[v] != auto && s.src[v] != int32(q) {
				return infeasible("vertex %s is fetched from more than one place", vertex)
			}
			s.src[v] = int32(q)
			setBit(pull, n)
			inputs = inputs[:min(1, len(inputs))]
		} else if !m.runs(v, n) {
			return infeasible("node %s must execute %s but lacks platform %s", m.p.Nodes[n].Name, vertex, m.p.Vertices[v].Platform)
		}
		for _, u := range inputs {
			setBit(s.need[int(u)*w:int(u)*w+w], n)
			if !hasBit(pull, n) {
				setBit(s.apart[int(u)*w:int(u)*w+w], n)
			}
		}
	}
	if a, b := m.twice(v, need, pull, warm, s.src[v]); b != "" {
		return infeasible("vertex %s may have one result, but %s, and %s", vertex, a, b)
	}
	switch q := int(s.src[v]); {
	case q == auto:
	case q == int(Registry):
		if !m.cached[v] {
			return infeasible("vertex %s is fetched from the registry, which does not hold it", vertex)
		}
	case hasBit(pull, q):
		return infeasible("vertex %s is fetched from %s, which fetches it itself", vertex, m.p.Nodes[q].Name)
	case !hasBit(warm, q) && !hasBit(need, q):
		return infeasible("vertex %s is fetched from %s, which neither executes it nor is warm with it", vertex, m.p.Nodes[q].Name)
	}
	return nil
}

func (s *simulator) addTask(kind Kind, v, n int, dur float64) int32 {
	i := int32(len(s.kind))
	s.kind = append(s.kind, kind)
	s.vert = append(s.vert, int32(v))
	s.where = append(s.where, int32(n))
	s.dur = append(s.dur, dur)
	s.waits = append(s.waits, 0)
	s.head = append(s.head, -1)
	return i
}

func (s *simulator) edge(from, to int32) {
	if from < 0 {
		return
	}
	s.edgeTo = append(s.edgeTo, to)
	s.edgeNx = append(s.edgeNx, s.head[from])
	s.head[from] = int32(len(s.edgeTo) - 1)
	s.waits[to]++
}

// holder returns the task that makes v held on n, -1 if it is warm there. v must
// be needed on n.
func (s *simulator) holder(v, n int) int32 {
	return s.held[int(s.slot[v])+rankBit(s.need[v*s.m.w:(v+1)*s.m.w], n)]
}

// list creates the tasks of the derived plan and their edges.
func (s *simulator) list(node []int32) {
	m, w := s.m, s.m.w
	s.kind, s.vert, s.where, s.dur = s.kind[:0], s.vert[:0], s.where[:0], s.dur[:0]
	s.waits, s.head, s.held = s.waits[:0], s.head[:0], s.held[:0]
	s.edgeTo, s.edgeNx = s.edgeTo[:0], s.edgeNx[:0]
	for v := range m.nv {
		need, pull, warm := s.need[v*w:v*w+w], s.pull[v*w:v*w+w], m.warm[v*w:v*w+w]
		s.slot[v] = int32(len(s.held))
		s.export[v] = -1
		inputs := m.inputs(v)
		for k := range need {
			for set := need[k]; set != 0; set &= set - 1 {
				bit := set & -set
				if warm[k]&bit != 0 || pull[k]&bit != 0 {
					s.held = append(s.held, -1)
					continue
				}
				n := k<<6 + bits.TrailingZeros64(set)
				i := s.addTask(Exec, v, n, m.exec(v, n))
				s.held = append(s.held, i)
				for _, u := range inputs {
					s.edge(s.holder(int(u), n), i)
				}
			}
		}
		q := int(s.src[v])
		if q == auto {
			continue
		}
		x := int32(-1)
		if q != int(Registry) {
			took := m.ship[v]
			if common(pull, m.set(s.apart, v)) >= 0 {
				took = m.xfer[v]
			}
			x = s.addTask(Export, v, q, took)
			s.export[v] = x
			if need[q>>6]>>(q&63)&1 != 0 {
				s.edge(s.holder(v, q), x)
			}
		}
		for k := range pull {
			for set := pull[k]; set != 0; set &= set - 1 {
				n := k<<6 + bits.TrailingZeros64(set)
				took := m.xfer[v]
				if s.apart[v*w+k]&(set&-set) == 0 {
					took = m.ship[v]
				}
				i := s.addTask(Pull, v, n, took)
				s.held[int(s.slot[v])+rankBit(need, n)] = i
				s.edge(x, i)
				if len(inputs) > 0 {
					s.edge(s.holder(int(inputs[0]), n), i)
				}
			}
		}
	}
	if !m.ordered {
		return
	}
	for t, target := range m.p.Targets {
		i := s.holder(int(m.root[t]), int(node[t]))
		if i < 0 {
			continue
		}
		for _, d := range target.After {
			if m.root[d] != m.root[t] {
				s.edge(s.holder(int(m.root[d]), int(node[d])), i)
			}
		}
	}
}

// firstKey is the key of the first vertex of a node's order: before every
// -(bottom level), and still exact to one.
const firstKey = -1e15

// rank sets the priority of every task.
func (s *simulator) rank(order [][]int32) {
	n := len(s.kind)
	s.key, s.level = grow(s.key, n), grow(s.level, n)
	level := s.level
	if s.m.ordered {
		s.levelsAnyOrder(level)
	} else {
		// Edges lead from smaller to larger tasks.
		for i := n - 1; i >= 0; i-- {
			b := 0.0
			for e := s.head[i]; e >= 0; e = s.edgeNx[e] {
				if l := level[s.edgeTo[e]]; l > b {
					b = l
				}
			}
			level[i] = s.dur[i] + b
		}
	}
	for i, l := range level {
		s.key[i] = -l
	}
	w := s.m.w
	for p, list := range order {
		// Backwards, so that the first mention of a vertex is the one that counts.
		for k := len(list) - 1; k >= 0; k-- {
			v := int(list[k])
			if hasBit(s.need[v*w:v*w+w], p) {
				if i := s.holder(v, p); i >= 0 {
					s.key[i] = firstKey + float64(k)
				}
			}
			if x := s.export[v]; x >= 0 && int(s.where[x]) == p {
				s.key[x] = firstKey + float64(k)
			}
		}
	}
}

func (s *simulator) levelsAnyOrder(level []float64) {
	n := len(s.kind)
	waits := slices.Clone(s.waits)
	s.topo = s.topo[:0]
	for i := range n {
		if waits[i] == 0 {
			s.topo = append(s.topo, int32(i))
		}
	}
	for k := 0; k < len(s.topo); k++ {
		for e := s.head[s.topo[k]]; e >= 0; e = s.edgeNx[e] {
			if to := s.edgeTo[e]; waits[to] == 1 {
				s.topo = append(s.topo, to)
			} else {
				waits[to]--
			}
		}
	}
	for k := len(s.topo) - 1; k >= 0; k-- {
		i := s.topo[k]
		b := 0.0
		for e := s.head[i]; e >= 0; e = s.edgeNx[e] {
			b = max(b, level[s.edgeTo[e]])
		}
		level[i] = s.dur[i] + b
	}
}

// mustExceed reports, without playing, that the makespan is certainly above limit:
// for some resource, the earliest time any of its tasks can start, plus their work
// spread over all units, plus the shortest path after any of them, is.
func (s *simulator) mustExceed(limit float64) bool {
	if s.m.ordered {
		return false // the loop below relies on edges leading to larger tasks
	}
	n := len(s.kind)
	s.ahead = grow(s.ahead, n)
	clear(s.ahead)
	for r := range s.resWork {
		s.resWork[r], s.resHead[r], s.resTail[r] = 0, math.Inf(1), math.Inf(1)
	}
	for i := range n {
		head, dur := s.ahead[i], s.dur[i]
		if head+s.level[i] > limit {
			return true
		}
		r := int(s.where[i])*3 + int(s.kind[i])
		s.resWork[r] += dur
		s.resHead[r] = min(s.resHead[r], head)
		s.resTail[r] = min(s.resTail[r], s.level[i]-dur)
		head += dur
		for e := s.head[i]; e >= 0; e = s.edgeNx[e] {
			if to := s.edgeTo[e]; head > s.ahead[to] {
				s.ahead[to] = head
			}
		}
	}
	for r, work := range s.resWork {
		if r%3 == int(Exec) {
			work /= float64(s.m.slots[r/3])
		}
		// A hair of room: the sums above were not made in the order of the schedule.
		if (work+s.resHead[r]+s.resTail[r])*(1-1e-12) > limit && s.resWork[r] > 0 {
			return true
		}
	}
	return overbooked(s, limit)
}

// play runs the tasks in virtual time and returns the makespan.
//
// Rules: while a unit of a resource is free, the ready task with the smallest key
// takes it; time moves to the earliest end, and everything that ends there ends
// before anything new starts.
//
// It gives up and returns +Inf as soon as the makespan must exceed limit.
func (s *simulator) play(limit float64) float64 {
	m := s.m
	n := len(s.kind)
	s.start, s.end = grow(s.start, n), grow(s.end, n)
	if s.trace {
		s.last = grow(s.last, n)
		for r := range s.freed {
			s.freed[r] = -1
		}
	}
	vacate(m, s.free)
	late := m.late
	s.room = append(s.room[:0], m.room...)
	reopen(s)
	for r := range s.queue {
		s.queue[r] = s.queue[r][:0]
	}
	s.dirty, s.events = s.dirty[:0], s.events[:0]
	for i := range n {
		if s.waits[i] == 0 {
			s.ready(int32(i), -1)
		}
	}
	now := 0.0
	s.played = 0
	for {
		for _, r := range s.dirty {
			s.isDirt[r] = false
			for u := s.next(r); u >= 0; u = s.next(r) {
				i := s.popQueue(u)
				occupy(s, u)
				if now+s.level[i] > limit {
					s.forget()
					return math.Inf(1)
				}
				s.start[i] = now
				s.end[i] = now + s.dur[i]
				s.played++
				if s.trace && now > 0 && (s.last[i] < 0 || s.end[s.last[i]] < now) {
					s.last[i] = blocker(s, u, now)
				}
				s.pushEvent(i)
			}
		}
		s.dirty = s.dirty[:0]
		if comesNext(s, late) {
			now = m.from[late[0]]
			admit(s, int(late[0]))
			late = late[1:]
			continue
		}
		if len(s.events) == 0 {
			return now
		}
		now = s.end[s.events[0]]
		for len(s.events) > 0 && s.end[s.events[0]] == now {
			i := s.popEvent()
			r := s.where[i]*3 + int32(s.kind[i])
			s.release(r, i)
			s.touch(r)
			for e := s.head[i]; e >= 0; e = s.edgeNx[e] {
				to := s.edgeTo[e]
				if s.waits[to]--; s.waits[to] == 0 {
					s.ready(to, i)
				}
			}
		}
	}
}

// vacate frees the units of the nodes that are there at time 0.
func vacate(m *model, free []int32) {
	for p := range m.nn {
		free[3*p], free[3*p+1], free[3*p+2] = 0, 0, 0
		if m.from[p] == 0 {
			free[3*p], free[3*p+1], free[3*p+2] = m.slots[p], 1, 1
		}
	}
}

// comesNext reports whether tasks are left and the first of the late nodes comes before
// the next of those under way ends.
func comesNext(s *simulator, late []int32) bool {
	return len(late) > 0 && s.played < len(s.kind) && (len(s.events) == 0 || s.m.from[late[0]] <= s.end[s.events[0]])
}

// admit frees the units of a node that comes.
func admit(s *simulator, p int) {
	s.free[3*p], s.free[3*p+1], s.free[3*p+2] = s.m.slots[p], 1, 1
	for k := range 3 {
		r := int32(3*p + k)
		s.touch(r)
		if x := crossingOf(s, r); x != nil {
			x.offer(s, r)
		}
	}
}

// next returns the resource whose next task starts now that r may have room: r itself,
// or one that shares room with it, be it of a node beside it on its machine or another link,
// whichever task goes first; -1 if none.
func (s *simulator) next(r int32) int32 {
	if x := crossingOf(s, r); x != nil {
		if x.room == 0 || len(x.heap) == 0 {
			return -1
		}
		return x.heap[0]
	}
	g := s.m.limitOf(r)
	if g < 0 {
		if s.free[r] > 0 && len(s.queue[r]) > 0 {
			return r
		}
		return -1
	}
	best := int32(-1)
	if s.room[g] == 0 {
		return best
	}
	for _, n := range s.m.members[g] {
		u := 3*n + int32(Exec)
		if s.free[u] > 0 && len(s.queue[u]) > 0 && (best < 0 || s.goesFirst(s.queue[u][0], s.queue[best][0])) {
			best = u
		}
	}
	return best
}

// occupy takes a unit of r, which next has returned.
func occupy(s *simulator, r int32) {
	s.free[r]--
	if g := s.m.limitOf(r); g >= 0 {
		s.room[g]--
	}
	if x := crossingOf(s, r); x != nil {
		x.room--
		x.leave(s)
	}
}

// release gives back the unit of r that i had.
func (s *simulator) release(r, i int32) {
	s.free[r]++
	s.freed[r] = i
	if x := crossingOf(s, r); x != nil {
		x.room++
		x.freed = i
		x.offer(s, r)
	}
	if g := s.m.limitOf(r); g >= 0 {
		s.room[g]++
		for _, n := range s.m.members[g] {
			s.freed[3*n+int32(Exec)] = i
		}
	}
}

// forget leaves play's memory as it found it.
func (s *simulator) forget() {
	for _, r := range s.dirty {
		s.isDirt[r] = false
	}
}

func (s *simulator) touch(r int32) {
	if !s.isDirt[r] {
		s.isDirt[r] = true
		s.dirty = append(s.dirty, r)
	}
}

func (s *simulator) ready(i, because int32) {
	r := s.where[i]*3 + int32(s.kind[i])
	if s.trace {
		s.last[i] = because
	}
	s.touch(r)
	q := append(s.queue[r], i)
	c := len(q) - 1
	for c > 0 {
		up := (c - 1) / 2
		if !s.goesFirst(q[c], q[up]) {
			break
		}
		q[c], q[up] = q[up], q[c]
		c = up
	}
	s.queue[r] = q
	if x := crossingOf(s, r); x != nil {
		x.offer(s, r)
	}
}

func (s *simulator) goesFirst(a, b int32) bool {
	return s.key[a] < s.key[b] || s.key[a] == s.key[b] && a < b
}

func (s *simulator) popQueue(r int32) int32 {
	q := s.queue[r]
	top := q[0]
	n := len(q) - 1
	q[0] = q[n]
	q = q[:n]
	for c := 0; ; {
		l := 2*c + 1
		if l >= n {
			break
		}
		if l+1 < n && s.goesFirst(q[l+1], q[l]) {
			l++
		}
		if !s.goesFirst(q[l], q[c]) {
			break
		}
		q[c], q[l] = q[l], q[c]
		c = l
	}
	s.queue[r] = q
	return top
}

func (s *simulator) pushEvent(i int32) {
	q := append(s.events, i)
	c := len(q) - 1
	for c > 0 {
		up := (c - 1) / 2
		if s.end[q[c]] >= s.end[q[up]] {
			break
		}
		q[c], q[up] = q[up], q[c]
		c = up
	}
	s.events = q
}

func (s *simulator) popEvent() int32 {
	q := s.events
	top := q[0]
	n := len(q) - 1
	q[0] = q[n]
	q = q[:n]
	for c := 0; ; {
		l := 2*c + 1
		if l >= n {
			break
		}
		if l+1 < n && s.end[q[l+1]] < s.end[q[l]] {
			l++
		}
		if s.end[q[l]] >= s.end[q[c]] {
			break
		}
		q[c], q[l] = q[l], q[c]
		c = l
	}
	s.events = q
	return top
}

// makespan schedules d. steps, how many tasks that took, is what budgets count.
func (s *simulator) makespan(d *draft) (makespan float64, steps int) {
	s.derive(d)
	if s.broken {
		return math.Inf(1), 1
	}
	s.list(d.node)
	s.rank(d.order)
	return s.play(math.Inf(1)), len(s.kind)
}

func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/2)
	}
	return s[:n]
}
