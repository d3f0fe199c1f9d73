package runtime

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/stopwatch"
	"github.com/dbake/dbake/runtime/daemon"
)

// The phases of a run add up to its time, and steps count before all else.
func TestPhases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuild(t, 1, names...)
		b.Watch = stopwatch.New()
		b.Watch.Enter(phaseConnect)
		f := newFleet(t, b)
		res, _, err := f.run(t.Context(), b)
		require.NoError(t, err)
		b.Watch.Stop()
		var sum time.Duration
		spent := map[string]time.Duration{}
		for _, p := range b.Watch.Phases() {
			sum += p.Wall
			spent[p.Name] = p.Wall
		}
		require.Equal(t, res.Wall, sum)
		require.Equal(t, res.Nodes[0].Busy, spent[phaseSteps])
		require.Positive(t, spent[phaseExport])
	})
}

// A step that failed does not run any more.
func TestFailedStepsDoNotRun(t *testing.T) {
	d := digest.FromString("step")
	n := &nodeRun{running: map[digest.Digest]bool{}, conn: &daemon.Connection{}}
	n.follow([]change{{vertex: d}}, &bkclient.SolveStatus{})
	require.Equal(t, phaseSteps, (&activity{nodes: nodeRuns{n}}).phase())
	end := time.Now()
	n.follow(nil, &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Digest: d, Completed: &end, Error: errors.New("exit code: 1").Error()}}})
	require.Equal(t, phaseSolve, (&activity{nodes: nodeRuns{n}}).phase())
}
