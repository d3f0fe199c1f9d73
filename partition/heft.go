package partition

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// heft is heterogeneous earliest finish time (Topcuoglu, Hariri and Wu, 2002) over
// targets, longest path first, with marginal costs: what a node already holds, or
// will by then, is free, and each missing vertex is built or fetched, whichever
// holds it sooner given the slots and links taken so far.
func heft(r *run) *draft { return heftOrder(r.m, r.m.byPath(), earliest) }

// heftByFit is heft with slots that stand idle as little as possible.
func heftByFit(r *run) *draft { return heftOrder(r.m, r.m.byPath(), snuggest) }

// heftUnshared is heft as if each node had the registry to itself. Transfers are given links in the
// order of targets, not of time, so that heft takes a registry that is busy later for one that is
// busy now: with many nodes, it then fetches too little.
func heftUnshared(r *run) *draft {
	m := *r.m
	m.links = 0
	return heftOrder(&m, m.byPath(), earliest)
}

// heftBySum orders targets by all the work below them instead of the longest path.
func heftBySum(r *run) *draft { return heftOrder(r.m, r.m.bySum(), earliest) }

// heftBySumAndFit does both.
func heftBySumAndFit(r *run) *draft { return heftOrder(r.m, r.m.bySum(), snuggest) }

// byPath returns the targets, longest path first.
func (m *model) byPath() []int {
	order := make([]int, m.nt)
	for t := range order {
		order[t] = t
	}
	length := m.pathLengths()
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(length[m.root[b]], length[m.root[a]])
	})
	return order
}

// pathLengths returns per vertex the cost of the longest chain that ends with it.
func (m *model) pathLengths() []float64 {
	length := make([]float64, m.nv)
	for v := range m.nv {
		for _, u := range m.inputs(v) {
			length[v] = max(length[v], length[u])
		}
		length[v] += m.cost[v]
	}
	return length
}

// bySum returns the targets, those with the most work below them first.
func (m *model) bySum() []int {
	sum := make([]float64, m.nt)
	c := newClosure(m)
	for t := range m.nt {
		for _, v := range c.of(int(m.root[t])) {
			sum[t] += m.cost[v]
		}
	}
	order := make([]int, m.nt)
	for t := range order {
		order[t] = t
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(sum[b], sum[a]) })
	return order
}

func heftOrder(m *model, order []int, pick func(free []float64, ready float64) int) *draft {
	d := m.newDraft()
	b := newBoard(m, d)
	b.pick = pick
	b.placeAll(order)
	return d
}

// placeAll puts one target after the other where it ends first.
func (b *board) placeAll(order []int) {
	m, d := b.m, b.d
	for _, t := range order {
		root := int(m.root[t])
		list := b.closure.of(root)
		best, at := -1, math.Inf(1)
		for _, n := range b.candidates(t, list) {
			if end := b.try(list, n, false); best < 0 || end < at {
				best, at = n, end
			}
		}
		d.node[t] = int32(best)
		b.try(list, best, true)
	}
}

// board is a schedule in the making: when each slot and link is free again, and
// from when each node holds what.
type board struct {
	m *model
	d *draft
	// pick chooses the slot for what is ready at a time from when each is free.
	pick     func(free []float64, ready float64) int
	closure  *closure
	slotFree [][]float64
	roomFree [][]float64 // per machine that nodes share, as slotFree
	down, up []float64
	// downAll and upAll are when each of the links that all nodes share is free; empty where their
	// own are the only limit. links is scratch of try.
	downAll, upAll, links []float64
	held                  []map[int32]float64 // per node; absent = not held
	where                 [][]int32           // per vertex: nodes that executed it, in order
	exported              []float64           // per vertex: when it is in the registry; +Inf = never
	end                   []float64           // scratch of try, per vertex
	mode                  []uint8
	need                  []bool
	apart                 []bool // needed for more than the layers of a fetched one
	slots                 []float64
	rooms                 []float64
	class                 []int     // per node: its class
	cheapest              [][]int32 // per class: nodes by when their first slot is free, a heap
}

