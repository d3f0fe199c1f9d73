package partition

import (
	"cmp"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
)

// The placements in this file look at whole targets. What they place is then
// built where it is needed; results the registry holds are fetched where that is
// sooner than building, see fetchCached.

// single puts everything on the node that alone ends first; targets it may not
// build go to the best of the others.
func single(r *run) *draft {
	m := r.m
	order := make([]int, 0, m.nn)
	for _, c := range m.classes() {
		order = append(order, c.node)
	}
	// Few nodes can be the best: try those that could do the most.
	const tries = 8
	could := func(n int) float64 {
		work := 0.0
		for t := range m.nt {
			if m.allows(t, n) {
				work++
			}
		}
		return work
	}
	reach := make([]float64, m.nn)
	for _, n := range order {
		reach[n] = could(n)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(reach[b], reach[a]), cmp.Compare(m.capacity(b), m.capacity(a)),
			cmp.Compare(m.speed[b], m.speed[a]), cmp.Compare(len(m.p.Nodes[b].Warm), len(m.p.Nodes[a].Warm)))
	})
	if len(order) > tries && m.nv*len(order) > 100_000 {
		order = order[:tries]
	}
	var best *draft
	at := math.Inf(1)
	for _, first := range order {
		d := m.newDraft()
		for t := range m.nt {
			for _, n := range append([]int{first}, order...) {
				if m.allows(t, n) {
					d.node[t] = int32(n)
					break
				}
			}
			if !m.allows(t, int(d.node[t])) {
				d.node[t] = int32(firstBit(m.allowedSet(t)))
			}
		}
		r.fetchCached(d)
		if mk := r.makespan(d); best == nil || mk < at {
			best, at = d, mk
		}
	}
	return best
}

// roundRobin deals the targets out in order.
func roundRobin(r *run) *draft {
	m := r.m
	d := m.newDraft()
	next := 0
	for t := range m.nt {
		for !m.allows(t, next%m.nn) {
			next++
		}
		d.node[t] = int32(next % m.nn)
		next = next%m.nn + 1
	}
	r.fetchCached(d)
	return d
}

// random places each target on any node that allows it.
func random(r *run) *draft {
	m := r.m
	d := m.newDraft()
	rng := rand.New(rand.NewPCG(r.o.Seed, 0x9e3779b97f4a7c15))
	for t := range m.nt {
		n := rng.IntN(m.nn)
		for !m.allows(t, n) {
			n = (n + 1) % m.nn
		}
		d.node[t] = int32(n)
	}
	r.fetchCached(d)
	return d
}

// queue is what a pool of builders with one shared queue does: a node with a free
// slot takes the next target that it may build.
func queue(r *run) *draft {
	m := r.m
	d := m.newDraft()
	holds := newHoldings(m)
	type slot struct {
		free float64
		node int
	}
	// A heap of slots by time, then node.
	slots := make([]slot, 0, m.nn)
	for n := range m.nn {
		for range m.slots[n] {
			slots = append(slots, slot{m.from[n], n})
		}
	}
	later := func(a, b slot) bool { return a.free > b.free || a.free == b.free && a.node > b.node }
	down := func(c int) {
		for {
			l := 2*c + 1
			if l >= len(slots) {
				return
			}
			if l+1 < len(slots) && later(slots[l], slots[l+1]) {
				l++
			}
			if !later(slots[c], slots[l]) {
				return
			}
			slots[c], slots[l] = slots[l], slots[c]
			c = l
		}
	}
	for c := len(slots)/2 - 1; c >= 0; c-- {
		down(c)
	}
	todo := make([]int32, m.nt)
	for t := range todo {
		todo[t] = int32(t)
	}
	left := countTargets(m, todo)
	for len(todo) > 0 {
		s := slots[0]
		taken := -1
		if left[s.node] > 0 {
			for i, t := range todo {
				if m.allows(int(t), s.node) {
					taken = i
					break
				}
			}
		}
		if taken < 0 { // nothing left for this node
			slots[0] = slots[len(slots)-1]
			slots = slots[:len(slots)-1]
			down(0)
			continue
		}
		t := todo[taken]
		todo = slices.Delete(todo, taken, taken+1)
		d.node[t] = int32(s.node)
		slots[0].free += holds.take(int(m.root[t]), s.node)
		down(0)
	}
	r.fetchCached(d)
	return d
}

// countTargets returns per node how many of the targets it may build.
func countTargets(m *model, targets []int32) []int {
	bySet := make([]int, len(m.allowSet))
	for _, t := range targets {
		bySet[m.allow[t]]++
	}
	out := make([]int, m.nn)
	for i, count := range bySet {
		if count == 0 {
			continue
		}
		for n := range m.nn {
			if hasBit(m.allowSet[i], n) {
				out[n] += count
			}
		}
	}
	return out
}

// lpt is Graham's longest processing time first, with targets as jobs that share
// nothing: the next longest target goes to the node that would end it first.
func lpt(r *run) *draft {
	m := r.m
	d := m.newDraft()
	length := make([]float64, m.nt)
	c := newClosure(m)
	for t := range m.nt {
		for _, v := range c.of(int(m.root[t])) {
			length[t] += m.cost[v]
		}
	}
	order := make([]int, m.nt)
	for t := range order {
		order[t] = t
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(length[b], length[a]) })
	load := make([]float64, m.nn)
	for _, n := range m.late {
		load[n] = m.from[n] * m.capacity(int(n)) // what it would have done by then
	}
	for _, t := range order {
		best, at := -1, 0.0
		for n := range m.nn {
			if m.allows(t, n) {
				if end := (load[n] + length[t]) / m.capacity(n); best < 0 || end < at {
					best, at = n, end
				}
			}
		}
		load[best] += length[t]
		d.node[t] = int32(best)
	}
	r.fetchCached(d)
	return d
}

