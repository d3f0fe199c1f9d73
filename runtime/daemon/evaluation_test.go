package daemon

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// begin is the start of a build that is ready at once and lasts until it may end.
func begin(count *int) func(*evaluation) {
	return func(ev *evaluation) {
		*count++
		close(ev.ready)
		<-ev.leave
		close(ev.ended)
	}
}

func TestEvaluations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e evaluations
		started := 0
		enter := func() (*evaluation, func(bool)) {
			ev, exit, err := e.enter(t.Context(), begin(&started))
			require.NoError(t, err)
			return ev, exit
		}
		over := func(ev *evaluation) bool {
			synctest.Wait()
			select {
			case <-ev.ended:
				return true
			default:
				return false
			}
		}
		first, exit1 := enter()
		same, exit2 := enter()
		require.Same(t, first, same)
		exit1(false)
		again, exit3 := enter()
		require.Same(t, first, again)
		exit2(true)
		require.False(t, over(first), "one is still in it")
		second, exit4 := enter()
		require.NotSame(t, first, second)
		exit3(true)
		require.True(t, over(first))
		exit4(false)
		require.False(t, over(second), "it is kept for later partitions")
		e.end()
		require.True(t, over(second))
		require.Equal(t, 2, started)
		e.end()
		_, _, err := e.enter(t.Context(), begin(&started))
		require.ErrorIs(t, err, errEvaluationEnded, "nobody would end it")
	})
}

func TestEvaluationsThatDoNotBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e evaluations
		refused := errors.New("refused")
		_, _, err := e.enter(t.Context(), func(ev *evaluation) {
			ev.err = refused
			close(ev.ended)
		})
		require.ErrorIs(t, err, refused)

		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("cancelled")
		cancel(why)
		_, _, err = e.enter(ctx, func(ev *evaluation) {
			<-ev.leave // it may end although it never began
			close(ev.ended)
		})
		require.ErrorIs(t, err, why)

		started := 0
		_, exit, err := e.enter(t.Context(), begin(&started))
		require.NoError(t, err)
		exit(false)
		e.end()
	})
}

// Once a step has failed in a build, the holders of results in it are asked to take them along,
// and whatever needs that step waits for its end.
func TestEvaluationsSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e evaluations
		started := 0
		first, holds, err := e.enter(t.Context(), begin(&started))
		require.NoError(t, err)
		_, fails, err := e.enter(t.Context(), begin(&started))
		require.NoError(t, err)
		require.NoError(t, e.settle(t.Context()), "the build that later partitions get does not count")
		fails(true)
		<-first.retired
		settled := make(chan error, 1)
		go func() { settled <- e.settle(t.Context()) }()
		synctest.Wait()
		require.Empty(t, settled)
		second, exit, err := e.enter(t.Context(), begin(&started))
		require.NoError(t, err)
		require.NotSame(t, first, second)
		holds(false)
		require.NoError(t, <-settled)
		exit(false)
		e.end()
	})
}

// A failure waits for the status that shows it, and not for ever.
func TestFailuresAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := digest.FromString("v")
		failed := errdefs.WrapVertex(errors.New("exit code: 1"), d)
		now := time.Now()
		var f failures
		time.AfterFunc(time.Second, func() {
			f.observe(&bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Digest: d, Started: &now, Completed: &now, Error: "exit code: 1"}}})
		})
		f.await(t.Context(), failed)
		require.Equal(t, time.Second, time.Since(now))
		f.await(t.Context(), failed)
		f.await(t.Context(), errors.New("about no vertex"))
		require.Equal(t, time.Second, time.Since(now))
		f.await(t.Context(), errdefs.WrapVertex(errors.New("no status"), digest.FromString("other")))
		require.Equal(t, time.Second+statusWait, time.Since(now))
	})
}
