package partition_test

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/bench/gen"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/partition/schedfile"
)

// testdata/results holds plans with fetches, helper builds and orders, together
// with the makespan and bound that another implementation of the cost model, in
// another language, computed for them.
func TestEvaluateAgreesWithTheReference(t *testing.T) {
	paths, err := filepath.Glob("testdata/results/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		in := readInstance(t, filepath.Join("testdata", filepath.Base(path)))
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		a, makespan, err := schedfile.ReadResult(bytes.NewReader(text), in.Problem)
		require.NoError(t, err)
		s, err := partition.Evaluate(in.Problem, a)
		require.NoError(t, err, path)
		require.Equal(t, makespan, float64(s.Makespan), path)
	}
}

// The bounds of the reference implementation; ours may be higher.
func TestLowerBoundIsAsStrongAsTheReference(t *testing.T) {
	want := map[string]float64{
		"pub-s01-fat": 250, "pub-s02-forest": 365, "pub-s03-disjoint": 729.5, "pub-s04-giant": 332.333333,
		"pub-s05-chain": 342, "pub-s06-hetero": 357, "pub-s07-mixed": 261.428571, "pub-s08-warm": 252.624242,
		"pub-m02-forest": 479.6625, "pub-m07-mixed": 405.988283, "pub-m08-warm": 264.783, "pub-m11-monorepo": 538.48,
		"pub-m14-cached": 311.221712,
	}
	for _, in := range instances(t, "*.json") {
		b, err := partition.LowerBound(in.Problem)
		require.NoError(t, err)
		require.Contains(t, want, in.Name)
		require.GreaterOrEqual(t, float64(b.Max), want[in.Name]-1e-6, in.Name)
	}
}

func TestExactProvesSmallInstances(t *testing.T) {
	want := map[string]float64{
		"pub-s01-fat": 250, "pub-s02-forest": 373, "pub-s03-disjoint": 730, "pub-s04-giant": 348,
		"pub-s05-chain": 342, "pub-s06-hetero": 357, "pub-s07-mixed": 261.4285714, "pub-s08-warm": 255,
	}
	exact, err := partition.Lookup("exact")
	require.NoError(t, err)
	for _, in := range instances(t, "pub-s*.json") {
		plan, err := exact.Plan(context.Background(), in.Problem, partition.Options{Budget: 6_000_000})
		require.NoError(t, err)
		require.True(t, plan.Proven, in.Name)
		require.InDelta(t, want[in.Name], float64(plan.Schedule.Makespan), 1e-6, in.Name)
		require.Equal(t, 1.0, plan.Gap())
	}
}

func TestAffinityOnMediumInstances(t *testing.T) {
	for _, in := range instances(t, "pub-m*.json") {
		makespan := map[string]partition.Seconds{}
		for _, s := range partition.Strategies() {
			if s.Name() == "exact" {
				continue
			}
			plan, err := s.Plan(context.Background(), in.Problem, partition.Options{Budget: 2_000_000})
			require.NoError(t, err)
			makespan[s.Name()] = plan.Schedule.Makespan
			if s.Name() == "affinity" {
				require.Less(t, plan.Gap(), 1.12, in.Name)
			}
		}
		for name, m := range makespan {
			require.LessOrEqual(t, makespan["affinity"], m, "%s: worse than %s", in.Name, name)
		}
	}
}

// After a change of one target's cost, the others stay where they were.
func TestPreviousPlanIsKept(t *testing.T) {
	in := readInstance(t, "testdata/pub-m02-forest.json")
	affinity, err := partition.Lookup("affinity")
	require.NoError(t, err)
	first, err := affinity.Plan(context.Background(), in.Problem, partition.Options{Budget: 6_000_000})
	require.NoError(t, err)
	p := in.Problem
	p.Vertices = append([]partition.Vertex(nil), p.Vertices...)
	p.Vertices[p.Targets[3].Root].Cost += 5
	moved := func(o partition.Options) (n int) {
		o.Budget = 6_000_000
		plan, err := affinity.Plan(context.Background(), p, o)
		require.NoError(t, err)
		for t, node := range plan.Assignment.Node {
			if node != first.Assignment.Node[t] {
				n++
			}
		}
		return n
	}
	kept := moved(partition.Options{Previous: first.Assignment.Node})
	require.LessOrEqual(t, kept, len(p.Targets)/4)
	require.Less(t, kept, moved(partition.Options{}))
}

