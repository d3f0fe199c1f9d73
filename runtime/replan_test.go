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
	p, err := Replan(context.Background(), &c, left, 0, strategy)
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
	p, err := Replan(t.Context(), &c, left, 0, strategy)
	require.NoError(t, err)
	require.Equal(t, [][]sched.Partition{{{1}}, {{0}}}, p.Plan)
}
