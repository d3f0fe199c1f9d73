package partition

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
)

// model is a Problem in the form the algorithms read: flat arrays and bit sets.
// A bit set over nodes takes w words; sets per vertex lie one after the other.
type model struct {
	p          Problem
	nv, nn, nt int
	w          int

	cost []float64
	xfer []float64 // transfer time in one direction
	// ship is xfer for vertices with Once that travel with what stands on them, in
	// the same transfer; for all others it is xfer.
	ship  []float64
	speed []float64
	slots []int32
	from  []float64 // when each node is there
	late  []int32   // nodes that are not there at time 0, by when they come
	// links is how many transfers there are at once in each direction; 0 where the links of the
	// nodes are the only limit.
	links int32
	// machine is, per node, the machine whose limit it shares, an index into room and
	// members; -1 where its own slots are the only limit. nil if that is so for all.
	machine []int32
	room    []int32   // per machine: how many vertices run at once
	members [][]int32 // per machine: its nodes
	// slow is how many times longer vertices of a class take on a node, and cold the part of
	// cold mounts in it; per class and node, nil where it is 1 throughout.
	slow, cold []float64

	inOff, in     []int32 // inputs of v: in[inOff[v]:inOff[v+1]]
	consOff, cons []int32

	plat []int32    // per vertex: index into run
	run  [][]uint64 // nodes that may execute, by platform; run[0] = all
	// A class are vertices that every node runs at the same pace. The first of them are those
	// without mounts, by platform; the others have their platform in classPlat.
	class     []int32 // per vertex: index into classPlat
	classPlat []int32
	fastest   []int32 // per class: the fastest node, most slots first among equals; -1 if none

	allow    []int32 // per target: index into allowSet
	allowSet [][]uint64

	warm    []uint64 // nv*w
	anyWarm []bool   // some node is warm with v
	cached  []bool
	once    []bool
	root    []int32
	ordered bool // some target has an After edge
}

func compile(p Problem) (*model, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	m := &model{p: p, nv: len(p.Vertices), nn: len(p.Nodes), nt: len(p.Targets)}
	m.w = (m.nn + 63) / 64
	m.speed, m.from = make([]float64, m.nn), make([]float64, m.nn)
	m.slots = make([]int32, m.nn)
	for i, n := range p.Nodes {
		m.speed[i], m.slots[i], m.from[i] = n.Speed, int32(n.Slots), float64(n.From)
		if n.From > 0 {
			m.late = append(m.late, int32(i))
		}
	}
	slices.SortStableFunc(m.late, func(a, b int32) int { return cmp.Compare(m.from[a], m.from[b]) })
	m.compileMachines()
	if p.Network.Links < m.nn {
		m.links = int32(p.Network.Links)
	}
	m.cost = make([]float64, m.nv)
	m.xfer, m.ship = make([]float64, m.nv), make([]float64, m.nv)
	m.cached = make([]bool, m.nv)
	m.once = make([]bool, m.nv)
	m.anyWarm = make([]bool, m.nv)
	m.warm = make([]uint64, m.nv*m.w)
	m.plat = make([]int32, m.nv)
	m.compilePlatforms()
	m.inOff = make([]int32, m.nv+1)
	m.consOff = make([]int32, m.nv+1)
	for i, v := range p.Vertices {
		m.cost[i], m.once[i] = float64(v.Cost), v.Once
		m.xfer[i] = float64(p.Network.Latency) + float64(v.Bytes)/p.Network.Bandwidth
		m.ship[i] = m.xfer[i]
		if v.Once {
			m.ship[i] = float64(v.Bytes) / p.Network.Bandwidth
		}
		m.inOff[i+1] = m.inOff[i] + int32(len(v.Inputs))
		for _, u := range v.Inputs {
			m.in = append(m.in, int32(u))
			m.consOff[u+1]++
		}
	}
	for i := range m.nv {
		m.consOff[i+1] += m.consOff[i]
	}
	m.cons = make([]int32, len(m.in))
	at := slices.Clone(m.consOff)
	for v := range m.nv {
		for _, u := range m.inputs(v) {
			m.cons[at[u]] = int32(v)
			at[u]++
		}
	}
	for n, node := range p.Nodes {
		for _, v := range node.Warm {
			m.warm[int(v)*m.w+n>>6] |= 1 << (n & 63)
			m.anyWarm[v] = true
		}
	}
	for _, v := range p.Network.Cached {
		m.cached[v] = true
	}
	m.root = make([]int32, m.nt)
	for t := range p.Targets {
		m.root[t] = int32(p.Targets[t].Root)
	}
	if err := m.checkOrder(); err != nil {
		return nil, err
	}
	return m, m.restrict()
}