func TestStoppedSearchStillPlans(t *testing.T) {
	in := readInstance(t, "testdata/pub-m02-forest.json")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, s := range partition.Strategies() {
		plan, err := s.Plan(ctx, in.Problem, partition.Options{})
		require.NoError(t, err, s.Name())
		require.True(t, plan.Stopped)
		require.Len(t, plan.Assignment.Node, len(in.Problem.Targets))
	}
}

func TestExplain(t *testing.T) {
	in := readInstance(t, "testdata/pub-m07-mixed.json")
	affinity, err := partition.Lookup("affinity")
	require.NoError(t, err)
	plan, err := affinity.Plan(context.Background(), in.Problem, partition.Options{Budget: 1_000_000})
	require.NoError(t, err)
	for i := range in.Problem.Targets {
		r, err := partition.Explain(context.Background(), in.Problem, plan.Assignment, partition.TargetID(i))
		require.NoError(t, err)
		require.Equal(t, plan.Assignment.Node[i], r.Node)
		require.NotEmpty(t, r.Why)
		found := false
		for _, a := range r.Alternatives {
			if a.Node == r.Node {
				found = true
				require.Equal(t, plan.Schedule.Makespan, a.Makespan)
				require.Zero(t, a.Executed)
			}
		}
		require.True(t, found)
	}
	_, err = partition.Explain(context.Background(), in.Problem, plan.Assignment, -1)
	require.ErrorIs(t, err, partition.ErrProblem)
}

func TestInstanceRoundTrip(t *testing.T) {
	mounts := schedfile.Instance{Name: "mounts", Problem: twoNodes()}
	mounts.Problem.Vertices[1].Mounts, mounts.Problem.Vertices[1].Cold = []string{"go", "npm"}, 3
	mounts.Problem.Nodes[1].Filled = []string{"go", "npm"}
	for _, in := range append(instances(t, "*.json"), mounts) {
		var b bytes.Buffer
		require.NoError(t, schedfile.Write(&b, in))
		again, err := schedfile.Read(&b)
		require.NoError(t, err)
		require.Equal(t, in.Name, again.Name)
		require.Equal(t, in.Problem.Vertices[1].Mounts, again.Problem.Vertices[1].Mounts)
		require.Equal(t, in.Problem.Nodes[1].Filled, again.Problem.Nodes[1].Filled)
		x, err := partition.LowerBound(in.Problem)
		require.NoError(t, err)
		y, err := partition.LowerBound(again.Problem)
		require.NoError(t, err)
		require.Equal(t, x, y)
	}
}

func TestReadRejects(t *testing.T) {
	for text, message := range map[string]string{
		`{`:                   "unexpected EOF",
		`{"format": "other"}`: `format is "other"`,
		`{"format": "dbake-sched/1", "vertices": [{"id": "a", "cost_s": 1, "inputs": ["b"]}]}`:                                                                                                                             `unknown vertex "b"`,
		`{"format": "dbake-sched/1", "vertices": [{"id": "a"}, {"id": "a"}]}`:                                                                                                                                              "twice",
		`{"format": "dbake-sched/1", "nodes": [{"name": "@n", "speed": 1, "slots": 1}]}`:                                                                                                                                   "node name",
		`{"format": "dbake-sched/1", "nodes": [{"name": "n", "speed": 0, "slots": 1}], "network": {"bandwidth_bytes_per_s": 1}}`:                                                                                           "must be positive",
		`{"format": "dbake-sched/1", "nodes": [{"name": "n", "speed": 1, "slots": 1}], "network": {"bandwidth_bytes_per_s": 1}, "vertices": [{"id": "a"}], "targets": [{"name": "t", "root": "a", "after": ["missing"]}]}`: "unknown target",
	} {
		_, err := schedfile.Read(bytes.NewReader([]byte(text)))
		require.Error(t, err)
		require.ErrorContains(t, err, message)
	}
}

