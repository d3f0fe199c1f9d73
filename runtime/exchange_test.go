package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/internal/plan"
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
				if repo.IsZero() {
					require.Contains(t, f.nodes[0].caches[0], os.TempDir())
				} else {
					require.Contains(t, f.nodes[0].caches[0], repo.Name+":dbake.step-")
				}
				require.Empty(t, temps(t))
			})
		})
	}
}

// A result that cannot be handed over is built where it is needed.
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
		require.Contains(t, res.Warnings[0], "could not be handed over: no space left")
		require.Empty(t, temps(t))
	})
}

// A step that fails before it is sent fails the jobs that need it, and is told once.
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
