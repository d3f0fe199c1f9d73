package partition

import (
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Bound is a set of lower bounds on the makespan of every feasible plan. Max is
// the largest of the others.
type Bound struct {
	Max Seconds
	// Work spreads every vertex that must run somewhere, once, over all slots;
	// per platform and over all.
	Work Seconds
	// Path is the longest chain of such vertices, each on the fastest node for it.
	Path Seconds
	// Target is the latest of the targets' earliest possible ends, transfers,
	// platforms and warmth counted, contention not.
	Target Seconds
	// Window fits the work of sets of vertices between the earliest time each node
	// could start one of them and the latest time one of them may end.
	Window Seconds
}

// LowerBound returns lower bounds on the makespan. The error wraps ErrProblem or ErrUnplaceable.
func LowerBound(p Problem) (Bound, error) {
	m, err := compile(p)
	if err != nil {
		return Bound{}, err
	}
	return m.bound(), nil
}

// nodeClass is a group of nodes that no bound can tell apart.
type nodeClass struct {
	node     int // representative
	capacity float64
	count    int
}

func (m *model) classes() []nodeClass {
	index := make(map[string]int, m.nn)
	var out []nodeClass
	var nodes [][]int // by class
	var key strings.Builder
	for n, node := range m.p.Nodes {
		key.Reset()
		key.WriteString(strconv.FormatUint(math.Float64bits(node.Speed), 36))
		for i, platform := range m.classPlat {
			if hasBit(m.run[platform], n) {
				key.WriteString("," + strconv.Itoa(i))
				if pace := m.paceOf(i, n); pace != node.Speed {
					key.WriteString(":" + strconv.FormatUint(math.Float64bits(pace), 36))
				}
			}
		}
		for i, set := range m.allowSet {
			if hasBit(set, n) {
				key.WriteString(";" + strconv.Itoa(i))
			}
		}
		if node.From > 0 {
			key.WriteString("@" + strconv.FormatUint(math.Float64bits(float64(node.From)), 36))
		}
		warm := slices.Clone(node.Warm)
		slices.Sort(warm)
		for _, v := range slices.Compact(warm) {
			key.WriteString("|" + strconv.Itoa(int(v)))
		}
		i, ok := index[key.String()]
		if !ok {
			i = len(out)
			index[key.String()] = i
			out = append(out, nodeClass{node: n})
			nodes = append(nodes, nil)
		}
		nodes[i] = append(nodes[i], n)
		out[i].count++
	}
	for i := range out {
		out[i].capacity = m.together(nodes[i])
	}
	return out
}

// must returns which vertices every plan executes at least once: what the targets
// need and nobody has.
func (m *model) must() []bool {
	must := make([]bool, m.nv)
	had := func(v int32) bool { return m.cached[v] || m.anyWarm[v] }
	for _, r := range m.root {
		must[r] = !had(r)
	}
	for v := m.nv - 1; v >= 0; v-- {
		if must[v] {
			for _, u := range m.inputs(v) {
				if !had(u) {
					must[u] = true
				}
			}
		}
	}
	return must
}

func (m *model) bound() Bound {
	b := &bounder{m: m, class: m.classes(), must: m.must()}
	for v := range m.nv {
		if b.must[v] {
			b.list = append(b.list, v)
		}
	}
	out := Bound{Work: Seconds(b.work()), Path: Seconds(b.path()), Target: Seconds(b.target())}
	out.Window = Seconds(b.window())
	out.Max = max(out.Work, out.Path, out.Target, out.Window)
	return out
}

type bounder struct {
	m       *model
	class   []nodeClass
	must    []bool
	list    []int     // the vertices of must
	tail    []float64 // per vertex: fastest chain of must vertices after it
	release [][]float64
}

func (b *bounder) work() float64 {
	m := b.m
	need := make([]float64, len(m.run))
	for _, v := range b.list {
		need[0] += m.cost[v]
		if m.plat[v] != 0 {
			need[m.plat[v]] += m.cost[v]
		}
	}
	most := 0.0
	var nodes []int
	for i, set := range m.run {
		nodes = nodes[:0]
		for n := range m.nn {
			if hasBit(set, n) {
				nodes = append(nodes, n)
			}
		}
		if need[i] > 0 {
			most = max(most, need[i]/m.together(nodes))
		}
	}
	return most
}

func (b *bounder) path() float64 {
	m := b.m
	head := make([]float64, m.nv)
	b.tail = make([]float64, m.nv)
	most := 0.0
	for _, v := range b.list {
		for _, u := range m.inputs(v) {
			head[v] = max(head[v], head[u])
		}
		head[v] += m.exec(v, int(m.fastest[m.class[v]]))
		most = max(most, head[v])
	}
	for i := len(b.list) - 1; i >= 0; i-- {
		v := b.list[i]
		for _, c := range m.consumers(v) {
			if b.must[c] {
				b.tail[v] = max(b.tail[v], m.exec(int(c), int(m.fastest[m.class[c]]))+b.tail[c])
			}
		}
	}
	return most
}

// target also records when the inputs of each vertex can be held, per class.
func (b *bounder) target() float64 {
	m := b.m
	needed := make([]bool, m.nv)
	for _, r := range m.root {
		needed[r] = true
	}
	for v := m.nv - 1; v >= 0; v-- {
		if needed[v] {
			for _, u := range m.inputs(v) {
				needed[u] = true
			}
		}
	}
	nc := len(b.class)
	inf := math.Inf(1)
	hold := make([][]float64, m.nv)
	b.release = make([][]float64, m.nv)
	zero := make([]float64, nc)
	for v := range m.nv {
		if !needed[v] {
			continue
		}
		in := m.inputs(v)
		release := zero
		if len(in) == 1 {
			release = hold[in[0]]
		} else if len(in) > 1 {
			release = make([]float64, nc)
			for _, u := range in {
				for c, h := range hold[u] {
					release[c] = max(release[c], h)
				}
			}
		}
		b.release[v] = release
		h := make([]float64, nc)
		avail := inf
		for c, class := range b.class {
			h[c] = inf
			if m.isWarm(v, class.node) {
				h[c] = 0
			} else if m.runs(v, class.node) {
				h[c] = release[c] + m.exec(v, class.node)
			}
			avail = min(avail, h[c])
		}
		avail += m.ship[v]
		if m.cached[v] {
			avail = 0
		}
		for c := range h {
			parent := 0.0
			if len(in) > 0 {
				parent = hold[in[0]][c]
			}
			h[c] = min(h[c], max(avail, parent)+m.ship[v])
		}
		hold[v] = h
	}
	most := 0.0
	for t := range m.nt {
		best := inf
		for c, class := range b.class {
			if m.allows(t, class.node) {
				best = min(best, hold[m.root[t]][c])
			}
		}
		most = max(most, best)
	}
	return most
}

// fit returns the smallest T with sum over classes of capacity * max(0, T - tail -
// release) >= work.
func (b *bounder) fit(release []float64, tail, work float64) float64 {
	if work <= 0 {
		return 0
	}
	type part struct{ release, capacity float64 }
	parts := make([]part, 0, len(release))
	for c, r := range release {
		if !math.IsInf(r, 1) {
			parts = append(parts, part{r, b.class[c].capacity})
		}
	}
	sort.Slice(parts, func(i, j int) bool { return parts[i].release < parts[j].release })
	var capacity, area float64
	for i, p := range parts {
		capacity += p.capacity
		area += p.capacity * p.release
		t := (work + area) / capacity
		if i+1 == len(parts) || t <= parts[i+1].release {
			return t + tail
		}
	}
	return 0
}

// Sets whose windows are tried. Suffixes of two orders, at most maxSuffixes of
// each when there are many classes to add up, and what follows one of maxBases
// vertices with several consumers.
const (
	maxSuffixes = 48
	maxBases    = 96
	// windowWork limits vertices * classes added up for descendants; the bound only
	// gets weaker beyond it.
	windowWork = 40_000_000
)

func (b *bounder) window() float64 {
	m := b.m
	if len(b.list) == 0 {
		return 0
	}
	nc := len(b.class)
	early := make([]float64, m.nv)
	for _, v := range b.list {
		early[v] = slices.Min(b.release[v])
	}
	best := 0.0
	release := make([]float64, nc)
	for _, key := range [][]float64{early, b.tail} {
		order := slices.Clone(b.list)
		slices.SortStableFunc(order, func(x, y int) int {
			switch {
			case key[x] > key[y]:
				return -1
			case key[x] < key[y]:
				return 1
			}
			return 0
		})
		every := 1
		if nc > 8 || len(order) > 4096 {
			every = max(1, len(order)/(4*maxSuffixes))
		}
		for c := range release {
			release[c] = math.Inf(1)
		}
		tail, work := math.Inf(1), 0.0
		since := 0
		for i, v := range order {
			tail = min(tail, b.tail[v])
			work += m.cost[v]
			for c, r := range b.release[v] {
				release[c] = min(release[c], r)
			}
			since++
			last := i+1 == len(order)
			if last || since >= every && key[order[i+1]] != key[v] {
				since = 0
				best = max(best, b.fit(release, tail, work))
			}
		}
	}
	return max(best, b.behindBases(release))
}

func (b *bounder) behindBases(release []float64) float64 {
	m := b.m
	var bases []int
	for _, v := range b.list {
		if m.consOff[v+1]-m.consOff[v] > 1 {
			bases = append(bases, v)
		}
	}
	slices.SortStableFunc(bases, func(x, y int) int {
		switch {
		case m.cost[x] > m.cost[y]:
			return -1
		case m.cost[x] < m.cost[y]:
			return 1
		}
		return x - y
	})
	if len(bases) > maxBases {
		bases = bases[:maxBases]
	}
	best, spent := 0.0, 0
	seen := make([]int32, m.nv)
	var stack []int32
	for i, base := range bases {
		mark := int32(i + 1)
		stack = append(stack[:0], int32(base))
		seen[base] = mark
		for c := range release {
			release[c] = math.Inf(1)
		}
		tail, work := math.Inf(1), 0.0
		for len(stack) > 0 {
			u := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			for _, c := range m.consumers(int(u)) {
				if !b.must[c] || seen[c] == mark {
					continue
				}
				seen[c] = mark
				stack = append(stack, c)
				tail = min(tail, b.tail[c])
				work += m.cost[c]
				for k, r := range b.release[c] {
					release[k] = min(release[k], r)
				}
				spent += len(release)
			}
		}
		best = max(best, b.fit(release, tail, work))
		if spent > windowWork {
			break
		}
	}
	return best
}
