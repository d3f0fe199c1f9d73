package sim

import (
	"bytes"
	"container/heap"
	"context"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/bench/gen"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/partition/schedfile"
)

func small(t testing.TB, class string, seed uint64) schedfile.Instance {
	t.Helper()
	in, err := gen.New(class, gen.Small, seed)
	require.NoError(t, err)
	return in
}

func makePlan(t testing.TB, p partition.Problem, budget int) partition.Plan {
	t.Helper()
	s, err := partition.Lookup("")
	require.NoError(t, err)
	plan, err := s.Plan(context.Background(), p, partition.Options{Budget: budget})
	require.NoError(t, err)
	return plan
}

func TestGeneratedInstancesArePlannable(t *testing.T) {
	for _, class := range gen.Classes() {
		in := small(t, class, 7)
		again := small(t, class, 7)
		require.Equal(t, in, again)
		plan := makePlan(t, in.Problem, 10_000)
		require.GreaterOrEqual(t, plan.Gap(), 1-1e-9, class)
	}
	_, err := gen.New("unheard-of", gen.Small, 1)
	require.Error(t, err)
}

// With one node and right estimates, running is what was planned.
func TestRunFollowsThePlan(t *testing.T) {
	for _, class := range []string{"fat", "forest", "disjoint", "chain"} {
		in := small(t, class, 3)
		in.Problem.Nodes = in.Problem.Nodes[:1]
		plan := makePlan(t, in.Problem, -1)
		for _, steal := range []bool{false, true} {
			run, err := Execute(in.Problem, plan, World{}, steal)
			require.NoError(t, err)
			require.InDelta(t, float64(plan.Schedule.Makespan), run.Makespan.Seconds(), 1e-3, class)
			require.Zero(t, run.Duplicated)
		}
	}
}

// With right estimates no run ends later than 1.03 of its plan, on any number of nodes.
// The instances are those of partition/testdata, which were drawn for its tests.
func TestRunsEndWithTheirPlans(t *testing.T) {
	paths, err := filepath.Glob("../../partition/testdata/pub-*.json")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		in, err := ReadInstance(path)
		require.NoError(t, err)
		plan := makePlan(t, in.Problem, 300_000)
		for _, steal := range []bool{false, true} {
			run, err := Execute(in.Problem, plan, World{}, steal)
			require.NoError(t, err)
			require.LessOrEqual(t, run.Makespan.Seconds(), 1.03*float64(plan.Schedule.Makespan), "%s, stealing: %t", in.Name, steal)
		}
	}
}

// Nodes that come late take the steps with one result from each other, as a plan of what is left
// says. On the average that ends within 1.15 of a plan that knew when they come, and no run is
// much longer than with stealing alone.
func TestLateNodesTakeResults(t *testing.T) {
	paths, err := filepath.Glob("../../partition/testdata/pub-*.json")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	s, err := partition.Lookup("")
	require.NoError(t, err)
	sum, runs := 0., 0.
	for _, path := range paths {
		in, err := ReadInstance(path)
		require.NoError(t, err)
		p, err := Bind(in.Problem, string(plan.DuplicatesNever))
		require.NoError(t, err)
		out, ok, err := TryLate(t.Context(), p, 20*time.Second, s, partition.Options{Budget: 300_000})
		require.NoError(t, err)
		if !ok {
			continue // the first node cannot build all
		}
		require.Zero(t, out.Duplicated, in.Name)
		require.LessOrEqual(t, out.Makespan, 1.05*out.Fixed, in.Name)
		t.Logf("%s: %.3f of what a plan that knew takes, %.3f with stealing alone", in.Name, out.Makespan/out.Perfect, out.Fixed/out.Perfect)
		sum, runs = sum+math.Log(out.Makespan/out.Perfect), runs+1
	}
	require.Positive(t, runs)
	require.LessOrEqual(t, math.Exp(sum/runs), 1.15)
}

// Where transfers share a link, a run ends when the plan that knows it says, and the plan that does
// not know it promises too much. How the link is shared, by turns or in parts, makes a difference
// in between.
func TestRunsShareLinks(t *testing.T) {
	in, err := gen.New("monorepo", gen.Size{Targets: 40, Nodes: 8, Slots: 2}, 3)
	require.NoError(t, err)
	in.Problem.Network.Bandwidth = 10e6
	ignorant := makePlan(t, in.Problem, 200_000)
	knowing := in.Problem
	knowing.Network.Links = 1
	plan := makePlan(t, knowing, 200_000)
	ran, err := Execute(knowing, plan, World{Links: 1}, false)
	require.NoError(t, err)
	blind, err := Execute(in.Problem, ignorant, World{Links: 1}, false)
	require.NoError(t, err)
	require.Less(t, ran.Makespan, blind.Makespan)
	require.Greater(t, blind.Makespan.Seconds(), 1.2*float64(ignorant.Schedule.Makespan))
	require.LessOrEqual(t, ran.Makespan.Seconds(), 1.2*float64(plan.Schedule.Makespan))
	free, err := Execute(in.Problem, ignorant, World{}, false)
	require.NoError(t, err)
	ample, err := Execute(in.Problem, ignorant, World{Links: len(in.Problem.Nodes)}, false)
	require.NoError(t, err)
	require.Equal(t, free, ample)
}