const (
	modeHeld uint8 = iota
	modeExec
	modePull
)

func newBoard(m *model, d *draft) *board {
	b := &board{
		m: m, d: d, pick: earliest, closure: newClosure(m),
		slotFree: make([][]float64, m.nn), down: make([]float64, m.nn), up: make([]float64, m.nn),
		held: make([]map[int32]float64, m.nn), where: make([][]int32, m.nv),
		exported: make([]float64, m.nv), end: make([]float64, m.nv), mode: make([]uint8, m.nv), need: make([]bool, m.nv), apart: make([]bool, m.nv),
	}
	for n := range m.nn {
		b.slotFree[n] = slices.Repeat([]float64{m.from[n]}, int(m.slots[n]))
		b.down[n], b.up[n] = m.from[n], m.from[n]
		b.held[n] = make(map[int32]float64)
		for _, v := range m.p.Nodes[n].Warm {
			b.held[n][int32(v)] = 0
			if !slices.Contains(b.where[v], int32(n)) {
				b.where[v] = append(b.where[v], int32(n))
			}
		}
	}
	for _, room := range m.room {
		b.roomFree = append(b.roomFree, make([]float64, room))
	}
	b.downAll, b.upAll = make([]float64, m.links), make([]float64, m.links)
	for v := range m.nv {
		b.exported[v] = math.Inf(1)
		if m.cached[v] {
			b.exported[v] = 0
			d.src[v] = int32(Registry)
		}
	}
	return b
}

