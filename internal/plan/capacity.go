package plan

import (
	"fmt"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/memory/cost"
)

const (
	// mostSlots bounds what a node is counted on for steps that do nothing but wait.
	mostSlots = 32
	// spareMemory is the part of a machine's memory that steps leave to others.
	spareMemory = 0.1
)

// Capacity returns the nodes with the capacity of their machines: a node without declared
// slots is assumed to run as many steps at once as its processors and memory bear, given
// the known use of the steps. An unknown step counts as one processor.
func (b *Build) Capacity(nodes []Node) []Node { return b.prices.capacity(nodes) }

func (p *prices) capacity(nodes []Node) []Node {
	out := make([]Node, len(nodes))
	share, memory := p.demand()
	sharing := p.sharing(nodes)
	for i, n := range nodes {
		out[i] = n
		m, ok := p.history.Machine(n.Addr)
		if !ok {
			if n.SlotsAssumed && n.SlotsWhy == "" {
				out[i].SlotsWhy = "nothing is known of its machine yet"
			}
			continue
		}
		cores := m.Cores / float64(sharing[i])
		out[i].Cores, out[i].Memory = cores, m.Memory/int64(sharing[i])
		if !n.SlotsAssumed {
			continue
		}
		slots, why := cores/share, fmt.Sprintf("it has %s, and a step uses %.2g of one", quantity(m.Cores, "processor"), share)
		if sharing[i] > 1 {
			why = fmt.Sprintf("it is one of %d nodes on a machine of %s, and a step uses %.2g of one", sharing[i], quantity(m.Cores, "processor"), share)
		}
		if free := (1 - spareMemory) * float64(out[i].Memory); memory > 0 && free > 0 && free/memory < slots {
			slots, why = free/memory, fmt.Sprintf("it has %.1f GB of memory, and a step takes %.1f", float64(out[i].Memory)/1e9, memory/1e9)
		}
		out[i].Slots, out[i].SlotsWhy = max(1, min(int(slots+0.5), mostSlots)), why
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

// sharing returns, for each node, how many of the nodes run on its machine.
func (p *prices) sharing(nodes []Node) []int {
	counts := make([]int, len(nodes))
	for i, n := range nodes {
		m, ok := p.history.Machine(n.Addr)
		for _, o := range nodes {
			if other, told := p.history.Machine(o.Addr); ok && told && m.Same(other) {
				counts[i]++
			}
		}
		counts[i] = max(1, counts[i])
	}
	return counts
}

func quantity(n float64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%.3g %ss", n, noun)
}