// Transfers that share links end together where they are equal, and one that is dropped leaves the
// others its part.
func TestCarrier(t *testing.T) {
	c := &Cluster{}
	k := carrier{c: c, links: 1}
	var ends []time.Duration
	note := func() { ends = append(ends, c.now.Round(time.Microsecond)) }
	run := func() {
		for len(c.queue) > 0 {
			next := heap.Pop(&c.queue).(happening)
			c.now = next.at
			next.do()
		}
	}
	a, b := &machine{id: 1}, &machine{id: 2}
	k.carry(a, 10*time.Second, note)
	k.carry(b, 10*time.Second, note)
	run()
	require.Equal(t, []time.Duration{20 * time.Second, 20 * time.Second}, ends)
	ends = nil
	k.carry(a, 10*time.Second, note)
	c.after(4*time.Second, func() { k.carry(b, 10*time.Second, note) })
	c.after(8*time.Second, func() { k.drop(b) })
	run()
	require.Equal(t, []time.Duration{32 * time.Second}, ends)
}

// Whatever goes wrong, every target is built, and equal runs are equal.
func TestRunsInABadWorld(t *testing.T) {
	for i, class := range gen.Classes() {
		in := small(t, class, uint64(20+i))
		seen, factor := Misjudge(in.Problem, uint64(i))
		plan := makePlan(t, seen, 50_000)
		for _, c := range []Conditions{{}, {Errors: true}, {Lose: 0.3}, {Slow: 10}} {
			world := c.world(seen, plan, nil)
			if c.Errors {
				world.Factor = factor
			}
			run, err := Execute(seen, plan, world, true)
			require.NoError(t, err, "%s %+v", class, c)
			again, err := Execute(seen, plan, world, true)
			require.NoError(t, err)
			require.Equal(t, run, again)
			if len(world.Lost) > 0 {
				require.GreaterOrEqual(t, run.Makespan, world.Lost[0].At)
			}
			_, err = resulting(seen, plan, run.Node)
			require.NoError(t, err)
		}
	}
}

func TestMisjudge(t *testing.T) {
	in := small(t, "forest", 1)
	seen, factor := Misjudge(in.Problem, 9)
	for v, f := range factor {
		require.InEpsilon(t, float64(in.Problem.Vertices[v].Cost), float64(seen.Vertices[v].Cost)*f, 1e-9)
		require.GreaterOrEqual(t, 1/f, 0.3-1e-9)
		require.LessOrEqual(t, 1/f, 3+1e-9)
	}
}

func TestSummarise(t *testing.T) {
	rows := []Row{
		{Instance: "a", Strategy: "x", Makespan: 10, LowerBound: 8, Executed: 4, Duplicated: 1},
		{Instance: "a", Strategy: "y", Makespan: 12, LowerBound: 10, Executed: 4, Planning: 2},
		{Instance: "b", Strategy: "x", Makespan: 9, LowerBound: 9},
		{Instance: "b", Strategy: "y", Makespan: 9, LowerBound: 9},
	}
	Bounds(rows)
	got := Summarise(rows)
	require.Equal(t, []Summary{
		{Strategy: "x", Gap: 1, Worst: 1, Best: 1, Shortest: 2, Duplicated: 0.125, Instances: 2},
		{Strategy: "y", Gap: math.Exp(math.Log(1.2) / 2), Worst: 1.2, Best: math.Exp(math.Log(1.2) / 2), Shortest: 1, Planning: 2, Instances: 2},
	}, got)
	require.True(t, rows[0].Proven)
	var table, plot bytes.Buffer
	require.NoError(t, WriteTable(&table, rows))
	require.Contains(t, table.String(), "1.2000")
	require.NoError(t, WritePlot(&plot, rows, "a < b"))
	require.Contains(t, plot.String(), "a &lt; b")
	require.Equal(t, 4, strings.Count(plot.String(), "<circle"))
}

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	var out, log bytes.Buffer
	ctx := context.Background()
	require.NoError(t, Main(ctx, []string{"-generate", dir}, &out, &log))
	one, err := filepath.Glob(filepath.Join(dir, "small", "*forest*.json"))
	require.NoError(t, err)
	require.Len(t, one, 1)
	require.NoError(t, Main(ctx, []string{"-instance", one[0], "-strategy", "all", "-budget", "20000"}, &out, &log))
	for _, s := range partition.Strategies() {
		require.Contains(t, out.String(), s.Name())
	}
	out.Reset()
	require.NoError(t, Main(ctx, []string{"-instance", one[0], "-json", "-budget", "20000"}, &out, &log))
	in, err := ReadInstance(one[0])
	require.NoError(t, err)
	a, makespan, err := schedfile.ReadResult(&out, in.Problem)
	require.NoError(t, err)
	s, err := partition.Evaluate(in.Problem, a)
	require.NoError(t, err)
	require.InDelta(t, makespan, float64(s.Makespan), 1e-6)
	out.Reset()
	require.NoError(t, Main(ctx, []string{"-instance", one[0], "-links", "1", "-run", "-budget", "20000"}, &out, &log))
	require.Contains(t, out.String(), "in ignorance")
	require.ErrorContains(t, Main(ctx, []string{"-instance", one[0], "-links", "-1"}, &out, &log), "-links")
	require.ErrorContains(t, Main(ctx, nil, &out, &log), "-instance")
	require.ErrorContains(t, Main(ctx, []string{"-instance", one[0], "-strategy", "no"}, &out, &log), "unknown strategy")
}

