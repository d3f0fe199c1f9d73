package plan

import (
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/plan/plantest"
	"github.com/dbake/dbake/partition"
)

// Nodes are counted on for what their machines and the steps are known to be.
func TestCapacity(t *testing.T) {
	boot := time.Unix(1_700_000_000, 0)
	machine := cost.Machine{Cores: 4, Memory: 8e9, Boot: boot, When: boot}
	assumed := func(addr string) Node { return Node{Name: addr, Addr: addr, Slots: 4, SlotsAssumed: true} }
	local := []Node{{Name: "a", Addr: "a", Slots: 3, SlotsAssumed: true, Machine: "this", Shared: 3}, {Name: "b", Addr: "b", Slots: 3, SlotsAssumed: true, Machine: "this", Shared: 3}}
	for name, c := range map[string]struct {
		machines map[string]cost.Machine
		cores    float64 // that every step uses; 0 is not known
		memory   int64
		nodes    []Node
		slots    []int
		shared   int    // what their machine runs for both; 0 = they are apart
		why      string // of the first
	}{
		"never seen":       {nodes: []Node{assumed("a")}, slots: []int{4}, why: "nothing is known of its machine yet"},
		"steps not known":  {machines: map[string]cost.Machine{"a": machine}, nodes: []Node{assumed("a")}, slots: []int{4}, why: "it has 4 processors, and a step uses 1 of one"},
		"steps that wait":  {machines: map[string]cost.Machine{"a": machine}, cores: 0.25, nodes: []Node{assumed("a")}, slots: []int{16}, why: "it has 4 processors, and a step uses 0.25 of one"},
		"hardly anything":  {machines: map[string]cost.Machine{"a": machine}, cores: 0.001, nodes: []Node{assumed("a")}, slots: []int{mostSlots}},
		"wide steps":       {machines: map[string]cost.Machine{"a": machine}, cores: 4, nodes: []Node{assumed("a")}, slots: []int{1}},
		"two on a machine": {machines: map[string]cost.Machine{"a": machine, "b": machine}, nodes: []Node{assumed("a"), assumed("b")}, slots: []int{4, 4}, shared: 4, why: "it is one of 2 nodes on a machine with 4 processors, and a step uses 1 of one"},
		"two that say so":  {nodes: local, slots: []int{3, 3}, shared: 3, why: "nothing is known of its machine yet"},
		"one that told":    {machines: map[string]cost.Machine{"b": machine}, nodes: local, slots: []int{4, 4}, shared: 4},
		"many that wait":   {machines: map[string]cost.Machine{"b": machine}, cores: 0.001, nodes: local, slots: []int{mostSlots, mostSlots}, shared: 2 * mostSlots},
		"one of two said":  {machines: map[string]cost.Machine{"b": machine}, nodes: []Node{{Name: "a", Addr: "a", Slots: 3, Machine: "this", Shared: 3}, local[1]}, slots: []int{3, 4}, shared: 4},
		"linkers":          {machines: map[string]cost.Machine{"a": machine}, memory: 6e9, nodes: []Node{assumed("a")}, slots: []int{1}, why: "it has 8.0 GB of memory, and a step takes 6.0"},
		"the user says it": {machines: map[string]cost.Machine{"a": machine}, cores: 0.25, nodes: []Node{{Name: "a", Addr: "a", Slots: 3}}, slots: []int{3}},
		"one is not known": {machines: map[string]cost.Machine{"b": machine}, nodes: []Node{assumed("a"), assumed("b")}, slots: []int{4, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, plantest.Shop)
			for node, m := range c.machines {
				p.History.RecordMachine(node, m)
			}
			b := p.prepare("app", "web")
			for i := range b.Costs {
				b.Costs[i].Cores, b.Costs[i].Memory = c.cores, c.memory
			}
			var slots []int
			nodes := b.Capacity(c.nodes)
			for _, n := range nodes {
				slots = append(slots, n.Slots)
			}
			require.Equal(t, c.slots, slots)
			for _, n := range nodes {
				require.Equal(t, c.shared, n.Shared)
				require.Equal(t, c.shared > 0, n.Machine != "")
				require.Equal(t, nodes[0].Machine, n.Machine)
			}
			require.Equal(t, nodes, b.Capacity(nodes), "it stays so")
			if c.why != "" {
				require.Equal(t, c.why, nodes[0].SlotsWhy)
			}
		})
	}
}

