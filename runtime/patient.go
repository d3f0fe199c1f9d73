package runtime

import (
	"context"
	"fmt"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/compiler/ir"
)

const (
	// awayBudget is how long a node tries again what fails because a registry asks
	// to come later or does not answer.
	awayBudget = time.Minute
	// cacheBudget is that for a cache whose registry or service refuses connections: nobody is
	// there, and a cache is not worth waiting for. One that begins anew may take as long.
	cacheBudget = 12 * time.Second
	// awayWait is the first wait between two tries, awayMaxWait the longest; each
	// is twice the one before.
	awayWait    = time.Second
	awayMaxWait = 8 * time.Second
)

// patient is a daemon that repeats work which failed because of a registry: a push, or a
// step that waits for its base image.
type patient struct {
	daemon
	// waits is called from the goroutine of the call before each wait.
	waits func(text string)
}

var _ daemon = (*patient)(nil)

// Unwrap returns the daemon below.
func (d *patient) Unwrap() daemon { return d.daemon }

// evaluate implements daemon.
func (d *patient) evaluate(ctx context.Context, p partition, observe func(*bkclient.SolveStatus), evaluated func(), release <-chan struct{}) error {
	done := false
	always := func(error) time.Duration { return awayBudget }
	return d.again(ctx, always, func() error {
		err := d.daemon.evaluate(ctx, p, observe, func() { done = true; evaluated() }, release)
		if err != nil && done {
			return &Rejected{err} // the results were there: not to be had anew
		}
		return err
	})
}

// export implements daemon. What comes to this machine is written once.
func (d *patient) export(ctx context.Context, req exportRequest, observe func(*bkclient.SolveStatus)) (resp map[string]string, err error) {
	if req.receives() {
		return d.daemon.export(ctx, req, observe)
	}
	err = d.again(ctx, req.patience, func() (err error) {
		resp, err = d.daemon.export(ctx, req, observe)
		return err
	})
	return resp, err
}

// exportCache implements daemon.
func (d *patient) exportCache(ctx context.Context, req exportRequest, observe func(*bkclient.SolveStatus)) (resp map[string]string, err error) {
	if req.receives() {
		return d.daemon.exportCache(ctx, req, observe)
	}
	err = d.again(ctx, req.patience, func() (err error) {
		resp, err = d.daemon.exportCache(ctx, req, observe)
		return err
	})
	return resp, err
}

// patience is how long an export that failed is tried again.
func (req exportRequest) patience(err error) time.Duration {
	text := strings.ToLower(err.Error())
	if !strings.Contains(text, "connection refused") {
		return awayBudget
	}
	outputs := req.pushes()
	for _, c := range req.cacheTo {
		host := cacheAddress(ir.CacheEntry{Type: c.Type, Attrs: c.Attrs})
		if host != "" && outputs[host] == "" && strings.Contains(text, "://"+strings.ToLower(host)+"/") {
			return cacheBudget
		}
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
		if err == nil || ctx.Err() != nil || !registryAway(err) {
			return err
		}
		if n == 1 {
			since = time.Now()
		}
		left := budget(err) - time.Since(since)
		if left <= 0 {
			return &Rejected{fmt.Errorf("%w (given up after %d tries in %s)", err, n, time.Since(since).Round(time.Second))}
		}
		wait = min(wait, left)
		d.waits(fmt.Sprintf("%v; trying again in %s", plain(err), wait))
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, awayMaxWait)
	}
}