// BenchmarkPlan shows how planning grows: run with -benchtime 1x -benchmem.
func BenchmarkPlan(b *testing.B) {
	for _, class := range []string{"monorepo", "forest", "warm"} {
		for _, targets := range []int{100, 1_000, 10_000} {
			in, err := gen.New(class, gen.Size{Targets: targets, Nodes: targets / 10, Slots: 2}, 1)
			require.NoError(b, err)
			b.Run(fmt.Sprintf("%s/targets=%d/nodes=%d", class, len(in.Problem.Targets), len(in.Problem.Nodes)), func(b *testing.B) {
				var plan partition.Plan
				for b.Loop() {
					plan = makePlan(b, in.Problem, 0)
				}
				b.ReportMetric(plan.Gap(), "gap")
				b.ReportMetric(float64(plan.Schedule.Makespan), "makespan-s")
			})
		}
	}
}

// BenchmarkPlace is planning without search.
func BenchmarkPlace(b *testing.B) {
	for _, targets := range []int{100, 1_000, 10_000} {
		in, err := gen.New("monorepo", gen.Size{Targets: targets, Nodes: targets / 10, Slots: 2}, 1)
		require.NoError(b, err)
		b.Run(fmt.Sprintf("targets=%d/nodes=%d", len(in.Problem.Targets), len(in.Problem.Nodes)), func(b *testing.B) {
			for b.Loop() {
				makePlan(b, in.Problem, -1)
			}
		})
	}
}

func BenchmarkRun(b *testing.B) {
	in, err := gen.New("monorepo", gen.Medium, 1)
	require.NoError(b, err)
	plan := makePlan(b, in.Problem, 1_000_000)
	var run Run
	for b.Loop() {
		run, err = Execute(in.Problem, plan, World{}, true)
		require.NoError(b, err)
	}
	b.ReportMetric(run.Makespan.Round(time.Second).Seconds(), "makespan-s")
}

// A node that falls to a fifth of its speed in the middle of a run does not keep the
// others waiting: it works alone for a small part of the time only.
func TestASlowNodeKeepsNobodyWaiting(t *testing.T) {
	var alone, whole, fixed time.Duration
	for _, class := range []string{"fat", "forest", "monorepo", "warm", "chain"} {
		in, err := gen.New(class, gen.Size{Targets: 30, Nodes: 4, Slots: 2}, 5)
		require.NoError(t, err)
		plan := makePlan(t, in.Problem, 100_000)
		world := Conditions{Sag: 0.3}.world(in.Problem, plan, nil)
		require.Len(t, world.Slowed, 1)
		run, err := Execute(in.Problem, plan, world, true)
		require.NoError(t, err)
		still, err := Execute(in.Problem, plan, world, false)
		require.NoError(t, err)
		require.Less(t, run.Makespan, still.Makespan, class)
		alone, whole, fixed = alone+run.Alone, whole+run.Makespan, fixed+still.Makespan
		t.Logf("%s: %s of %s alone; without stealing %s of %s", class, run.Alone, run.Makespan, still.Alone, still.Makespan)
	}
	t.Logf("%s of %s alone; without stealing %s", alone, whole, fixed)
	require.Less(t, alone, whole/10)
	require.Less(t, whole, fixed/2)
}
