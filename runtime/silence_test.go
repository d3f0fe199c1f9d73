package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/sched"
	"github.com/dbake/dbake/runtime/watchdog"
)

// The times of a fake run of newBuild on two nodes: a step takes a second, so that
// the shared one ends at 1 s, the jobs' own in turn after it, and an export takes
// 100 ms.

// fallSilent has the node say nothing from then on.
func (n *fakeNode) fallSilent() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.mute)
}

// withCaches has b write its caches to a registry when all is built. There is none to
// join them in.
func withCaches(t *testing.T, b *Build) {
	t.Helper()
	repo, err := cachepolicy.ParseRepo("example.com/cache")
	require.NoError(t, err)
	b.Cache = cachepolicy.Input{Store: cachepolicy.Store{Repo: repo}, Records: map[ir.UnitID][]int{}}
	b.Registries.Patience.Away = -1
	b.Registries.Dial = func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: errors.New("no network here")}
	}
	var ids []ir.UnitID
	for i, j := range b.Jobs {
		id := j.Units[0].ID
		ids = append(ids, id)
		b.Cache.Units = append(b.Cache.Units, ir.Unit{ID: id, Target: j.Target})
		b.Cache.Records[id] = []int{0, i + 1}
	}
	b.Cache.Clusters = cachepolicy.Group(ids, b.Cache.Records, func(int) bool { return true })
}

// nodeEvents are the events about nodes, as text.
func nodeEvents(events []Event) []string {
	var list []string
	for _, e := range events {
		e, ok := e.(NodeEvent)
		switch {
		case !ok:
		case e.Err != nil:
			list = append(list, fmt.Sprintf("%s lost: %v", e.Node, e.Err))
		case e.Silent > 0:
			list = append(list, fmt.Sprintf("%s silent %s", e.Node, e.Silent))
		default:
			list = append(list, e.Node+" back")
		}
	}
	return list
}

// TestCacheRegistriesAreTriedBesideTheRun has nothing wait for the trial of the registries of
// caches. Those that are read are tried later, and not at all when the run is over by then.
func TestCacheRegistriesAreTriedBesideTheRun(t *testing.T) {
	for name, tt := range map[string]struct {
		held  bool // the results are there
		read  bool // there are caches to read
		tried []time.Duration
	}{
		"written":          {tried: []time.Duration{0}},
		"written, short":   {held: true, tried: []time.Duration{0}},
		"read, too":        {read: true, tried: []time.Duration{probeAfter}},
		"read, too, short": {held: true, read: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 1, "a", "b")
				withCaches(t, b)
				if !tt.read { // the registry says that it has none
					b.Cache.Known = map[string][]string{b.Cache.Repo.Name: nil}
				}
				f := newFleet(t, b)
				if tt.held {
					for _, v := range b.Graph.Vertices {
						f.nodes[0].held[v.Digest] = true
					}
				}
				start, tried := time.Now(), []time.Duration(nil)
				f.nodes[0].tries = func(ctx context.Context, probes map[string]string) []string {
					tried = append(tried, time.Since(start))
					require.NoError(t, pause.For(ctx, 10*time.Millisecond))
					return slices.Collect(maps.Keys(probes))
				}
				res, _, err := f.run(t.Context(), b)
				require.NoError(t, err)
				require.Equal(t, all(Done, "a", "b"), states(res))
				require.Equal(t, tt.tried, tried)
				require.Equal(t, tt.tried != nil, slices.Contains(res.Warnings, "registry example.com did not answer within 10s: the caches in it are not used"), res.Warnings)
			})
		})
	}
}

// TestSilentNode has one of two nodes fall silent at every moment of a run: while
// it evaluates, while it exports, when its part is done, while caches are written
// and while sessions are closed. Everything is built, nothing hangs.
func TestSilentNode(t *testing.T) {
	for after := time.Millisecond; after < 12*time.Second; after += 250 * time.Millisecond {
		for _, caches := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s caches=%v", after, caches), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBuild(t, 2, names...)
					if caches {
						withCaches(t, b)
					}
					f := newFleet(t, b)
					time.AfterFunc(after, f.nodes[1].fallSilent)
					start := time.Now()
					res, events, err := f.run(t.Context(), b)
					require.NoError(t, err)
					require.Equal(t, all(Done, names...), states(res))
					require.Len(t, f.exports(), len(names))
					require.Less(t, time.Since(start), 40*time.Second)
					if len(res.Nodes[1].Targets) < 3 {
						want := []string{"n2 silent 3s", "n2 silent 6s", "n2 silent 9s", "n2 lost: no answer within 10s"}
						require.Equal(t, want, nodeEvents(events))
					}
				})
			})
		}
	}
}

// TestSilentAlone has the only node fall silent: the run fails soon, with the reason.
func TestSilentAlone(t *testing.T) {
	for _, after := range []time.Duration{0, 1500 * time.Millisecond, 3050 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 1, names...)
				f := newFleet(t, b)
				time.AfterFunc(after, f.nodes[0].fallSilent)
				start := time.Now()
				res, _, err := f.run(t.Context(), b)
				require.ErrorIs(t, err, ErrIncomplete)
				require.ErrorContains(t, err, "no answer within ")
				require.Less(t, time.Since(start), 30*time.Second)
				require.NotEqual(t, Done, states(res)["f"])
			})
		})
	}
}