// Nodes that share a machine make no plan longer than one of them alone makes it, nor
// shorter than the machine can.
func TestNodesOfOneMachine(t *testing.T) {
	boot := time.Unix(1_700_000_000, 0)
	for name, c := range map[string]struct {
		machine  cost.Machine // zero is not known
		cores    float64
		declared int // slots of each node by its user; 0 = none
	}{
		"never seen":      {},
		"two processors":  {machine: cost.Machine{Cores: 2, Memory: 8e9, Boot: boot, When: boot}},
		"four processors": {machine: cost.Machine{Cores: 4, Memory: 8e9, Boot: boot, When: boot}},
		"steps that wait": {machine: cost.Machine{Cores: 2, Memory: 8e9, Boot: boot, When: boot}, cores: 0.1},
		"said by a user":  {declared: 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, plantest.Shop)
			var nodes []Node
			for _, name := range []string{"a", "b", "c"} {
				n := Node{Name: name, Addr: name, Speed: 1, Slots: 2, SlotsAssumed: true, Machine: "this", Shared: 2}
				if c.declared > 0 {
					n.Slots, n.SlotsAssumed = c.declared, false
				}
				nodes = append(nodes, n)
				if c.machine.Cores > 0 {
					p.History.RecordMachine(name, c.machine)
				}
			}
			b := p.prepare()
			for i := range b.Costs {
				b.Costs[i].Cores = c.cores
			}
			nodes = b.Capacity(nodes)
			alone := makePlan(t, b, "single", nodes...)
			for _, strategy := range []string{"queue", "heft", "affinity", "exact"} {
				made := makePlan(t, b, strategy, nodes...)
				require.GreaterOrEqual(t, made.Makespan, made.Bound, strategy)
				for _, task := range made.Schedule.Tasks {
					running := 0
					for _, other := range made.Schedule.Tasks {
						if other.Kind == partition.Exec && other.Start <= task.Start && task.Start < other.End {
							running++
						}
					}
					require.LessOrEqual(t, running, nodes[0].Shared, strategy)
				}
				if strategy == "affinity" || strategy == "exact" {
					require.LessOrEqual(t, made.Makespan, alone.Makespan, strategy)
				}
			}
		})
	}
}

// What a machine can do is divided among its nodes that have something to do.
func TestParts(t *testing.T) {
	node := func(machine string, assumed bool) Node {
		return Node{Slots: 6, SlotsAssumed: assumed, Machine: machine, Shared: 6}
	}
	work, none := [][]int{{0}}, [][]int(nil)
	for name, c := range map[string]struct {
		nodes  []Node
		parts  [][][]int
		pooled bool
		want   []int
	}{
		"apart":           {nodes: []Node{node("", true), node("", true)}, parts: [][][]int{work, work}, want: []int{6, 6}},
		"all of them":     {nodes: []Node{node("m", true), node("m", true), node("m", true)}, parts: [][][]int{work, work, work}, want: []int{2, 2, 2}},
		"one of them":     {nodes: []Node{node("m", true), node("m", true), node("m", true)}, parts: [][][]int{none, work, none}, want: []int{3, 6, 3}},
		"none of them":    {nodes: []Node{node("m", true), node("m", true)}, parts: [][][]int{none, none}, want: []int{6, 6}},
		"from one queue":  {nodes: []Node{node("m", true), node("m", true)}, parts: [][][]int{none, work}, pooled: true, want: []int{3, 3}},
		"a user said one": {nodes: []Node{node("m", false), node("m", true)}, parts: [][][]int{work, work}, want: []int{6, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Plan{Nodes: c.nodes, Partitions: c.parts, Pooled: c.pooled}
			require.Equal(t, c.want, p.Parts())
		})
	}
}

// A step that ran is measured once it is known what it used.
func TestUsageIsLearned(t *testing.T) {
	p := newProject(t, plantest.Shop)
	b := p.prepare("app")
	var list []Measurement
	for i, v := range b.Graph.Vertices {
		if b.prices.known[i].Kind == cost.Run {
			m := during("a", 0, 10)
			m.Vertex, m.CPU, m.Memory = v.Digest, 5*time.Second, 3e9
			list = append(list, m)
			require.False(t, b.Unmeasured(nil))
			require.True(t, b.Unmeasured([]digest.Digest{v.Digest}))
		}
	}
	require.NotEmpty(t, list)
	b.Record(p.History, list[:1], map[string]Capacity{"a": {Cores: 4}}, nil, time.Unix(1_700_000_000, 0))
	again := p.prepare("app")
	i := again.graph.index[list[0].Vertex]
	require.InDelta(t, 0.5, again.Costs[i].Cores, 1e-9)
	require.Equal(t, int64(3e9), again.Costs[i].Memory)
	require.False(t, again.Unmeasured([]digest.Digest{list[0].Vertex}))
}
