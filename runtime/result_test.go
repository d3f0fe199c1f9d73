package runtime

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/output"
	"github.com/dbake/dbake/runtime/sched"
)

// newLinkedBuild is a build of base, of app and web which read its result, and of other.
func newLinkedBuild(t *testing.T, nodes int) *Build {
	return newBuildOf(t, nodes, func(target *ir.Target) []string {
		switch target.Name {
		case "app", "web":
			target.Contexts = map[string]ir.Source{"base": ir.ParseNamedContext("target:base")}
			return []string{"base first", "base second", target.Name + " own"}
		}
		return []string{target.Name + " first", target.Name + " second"}
	}, "base", "app", "web", "other")
}

// A failed step blames the target whose step it is, whoever meets it first; who only
// reads that target is skipped.
func TestBlame(t *testing.T) {
	for name, slow := range map[string]int{"met by its owner": 1, "met by a reader": 0} {
		for _, keepGoing := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newLinkedBuild(t, 2)
					b.Sched.Options.KeepGoing = keepGoing
					f := newFleet(t, b)
					f.nodes[slow].took = 10 * time.Second
					for _, n := range f.nodes {
						n.fails["base second"] = errors.New("exit code: 7")
					}
					res, _, err := f.run(t.Context(), b)
					var step *StepError
					require.ErrorAs(t, err, &step)
					require.Equal(t, []string{"base"}, step.Targets)
					require.Contains(t, step.Summary(), "target base: ")
					got := res.Targets()
					require.Equal(t, Failed, got[0].State)
					require.Contains(t, got[0].Reason, "exit code: 7")
					for _, reader := range got[1:3] {
						require.NotEqual(t, Failed, reader.State)
						if reader.State == Skipped {
							require.Equal(t, "base failed", reader.Reason)
						}
					}
					if keepGoing {
						require.Equal(t, Done, got[3].State)
						require.Equal(t, Skipped, got[1].State)
						require.Equal(t, Skipped, got[2].State)
					}
				})
			})
		}
	}
}

// A step that targets share without one reading the other blames all of them.
func TestBlameShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuildOf(t, 1, func(target *ir.Target) []string { return []string{"common", target.Name} }, "a", "b")
		f := newFleet(t, b)
		f.nodes[0].fails["common"] = errors.New("exit code: 1")
		res, _, err := f.run(t.Context(), b)
		require.ErrorContains(t, err, "targets a, b: ")
		for _, target := range res.Targets() {
			require.Equal(t, Failed, target.State)
		}
	})
}

// Events name the targets of each step: the owner of a linked one, all of a shared one.
func TestTargetsOfEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newLinkedBuild(t, 2)
		f := newFleet(t, b)
		_, events, err := f.run(t.Context(), b)
		require.NoError(t, err)
		seen := map[string][]string{}
		for _, e := range events {
			st, ok := e.(StatusEvent)
			if !ok {
				continue
			}
			for _, v := range st.Status.Vertexes {
				require.NotEmpty(t, st.Targets[v.Digest], v.Name)
				seen[v.Name] = st.Targets[v.Digest]
			}
			for _, l := range st.Status.Logs {
				require.NotEmpty(t, st.Targets[l.Vertex])
			}
		}
		require.Equal(t, []string{"base"}, seen["base first"])
		require.Equal(t, []string{"base", "other"}, seen["shared"])
		require.Equal(t, []string{"app"}, seen["app own"])
	})
}

// What is hedged or stolen is counted where it ran; a target counts once.
func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuild(t, 2, "a", "b", "c", "d")
		b.Sched.Options = sched.Options{Steal: true}
		f := newFleet(t, b)
		f.nodes[1].took = 20 * time.Second
		res, _, err := f.run(t.Context(), b)
		require.NoError(t, err)
		built := 0
		for i, n := range res.Nodes {
			built += len(n.Targets)
			ran := 0
			for _, times := range f.nodes[i].ran {
				ran += times
			}
			require.LessOrEqual(t, n.Ran, ran, "no more is counted than was run")
			require.Zero(t, n.Repeated)
		}
		require.Equal(t, 4, built)
		require.Len(t, res.Targets(), 4)
	})
}

func TestTargetsOfResult(t *testing.T) {
	img := []output.Image{{Name: "x", Place: output.InRegistry}}
	r := &Result{Jobs: []JobResult{
		{Job: "a@1", Target: "a", Node: "n1", State: Done, Images: img, Files: []string{"out", "a.tar"}},
		{Job: "a@2", Target: "a", Node: "n2", State: Done, Files: []string{"out"}},
		{Job: "b@1", Target: "b", Node: "n1", State: Done, Images: img, Files: []string{"out"}},
		{Job: "b@2", Target: "b", Node: "n1", State: Failed, Reason: "why"},
		{Job: "c@1", Target: "c", State: NotStarted},
		{Job: "c@2", Target: "c", Node: "n2", State: Cancelled, Reason: "interrupted"},
	}}
	require.Equal(t, []TargetResult{
		{Name: "a", Nodes: []string{"n1", "n2"}, State: Done, Images: img, Files: []string{"out", "a.tar"}},
		{Name: "b", Nodes: []string{"n1"}, State: Failed, Reason: "why"},
		{Name: "c", Nodes: []string{"n2"}, State: Cancelled, Reason: "interrupted"},
	}, r.Targets())
}

// No node is to blame for a failure of this machine.
func TestOutputErrorNamesNoNode(t *testing.T) {
	e := &StepError{Targets: []string{"app"}, Node: "n1", Err: &fault.Rejected{Err: &fault.OutputError{Place: "/out", Err: errors.New("no space left on device")}}}
	require.Equal(t, "target app: write /out: no space left on device", e.Summary())
}