// rendezvous sends targets of one base to one node by highest random weight,
// scaled by capacity; no node takes more than a quarter above its share of the
// work. Thaler and Ravishankar, 1998; loads bounded as by Mirrokni et al., 2018.
func rendezvous(r *run) *draft {
	m := r.m
	d := m.newDraft()
	length := make([]float64, m.nt)
	c := newClosure(m)
	var work, capacity float64
	for t := range m.nt {
		for _, v := range c.of(int(m.root[t])) {
			length[t] += m.cost[v]
		}
		work += length[t]
	}
	for n := range m.nn {
		capacity += m.capacity(n)
	}
	limit := 1.25 * work / capacity
	load := make([]float64, m.nn)
	type choice struct {
		node  int
		score float64
	}
	choices := make(map[int32][]choice)
	for t := range m.nt {
		base := m.root[t]
		for in := m.inputs(int(base)); len(in) > 0; in = m.inputs(int(base)) {
			base = in[0]
		}
		list, ok := choices[base]
		if !ok {
			list = make([]choice, m.nn)
			for n := range list {
				h := fnv.New64a()
				h.Write([]byte(m.p.Vertices[base].Name + "\x00" + m.p.Nodes[n].Name))
				u := (float64(mix(h.Sum64())>>11) + 0.5) / (1 << 53)
				list[n] = choice{n, -m.capacity(n) / math.Log(u)}
			}
			slices.SortStableFunc(list, func(a, b choice) int { return cmp.Compare(b.score, a.score) })
			choices[base] = list
		}
		best := -1
		for _, ch := range list {
			if !m.allows(t, ch.node) {
				continue
			}
			if best < 0 || load[ch.node]/m.capacity(ch.node) < load[best]/m.capacity(best) {
				best = ch.node
			}
			if load[ch.node]/m.capacity(ch.node) < limit {
				best = ch.node
				break
			}
		}
		load[best] += length[t]
		d.node[t] = int32(best)
	}
	r.fetchCached(d)
	return d
}

// mix spreads the bits of x; FNV leaves the high ones of similar names alike.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// fetchCached makes nodes fetch what the registry holds at time 0 wherever that
// brings it sooner than building it would, contention aside.
func (r *run) fetchCached(d *draft) {
	m := r.m
	if len(m.p.Network.Cached) == 0 {
		return
	}
	targets := make([][]int32, m.nn)
	for t, n := range d.node {
		targets[n] = append(targets[n], m.root[t])
	}
	c := newClosure(m)
	hold := make([]float64, m.nv)
	for n, roots := range targets {
		for _, v := range c.of32(roots) {
			if m.isWarm(int(v), n) {
				hold[v] = 0
				continue
			}
			parent, ready := 0.0, 0.0
			for i, u := range m.inputs(int(v)) {
				if i == 0 {
					parent = hold[u]
				}
				ready = max(ready, hold[u])
			}
			hold[v] = ready + m.exec(int(v), n)
			if !m.runs(int(v), n) {
				hold[v] = math.Inf(1)
			}
			if fetched := parent + m.xfer[v]; m.cached[v] && fetched < hold[v] {
				hold[v] = fetched
				setBit(m.set(d.fetch, int(v)), n)
				d.src[v] = int32(Registry)
			}
		}
	}
}

// closure lists what vertices need, reusing its memory.
type closure struct {
	m    *model
	mark []int32
	turn int32
	list []int32
}

func newClosure(m *model) *closure { return &closure{m: m, mark: make([]int32, m.nv)} }

// of returns root and all it needs, by ascending id; valid until the next call.
func (c *closure) of(root int) []int32 { return c.of32([]int32{int32(root)}) }

func (c *closure) of32(roots []int32) []int32 {
	c.turn++
	c.list = c.list[:0]
	push := func(v int32) {
		if c.mark[v] != c.turn {
			c.mark[v] = c.turn
			c.list = append(c.list, v)
		}
	}
	for _, v := range roots {
		push(v)
	}
	for i := 0; i < len(c.list); i++ {
		for _, u := range c.m.inputs(int(c.list[i])) {
			push(u)
		}
	}
	slices.Sort(c.list)
	return c.list
}

// holdings remembers what each node holds while targets are placed one by one.
type holdings struct {
	m    *model
	has  []uint64
	todo []int32
}

func newHoldings(m *model) *holdings { return &holdings{m: m, has: slices.Clone(m.warm)} }

// take makes n hold v and returns the time one slot needs for what was missing.
func (h *holdings) take(v, n int) float64 {
	m := h.m
	spent := 0.0
	h.todo = append(h.todo[:0], int32(v))
	for len(h.todo) > 0 {
		u := int(h.todo[len(h.todo)-1])
		h.todo = h.todo[:len(h.todo)-1]
		if hasBit(m.set(h.has, u), n) {
			continue
		}
		setBit(m.set(h.has, u), n)
		spent += m.exec(u, n)
		h.todo = append(h.todo, m.inputs(u)...)
	}
	return spent
}