// restrict takes from the targets' allowed nodes those that can never hold the
// root, and fails when none is left. Only vertices that no node may execute make
// this necessary; everything else can be built somewhere and fetched.
func (m *model) restrict() error {
	var odd bool
	for v := range m.nv {
		odd = odd || m.fastest[m.class[v]] < 0
	}
	if odd {
		hold := make([]uint64, m.nv*m.w) // nodes that can come to hold v
		for v := range m.nv {
			here := m.set(hold, v)
			run := m.run[m.plat[v]]
			had := m.cached[v] || m.anyWarm[v]
			for k := range here {
				here[k] = run[k]
				for _, u := range m.inputs(v) {
					here[k] &= hold[int(u)*m.w+k]
				}
				had = had || here[k] != 0
			}
			for k := range here {
				if had {
					if in := m.inputs(v); len(in) > 0 {
						here[k] |= hold[int(in[0])*m.w+k]
					} else {
						here[k] |= m.run[0][k]
					}
				}
				here[k] |= m.warm[v*m.w+k]
			}
		}
		for t := range m.nt {
			set := slices.Clone(m.allowedSet(t))
			for k := range set {
				set[k] &= hold[int(m.root[t])*m.w+k]
			}
			m.allow[t] = int32(len(m.allowSet))
			m.allowSet = append(m.allowSet, set)
		}
	}
	for t := range m.nt {
		if firstBit(m.allowedSet(t)) < 0 {
			return fmt.Errorf("%w: %s", ErrUnplaceable, m.p.Targets[t].Name)
		}
	}
	return nil
}

func (m *model) compilePlatforms() {
	index := map[string]int32{"": 0}
	all := make([]uint64, m.w)
	for n := range m.nn {
		setBit(all, n)
	}
	m.run = [][]uint64{all}
	offers := func(name string) int32 {
		i, ok := index[name]
		if !ok {
			i = int32(len(m.run))
			index[name] = i
			set := make([]uint64, m.w)
			for n, node := range m.p.Nodes {
				if slices.Contains(node.Platforms, name) {
					setBit(set, n)
				}
			}
			m.run = append(m.run, set)
		}
		return i
	}
	for i, v := range m.p.Vertices {
		m.plat[i] = offers(v.Platform)
	}
	m.allow = make([]int32, m.nt)
	byList := map[string]int32{}
	for t, target := range m.p.Targets {
		key := fmt.Sprintf("%q", target.Platforms)
		i, ok := byList[key]
		if !ok {
			i = int32(len(m.allowSet))
			byList[key] = i
			set := slices.Clone(all)
			for _, name := range target.Platforms {
				if name == "" { // a platform nobody offers, unlike a vertex without one
					clear(set)
					continue
				}
				for k, word := range m.run[offers(name)] {
					set[k] &= word
				}
			}
			m.allowSet = append(m.allowSet, set)
		}
		m.allow[t] = i
	}
	sortClasses(m)
	addEmulation(m, index)
	m.fastest = make([]int32, len(m.classPlat))
	for i, platform := range m.classPlat {
		best, set := -1, m.run[platform]
		for n := range m.nn {
			if hasBit(set, n) && (best < 0 || m.paceOf(i, n) > m.paceOf(i, best) ||
				m.paceOf(i, n) == m.paceOf(i, best) && m.slots[n] > m.slots[best]) {
				best = n
			}
		}
		m.fastest[i] = int32(best)
	}
}

// compileMachines finds the machines that cannot run what the slots of their nodes could.
func (m *model) compileMachines() {
	nodes := map[string][]int32{}
	slots := map[string]int{}
	for n, node := range m.p.Nodes {
		if node.Machine != "" {
			nodes[node.Machine] = append(nodes[node.Machine], int32(n))
			slots[node.Machine] += node.Slots
		}
	}
	for n, node := range m.p.Nodes {
		list := nodes[node.Machine]
		if len(list) == 0 || int(list[0]) != n || slots[node.Machine] <= node.Shared {
			continue
		}
		if m.machine == nil {
			m.machine = slices.Repeat([]int32{-1}, m.nn)
		}
		for _, o := range list {
			m.machine[o] = int32(len(m.room))
		}
		m.room = append(m.room, int32(node.Shared))
		m.members = append(m.members, list)
	}
}

