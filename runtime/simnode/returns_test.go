package simnode_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
	"github.com/dbake/dbake/runtime/simnode"
)

// newForkedProject is a project with expensive stages, and some targets on each.
func newForkedProject(t *testing.T, targets int, stages ...string) *plan.Build {
	t.Helper()
	var docker, hcl strings.Builder
	var names []string
	for _, stage := range stages {
		fmt.Fprintf(&docker, "FROM busybox:1 AS %s\nRUN echo %s; sleep 40\n", stage, stage)
		for i := range targets {
			name := fmt.Sprintf("%s%d", stage, i)
			names = append(names, fmt.Sprintf("%q", name))
			fmt.Fprintf(&docker, "FROM %s AS %s\nRUN echo %s; sleep 10\n", stage, name, name)
			fmt.Fprintf(&hcl, "target %q {\n  target = %q\n  tags = [\"%s/%s:1\"]\n  output = [\"type=image,push=true\"]\n}\n", name, name, host, name)
		}
	}
	b := prepareSleeping(t, names, hcl.String(), docker.String())
	for i, v := range b.Graph.Vertices {
		if strings.Contains(v.Command, "sleep ") {
			b.Costs[i].Bytes = 1 << 40 // nobody sends it
		}
	}
	return b
}

// returning is what becomes of a run on two nodes; the second one is away for a time.
type returning struct {
	build *plan.Build
	r     *simnode.Registry
	nodes []*simnode.Node
	holds warm.Holdings
	found []string // the commands of the steps that a node was found to hold
}

// run carries the build out. known says how many nodes the plan knows.
func (x *returning) run(t *testing.T, known int, dir string) *runtime.Result {
	var specs []nodeset.Spec
	for i, n := range x.nodes {
		specs = append(specs, nodeset.Spec{Name: fmt.Sprintf("n%d", i+1), Addr: n.Addr(), Speed: 1, Slots: 1})
	}
	pool, err := daemon.Dial(t.Context(), specs, daemon.DialOptions{})
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.LLBCaps(t.Context())
	require.NoError(t, err)
	var list []plan.Node
	for _, n := range pool.All()[:known] {
		list = append(list, plan.Node{Name: n.Name, Addr: n.Addr, Speed: 1, Slots: 1})
	}
	strategy, err := partition.Lookup(partition.DefaultStrategy)
	require.NoError(t, err)
	b, made, err := x.build.Choose(context.Background(), list, strategy, partition.Options{Budget: 50_000}, nil)
	require.NoError(t, err)
	res, err := runtime.Run(t.Context(), pool, &runtime.Build{
		Graph: b.Graph, Jobs: b.Jobs, Steps: made.Exchange.Steps,
		Sched:      runtime.Schedule(made, sched.Options{Steal: true, Backoff: time.Second, Ahead: 1, MaxAttempts: 5}),
		Inputs:     daemon.Inputs{Dirs: b.Locals(), SSH: map[string][]string{}, SharedKey: "returns"},
		Dir:        dir,
		Registries: registry.Options{Dial: x.r.Dial, Hosts: map[string]registry.Host{host: {PlainHTTP: true}}},
		Cache:      b.Caches(),
		Held: func(_ daemon.NodeInfo, records warm.Records, executed []plan.Measurement) []digest.Digest {
			held := b.Names.Holdings(x.holds, records, executed)
			for _, v := range b.Graph.Vertices {
				if slices.Contains(held, v.Digest) {
					x.found = append(x.found, v.Command)
				}
			}
			return held
		},
	}, func(runtime.Event) {})
	require.NoError(t, err)
	return res
}

// ran returns the stages and targets whose steps a node executed, in order.
func (x *returning) ran(node int) []string {
	var ran []string
	for _, e := range x.nodes[node].Executions() {
		if m := echoed.FindStringSubmatch(e.Name); m != nil {
			ran = append(ran, m[1])
		}
	}
	return ran
}

var echoed = regexp.MustCompile(`echo (\w+);`)

func newReturning(b *plan.Build) *returning {
	x := &returning{build: b, r: &simnode.Registry{}}
	for i := range 2 {
		x.nodes = append(x.nodes, simnode.New(simnode.Options{Registry: x.r, Seed: uint64(i), Slots: 1, Timing: simnode.DefaultTiming, Latency: time.Millisecond}))
	}
	return x
}

