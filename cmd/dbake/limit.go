package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// timeoutError is the cause of a context that ended because a build took too long.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string {
	return fmt.Sprintf("the build took longer than --timeout %s and was ended", e.after)
}

// limit returns a context that ends after d, if d is not 0. stop releases it and returns
// the error of the command, with the timeout as its cause if that ended it. A command that
// does not end by itself then is ended like an interrupted one.
func (a *app) limit(ctx context.Context, d time.Duration) (_ context.Context, stop func(error) error) {
	if d <= 0 {
		return ctx, func(err error) error { return err }
	}
	late := &timeoutError{after: d}
	ctx, cancel := context.WithTimeoutCause(ctx, d, late)
	quit := time.AfterFunc(d+interruptGrace, func() {
		a.progress.Error(fmt.Errorf("%w; not all could be ended in time", late), false)
		os.Exit(1)
	})
	return ctx, func(err error) error {
		quit.Stop()
		cancel()
		var said *timeoutError
		if err == nil || context.Cause(ctx) != error(late) || errors.As(err, &said) {
			return err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return late
		}
		return errors.Join(err, late)
	}
}
