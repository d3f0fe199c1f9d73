package runtime

import (
	"context"
	"errors"
	"strings"
	"sync"

	bkclient "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
)

// evaluations solve the partitions of a node inside one long build.
//
// BuildKit keeps what it has read of a cache for each build apart from what other
// builds read of the same cache, and a step that one build has found there is of
// no help when another looks for the step after it. With a build for each
// partition, whatever follows a shared step would therefore miss the cache. It
// also holds the results: exports of the same digests are answered from memory,
// and a step that ignores the cache is not run once more for each of them.
type evaluations struct {
	mu      sync.Mutex
	current *evaluation   // guarded by mu
	all     []*evaluation // guarded by mu
}

// evaluation is one such build.
type evaluation struct {
	client gateway.Client // set when ready is closed, unless err is
	err    error          // set when ended is closed
	ready  chan struct{}
	ended  chan struct{}
	users  int           // solves under way or held; guarded by evaluations.mu
	leave  chan struct{} // closed when the build may end; guarded by evaluations.mu
	left   bool
	// readings are the caches that it reads.
	readings readings
}

// errEvaluationEnded is returned when a build ends before it was ready for use.
var errEvaluationEnded = errors.New("the build ended before it began")

// enter returns the build to solve in; start begins one. exit gives it back: with
// retire, later partitions get another, as a build does not try a failed step
// again.
func (e *evaluations) enter(ctx context.Context, start func(*evaluation)) (ev *evaluation, exit func(retire bool), err error) {
	e.mu.Lock()
	if e.current == nil {
		e.current = &evaluation{ready: make(chan struct{}), ended: make(chan struct{}), leave: make(chan struct{})}
		e.all = append(e.all, e.current)
		go start(e.current)
	}
	ev = e.current
	ev.users++
	e.mu.Unlock()

	exit = func(retire bool) {
		e.mu.Lock()
		defer e.mu.Unlock()
		ev.users--
		if retire && e.current == ev {
			e.current = nil
		}
		if e.current != ev && ev.users == 0 {
			ev.release()
		}
	}
	select {
	case <-ev.ready:
		return ev, exit, nil
	case <-ev.ended:
		err = errors.Join(errEvaluationEnded, ev.err)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	exit(true)
	return nil, nil, err
}

// release lets the build end; e.mu is held.
func (ev *evaluation) release() {
	if !ev.left {
		ev.left = true
		close(ev.leave)
	}
}

// end lets every build end and waits for it.
func (e *evaluations) end() {
	e.mu.Lock()
	e.current = nil
	all := e.all
	for _, ev := range all {
		ev.release()
	}
	e.mu.Unlock()
	for _, ev := range all {
		<-ev.ended
	}
}

// run is the life of an evaluation.
func (s *solver) run(ctx context.Context, ev *evaluation, observe func(*bkclient.SolveStatus)) {
	defer close(ev.ended)
	both := func(st *bkclient.SolveStatus) {
		ev.readings.observe(st)
		observe(st)
	}
	_, ev.err = s.build(ctx, s.session, bkclient.SolveOpt{}, both, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		ev.client = c
		close(ev.ready)
		select {
		case <-ev.leave:
			return gateway.NewResult(), nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
}

// evaluate implements daemon.
func (s *solver) evaluate(ctx context.Context, p partition, observe func(*bkclient.SolveStatus), evaluated func(), release <-chan struct{}) error {
	ev, exit, err := s.evaluations.enter(ctx, func(ev *evaluation) { s.run(s.life, ev, observe) })
	if err != nil {
		return err
	}
	err = s.evaluateAll(ctx, ev, p)
	defer func() {
		_, gone := findLostBlob(err)
		exit(gone || err != nil && (retryable(err) || strings.Contains(err.Error(), inputSign)))
	}()
	if err != nil {
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		return err
	}
	evaluated()
	select {
	case <-release:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end implements daemon.
func (s *solver) end() { s.evaluations.end() }
