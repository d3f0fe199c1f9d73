package daemon

import (
	"context"
	"fmt"
	"time"

	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/fault"
)

const (
	// awayBudget is how long a node tries again when a registry asks to come later or does not
	// answer.
	awayBudget = time.Minute
	// cacheBudget is the same for a cache whose registry or service refuses connections: nobody
	// is there, and a cache is not worth waiting for. A service that starts anew may take as
	// long.
	cacheBudget = 12 * time.Second
	// awayWait is the first wait between two tries, awayMaxWait the longest; each
	// is twice the one before.
	awayWait    = time.Second
	awayMaxWait = 8 * time.Second
)

// Patiently returns d with patience: it repeats what failed because of a registry. With the
// help of w, which may be nil, it gives up what a silent registry holds up. waits is called
// with what is waited for, from any goroutine.
func Patiently(d Daemon, w Witness, waits func(text string)) Daemon {
	if w != nil {
		d = &attentive{Daemon: d, witness: w, waits: waits}
	}
	return &patient{Daemon: d, waits: waits}
}

// patient is a daemon that repeats work which failed because of a registry: a push, or a
// step that waits for its base image.
type patient struct {
	Daemon
	// waits is called from the goroutine of the call before each wait.
	waits func(text string)
}

var _ Daemon = (*patient)(nil)

// Unwrap returns the daemon below.
func (d *patient) Unwrap() Daemon { return d.Daemon }

// Evaluate implements Daemon.
func (d *patient) Evaluate(ctx context.Context, p Partition, observe func(*bkclient.SolveStatus), evaluated func(), release <-chan struct{}) error {
	done := false
	always := func(error) time.Duration { return awayBudget }
	return d.again(ctx, always, func() error {
		err := d.Daemon.Evaluate(ctx, p, observe, func() { done = true; evaluated() }, release)
		if err != nil && done {
			return &fault.Rejected{Err: err} // the results were there: not repeated
		}
		return err
	})
}

// Export implements Daemon. What comes to this machine is written once.
func (d *patient) Export(ctx context.Context, req ExportRequest, observe func(*bkclient.SolveStatus)) (resp map[string]string, err error) {
	if req.receives() {
		return d.Daemon.Export(ctx, req, observe)
	}
	err = d.again(ctx, req.patience, func() (err error) {
		resp, err = d.Daemon.Export(ctx, req, observe)
		return err
	})
	return resp, err
}

// ExportCache implements Daemon.
func (d *patient) ExportCache(ctx context.Context, req ExportRequest, observe func(*bkclient.SolveStatus)) (resp map[string]string, err error) {
	if req.receives() {
		return d.Daemon.ExportCache(ctx, req, observe)
	}
	err = d.again(ctx, req.patience, func() (err error) {
		resp, err = d.Daemon.ExportCache(ctx, req, observe)
		return err
	})
	return resp, err
}

// patience is how long an export that failed is tried again.
func (req ExportRequest) patience(err error) time.Duration {
	outputs := req.pushes()
	var caches []string
	for _, c := range req.CacheTo {
		if host := cacheentry.Address(ir.CacheEntry{Type: c.Type, Attrs: c.Attrs}); outputs[host] == "" {
			caches = append(caches, host)
		}
	}
	if fault.RefusedBy(err, caches...) {
		return cacheBudget
	}
	return awayBudget
}

// again calls try until it does not fail because of a registry, or the budget for the
// error is spent. It is counted from the first failure.
func (d *patient) again(ctx context.Context, budget func(error) time.Duration, try func() error) error {
	var since time.Time
	wait := awayWait
	for n := 1; ; n++ {
		err := try()
		if err == nil || ctx.Err() != nil || !fault.RegistryAway(err) {
			return err
		}
		if n == 1 {
			since = time.Now()
		}
		left := budget(err) - time.Since(since)
		if left <= 0 {
			return &fault.Rejected{Err: fmt.Errorf("%w (given up after %d tries in %s)", err, n, time.Since(since).Round(time.Second))}
		}
		wait = min(wait, left)
		d.waits(fmt.Sprintf("%v; trying again in %s", fault.Plain(err), wait))
		if err := pause.For(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, awayMaxWait)
	}
}
