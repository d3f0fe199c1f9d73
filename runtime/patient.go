package runtime

import (
	"context"
	"fmt"
	"time"

	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/runtime/sched"
)

const (
	// awayBudget is how long a node tries again what fails because a registry asks
	// to come later or does not answer.
	awayBudget = time.Minute
	// awayWait is the first wait between two tries, awayMaxWait the longest; each
	// is twice the one before.
	awayWait    = time.Second
	awayMaxWait = 8 * time.Second
)

// patient is a daemon that tries again what failed because of a registry: a push,
// or a step that waits for its base image.
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
	return d.again(ctx, func() error {
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
	err = d.again(ctx, func() (err error) {
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
	err = d.again(ctx, func() (err error) {
		resp, err = d.daemon.exportCache(ctx, req, observe)
		return err
	})
	return resp, err
}

// again calls try until it does not fail because of a registry, or the budget is
// spent. It is counted from the first failure.
func (d *patient) again(ctx context.Context, try func() error) error {
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
		if time.Since(since)+wait > awayBudget {
			return &Rejected{fmt.Errorf("%w (given up after %d tries in %s)", err, n, time.Since(since).Round(time.Second))}
		}
		d.waits(fmt.Sprintf("%v; trying again in %s", plain(err), wait))
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, awayMaxWait)
	}
}

// waitMessage says what a worker waits for.
type waitMessage struct {
	node *nodeRun
	text string
}

func (m waitMessage) take(r *run) []sched.Event {
	r.observe(WaitEvent{At: r.since(), Node: m.node.info.Name, Text: m.text})
	return nil
}
