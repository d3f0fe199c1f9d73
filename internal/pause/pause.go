// Package pause waits for a while, unless a context ends first.
package pause

import (
	"context"
	"time"
)

// For waits for d, or until ctx ends, whose cause it returns.
func For(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
