package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
)

// newExchangeBuild is a build of a on n1 and of b on n2, where n1 sends the step that
// both need.
func newExchangeBuild(t *testing.T) *Build {
	b := newBuild(t, 2, "a", "b")
	shared := -1
	for i, v := range b.Graph.Vertices {
		if len(v.Users) == 2 && v.Kind.IsStep() {
			shared = i
		}
	}
	b.Steps = []plan.Intermediate{{Vertex: shared, Node: 0, Sent: []int{shared}}}
	b.Sched.Units = append(b.Sched.Units, sched.Unit{Name: "shared", Root: sched.VertexID(shared)})
	b.Sched.Units[1].After = []sched.UnitID{2}
	b.Sched.Plan[0] = append([]sched.Partition{{2}}, b.Sched.Plan[0]...)
	return b
}

// temps are the directories of exchanges that are there.
func temps(t *testing.T) []string {
	list, err := filepath.Glob(filepath.Join(os.TempDir(), "dbake-exchange-*"))
	require.NoError(t, err)
	return list
}

func TestExchange(t *testing.T) {
	for name, repo := range map[string]cachepolicy.Repo{
		"through the client": {},
		"through a registry": {Name: "registry.example.com/cache", Prefix: "dbake"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			synctest.Test(t, func(t *testing.T) {
				b := newExchangeBuild(t)
				b.Cache.Repo = repo
				f := newFleet(t, b)
				res, events, err := f.run(t.Context(), b)
				require.NoError(t, err)
				require.Equal(t, map[string]int{"shared": 1, "a first": 1, "a second": 1}, f.nodes[0].ran)
				require.Equal(t, map[string]int{"b first": 1, "b second": 1}, f.nodes[1].ran)
				require.Len(t, res.Jobs, 2)
				for _, j := range res.Jobs {
					require.Equal(t, Done, j.State)
				}
				require.Empty(t, res.Warnings)
				var sent []SendEvent
				for _, e := range events {
					switch e := e.(type) {
					case JobEvent:
						require.Contains(t, []string{"a", "b"}, e.Job)
					case SendEvent:
						sent = append(sent, e)
					}
				}
				require.Len(t, sent, 1)
				require.Equal(t, "n1", sent[0].Node)
				require.Equal(t, []string{"a", "b"}, sent[0].Targets)
				require.NoError(t, sent[0].Err)
				require.Len(t, res.Transfers, 1)
				require.Equal(t, "n1", res.Transfers[0].Node)
				require.Equal(t, b.Steps[0].Sent, res.Transfers[0].Steps)
				require.Equal(t, strings.TrimSuffix(repo.Name, "/cache"), res.Transfers[0].Registry)
				require.NotZero(t, res.Transfers[0].Start)
				if repo.IsZero() {
					require.Contains(t, f.nodes[0].caches[0], os.TempDir())
					require.Empty(t, f.tags.deleted)
				} else {
					require.Contains(t, f.nodes[0].caches[0], repo.Name+":dbake.step-")
					require.Equal(t, f.nodes[0].caches[:1], f.tags.deleted)
				}
				require.Empty(t, temps(t))
			})
		})
	}
}

// A result that is much too late is built where it is needed, and the run does not wait for it.
func TestExchangeIsTooLate(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		b := newExchangeBuild(t)
		b.Sched.Options.Steal = true
		b.Sched.Network.Latency = time.Second
		b.Sched.Units[1].Nodes = []sched.NodeID{1} // else n1, which holds the result, takes it
		b.Sched.Units[2].Early = true
		b.Sched.Nodes[1].Fetches = []sched.VertexID{b.Sched.Units[2].Root}
		f := newFleet(t, b)
		f.nodes[0].cacheTakes = 24 * time.Hour
		res, _, err := f.run(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"shared": 1, "a first": 1, "a second": 1}, f.nodes[0].ran)
		require.Equal(t, map[string]int{"shared": 1, "b first": 1, "b second": 1}, f.nodes[1].ran)
		require.Empty(t, res.Warnings)
		require.Empty(t, res.Transfers)
		require.Less(t, res.Wall, 5*time.Minute, "in the time of the test's bubble")
		require.Empty(t, temps(t))
	})
}

// A result that cannot be transferred is built where it is needed.
func TestExchangeFails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		b := newExchangeBuild(t)
		f := newFleet(t, b)
		f.nodes[0].cacheFails = errors.New("no space left")
		res, _, err := f.run(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"shared": 1, "b first": 1, "b second": 1}, f.nodes[1].ran)
		require.Len(t, res.Warnings, 1)
		require.Contains(t, res.Warnings[0], "node n1: ")
		require.Contains(t, res.Warnings[0], "could not be transferred: no space left")
		require.Empty(t, temps(t))
	})
}

// A step that fails before it is sent fails the jobs that need it, and is reported once.
func TestExchangedStepFails(t *testing.T) {
	for _, keepGoing := range []bool{false, true} {
		t.Setenv("TMPDIR", t.TempDir())
		synctest.Test(t, func(t *testing.T) {
			b := newExchangeBuild(t)
			b.Sched.Options.KeepGoing = keepGoing
			f := newFleet(t, b)
			f.nodes[0].fails["shared"] = errors.New("exit code 1")
			res, _, err := f.run(t.Context(), b)
			var step *StepError
			require.ErrorAs(t, err, &step)
			require.ElementsMatch(t, []string{"a", "b"}, step.Jobs)
			require.Len(t, f.nodes[0].ran, 1)
			require.Empty(t, f.nodes[1].ran)
			for _, j := range res.Jobs {
				require.NotEqual(t, Done, j.State)
				if keepGoing {
					require.Equal(t, Failed, j.State, j.Job)
					require.Contains(t, j.Reason, "exit code 1")
				}
			}
			require.Empty(t, temps(t))
		})
	}
}

