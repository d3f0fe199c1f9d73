package plan

import (
	"fmt"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/memory/cost"
)

const (
	// mostSlots bounds the steps that a node is counted on for when they do nothing but wait.
	mostSlots = 32
	// spareMemory is the part of a machine's memory that steps leave to others.
	spareMemory = 0.1
)

// Capacity returns the nodes with the capacity of their machines: a node without declared
// slots is assumed to run as many steps at once as its processors and memory bear, given
// the known use of the steps. An unknown step counts as one processor. Each node of a
// machine may run all that this bears, and they run no more together.
func (b *Build) Capacity(nodes []Node) []Node { return b.prices.capacity(nodes) }

func (p *prices) capacity(nodes []Node) []Node {
	out := slices.Clone(nodes)
	share, memory := p.demand()
	for _, group := range p.machines(nodes) {
		m, ok := p.machine(nodes, group)
		bears, why := nodes[group[0]].Shared, "" // what the machine runs at once
		if ok {
			slots := m.Cores / share
			why = fmt.Sprintf("%s, and a step uses %.2g of one", quantity(m.Cores, "processor"), share)
			if free := (1 - spareMemory) * float64(m.Memory); memory > 0 && free > 0 && free/memory < slots {
				slots, why = free/memory, fmt.Sprintf("%.1f GB of memory, and a step takes %.1f", float64(m.Memory)/1e9, memory/1e9)
			}
			bears = max(1, min(int(slots+0.5), len(group)*mostSlots))
		}
		for _, i := range group {
			n := &out[i]
			if ok {
				n.Cores, n.Memory = m.Cores, m.Memory/int64(len(group))
			}
			n.Machine, n.Shared = "", 0
			if len(group) > 1 {
				n.Machine, n.Shared = nodes[group[0]].Addr, bears
			}
			switch {
			case !n.SlotsAssumed:
				continue
			case ok && len(group) > 1:
				n.SlotsWhy = fmt.Sprintf("it is one of %d nodes on a machine with ", len(group)) + why
			case ok:
				n.SlotsWhy = "it has " + why
			case n.SlotsWhy == "":
				n.SlotsWhy = "nothing is known of its machine yet"
			}
			if ok || len(group) > 1 {
				n.Slots = min(bears, mostSlots)
			}
		}
	}
	return out
}

// machine returns what is known of the machine of a group of nodes.
func (p *prices) machine(nodes []Node, group []int) (m cost.Machine, ok bool) {
	for _, i := range group {
		if told, yes := p.history.Machine(nodes[i].Addr); yes {
			m, ok = told, true
		}
	}
	return m, ok
}

// Parts returns, by node, how many steps it is expected to run at once while the others of its
// machine do their part of p. The guess for a machine is divided among its nodes that have
// something to do. One that has nothing gets what it would have if it had.
func (p *Plan) Parts() []int {
	busy := map[string]int{} // by machine: its nodes that have something to do
	works := func(n int) bool { return p.Pooled || len(p.Partitions[n]) > 0 }
	for n, node := range p.Nodes {
		if works(n) {
			busy[node.Machine]++
		}
	}
	out := make([]int, len(p.Nodes))
	for n, node := range p.Nodes {
		out[n] = node.Slots
		if !node.SlotsAssumed || node.Machine == "" {
			continue
		}
		among := busy[node.Machine]
		if !works(n) {
			among++
		}
		out[n] = min(node.Slots, (node.Shared+among-1)/among)
	}
	return out
}

// demand is what the steps use on average, weighted by how long they run: processors,
// and bytes of memory; memory is 0 when it is not known of most.
func (p *prices) demand() (cores, memory float64) {
	var all, used, told, held float64
	for i, v := range p.graph.Vertices {
		if !v.Kind.IsStep() {
			continue
		}
		c := p.steps[i]
		d := max(c.Duration, time.Millisecond).Seconds()
		all += d
		if c.Cores > 0 {
			used += d * c.Cores
		} else {
			used += d
		}
		if c.Memory > 0 {
			told += d
			held += d * float64(c.Memory)
		}
	}
	if all == 0 {
		return 1, 0
	}
	if told > all/2 {
		memory = held / told
	}
	return max(used/all, 1./mostSlots), memory
}

// Unmeasured reports whether the use of one of these steps is unknown.
func (b *Build) Unmeasured(steps []digest.Digest) bool { return b.prices.unmeasured(steps) }

func (p *prices) unmeasured(steps []digest.Digest) bool {
	return slices.ContainsFunc(steps, func(d digest.Digest) bool {
		i, ok := p.graph.index[d]
		return ok && p.known[i].Kind == cost.Run && p.steps[i].Cores == 0
	})
}

// machines groups nodes by the machine that they run on, as they say themselves or as
// the history knows.
func (p *prices) machines(nodes []Node) [][]int {
	var groups [][]int
	same := func(a, b Node) bool {
		if a.Machine != "" || b.Machine != "" {
			return a.Machine == b.Machine
		}
		m, ok := p.history.Machine(a.Addr)
		other, told := p.history.Machine(b.Addr)
		return ok && told && m.Same(other)
	}
	for i, n := range nodes {
		at := slices.IndexFunc(groups, func(g []int) bool { return same(nodes[g[0]], n) })
		if at < 0 {
			at, groups = len(groups), append(groups, nil)
		}
		groups[at] = append(groups[at], i)
	}
	return groups
}

func quantity(n float64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%.3g %ss", n, noun)
}
