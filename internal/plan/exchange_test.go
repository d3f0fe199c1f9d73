package plan

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/partition"
)

// Two nodes: a builds the chain base, deps and lib, and x on it; b fetches lib for
// y, which also needs gen.
func exchangeProblem() (partition.Problem, partition.Assignment) {
	const base, deps, lib, gen, x, y = 0, 1, 2, 3, 4, 5
	p := partition.Problem{
		Vertices: []partition.Vertex{
			base: {Name: "base", Cost: 10, Bytes: 100},
			deps: {Name: "deps", Cost: 10, Bytes: 100, Inputs: []partition.VertexID{base}},
			lib:  {Name: "lib", Cost: 10, Bytes: 100, Inputs: []partition.VertexID{deps}},
			gen:  {Name: "gen", Cost: 5},
			x:    {Name: "x", Cost: 20, Inputs: []partition.VertexID{lib}},
			y:    {Name: "y", Cost: 20, Inputs: []partition.VertexID{lib, gen}},
		},
		Nodes:   []partition.Node{{Name: "a", Speed: 1, Slots: 1}, {Name: "b", Speed: 1, Slots: 1}},
		Targets: []partition.Target{{Name: "x", Root: x}, {Name: "y", Root: y}},
		Network: partition.Network{Bandwidth: 100, Latency: 1},
	}
	a := partition.Assignment{Node: []partition.NodeID{0, 1}, Shares: []partition.Share{{}, {
		Fetch: []partition.Fetch{{Vertex: base, From: 0}, {Vertex: deps, From: 0}, {Vertex: lib, From: 0}},
	}}}
	return p, a
}

func exchangeOf(t *testing.T, p partition.Problem, a partition.Assignment) Exchange {
	s, err := partition.Evaluate(p, a)
	require.NoError(t, err)
	return NewExchange(p, a, s)
}

func TestExchange(t *testing.T) {
	p, a := exchangeProblem()
	got := exchangeOf(t, p, a)
	require.Equal(t, []Intermediate{
		{Vertex: 2, Node: 0, Sent: []int{0, 1, 2}}, // the layers below lib go with it
		{Vertex: 3, Node: 1},                       // gen need not wait for lib
	}, got.Steps)
	require.Equal(t, [][]int{nil, {2}, nil, nil}, got.After)
	require.Equal(t, []Begin{{30 * time.Second, 4}, {12 * time.Second, 0}, {0, 0}, {0, 3}}, got.Begin)
}

// A step that a node needs for itself is sent by itself.
func TestExchangeApart(t *testing.T) {
	p, a := exchangeProblem()
	p.Vertices = append(p.Vertices, partition.Vertex{Name: "z", Cost: 1, Inputs: []partition.VertexID{1}})
	p.Targets = append(p.Targets, partition.Target{Name: "z", Root: 6})
	a.Node = append(a.Node, 1)
	got := exchangeOf(t, p, a)
	require.Equal(t, []Intermediate{
		{Vertex: 1, Node: 0, Sent: []int{0, 1}},
		{Vertex: 2, Node: 0, Sent: []int{2}},
		{Vertex: 1, Node: 1}, // deps can be fetched before lib
		{Vertex: 3, Node: 1}, // gen need not wait for them
	}, got.Steps)
	require.Equal(t, []int{3, 4}, got.After[1])
	require.Equal(t, []int{3}, got.After[2])
}

// What needs the first of two results alone is a unit of its own: y needs not wait for z
// to have it built.
func TestExchangeStages(t *testing.T) {
	p, a := exchangeProblem()
	// c stands on lib alone and takes long; y needs it and what z makes on node a.
	p.Vertices = append(p.Vertices,
		partition.Vertex{Name: "c", Cost: 30, Bytes: 100, Inputs: []partition.VertexID{2}},
		partition.Vertex{Name: "late", Cost: 60, Bytes: 100},
		partition.Vertex{Name: "w", Cost: 1, Inputs: []partition.VertexID{6, 7}},
	)
	p.Targets = append(p.Targets, partition.Target{Name: "late", Root: 7}, partition.Target{Name: "w", Root: 8})
	a.Node = append(a.Node, 0, 1)
	a.Shares[1].Fetch = append(a.Shares[1].Fetch, partition.Fetch{Vertex: 7, From: 0})
	got := exchangeOf(t, p, a)
	units := map[int]int{} // by vertex, of node b
	for i, s := range got.Steps {
		if s.Node == 1 {
			units[s.Vertex] = len(p.Targets) + i
		}
	}
	require.Contains(t, units, 6, "%v", got.Steps)
	require.Len(t, got.After[units[6]], 1)
	require.Len(t, got.After[3], 2)
}

func TestExchangeOfNothing(t *testing.T) {
	p, a := exchangeProblem()
	a.Shares = nil
	got := exchangeOf(t, p, a)
	require.Empty(t, got.Steps)
	require.Equal(t, [][]int{nil, nil}, got.After)

	// Of what the node or the registry holds already nothing is sent.
	p, a = exchangeProblem()
	p.Nodes[1].Warm = []partition.VertexID{2}
	require.Empty(t, exchangeOf(t, p, a).Steps)
	p, a = exchangeProblem()
	p.Network.Cached = []partition.VertexID{0, 1, 2}
	for i := range a.Shares[1].Fetch {
		a.Shares[1].Fetch[i].From = partition.Registry
	}
	require.Empty(t, exchangeOf(t, p, a).Steps)
}

// Results are transferred only where that saves a part of the whole.
func TestChoose(t *testing.T) {
	const base, x, y = 0, 1, 2
	for name, c := range map[string]struct {
		bytes    int64
		makespan partition.Seconds
		fetches  int
	}{
		"cheap transfer": {100, 54, 1},         // 50 and two transfers of 2 s
		"dear transfer":  {2300, 100, 0},       // 98 s would be 2 % less
		"no transfer":    {unsendable, 100, 0}, // x and y where base is
	} {
		t.Run(name, func(t *testing.T) {
			p := partition.Problem{
				Vertices: []partition.Vertex{
					base: {Name: "base", Cost: 100, Bytes: c.bytes},
					x:    {Name: "x", Cost: 50, Inputs: []partition.VertexID{base}},
					y:    {Name: "y", Cost: 50, Inputs: []partition.VertexID{base}},
				},
				Nodes: []partition.Node{
					{Name: "a", Speed: 1, Slots: 1, Warm: []partition.VertexID{base}},
					{Name: "b", Speed: 1, Slots: 1},
				},
				Targets: []partition.Target{{Name: "x", Root: x}, {Name: "y", Root: y}},
				Network: partition.Network{Bandwidth: 100, Latency: 1},
			}
			strategy, err := partition.Lookup("affinity")
			require.NoError(t, err)
			made, err := choose(t.Context(), p, strategy, partition.Options{})
			require.NoError(t, err)
			require.InDelta(t, float64(c.makespan), float64(made.Schedule.Makespan), 1e-6)
			n := 0
			for _, s := range made.Assignment.Shares {
				n += len(s.Fetch)
			}
			require.Equal(t, c.fetches, n)
			require.LessOrEqual(t, made.Bound.Max, made.Schedule.Makespan)
		})
	}
}
