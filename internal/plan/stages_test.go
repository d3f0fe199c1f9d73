package plan

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/partition"
)

// What is read together with other steps may have to be built before them, however short what
// stands on it alone.
func TestStages(t *testing.T) {
	const base, deps, copied, tool, app, last = 0, 1, 2, 3, 4, 5
	p := partition.Problem{
		Vertices: []partition.Vertex{
			base: {Cost: 5}, deps: {Cost: 9, Inputs: []partition.VertexID{base}}, copied: {Cost: 0.1, Inputs: []partition.VertexID{deps}},
			tool: {Cost: 7, Inputs: []partition.VertexID{base}}, app: {Cost: 3, Inputs: []partition.VertexID{copied, tool}},
			last: {Cost: 4, Inputs: []partition.VertexID{app}},
		},
		Nodes: make([]partition.Node, 2),
	}
	var list []int
	for _, s := range Stages(p) {
		require.Equal(t, -1, s.Node)
		require.Empty(t, s.Sent)
		list = append(list, s.Vertex)
	}
	require.Equal(t, []int{tool, deps}, list)
	p.Nodes = p.Nodes[:1]
	require.Empty(t, Stages(p))
}