// What a lost node was to send is built again.
func TestExchangeLosesNode(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		b := newExchangeBuild(t)
		f := newFleet(t, b)
		time.AfterFunc(500*time.Millisecond, func() { close(f.nodes[0].dead) })
		res, _, err := f.run(t.Context(), b)
		require.NoError(t, err)
		for _, j := range res.Jobs {
			require.Equal(t, "n2", j.Node)
		}
		require.Equal(t, 1, f.nodes[1].ran["shared"])
		require.Empty(t, temps(t))
	})
}

// The tags of a run are deleted however it ends and whatever the registry says, within a
// bound, and those of another run have other names.
func TestUntag(t *testing.T) {
	kept := &registry.Error{Op: "delete", Ref: "registry.example.com/cache", Kind: registry.ErrKept, Err: registry.ErrKept}
	denied := &registry.Error{Op: "delete", Ref: "registry.example.com/cache", Kind: registry.ErrDenied, Err: registry.ErrDenied}
	absent := &registry.Error{Op: "delete", Ref: "registry.example.com/cache", Kind: registry.ErrNotFound, Err: registry.ErrNotFound}
	seen := map[string]bool{}
	for _, tt := range []struct {
		name   string
		change func(*fleet)
		cancel time.Duration // after the start; 0 is never
		sends  bool          // a tag may have been written
		within time.Duration // what it may take
		warns  string
	}{
		{"done", func(*fleet) {}, 0, true, 0, ""},
		{"a step failed", func(f *fleet) { f.nodes[1].fails["b first"] = errors.New("exit code 1") }, 0, true, 0, ""},
		{"the cache failed", func(f *fleet) { f.nodes[0].cacheFails = errors.New("no space left") }, 0, true, 0, ""},
		{"cancelled while it is sent", func(*fleet) {}, 1500 * time.Millisecond, true, 0, ""},
		{"cancelled, and the registry hangs", func(f *fleet) { f.tags.hangs = true }, 2500 * time.Millisecond, true, untagHurry, "no answer within 1s"},
		{"cancelled before", func(*fleet) {}, 500 * time.Millisecond, false, 0, ""},
		{"the registry hangs", func(f *fleet) { f.tags.hangs = true }, 0, true, untagLimit, "no answer within 10s"},
		{"the registry deletes no tags", func(f *fleet) { f.tags.refuses = kept }, 0, true, 0, ""},
		{"the user may not", func(f *fleet) { f.tags.refuses = denied }, 0, true, 0, ""},
		{"it is not there", func(f *fleet) { f.tags.refuses = absent }, 0, true, 0, ""},
		{"the registry is ill", func(f *fleet) { f.tags.refuses = errors.New("internal error") }, 0, true, 0, "stay in registry.example.com/cache until 'dbake cache prune' removes them: internal error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			synctest.Test(t, func(t *testing.T) {
				b := newExchangeBuild(t)
				b.Cache.Repo = cachepolicy.Repo{Name: "registry.example.com/cache", Prefix: "dbake"}
				f := newFleet(t, b)
				f.tags = &fakeTags{tags: map[string]string{}}
				tt.change(f)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.cancel > 0 {
					time.AfterFunc(tt.cancel, cancel)
				}
				res, _, _ := f.run(ctx, b)
				if f.tags.hangs {
					require.Equal(t, tt.within, f.tags.waited)
				} else if tt.sends {
					require.Len(t, f.tags.deleted, 1)
					require.False(t, seen[f.tags.deleted[0]], "of another run")
					seen[f.tags.deleted[0]] = true
				} else {
					require.Empty(t, f.tags.deleted)
				}
				said := strings.Join(res.Warnings, "\n")
				if tt.warns == "" {
					require.NotContains(t, said, "stay in")
				} else {
					require.Contains(t, said, tt.warns)
				}
			})
		})
	}
}

// A node sends what its layers stand on with a step, but not a step with one result that it never
// looked up: it would execute that, although another node has.
func TestPartsThatAreSent(t *testing.T) {
	for name, tt := range map[string]struct{ once, done, sent bool }{
		"executed or found": {once: true, done: true, sent: true},
		"not looked up":     {once: true},
		"of several":        {sent: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBuild(t, 2, "a", "b")
			top := int(b.Sched.Units[0].Root)
			below := int(b.Sched.Vertices[top].Inputs[0])
			b.Steps = []plan.Intermediate{{Vertex: top, Node: 0, Sent: []int{below, top}}}
			b.Sched.Vertices[top].Once, b.Sched.Vertices[below].Once = true, tt.once
			w := newWork(b)
			n := newNodeRun(0, daemon.NodeInfo{}, newTracker(w.isStep, w.isShared))
			x, err := newExchange(w, nil)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, x.close()) })
			if tt.done {
				n.tracker.observe(vertex(b.Graph.Vertices[below].Digest, at(0), at(1)), &solveSource{})
			}
			want := []sched.VertexID{sched.VertexID(top)}
			if tt.sent {
				want = []sched.VertexID{sched.VertexID(below), sched.VertexID(top)}
			}
			require.Equal(t, want, x.parts(n, 0))
		})
	}
}