// candidates returns the nodes worth trying for target t. With few nodes that is
// all of them. With many, those that hold some of what t needs, at most 12, and of
// each class the least busy ones: an empty node is as good as the next.
func (b *board) candidates(t int, list []int32) []int {
	m := b.m
	var out []int
	if m.nn <= 64 {
		for n := range m.nn {
			if m.allows(t, n) {
				out = append(out, n)
			}
		}
		return out
	}
	add := func(n int) {
		if m.allows(t, n) && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	for i := len(list) - 1; i >= 0 && len(out) < 12; i-- {
		where := b.where[list[i]]
		for k := len(where) - 1; k >= 0 && len(out) < 12; k-- {
			add(int(where[k]))
		}
	}
	b.leastBusy(t, add)
	slices.Sort(out)
	return out
}

// leastBusy adds up to two nodes per speed and platforms whose next slot is free first.
func (b *board) leastBusy(t int, add func(int)) {
	m := b.m
	if b.class == nil {
		b.class = make([]int, m.nn)
		type alike struct {
			speed float64
			slots int32
			sets  string
			// slower names what it runs slower, or does not.
			slower string
		}
		index := map[alike]int{}
		for n := range m.nn {
			sets := make([]byte, 0, len(m.run)+len(m.allowSet))
			for _, list := range [][][]uint64{m.run, m.allowSet} {
				for _, set := range list {
					if hasBit(set, n) {
						sets = append(sets, '1')
					} else {
						sets = append(sets, '0')
					}
				}
			}
			k := alike{speed: m.speed[n], slots: m.slots[n], sets: string(sets)}
			if m.slow != nil {
				k.slower = fmt.Sprint(m.p.Nodes[n].Emulates, sortCopy(m.p.Nodes[n].Filled)) // maps print in order
			}
			c, ok := index[k]
			if !ok {
				c = len(b.cheapest)
				index[k] = c
				b.cheapest = append(b.cheapest, nil)
			}
			b.class[n] = c
			b.cheapest[c] = append(b.cheapest[c], int32(n))
		}
	}
	for _, heap := range b.cheapest {
		if !m.allows(t, int(heap[0])) {
			continue
		}
		add(int(heap[0]))
		if len(heap) > 2 && b.busy(heap[2]) < b.busy(heap[1]) {
			add(int(heap[2]))
		} else if len(heap) > 1 {
			add(int(heap[1]))
		}
	}
}

func (b *board) busy(n int32) float64 { return slices.Min(b.slotFree[n]) }

// resift restores the heap of n's class after n became busier.
func (b *board) resift(n int) {
	if b.class == nil {
		return
	}
	heap := b.cheapest[b.class[n]]
	c := slices.Index(heap, int32(n))
	for {
		l := 2*c + 1
		if l >= len(heap) {
			return
		}
		if l+1 < len(heap) && b.before(heap[l+1], heap[l]) {
			l++
		}
		if !b.before(heap[l], heap[c]) {
			return
		}
		heap[c], heap[l] = heap[l], heap[c]
		c = l
	}
}

func (b *board) before(x, y int32) bool {
	bx, by := b.busy(x), b.busy(y)
	return bx < by || bx == by && x < y
}

// try returns when node n would hold the last vertex of list, a closure by
// ascending id, if it were built or fetched now. With commit, it is.
func (b *board) try(list []int32, n int, commit bool) float64 {
	b.choose(list, n)
	b.demand(list)
	down := b.occupy(list, n, commit)
	if commit {
		copy(b.slotFree[n], b.slots)
		if g := b.m.machineOf(n); g >= 0 {
			copy(b.roomFree[g], b.rooms)
		}
		b.down[n] = down
		copy(b.downAll, b.links)
		for _, v := range list {
			if b.need[v] && b.mode[v] == modePull {
				b.held[n][v] = b.end[v]
			}
		}
		b.resift(n)
	}
	return b.end[list[len(list)-1]]
}

// choose sets how n comes by each vertex of list, as if the missing ones were not in each
// other's way: by the sooner of building and fetching.
func (b *board) choose(list []int32, n int) {
	m, held, firstFree := b.m, b.held[n], slices.Min(b.slotFree[n])
	if g := m.machineOf(n); g >= 0 {
		firstFree = max(firstFree, slices.Min(b.roomFree[g]))
	}
	for _, v := range list {
		if at, ok := held[v]; ok {
			b.end[v], b.mode[v] = at, modeHeld
			continue
		}
		parent, ready := 0.0, firstFree
		for i, u := range m.inputs(int(v)) {
			if i == 0 {
				parent = b.end[u]
			}
			ready = max(ready, b.end[u])
		}
		b.end[v], b.mode[v] = math.Inf(1), modeExec
		if m.runs(int(v), n) && !(m.once[v] && b.elsewhere(int(v), n)) {
			b.end[v] = ready + m.exec(int(v), n)
		}
		if at, _ := b.available(int(v), n); !math.IsInf(at, 1) {
			if end := max(at, parent, b.down[n], soonest(b.downAll)) + m.xfer[v]; end < b.end[v] {
				b.end[v], b.mode[v] = end, modePull
			}
		}
	}
}

// demand finds, backwards, which vertices of list the last one needs as they were chosen.
func (b *board) demand(list []int32) {
	for _, v := range list {
		b.need[v], b.apart[v] = false, false
	}
	root := list[len(list)-1]
	b.need[root], b.apart[root] = true, true
	for i := len(list) - 1; i >= 0; i-- {
		v := list[i]
		if !b.need[v] || b.mode[v] == modeHeld {
			continue
		}
		for k, u := range b.m.inputs(int(v)) {
			if k == 0 || b.mode[v] == modeExec {
				b.need[u] = true
				b.apart[u] = b.apart[u] || b.mode[v] == modeExec
			}
		}
	}
}

// soonest is when the first of some units is free; 0 if there are none.
func soonest(free []float64) float64 {
	if len(free) == 0 {
		return 0
	}
	return slices.Min(free)
}

// earliest returns the index of the first of what is free soonest.
func earliest(free []float64, _ float64) int {
	k := 0
	for i, at := range free {
		if at < free[k] {
			k = i
		}
	}
	return k
}

// snuggest returns the index of the slot that is free last of all that are free in time; when
// none is, of the one that is free soonest. A slot that is free long before is left to what is
// ready then.
func snuggest(free []float64, ready float64) int {
	k := 0
	for i, at := range free {
		if best := free[k]; at <= ready && (at > best || best > ready) || best > ready && at < best {
			k = i
		}
	}
	return k
}

// occupy gives the vertices that are needed, in order, the slots and the link of n, and
// returns until when the link is taken.
func (b *board) occupy(list []int32, n int, commit bool) (down float64) {
	m := b.m
	b.slots = append(b.slots[:0], b.slotFree[n]...)
	b.rooms = b.rooms[:0]
	if g := m.machineOf(n); g >= 0 {
		b.rooms = append(b.rooms, b.roomFree[g]...)
	}
	down = b.down[n]
	b.links = append(b.links[:0], b.downAll...)
	for _, v := range list {
		if !b.need[v] || b.mode[v] == modeHeld {
			continue
		}
		parent, ready := 0.0, 0.0
		for i, u := range m.inputs(int(v)) {
			if i == 0 {
				parent = b.end[u]
			}
			if b.mode[v] == modeExec {
				ready = max(ready, b.end[u])
			}
		}
		if b.mode[v] == modePull {
			at, from := b.available(int(v), n)
			down = b.transfer(v, max(at, parent, down))
			if commit {
				b.fetch(int(v), n, from, at)
			}
			continue
		}
		k, room := b.pick(b.slots, ready), -1
		free := b.slots[k]
		if len(b.rooms) > 0 {
			room = b.pick(b.rooms, ready)
			free = max(free, b.rooms[room])
		}
		b.end[v] = max(ready, free) + m.exec(int(v), n)
		if !m.runs(int(v), n) {
			// Only another node can execute it; derive will find which.
			b.end[v] = ready + m.cost[v] + 2*m.xfer[v]
		} else {
			b.slots[k] = b.end[v]
			if room >= 0 {
				b.rooms[room] = b.end[v]
			}
			if commit {
				b.where[v] = append(b.where[v], int32(n))
			}
		}
		if commit {
			b.held[n][v] = b.end[v]
		}
	}
	return down
}

// transfer gives v, which can be fetched from ready on, one of the links that nodes share and
// returns when it has come.
func (b *board) transfer(v int32, ready float64) float64 {
	link := -1
	if len(b.links) > 0 {
		link = snuggest(b.links, ready)
		ready = max(ready, b.links[link])
	}
	end := ready + b.m.ship[v]
	if b.apart[v] {
		end += b.m.xfer[v] - b.m.ship[v]
	}
	if link >= 0 {
		b.links[link] = end
	}
	b.end[v] = end
	return end
}

// elsewhere reports whether another node than n has v.
func (b *board) elsewhere(v, n int) bool {
	return slices.ContainsFunc(b.where[v], func(q int32) bool { return int(q) != n })
}

// available returns when v could be in the registry, and from which node.
func (b *board) available(v, n int) (at float64, from int) {
	if !math.IsInf(b.exported[v], 1) {
		return b.exported[v], int(b.d.src[v])
	}
	at, from = math.Inf(1), auto
	for i, q := range b.where[v] {
		if i == 8 {
			break
		}
		if int(q) == n {
			continue
		}
		if t := max(b.held[q][int32(v)], b.up[q], soonest(b.upAll)) + b.m.xfer[v]; t < at {
			at, from = t, int(q)
		}
	}
	return at, from
}

func (b *board) fetch(v, n, from int, at float64) {
	setBit(b.m.set(b.d.fetch, v), n)
	if math.IsInf(b.exported[v], 1) {
		b.d.src[v] = int32(from)
		b.exported[v] = at
		b.up[from] = at
		if len(b.upAll) > 0 {
			b.upAll[snuggest(b.upAll, at-b.m.xfer[v])] = at
		}
	}
}