// machineOf returns the machine whose limit n shares, -1 if there is none.
func (m *model) machineOf(n int) int {
	if m.machine == nil {
		return -1
	}
	return int(m.machine[n])
}

// sortClasses sorts vertices by what they run on and by their mounts, and fills in what it
// costs where those are cold.
func sortClasses(m *model) {
	m.class = slices.Clone(m.plat)
	for i := range m.run {
		m.classPlat = append(m.classPlat, int32(i))
	}
	index := map[string]int32{}
	for i, v := range m.p.Vertices {
		if v.Cold <= 1 {
			continue
		}
		key := fmt.Sprintf("%d %v %q", m.plat[i], v.Cold, sortCopy(v.Mounts))
		c, ok := index[key]
		if !ok {
			c = int32(len(m.classPlat))
			index[key] = c
			m.classPlat = append(m.classPlat, m.plat[i])
			if m.cold == nil {
				m.cold = slices.Repeat([]float64{1}, len(m.run)*m.nn)
			}
			for _, n := range m.p.Nodes {
				m.cold = append(m.cold, n.Chill(v))
			}
		}
		m.class[i] = c
	}
	m.slow = slices.Clone(m.cold)
}

// Chill is how many times longer v takes on n because of mounts that n has not filled.
func (n Node) Chill(v Vertex) float64 {
	for _, name := range v.Mounts {
		if !slices.Contains(n.Filled, name) {
			return v.Cold
		}
	}
	return 1
}

// addEmulation adds the cost of emulation to slow; index numbers the platforms.
func addEmulation(m *model, index map[string]int32) {
	for n, node := range m.p.Nodes {
		for name, factor := range node.Emulates {
			i, ok := index[name]
			if !ok || factor == 1 {
				continue // no vertex needs it, or it costs nothing
			}
			if m.slow == nil {
				m.slow = slices.Repeat([]float64{1}, len(m.classPlat)*m.nn)
			}
			for c, platform := range m.classPlat {
				if platform == i {
					m.slow[c*m.nn+n] *= factor
				}
			}
		}
	}
}

// paceOf returns the speed of a node at vertices of a class.
func (m *model) paceOf(class, n int) float64 {
	if m.slow == nil {
		return m.speed[n]
	}
	return m.speed[n] / m.slow[class*m.nn+n]
}

// work is the cost of v on n at speed 1: more where a mount is cold.
func (m *model) work(v, n int) float64 {
	if m.cold == nil {
		return m.cost[v]
	}
	return m.cost[v] * m.cold[int(m.class[v])*m.nn+n]
}

// equalPace reports whether two nodes are as fast at everything.
func (m *model) equalPace(a, b int) bool {
	for i := range m.classPlat {
		if m.paceOf(i, a) != m.paceOf(i, b) {
			return false
		}
	}
	return true
}

// checkOrder rejects After edges that, together with the inputs, form a cycle.
func (m *model) checkOrder() error {
	next := make([][]int32, m.nv)
	for t, target := range m.p.Targets {
		for _, d := range target.After {
			if m.root[d] != m.root[t] {
				next[m.root[d]] = append(next[m.root[d]], m.root[t])
				m.ordered = true
			}
		}
	}
	if !m.ordered {
		return nil
	}
	waits := make([]int32, m.nv)
	for v := range m.nv {
		waits[v] += m.inOff[v+1] - m.inOff[v]
		for _, u := range next[v] {
			waits[u]++
		}
	}
	var ready []int32
	for v := range m.nv {
		if waits[v] == 0 {
			ready = append(ready, int32(v))
		}
	}
	for i := 0; i < len(ready); i++ {
		for _, list := range [][]int32{m.consumers(int(ready[i])), next[ready[i]]} {
			for _, u := range list {
				if waits[u]--; waits[u] == 0 {
					ready = append(ready, u)
				}
			}
		}
	}
	if len(ready) == m.nv {
		return nil
	}
	for t := range m.nt {
		if len(m.p.Targets[t].After) > 0 && waits[m.root[t]] > 0 {
			return fmt.Errorf("%w: target %s is part of a cycle", ErrProblem, m.p.Targets[t].Name)
		}
	}
	return fmt.Errorf("%w: cycle between targets", ErrProblem)
}

