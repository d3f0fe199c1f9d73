package runtime

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

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
