package partition_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/partition/schedfile"
)

func readInstance(t testing.TB, path string) schedfile.Instance {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	in, err := schedfile.Read(f)
	require.NoError(t, err)
	return in
}

func instances(t testing.TB, pattern string) []schedfile.Instance {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", pattern))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	var out []schedfile.Instance
	for _, path := range paths {
		out = append(out, readInstance(t, path))
	}
	return out
}

// twoNodes is the example of the format's description: a base of 100 s that takes
// 10 s to transfer, and two targets on it.
func twoNodes() partition.Problem {
	return partition.Problem{
		Vertices: []partition.Vertex{
			{Name: "base", Cost: 100, Bytes: 900},
			{Name: "x", Cost: 50, Inputs: []partition.VertexID{0}},
			{Name: "y", Cost: 40, Inputs: []partition.VertexID{0}},
		},
		Nodes: []partition.Node{
			{Name: "a", Speed: 1, Slots: 1}, {Name: "b", Speed: 1, Slots: 1},
		},
		Targets: []partition.Target{{Name: "x", Root: 1}, {Name: "y", Root: 2}},
		Network: partition.Network{Bandwidth: 100, Latency: 1},
	}
}

func TestEvaluateExample(t *testing.T) {
	p := twoNodes()
	share := func(s partition.Share) []partition.Share { return []partition.Share{{}, s} }
	for name, c := range map[string]struct {
		a        partition.Assignment
		makespan partition.Seconds
		dup      partition.Seconds
		err      string
	}{
		"base twice":   {a: partition.Assignment{Node: []partition.NodeID{0, 1}}, makespan: 150, dup: 100},
		"one node":     {a: partition.Assignment{Node: []partition.NodeID{0, 0}}, makespan: 190},
		"fetched base": {a: partition.Assignment{Node: []partition.NodeID{0, 1}, Shares: share(partition.Share{Fetch: []partition.Fetch{{Vertex: 0, From: 0}}})}, makespan: 160},
		"ordered":      {a: partition.Assignment{Node: []partition.NodeID{1, 1}, Shares: share(partition.Share{Order: []partition.VertexID{2}})}, makespan: 190},
		"helper build": {a: partition.Assignment{Node: []partition.NodeID{0, 0}, Shares: share(partition.Share{Build: []partition.VertexID{0}})}, makespan: 190, dup: 100},
		"from itself":  {a: partition.Assignment{Node: []partition.NodeID{0, 1}, Shares: share(partition.Share{Fetch: []partition.Fetch{{Vertex: 0, From: 1}}})}, err: "fetches it itself"},
		"not cached":   {a: partition.Assignment{Node: []partition.NodeID{0, 1}, Shares: share(partition.Share{Fetch: []partition.Fetch{{Vertex: 0, From: partition.Registry}}})}, err: "does not hold it"},
		"no source":    {a: partition.Assignment{Node: []partition.NodeID{1, 1}, Shares: share(partition.Share{Fetch: []partition.Fetch{{Vertex: 0, From: 0}}})}, err: "neither executes"},
		"unknown node": {a: partition.Assignment{Node: []partition.NodeID{0, 2}}, err: "unknown node"},
		"too short":    {a: partition.Assignment{Node: []partition.NodeID{0}}, err: "1 targets assigned of 2"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := partition.Evaluate(p, c.a)
			if c.err != "" {
				require.ErrorIs(t, err, partition.ErrInfeasible)
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.makespan, s.Makespan)
			require.Equal(t, c.dup, s.Duplicated)
			path := s.CriticalPath()
			require.NotEmpty(t, path)
			require.Equal(t, s.Makespan, s.Tasks[path[len(path)-1]].End)
			require.Zero(t, s.Tasks[path[0]].Start)
			for i, k := range path[1:] {
				require.Equal(t, s.Tasks[path[i]].End, s.Tasks[k].Start)
			}
		})
	}
}

// A vertex that may have one result is executed on one node, and on none when a node
// that needs it, or the registry, holds it.
func TestEvaluateOnce(t *testing.T) {
	fetch := func(from partition.NodeID) []partition.Share {
		return []partition.Share{{}, {Fetch: []partition.Fetch{{Vertex: 0, From: from}}}}
	}
	for name, c := range map[string]struct {
		warm, cached bool
		shares       []partition.Share
		err          string
	}{
		"twice":                {err: "a executes it, and b executes it"},
		"fetched":              {shares: fetch(0)},
		"held and executed":    {warm: true, err: "b executes it, and a holds it"},
		"held and fetched":     {warm: true, shares: fetch(0)},
		"cached and executed":  {cached: true, shares: fetch(partition.Registry), err: "a executes it, and the registry holds it"},
		"executed by one only": {cached: true, shares: fetch(0)},
	} {
		t.Run(name, func(t *testing.T) {
			p := twoNodes()
			p.Vertices[0].Once = true
			if c.warm {
				p.Nodes[0].Warm = []partition.VertexID{0}
			}
			if c.cached {
				p.Network.Cached = []partition.VertexID{0}
			}
			_, err := partition.Evaluate(p, partition.Assignment{Node: []partition.NodeID{0, 1}, Shares: c.shares})
			if c.err == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, partition.ErrInfeasible)
			require.ErrorContains(t, err, c.err)
		})
	}
}

// A target with an After edge waits, whether or not it shares a node or a vertex.
func TestEvaluateAfter(t *testing.T) {
	p := twoNodes()
	p.Targets[0].After = []partition.TargetID{1}
	s, err := partition.Evaluate(p, partition.Assignment{Node: []partition.NodeID{0, 1}})
	require.NoError(t, err)
	require.Equal(t, partition.Seconds(190), s.Makespan) // base, y on b; then x on a
	require.Equal(t, partition.Seconds(140), s.Done[1])
	s, err = partition.Evaluate(p, partition.Assignment{Node: []partition.NodeID{0, 0}})
	require.NoError(t, err)
	require.Equal(t, []partition.Seconds{190, 140}, s.Done)
	p.Targets[1].After = []partition.TargetID{0}
	_, err = partition.Evaluate(p, partition.Assignment{Node: []partition.NodeID{0, 0}})
	require.ErrorIs(t, err, partition.ErrProblem)
	require.ErrorContains(t, err, "cycle")
}