// More budget never makes a worse plan.
func TestBudget(t *testing.T) {
	affinity, err := partition.Lookup("affinity")
	require.NoError(t, err)
	shortest := func(name string, p partition.Problem, budgets []int, round int) {
		before := partition.Seconds(math.Inf(1))
		for _, budget := range budgets {
			plan, err := affinity.Plan(t.Context(), p, partition.Options{Budget: budget, Round: round})
			require.NoError(t, err)
			require.LessOrEqual(t, plan.Schedule.Makespan, before, "%s with %d", name, budget)
			before = plan.Schedule.Makespan
		}
	}
	for _, in := range instances(t, "pub-*.json") {
		shortest(in.Name, in.Problem, []int{-1, 1, 100, 1000, 3000, 10_000, 20_000, 60_000, 100_000, 180_000, 300_000}, 60_000)
	}
	for i, class := range gen.Classes() {
		in, err := gen.New(class, gen.Size{Targets: 40, Nodes: 2 + i%7, Slots: 2}, uint64(i))
		require.NoError(t, err)
		shortest(class, in.Problem, []int{-1, 2000, 50_000, 100_000, 200_000, 600_000, 800_000, 1_600_000}, 200_000)
	}
}

// A search takes no more than what is above the bound is worth.
func TestRate(t *testing.T) {
	affinity, err := partition.Lookup("affinity")
	require.NoError(t, err)
	plan := func(p partition.Problem, o partition.Options) partition.Plan {
		made, err := affinity.Plan(t.Context(), p, o)
		require.NoError(t, err)
		return made
	}
	in, err := gen.New("monorepo", gen.Size{Targets: 40, Nodes: 5, Slots: 2}, 1)
	require.NoError(t, err)
	none := plan(in.Problem, partition.Options{Budget: -1})
	full := plan(in.Problem, partition.Options{Budget: 400_000, Round: 400_000})
	require.Less(t, full.Schedule.Makespan, none.Schedule.Makespan)
	require.Equal(t, none, plan(in.Problem, partition.Options{Budget: 400_000, Round: 400_000, Rate: 1e-6}))
	require.Equal(t, full, plan(in.Problem, partition.Options{Budget: 400_000, Round: 400_000, Rate: 1e9}))

	earlier := full.Assignment.Node
	none = plan(in.Problem, partition.Options{Budget: -1, Previous: earlier})
	gap := float64(none.Schedule.Makespan - none.Bound.Max)
	require.Positive(t, gap)
	some := plan(in.Problem, partition.Options{Budget: 400_000, Rate: 5000 / gap, Previous: earlier})
	require.Less(t, some.Steps, plan(in.Problem, partition.Options{Budget: 400_000, Previous: earlier}).Steps)
}

// What nothing can be better than is not searched for.
func TestNothingToSearchFor(t *testing.T) {
	affinity, err := partition.Lookup("affinity")
	require.NoError(t, err)
	for _, in := range instances(t, "pub-*.json") {
		one := in.Problem
		one.Nodes = slices.Clone(one.Nodes[:1])
		one.Nodes[0].Platforms = nil
		for _, n := range in.Problem.Nodes {
			one.Nodes[0].Platforms = append(one.Nodes[0].Platforms, n.Platforms...)
		}
		held := in.Problem
		held.Nodes = slices.Clone(held.Nodes)
		for i := range held.Nodes {
			held.Nodes[i].Warm = nil
			for v := range held.Vertices {
				held.Nodes[i].Warm = append(held.Nodes[i].Warm, partition.VertexID(v))
			}
		}
		for name, p := range map[string]partition.Problem{"one node": one, "nothing to do": held} {
			plan, err := affinity.Plan(t.Context(), p, partition.Options{})
			require.NoError(t, err, "%s, %s", in.Name, name)
			require.Less(t, plan.Steps, 20*(len(p.Vertices)+len(p.Targets))*(1+len(p.Nodes)), "%s, %s", in.Name, name)
		}
	}
}
