package pause_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/pause"
)

func TestFor(t *testing.T) {
	over := errors.New("over")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		require.NoError(t, pause.For(t.Context(), time.Minute))
		require.Equal(t, time.Minute, time.Since(start))

		ctx, end := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { end(over) })
		require.ErrorIs(t, pause.For(ctx, time.Minute), over)
		require.Equal(t, time.Minute+time.Second, time.Since(start))

		require.ErrorIs(t, pause.For(ctx, time.Minute), over)
		require.ErrorIs(t, pause.For(ctx, 0), over)
		require.NoError(t, pause.For(t.Context(), 0))
		require.Equal(t, time.Minute+time.Second, time.Since(start))
	})
}