// TestInterruptWhileSilent interrupts a run with a node that has fallen silent, in
// each of its phases.
func TestInterruptWhileSilent(t *testing.T) {
	for _, silent := range []time.Duration{0, 1500 * time.Millisecond, 3050 * time.Millisecond, 8 * time.Second} {
		for _, after := range []time.Duration{time.Millisecond, time.Second, 5 * time.Second, 12 * time.Second, 15 * time.Second} {
			t.Run(fmt.Sprintf("%s+%s", silent, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBuild(t, 2, names...)
					withCaches(t, b)
					f := newFleet(t, b)
					time.AfterFunc(silent, f.nodes[1].fallSilent)
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					why := errors.New("interrupted")
					var at time.Time
					time.AfterFunc(silent+after, func() {
						at = time.Now()
						cancel(why)
					})
					_, _, err := f.run(ctx, b)
					if at.IsZero() {
						return // it was over before
					}
					require.Equal(t, why, err)
					require.LessOrEqual(t, time.Since(at), 5*time.Second)
				})
			})
		}
	}
}

// TestBrokenConnection has a connection break for a moment, at every moment of a run:
// the node is not lost, and what it was doing is done there.
func TestBrokenConnection(t *testing.T) {
	for after := time.Millisecond; after < 6*time.Second; after += 250 * time.Millisecond {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 2, names...)
				f := newFleet(t, b)
				time.AfterFunc(after, f.nodes[1].cut)
				res, events, err := f.run(t.Context(), b)
				require.NoError(t, err)
				require.Equal(t, all(Done, names...), states(res))
				require.Empty(t, nodeEvents(events))
				require.Len(t, res.Nodes[1].Targets, 3)
				require.NoError(t, res.Nodes[1].Lost)
				require.LessOrEqual(t, f.nodes[1].connections, 2)
			})
		})
	}
}

// TestNodeComesBack has a node go away for long enough to be lost. It gets work again
// when it is back.
func TestNodeComesBack(t *testing.T) {
	for _, tt := range []struct {
		name    string
		id      string // with which it comes back
		restart time.Duration
	}{{"same", "id", 20 * time.Second}, {"empty", "other", 20 * time.Second}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 2, names...)
				b.Sched.Options.Steal = true
				b.Sched.Network.Latency = 0
				f := newFleet(t, b)
				f.nodes[0].took = 20 * time.Second
				time.AfterFunc(1500*time.Millisecond, f.nodes[1].fallSilent)
				time.AfterFunc(tt.restart, func() {
					f.nodes[1].mu.Lock()
					f.nodes[1].id = tt.id
					f.nodes[1].mu.Unlock()
					f.nodes[1].restart()
				})
				res, events, err := f.run(t.Context(), b)
				require.NoError(t, err)
				require.Equal(t, all(Done, names...), states(res))
				require.Contains(t, nodeEvents(events), "n2 back")
				require.NotEmpty(t, res.Nodes[1].Targets)
				require.NoError(t, res.Nodes[1].Lost)
			})
		})
	}
}

// TestOnlyNodeComesBack has the only node go away for longer than a break: what no
// other can do waits for it.
func TestOnlyNodeComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuild(t, 1, names...)
		f := newFleet(t, b)
		time.AfterFunc(1500*time.Millisecond, func() { close(f.nodes[0].dead) })
		time.AfterFunc(8*time.Second, f.nodes[0].restart)
		res, events, err := f.run(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, all(Done, names...), states(res))
		require.Equal(t, []string{"n1 lost: rpc error: code = Unavailable desc = connection refused", "n1 back"}, nodeEvents(events))
	})
}

// TestFlappingNode has a node whose connection never lasts: it is used no more.
func TestFlappingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuild(t, 2, names...)
		f := newFleet(t, b)
		f.nodes[0].took = 10 * time.Second
		flapping, stop := context.WithCancel(t.Context())
		defer stop()
		go func() {
			for pause.For(flapping, 900*time.Millisecond) == nil {
				f.nodes[1].cut()
			}
		}()
		res, events, err := f.run(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, all(Done, names...), states(res))
		require.Contains(t, strings.Join(nodeEvents(events), "\n"), "n2 lost: the connection broke 5 times")
	})
}

