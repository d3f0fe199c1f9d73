package simnode_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/plan/plantest"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/simnode"
)

// newFlakyProject generates a project with steps that fail in a fifth of their executions,
// and, if it is broken, with one that always fails.
func newFlakyProject(t *testing.T, seed uint64, broken bool) *project {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	var docker, hcl strings.Builder
	docker.WriteString("FROM busybox:1 AS base\nRUN sleep 1; head -c 9 /dev/urandom > /base\n")
	docker.WriteString("FROM base AS shared\nRUN echo test shared; sleep 1; echo timed out; flaky 0.2\n")
	targets := 2 + rng.IntN(4)
	flaky := 1 + rng.IntN(2) // besides the shared one
	var names []string
	for i := range targets {
		name := fmt.Sprintf("t%d", i)
		names = append(names, fmt.Sprintf("%q", name))
		fmt.Fprintf(&docker, "FROM %s AS %s\nRUN echo step %d; sleep %.1f; head -c 9 /dev/urandom > /r\n", []string{"base", "shared"}[rng.IntN(2)], name, i, 0.5+4*rng.Float64())
		if i < flaky {
			fmt.Fprintf(&docker, "RUN echo test %d; sleep 1; echo timed out; flaky 0.2\n", i)
		}
		if broken && i == targets-1 {
			docker.WriteString("RUN echo broken; sleep 1; exit 3\n")
		}
		fmt.Fprintf(&hcl, "target %q {\n  target = %q\n  tags = [\"%s/%s:1\"]\n  output = [\"type=image,push=true\"]\n}\n", name, name, host, name)
	}
	on := plantest.New(t, fmt.Sprintf("-- docker-bake.hcl --\ngroup \"default\" { targets = [%s] }\n%s-- Dockerfile --\n%s", strings.Join(names, ", "), hcl.String(), docker.String()))
	p := &project{fails: broken}
	var err error
	p.build, err = plan.Prepare(context.Background(), on.Compile(), frontend.Options{
		Dir: on.Dir, Resolver: frontend.NewRegistryResolver(frontend.RegistryOptions{Offline: true}),
	}, plan.Memory{History: on.History, Files: filesum.Open("", time.Now())})
	require.NoError(t, err)
	return p
}

// afterTwoNodes is how many of the failures came after two nodes had failed.
func afterTwoNodes(list []runtime.FailedExecution) int {
	for i, f := range list {
		if f.Node != list[0].Node {
			return len(list) - i - 1
		}
	}
	return 0
}

// Of 100 builds with steps that fail in a fifth of their executions, 99 succeed when each
// is executed again up to three times; flaky steps are called so, and broken ones are not.
// What one build learns of a step the next one knows, as from the history.
func TestRetrySteps(t *testing.T) {
	const builds, limit = 100, 3
	var good []*project
	var bad []*project
	for seed := range uint64(builds) {
		good = append(good, newFlakyProject(t, seed, false))
		if seed%5 == 0 {
			bad = append(bad, newFlakyProject(t, seed, true))
		}
	}
	past := map[string]runtime.Trials{}
	passed, again, flaky := 0, 0, 0
	try := func(t *testing.T, seed uint64, p *project) (ok bool) {
		w := newWorld(seed, &simnode.Registry{})
		defer time.Sleep(time.Minute)
		defer w.close()
		w.retrySteps, w.past, w.calm, w.whole = limit, past, true, false
		o := w.carryOut(t.Context(), t, p)
		wrong := w.check(p, o)
		if o.err != nil { // whether it failed is what is measured
			wrong = slices.DeleteFunc(wrong, func(s string) bool { return strings.HasPrefix(s, "it failed although") })
		}
		require.Empty(t, wrong, "seed %d: %v", seed, o.err)
		ran := map[string][2]int{} // by step: executions that failed and that did not
		for _, n := range w.nodes {
			for _, e := range n.Executions() {
				x := ran[e.Vertex.String()]
				if e.Layer == "" {
					x[0]++
				} else {
					x[1]++
				}
				ran[e.Vertex.String()] = x
			}
		}
		named := map[string]*runtime.FailedStep{}
		for _, s := range o.result.FailedSteps {
			named[s.Vertex.String()] = s
		}
		for _, v := range o.work.Graph.Vertices {
			x, s := ran[v.Digest.String()], named[v.Digest.String()]
			again += x[0]
			if s == nil {
				// What a submission does that was stopped, as another node was faster, is
				// not reported.
				require.True(t, x[0] == 0 || len(o.result.Steals) > 0, "seed %d: %s failed %d times", seed, v.Step, x[0])
			} else {
				require.NotEmpty(t, s.Failures, "seed %d: %s", seed, v.Step)
				require.LessOrEqual(t, len(s.Failures), x[0], "seed %d: %s", seed, v.Step)
				if len(o.result.Steals) == 0 {
					// Also where only a result was to be sent.
					require.Len(t, s.Failures, x[0], "seed %d: %s", seed, v.Step)
				}
				if x[1] == 0 {
					require.LessOrEqual(t, len(s.Failures), limit+1, "seed %d: %s", seed, v.Step)
				}
			}
			broken := strings.Contains(v.Command, "exit 3")
			switch {
			case s == nil:
			case broken:
				require.NotEqual(t, runtime.Flaky, s.Verdict(), "seed %d: %s", seed, s)
				require.LessOrEqual(t, afterTwoNodes(s.Failures), 1, "seed %d: %s", seed, s)
			case x[1] > 0:
				require.Equal(t, runtime.Flaky, s.Verdict(), "seed %d: %s", seed, s)
				flaky++
			}
			if old := past[v.Step]; !broken {
				past[v.Step] = runtime.Trials{Failed: old.Failed + x[0], All: old.All + x[0] + x[1]}
			}
		}
		if o.err != nil && !p.fails {
			t.Logf("%v", o.err)
		}
		return o.err == nil
	}
	inBubble(t, func(t *testing.T) {
		for seed, p := range good {
			if try(t, uint64(seed), p) {
				passed++
			} else {
				t.Logf("build %d failed", seed)
			}
		}
		for seed, p := range bad {
			require.False(t, try(t, uint64(seed), p))
		}
	})
	t.Logf("%d of %d builds passed; %d executions failed, %d steps were found to be flaky", passed, builds, again, flaky)
	require.GreaterOrEqual(t, passed, builds*99/100)
	require.NotZero(t, flaky)
}
