package runtime

import (
	"context"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/runtime/sched"
)

// message is a report of a worker to the loop.
type message interface {
	// take notes the message and returns what the scheduler has to know.
	take(r *run) []sched.Event
}

// workers are the goroutines of a run. Each holds what it was started with, and reports to the
// loop by message. A report waits until the loop takes it, and the loop takes messages until
// the last worker has ended.
type workers struct {
	all      errgroup.Group
	waves    errgroup.Group // those that write shared caches
	messages chan message
	silences chan nodeSilent // may be full: a report is not worth waiting for
}

func newWorkers(nodes int) *workers {
	return &workers{messages: make(chan message), silences: make(chan nodeSilent, nodes)}
}

// start starts a worker.
func (w *workers) start(f func()) {
	w.all.Go(func() error {
		f()
		return nil
	})
}

// startWave starts a worker that writes a shared cache.
func (w *workers) startWave(f func()) {
	w.waves.Go(func() error {
		f()
		return nil
	})
}

// report gives m to the loop.
func (w *workers) report(m message) { w.messages <- m }

// reportWithin gives m to the loop unless ctx ends first.
func (w *workers) reportWithin(ctx context.Context, m message) {
	select {
	case w.messages <- m:
	case <-ctx.Done():
	}
}

// observe returns an observer that reports the status of a solve on a node.
func (w *workers) observe(n *nodeRun, from *solveSource) func(*bkclient.SolveStatus) {
	return func(st *bkclient.SolveStatus) { w.report(statusMessage{node: n, from: from, status: st}) }
}

// silent reports that a node has said nothing for d.
func (w *workers) silent(n *nodeRun, d time.Duration) {
	select {
	case w.silences <- nodeSilent{n, d}:
	default: // the next report says more
	}
}
