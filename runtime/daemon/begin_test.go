package daemon

import (
	"context"
	"errors"
	"testing"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/stretchr/testify/require"
)

// A build that a node gives up before it has begun is begun again, and no other.
func TestBeginAgain(t *testing.T) {
	early := errors.New("rpc error: code = NotFound desc = no such job abc")
	for name, c := range map[string]struct {
		early   int   // how often the node gives up before fn is called
		over    bool  // the node knows the build no more when it has ended
		fn      error // of the call
		stopped bool
		calls   int
		want    error
	}{
		"at once":         {calls: 1},
		"later":           {early: 3, calls: 4},
		"over already":    {over: true, calls: 1},
		"over after all":  {early: 1, over: true, calls: 2},
		"never":           {early: 100, calls: gatewayAttempts, want: early},
		"its own failure": {fn: early, calls: 1, want: early},
		"stopped":         {early: 100, stopped: true, calls: 1, want: early},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.stopped {
				cancel()
			}
			calls := 0
			err := beginAgain(ctx, func(context.Context, gateway.Client) error { return c.fn }, func(fn func(context.Context, gateway.Client) error) error {
				if calls++; calls <= c.early {
					return early
				}
				if err := fn(ctx, nil); err != nil || !c.over {
					return err
				}
				return early
			})
			require.Equal(t, c.calls, calls)
			require.Equal(t, c.want, err)
		})
	}
	other := errors.New("no space left")
	calls := 0
	require.Equal(t, other, beginAgain(t.Context(), nil, func(func(context.Context, gateway.Client) error) error { calls++; return other }))
	require.Equal(t, 1, calls)
}
