package simnode_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/plan/plantest"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
	"github.com/dbake/dbake/runtime/simnode"
)

// newWideProject is a project of targets on three common stages, whose steps take the times
// that are known of them. Two with different names have no step in common.
func newWideProject(t *testing.T, project string, seed uint64, targets int) *plan.Build {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 5))
	var docker, hcl strings.Builder
	for i := range 3 {
		fmt.Fprintf(&docker, "FROM busybox:1 AS stage%d\nRUN echo %s stage %d; sleep 4\n", i, project, i)
	}
	var names []string
	for i := range targets {
		name := fmt.Sprintf("t%d", i)
		names = append(names, fmt.Sprintf("%q", name))
		fmt.Fprintf(&docker, "FROM stage%d AS %s\n", i%3, name)
		for k := range 2 {
			fmt.Fprintf(&docker, "RUN echo %s %s %d; sleep %.1f\n", project, name, k, 3+6*rng.Float64())
		}
		fmt.Fprintf(&hcl, "target %q {\n  target = %q\n  tags = [\"%s/%s:1\"]\n  output = [\"type=image,push=true\"]\n}\n", name, name, host, name)
	}
	return prepareSleeping(t, names, hcl.String(), docker.String())
}

// prepareSleeping prepares a project of some targets whose steps are known to take the time
// that they sleep.
func prepareSleeping(t *testing.T, names []string, hcl, docker string) *plan.Build {
	t.Helper()
	on := plantest.New(t, fmt.Sprintf("-- docker-bake.hcl --\ngroup \"default\" { targets = [%s] }\n%s-- Dockerfile --\n%s", strings.Join(names, ", "), hcl, docker))
	b, err := plan.Prepare(context.Background(), on.Compile(), frontend.Options{
		Dir: on.Dir, Resolver: frontend.NewRegistryResolver(frontend.RegistryOptions{Offline: true}),
	}, plan.Memory{History: on.History, Files: filesum.Open("", time.Now())})
	require.NoError(t, err)
	for i, v := range b.Graph.Vertices {
		if _, s, ok := strings.Cut(v.Command, "sleep "); ok {
			b.Costs[i].Duration, err = time.ParseDuration(s + "s")
			require.NoError(t, err)
		}
	}
	return b
}

// growth is a run on four nodes. One is there, and three come later.
type growth struct {
	began time.Duration // the first step, since the dial
	took  time.Duration // all of it
	late  int           // targets that nodes built which came later
	plan  time.Duration // what was predicted
}

const growsAfter = 20 * time.Second

// grow carries out b. With expected, the plan knows when the nodes come.
func grow(t *testing.T, b *plan.Build, expected bool) (g growth) {
	r := &simnode.Registry{}
	defer r.Close()
	var specs []nodeset.Spec
	for i := range 4 {
		n := simnode.New(simnode.Options{Registry: r, Seed: uint64(i), Slots: 2, Timing: simnode.DefaultTiming, Latency: time.Millisecond})
		defer n.Close()
		specs = append(specs, nodeset.Spec{Name: fmt.Sprintf("n%d", i+1), Addr: n.Addr(), Speed: 1, Slots: 2})
		if i > 0 {
			n.Silence(true)
			time.AfterFunc(growsAfter, func() { n.Silence(false) })
		}
	}
	start := time.Now()
	pool, err := daemon.Dial(t.Context(), specs, daemon.DialOptions{})
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.LLBCaps(t.Context())
	require.NoError(t, err)
	require.Len(t, pool.Nodes(), 1)
	var list []plan.Node
	for i, n := range pool.All() {
		p := plan.Node{Name: n.Name, Addr: n.Addr, Speed: 1, Slots: 2}
		if i > 0 {
			p.From = growsAfter - time.Since(start)
		}
		if i == 0 || expected {
			list = append(list, p)
		}
	}
	if expected {
		pool.Expect([]string{"n2", "n3", "n4"})
	}
	strategy, err := partition.Lookup(partition.DefaultStrategy)
	require.NoError(t, err)
	b, made, err := b.Choose(context.Background(), list, strategy, partition.Options{Budget: 100_000}, nil)
	require.NoError(t, err)
	work := &runtime.Build{
		Graph: b.Graph, Jobs: b.Jobs, Steps: made.Exchange.Steps,
		Sched:      runtime.Schedule(made, sched.Options{Steal: true, Backoff: time.Second, Ahead: 1}),
		Inputs:     daemon.Inputs{Dirs: b.Locals(), SSH: map[string][]string{}, SharedKey: "grows"},
		Dir:        t.TempDir(),
		Registries: registry.Options{Dial: r.Dial, Hosts: map[string]registry.Host{host: {PlainHTTP: true}}},
		Cache:      b.Caches(),
	}
	res, err := runtime.Run(t.Context(), pool, work, func(e runtime.Event) {
		if s, ok := e.(runtime.StatusEvent); ok && g.began == 0 {
			for _, v := range s.Status.Vertexes {
				if v.Started != nil && strings.Contains(v.Name, "RUN") {
					g.began = time.Since(start)
				}
			}
		}
	})
	require.NoError(t, err)
	g.took, g.plan = time.Since(start), made.Makespan
	for _, n := range res.Nodes[1:] {
		g.late += len(n.Targets)
	}
	return g
}

// A run begins with the first node that answers, although the others do not refuse but say
// nothing. It ends when the plan says that knows when they come; one that does not know
// plans anew when they are there, and ends little later.
func TestGrowingPool(t *testing.T) {
	var informed, surprised time.Duration // of all seeds: what happens at the same time has no order
	for seed := range uint64(4) {
		b := newWideProject(t, "p", seed, 24)
		inBubble(t, func(t *testing.T) {
			known, unknown := grow(t, b, true), grow(t, b, false)
			t.Logf("seed %d: known %+v, unknown %+v: %.3f", seed, known, unknown, float64(unknown.took)/float64(known.took))
			for _, g := range []growth{known, unknown} {
				require.Less(t, g.began, 2*time.Second)
				require.Positive(t, g.late)
			}
			require.LessOrEqual(t, known.took, known.plan*11/10)
			informed, surprised = informed+known.took, surprised+unknown.took
			time.Sleep(time.Minute) // for what ends later
		})
	}
	require.LessOrEqual(t, surprised, informed*11/10)
}
