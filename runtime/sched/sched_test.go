package sched

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// chain is one base of 60 s under units of 10 s each.
func fan(units int) ([]Vertex, []Unit) {
	vs := []Vertex{{Cost: 60 * time.Second}}
	var us []Unit
	for i := range units {
		vs = append(vs, Vertex{Cost: 10 * time.Second, Inputs: []VertexID{0}})
		us = append(us, Unit{Name: string(rune('a' + i)), Root: VertexID(i + 1)})
	}
	return vs, us
}

func TestFirstStep(t *testing.T) {
	vs, us := fan(2)
	s, err := New(Config{
		Vertices: vs, Units: us, Nodes: []Node{{Name: "n1"}},
		Plan: [][]Partition{{{0}, {1}}},
	})
	require.NoError(t, err)
	require.Equal(t, []Command{Submit{Partition: 1, Node: 0, Units: []UnitID{0}, Attempt: 1}}, s.Step(NodeUp{Node: 0}))
	require.Empty(t, s.Step(VertexDone{At: time.Minute, Vertex: 0, Took: time.Minute}))
	require.Equal(t, []Command{
		Export{Partition: 1, Unit: 0},
		Submit{Partition: 2, Node: 0, Units: []UnitID{1}, Attempt: 1},
	}, s.Step(UnitBuilt{At: 70 * time.Second, Partition: 1, Unit: 0}))
	require.Empty(t, s.Step(UnitExported{Partition: 1, Unit: 0}))
	require.Empty(t, s.Step(PartitionEnded{Partition: 1}))
	s.Step(UnitBuilt{At: 80 * time.Second, Partition: 2, Unit: 1})
	s.Step(UnitExported{Partition: 2, Unit: 1})
	cmds := s.Step(PartitionEnded{Partition: 2})
	require.Len(t, cmds, 1)
	for _, o := range cmds[0].(Finish).Outcomes {
		require.Equal(t, Built, o.State)
	}
}
