package runtime

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime/sched"
)

// Two nodes of one machine run no more together than the machine does: a node that comes
// gets as much as both of them.
func TestReplanOnASharedMachine(t *testing.T) {
	const units = 20
	c := sched.Config{Nodes: []sched.Node{
		{Name: "a", Slots: 2, SlotsAssumed: true, Machine: "one", Shared: 2},
		{Name: "b", Slots: 1, SlotsAssumed: true, Machine: "one", Shared: 2},
		{Name: "c", Slots: 2},
	}, Network: sched.Network{Bandwidth: 1 << 20}}
	left := sched.Outlook{Nodes: []bool{true, true, true}, Speed: []float64{1, 1, 1}, Holds: make([][]sched.VertexID, 3), Filled: make([][]string, 3), Begun: make([][]sched.UnitID, 3)}
	for i := range units {
		c.Vertices = append(c.Vertices, sched.Vertex{Cost: 10 * time.Second})
		c.Units = append(c.Units, sched.Unit{Name: fmt.Sprint("u", i), Root: sched.VertexID(i)})
		left.Queued, left.Cost = append(left.Queued, sched.UnitID(i)), append(left.Cost, 10*time.Second)
	}
	strategy, err := partition.Lookup(partition.DefaultStrategy)
	require.NoError(t, err)
	p, _, err := Replan(context.Background(), &c, left, 0, strategy)
	require.NoError(t, err)
	given := 0
	for _, part := range p.Plan[2] {
		given += len(part)
	}
	require.Equal(t, units/2, given, "%v", p.Plan)
	busy := 0
	for n := range 2 {
		if len(p.Plan[n]) > 0 {
			busy += p.Slots[n]
		}
	}
	require.Equal(t, 2, busy, "slots %v for %v", p.Slots, p.Plan)
	require.Equal(t, 2, p.Slots[2])
}

// A node that has filled the cache mounts of what is left, at the start or during the run, gets
// it.
func TestReplanPrefersFilledMounts(t *testing.T) {
	c := sched.Config{
		Vertices: []sched.Vertex{{Cost: 10 * time.Second, Mounts: []string{"go"}, Cold: 4}, {Cost: 10 * time.Second, Mounts: []string{"npm"}, Cold: 4}, {Cost: time.Second, Mounts: []string{"npm"}, Cold: 4}},
		Units:    []sched.Unit{{Name: "go", Root: 0}, {Name: "npm", Root: 1}, {Name: "first", Root: 2}},
		Nodes:    []sched.Node{{Name: "a"}, {Name: "b", Filled: []string{"go"}}},
		Plan:     [][]sched.Partition{{{2}, {0}}, {{1}}},
		Network:  sched.Network{Bandwidth: 1 << 20},
	}
	s, err := sched.New(c)
	require.NoError(t, err)
	s.Step(sched.NodeUp{Node: 0})
	s.Step(sched.VertexDone{At: 4 * time.Second, Node: 0, Vertex: 2, Took: 4 * time.Second})
	s.Step(sched.NodeUp{At: 4 * time.Second, Node: 1})
	left := s.Outlook()
	require.Equal(t, [][]string{{"npm"}, {"go"}}, left.Filled)
	left.Queued, left.Begun = []sched.UnitID{0, 1}, make([][]sched.UnitID, 2)
	strategy, err := partition.Lookup(partition.DefaultStrategy)
	require.NoError(t, err)
	p, _, err := Replan(t.Context(), &c, left, 0, strategy)
	require.NoError(t, err)
	require.Equal(t, [][]sched.Partition{{{1}}, {{0}}}, p.Plan)
}

// What a node has begun takes the rest of its time there and the whole elsewhere, and a step with
// one result is executed where it belongs. Another such step, which nobody has begun, is sent by
// the node that is to execute it.
func TestReplanKeepsWhatIsUnderWay(t *testing.T) {
	const base, tool, first = 0, 1, 2
	c := sched.Config{
		Vertices: []sched.Vertex{
			base: {Cost: 40 * time.Second, Once: true, Bytes: 1}, tool: {Cost: 40 * time.Second},
			first: {Cost: 50 * time.Second, Inputs: []sched.VertexID{base, tool}}, {Cost: 50 * time.Second, Inputs: []sched.VertexID{base, tool}},
		},
		Units: []sched.Unit{{Name: "a", Root: first}, {Name: "b", Root: first + 1}, {Name: "base", Root: base, Early: true, OnDemand: true}},
		Nodes: []sched.Node{{Name: "one"}, {Name: "two"}}, Network: sched.Network{Bandwidth: 1 << 20},
	}
	outlook := func() sched.Outlook {
		left := sched.Outlook{Nodes: []bool{true, true}, Speed: []float64{1, 1}, Holds: make([][]sched.VertexID, 2), Filled: make([][]string, 2), Begun: make([][]sched.UnitID, 2), Queued: []sched.UnitID{0, 1}}
		for _, v := range c.Vertices {
			left.Cost = append(left.Cost, v.Cost)
		}
		return left
	}
	strategy, err := partition.Lookup(partition.DefaultStrategy)
	require.NoError(t, err)
	execs := func(left sched.Outlook) (p sched.NewPlan, list map[[2]int]time.Duration) {
		p, steps, err := Replan(t.Context(), &c, left, time.Minute, strategy)
		require.NoError(t, err)
		list = map[[2]int]time.Duration{}
		for _, s := range steps {
			require.GreaterOrEqual(t, s.Start.Duration(), time.Minute, "times of the run")
			if s.Kind == partition.Exec {
				list[[2]int{int(s.Node), int(s.Vertex)}] = (s.End - s.Start).Duration().Round(time.Second)
			}
		}
		return p, list
	}

	left := outlook()
	left.Owner = map[sched.VertexID]sched.NodeID{base: 1}
	left.UnderWay = []sched.UnderWay{{Node: 1, Vertex: base, Left: 30 * time.Second}, {Node: 0, Vertex: tool, Left: 20 * time.Second}}
	_, list := execs(left)
	require.Equal(t, 30*time.Second, list[[2]int{1, base}])
	require.NotContains(t, list, [2]int{0, base})
	require.Equal(t, 20*time.Second, list[[2]int{0, tool}])
	if took, ok := list[[2]int{1, tool}]; ok {
		require.Equal(t, 40*time.Second, took)
	}

	p, list := execs(outlook())
	sender := 0
	if _, ok := list[[2]int{1, base}]; ok {
		sender = 1
	}
	require.Contains(t, p.Plan[sender], sched.Partition{2}, "%v", p.Plan)
	require.NotContains(t, p.Plan[1-sender], sched.Partition{2}, "%v", p.Plan)
}