func (x *returning) close() {
	for _, n := range x.nodes {
		n.Close()
	}
	x.r.Close()
	time.Sleep(time.Minute) // for what ends later
}

// A node that was lost and comes back gets work for which it still has what it executed, and
// none for which it has not, although others have executed its part meanwhile.
func TestNodeReturnsWarm(t *testing.T) {
	b := newForkedProject(t, 8, "left", "right").WithDuplicates(plan.DuplicatesAny)
	dir := t.TempDir()
	inBubble(t, func(t *testing.T) {
		x := newReturning(b)
		defer x.close()
		var before, elsewhere []string
		time.AfterFunc(60*time.Second, func() { // it is at its second target
			before = x.ran(1)
			x.nodes[1].Lose()
		})
		time.AfterFunc(115*time.Second, func() {
			elsewhere = x.ran(0)
			x.nodes[1].Return(false)
		})
		x.run(t, 2, dir)
		stage, again := before[0], x.ran(1)[len(before):]
		require.Contains(t, elsewhere, stage)
		require.Len(t, x.found, len(before), "%v", x.found)
		require.Greater(t, len(again), 2)
		require.Equal(t, again, family(stage, again))
	})
}

// A node that was lost and comes back keeps to the rule that each step has one result. While
// no other node has been told to execute what it had executed, that is the result of the run,
// and it goes on from there. After that it is given nothing that rests on its own result.
func TestNodeReturnsWithOwnResults(t *testing.T) {
	for away, late := range map[time.Duration]bool{2 * time.Second: false, 55 * time.Second: true} {
		b := newForkedProject(t, 8, "left", "right").WithDuplicates(plan.DuplicatesReproducible)
		dir := t.TempDir()
		inBubble(t, func(t *testing.T) {
			x := newReturning(b)
			defer x.close()
			var before []string
			time.AfterFunc(62*time.Second, func() { // both are at their second target, and know their third
				before = x.ran(1)
				x.nodes[1].Lose()
				time.AfterFunc(away, func() { x.nodes[1].Return(false) })
			})
			x.run(t, 2, dir)
			stage, after := before[0], x.ran(1)[len(before):]
			t.Logf("away for %v: %v, then %v; the other node %v", away, before, after, x.ran(0))
			require.NotContains(t, after, stage)
			if late {
				require.Contains(t, x.ran(0), stage)
				require.Empty(t, family(stage, after))
			} else {
				require.NotContains(t, x.ran(0), stage)
				require.GreaterOrEqual(t, len(family(stage, after)), 5)
			}
		})
	}
}

// A node that comes late, and holds what an earlier run has left there, gets the work for
// which it has that.
func TestNodeComesWarm(t *testing.T) {
	for _, stage := range []string{"left", "right"} {
		first, b := newForkedProject(t, 1, stage), newForkedProject(t, 6, "left", "right")
		dirs := []string{t.TempDir(), t.TempDir()}
		inBubble(t, func(t *testing.T) {
			x := newReturning(first)
			defer x.close()
			x.nodes[0].Lose()
			x.run(t, 1, dirs[0])
			before := x.ran(1)
			var held []digest.Digest
			for _, v := range first.Graph.Vertices {
				if v.Kind == llbmerge.KindExec {
					held = append(held, v.Digest)
				}
			}
			x.holds = warm.NewHoldings(first.Names.Of(held))
			x.nodes[1].Lose()
			x.nodes[0].Return(true)
			time.AfterFunc(5*time.Second, func() { x.nodes[1].Return(false) })
			x.build = b
			x.run(t, 1, dirs[1])
			require.Contains(t, x.found, "/bin/sh -c echo "+stage+"; sleep 40")
			ran := x.ran(1)[len(before):]
			require.NotContains(t, ran, stage)
			// The first one it has from before, and the other node may have begun another.
			require.GreaterOrEqual(t, len(family(stage, ran)), 4, "%v", ran)
		})
	}
}

// family returns those of the names that begin with stage.
func family(stage string, names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, stage) })
}