func (m *model) inputs(v int) []int32           { return m.in[m.inOff[v]:m.inOff[v+1]] }
func (m *model) consumers(v int) []int32        { return m.cons[m.consOff[v]:m.consOff[v+1]] }
func (m *model) runs(v, n int) bool             { return hasBit(m.run[m.plat[v]], n) }
func (m *model) allows(t, n int) bool           { return hasBit(m.allowSet[m.allow[t]], n) }
func (m *model) allowedSet(t int) []uint64      { return m.allowSet[m.allow[t]] }
func (m *model) isWarm(v, n int) bool           { return m.warm[v*m.w+n>>6]>>(n&63)&1 != 0 }
func (m *model) pace(v, n int) float64          { return m.paceOf(int(m.class[v]), n) }
func (m *model) exec(v, n int) float64          { return m.cost[v] / m.pace(v, n) }
func (m *model) most(n int) float64             { return m.speed[n] * float64(m.slots[n]) }
func (m *model) set(s []uint64, v int) []uint64 { return s[v*m.w : (v+1)*m.w] }

// limitOf returns the machine whose limit tasks of resource r share, -1 if there is none.
func (m *model) limitOf(r int32) int {
	if r%3 != int32(Exec) {
		return -1
	}
	return m.machineOf(int(r / 3))
}

// capacity returns what n does in a second when all nodes of its machine are busy.
func (m *model) capacity(n int) float64 {
	g := m.machineOf(n)
	if g < 0 {
		return m.most(n)
	}
	slots := int32(0)
	for _, o := range m.members[g] {
		slots += m.slots[o]
	}
	return m.most(n) * float64(m.room[g]) / float64(slots)
}

// together returns the most that some nodes, in ascending order, do in a second.
func (m *model) together(nodes []int) float64 {
	sum := 0.0
	if m.machine == nil {
		for _, n := range nodes {
			sum += m.most(n)
		}
		return sum
	}
	own, fastest := make([]float64, len(m.room)), make([]float64, len(m.room))
	for _, n := range nodes {
		if g := m.machineOf(n); g >= 0 {
			own[g] += m.most(n)
			fastest[g] = max(fastest[g], m.speed[n])
		} else {
			sum += m.most(n)
		}
	}
	for g, room := range m.room {
		sum += min(own[g], fastest[g]*float64(room))
	}
	return sum
}

// twice says where two results of v come from that may have one only; "" when there
// is none or one.
func (m *model) twice(v int, need, pull, warm []uint64, src int32) (one, other string) {
	if !m.once[v] {
		return "", ""
	}
	var from []string
	for n := range m.nn {
		if hasBit(need, n) && !hasBit(warm, n) && !hasBit(pull, n) {
			from = append(from, m.p.Nodes[n].Name+" executes it")
		}
	}
	if len(from) > 0 {
		if n := common(need, warm); n >= 0 {
			from = append(from, m.p.Nodes[n].Name+" holds it")
		} else if src == int32(Registry) {
			from = append(from, "the registry holds it")
		}
	}
	if len(from) < 2 {
		return "", ""
	}
	return from[0], from[1]
}

func setBit(s []uint64, i int)      { s[i>>6] |= 1 << (i & 63) }
func clearBit(s []uint64, i int)    { s[i>>6] &^= 1 << (i & 63) }
func hasBit(s []uint64, i int) bool { return s[i>>6]>>(i&63)&1 != 0 }

// common returns the smallest member that a and b have both, -1 if there is none.
func common(a, b []uint64) int {
	for i := range a {
		if both := a[i] & b[i]; both != 0 {
			return i<<6 + bits.TrailingZeros64(both)
		}
	}
	return -1
}

// firstBit returns the smallest member of s, -1 if s is empty.
func firstBit(s []uint64) int {
	for i, word := range s {
		if word != 0 {
			return i<<6 + bits.TrailingZeros64(word)
		}
	}
	return -1
}

// rankBit returns how many members of s are smaller than i.
func rankBit(s []uint64, i int) int {
	r := 0
	for k := range i >> 6 {
		r += bits.OnesCount64(s[k])
	}
	return r + bits.OnesCount64(s[i>>6]&(1<<(i&63)-1))
}

func countBits(s []uint64) int {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}