// TestLateNode has a node answer when the run has begun: it joins, unless it cannot
// be used, or could only emulate what the others run.
func TestLateNode(t *testing.T) {
	for name, tt := range map[string]struct {
		unfit  error
		native string
		joins  bool
	}{
		"native": {native: "linux/amd64", joins: true},
		"unfit":  {unfit: fmt.Errorf("%w: it is of another kind", daemon.ErrUnfit)},
		"slow":   {native: "linux/arm64"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 1, names...)
				b.Sched.Options.Steal = true
				b.Sched.Network.Latency = 0
				for v := range b.Sched.Vertices {
					b.Sched.Vertices[v].Platform = "linux/amd64"
					b.Sched.Vertices[v].Cost *= 10
				}
				b.Sched.Nodes[0].Platforms = []string{"linux/amd64"}
				b.Sched.Plan[0] = nil
				for u := range b.Jobs {
					b.Sched.Plan[0] = append(b.Sched.Plan[0], sched.Partition{sched.UnitID(u)})
				}
				f := newFleet(t, b)
				f.platforms = []ocispecs.Platform{{OS: "linux", Architecture: "amd64"}}
				late := newFleet(t, b).nodes[0]
				late.handed, late.absent, late.unfit = f.nodes[0].handed, errors.New("not there yet"), tt.unfit
				if tt.native != "" {
					late.native = platforms.MustParse(tt.native)
				}
				f.nodes[0].took, late.took = 10*time.Second, 10*time.Second
				late.fallSilent()
				f.nodes = append(f.nodes, late)
				time.AfterFunc(5*time.Second, late.restart)
				res, events, err := f.run(t.Context(), b)
				require.NoError(t, err)
				require.Equal(t, all(Done, names...), states(res))
				require.Equal(t, "n2 lost: not there yet", nodeEvents(events)[0])
				if tt.joins {
					require.NotEmpty(t, res.Nodes[1].Targets)
				} else {
					require.Empty(t, res.Nodes[1].Targets)
				}
				if tt.unfit == nil {
					require.Contains(t, nodeEvents(events), "n2 back")
				}
			})
		})
	}
}

// TestSickNode has a node that has no space: what it fails is built elsewhere, once.
func TestSickNode(t *testing.T) {
	full := errors.New("write /var/lib/buildkit/x: no space left on device")
	t.Run("one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBuild(t, 2, names...)
			f := newFleet(t, b)
			f.nodes[1].fails["b first"] = full
			res, _, err := f.run(t.Context(), b)
			require.NoError(t, err)
			require.Equal(t, all(Done, names...), states(res))
			require.Contains(t, res.Nodes[0].Targets, "b")
			require.Contains(t, res.Nodes[1].Targets, "d", "what fits is built there")
			require.Equal(t, 1, f.nodes[1].ran["b first"])
			require.Len(t, res.Sick, 1)
			require.Equal(t, Sickness{Node: "n2", Reason: "no space left", Jobs: []string{"b"}}, res.Sick[0])
		})
	})
	t.Run("both", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBuild(t, 2, names...)
			b.Sched.Options.KeepGoing = true
			f := newFleet(t, b)
			for _, n := range f.nodes {
				n.fails["b first"] = full
			}
			res, _, err := f.run(t.Context(), b)
			require.ErrorContains(t, err, "no space left on device")
			want := all(Done, names...)
			want["b"] = Failed
			require.Equal(t, want, states(res))
			require.Equal(t, 1, f.nodes[0].ran["b first"])
			require.Equal(t, 1, f.nodes[1].ran["b first"])
		})
	})
	t.Run("alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBuild(t, 1, names...)
			f := newFleet(t, b)
			f.nodes[0].fails["a first"] = full
			res, _, err := f.run(t.Context(), b)
			require.ErrorContains(t, err, "the node has a problem: no space left")
			require.Equal(t, Failed, states(res)["a"])
			require.Equal(t, 1, f.nodes[0].ran["a first"])
		})
	})
	t.Run("all it does", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBuild(t, 2, "a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
			b.Sched.Options.Steal = true
			f := newFleet(t, b)
			f.nodes[1].fails["shared"] = full
			res, events, err := f.run(t.Context(), b)
			require.NoError(t, err)
			require.Equal(t, all(Done, "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"), states(res))
			require.Contains(t, nodeEvents(events), "n2 lost: it failed 3 times in a row (the node has a problem: no space left)")
			require.LessOrEqual(t, f.nodes[1].ran["shared"], 3)
		})
	})
}

// TestWatch has a daemon that is slow but alive, and one that is not.
func TestWatch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer time.Duration // after each probe; 0 = never
		want   string
	}{
		{"quick", time.Millisecond, "[] alive"},
		{"slow", 1500 * time.Millisecond, "[] alive"},
		{"starved", 7500 * time.Millisecond, "[3s 6s 0s] alive"},
		{"dead", 0, "[3s 6s 9s] no answer within 10s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, fail := context.WithCancelCause(t.Context())
				var bytes atomic.Int64
				var said []time.Duration // owned by the watch until it has ended
				w := watchdog.Watch{
					Timeout: 10 * time.Second, Fail: fail,
					Received: bytes.Load,
					Silent:   func(d time.Duration) { said = append(said, d) },
					Probe: func(ctx context.Context) {
						if tt.answer == 0 {
							<-ctx.Done()
							return
						}
						if pause.For(ctx, tt.answer) == nil {
							bytes.Add(1)
						}
					},
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					w.Run(ctx)
				}()
				time.Sleep(10500 * time.Millisecond)
				fail(errors.New("alive"))
				<-done
				require.Equal(t, tt.want, fmt.Sprint(said)+" "+context.Cause(ctx).Error())
			})
		})
	}
}
