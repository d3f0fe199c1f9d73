package simnode_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
	"github.com/dbake/dbake/runtime/simnode"
)

// newPool starts nodes that run two steps at once, and returns how to reach them.
func newPool(t *testing.T, r *simnode.Registry, nodes int) (specs []nodeset.Spec, done func()) {
	var list []*simnode.Node
	for i := range nodes {
		n := simnode.New(simnode.Options{Registry: r, Seed: uint64(i), Slots: 2, Timing: simnode.DefaultTiming, Latency: time.Millisecond})
		list = append(list, n)
		specs = append(specs, nodeset.Spec{Name: fmt.Sprintf("n%d", i+1), Addr: n.Addr(), Speed: 1, Slots: 2})
	}
	return specs, func() {
		for _, n := range list {
			n.Close()
		}
	}
}

// visit carries out b as a process of its own does. It returns how many others it saw on each
// node, and the result.
func visit(t *testing.T, b *plan.Build, r *simnode.Registry, specs []nodeset.Spec, dir string) (tenants []int, res *runtime.Result) {
	pool, err := daemon.Dial(t.Context(), specs, daemon.DialOptions{})
	if !assert.NoError(t, err) {
		return nil, nil
	}
	defer pool.Close()
	_, err = pool.LLBCaps(t.Context())
	assert.NoError(t, err)
	tenants = pool.Tenants(t.Context())
	var list []plan.Node
	for i, n := range pool.Nodes() {
		list = append(list, plan.Node{Name: n.Name, Addr: n.Addr, Speed: 1, Slots: 2, Tenants: tenants[i]})
	}
	strategy, err := partition.Lookup(partition.DefaultStrategy)
	assert.NoError(t, err)
	b, made, err := b.Choose(context.Background(), list, strategy, partition.Options{Budget: 50_000}, nil)
	if !assert.NoError(t, err) {
		return nil, nil
	}
	res, err = runtime.Run(t.Context(), pool, &runtime.Build{
		Graph: b.Graph, Jobs: b.Jobs, Steps: made.Exchange.Steps,
		Sched:      runtime.Schedule(made, sched.Options{Steal: true, Backoff: time.Second, Ahead: 1}),
		Inputs:     daemon.Inputs{Dirs: b.Locals(), SSH: map[string][]string{}, SharedKey: "shares"},
		Dir:        dir,
		Registries: registry.Options{Dial: r.Dial, Hosts: map[string]registry.Host{host: {PlainHTTP: true}}},
		Cache:      b.Caches(),
	}, func(runtime.Event) {})
	assert.NoError(t, err)
	return tenants, res
}

// Two equal runs that begin together, or nearly so, end together, in the time of the nodes.
func TestEqualRuns(t *testing.T) {
	for seed := range uint64(2) {
		for _, later := range []time.Duration{0, 300 * time.Millisecond, time.Second} {
			t.Run(fmt.Sprint(seed, later), func(t *testing.T) {
				builds := []*plan.Build{newWideProject(t, "a", seed, 18), newWideProject(t, "b", seed, 18)}
				dirs := []string{t.TempDir(), t.TempDir()}
				inBubble(t, func(t *testing.T) {
					r := &simnode.Registry{}
					specs, done := newPool(t, r, 3)
					var took [2]time.Duration
					ended := make(chan struct{})
					for i, b := range builds {
						go func() {
							defer func() { ended <- struct{}{} }()
							time.Sleep(time.Duration(i) * later)
							start := time.Now()
							visit(t, b, r, specs, dirs[i])
							took[i] = time.Since(start)
						}()
					}
					<-ended
					<-ended
					done()
					r.Close()
					ratio := float64(max(took[0], took[1])) / float64(min(took[0], took[1]))
					t.Logf("%v: %.3f", took, ratio)
					require.LessOrEqual(t, ratio, 1.2)
					time.Sleep(time.Minute) // for what ends later
				})
			})
		}
	}
}

// A run that begins beside a busy node leaves it to those who build there, and one that finds
// the node free again uses it.
func TestBusyNode(t *testing.T) {
	long, short := newWideProject(t, "long", 1, 12), newWideProject(t, "short", 2, 2)
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	again := newWideProject(t, "again", 2, 2)
	inBubble(t, func(t *testing.T) {
		r := &simnode.Registry{}
		defer r.Close()
		specs, done := newPool(t, r, 2)
		defer done()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			visit(t, long, r, specs[:1], dirs[0])
		}()
		time.Sleep(10 * time.Second) // it is at its steps
		tenants, res := visit(t, short, r, specs, dirs[1])
		require.Equal(t, []int{1, 0}, tenants)
		require.Equal(t, []string{"n2"}, nodesOf(res))
		<-ended
		tenants, res = visit(t, again, r, specs, dirs[2])
		require.Equal(t, []int{0, 0}, tenants)
		require.Equal(t, []string{"n1", "n2"}, nodesOf(res))
		time.Sleep(time.Minute) // for what ends later
	})
}

// nodesOf returns the nodes that built targets.
func nodesOf(res *runtime.Result) []string {
	var names []string
	for _, j := range res.Jobs {
		if !slices.Contains(names, j.Node) {
			names = append(names, j.Node)
		}
	}
	slices.Sort(names)
	return names
}
