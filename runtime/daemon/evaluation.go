package daemon

import (
	"context"
	"errors"
	"slices"
	"sync"

	bkclient "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"

	"github.com/dbake/dbake/runtime/fault"
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
	over    bool          // no build begins any more; guarded by mu
}

// evaluation is one such build.
type evaluation struct {
	client gateway.Client // set when ready is closed, unless err is
	err    error          // set when ended is closed
	ready  chan struct{}
	ended  chan struct{}
	again  bool          // there was one before
	users  int           // solves under way or held; guarded by evaluations.mu
	leave  chan struct{} // closed when the build may end; guarded by evaluations.mu
	left   bool
	// retired is closed when later partitions get another build: whoever holds results in
	// this one takes them along. Guarded by evaluations.mu.
	retired chan struct{}
	// failures are the steps whose failure its status has shown.
	failures failures
	// readings are the caches that it reads.
	readings readings
}

func newEvaluation() *evaluation {
	return &evaluation{ready: make(chan struct{}), ended: make(chan struct{}), leave: make(chan struct{}), retired: make(chan struct{})}
}

// errEvaluationEnded is returned when a build ends before it was ready for use.
var errEvaluationEnded = errors.New("the build ended before it began")

// enter returns the build to solve in; start begins one. exit gives it back: with
// retire, later partitions get another, as a build does not try a failed step
// again.
func (e *evaluations) enter(ctx context.Context, start func(*evaluation)) (ev *evaluation, exit func(retire bool), err error) {
	e.mu.Lock()
	if e.over {
		e.mu.Unlock()
		return nil, nil, errEvaluationEnded
	}
	if e.current == nil {
		e.current = newEvaluation()
		e.current.again = len(e.all) > 0
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
			close(ev.retired)
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

// settle waits until the builds have ended that later partitions do not get: while one
// knows a step that has failed, the node does not run the step for another one either.
func (e *evaluations) settle(ctx context.Context) error {
	e.mu.Lock()
	current, all := e.current, slices.Clone(e.all)
	e.mu.Unlock()
	for _, ev := range all {
		if ev == current {
			continue
		}
		select {
		case <-ev.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
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
	e.current, e.over = nil, true
	all := e.all
	for _, ev := range all {
		ev.release()
	}
	e.mu.Unlock()
	for _, ev := range all {
		<-ev.ended
	}
}

// run is the life of an evaluation. Each has a session of its own: a node knows directories
// by the session that they came through, so that a second build in one session finds them as
// a result of the first, and what it copies from them is in no cache that it writes.
func (s *solver) run(ctx context.Context, ev *evaluation, observe func(*bkclient.SolveStatus)) {
	defer close(ev.ended)
	in := s.session
	if ev.again {
		own, stop, err := s.openSession(ctx, s.sharedKey, s.services.attachables(nil))
		if err != nil {
			ev.err = err
			return
		}
		defer stop()
		in = own
	}
	both := func(st *bkclient.SolveStatus) {
		ev.readings.observe(st)
		observe(st)
		ev.failures.observe(st)
	}
	_, ev.err = s.build(ctx, in, bkclient.SolveOpt{}, both, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
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

// Evaluate implements Daemon.
func (s *solver) Evaluate(ctx context.Context, p Partition, observe func(*bkclient.SolveStatus), evaluated func(), release <-chan struct{}) error {
	if p.Anew {
		if err := s.evaluations.settle(ctx); err != nil {
			return err
		}
	}
	before := func() {} // leaves the build that held the results until now
	defer func() { before() }()
	for first := true; ; first = false {
		ev, exit, err := s.evaluations.enter(ctx, func(ev *evaluation) { s.run(s.life, ev, observe) })
		if err != nil {
			return err
		}
		err = s.evaluateAll(ctx, ev, p)
		before()
		before = func() {}
		if err != nil {
			ev.failures.await(ctx, err)
			exit(s.retires(err))
			if ctx.Err() != nil {
				return errors.Join(context.Cause(ctx), err)
			}
			return err
		}
		if first {
			evaluated()
		}
		select {
		case <-release:
			exit(false)
			return nil
		case <-ctx.Done():
			exit(false)
			return context.Cause(ctx)
		case <-ev.retired:
			select {
			case <-release:
				exit(false)
				return nil
			default:
			}
			// The next build gets the results as they are while this one has them, but for
			// those that rest on what is lost: with them it would get the failure.
			if left := slices.DeleteFunc(slices.Clone(p.Single), ev.failures.hit); len(left) < len(p.Single) {
				p.Joined, p.Single = nil, left
			}
			before = func() { exit(false) }
		}
	}
}

// retires reports whether later partitions get another build after such a failure.
func (s *solver) retires(err error) bool {
	if _, gone := fault.LostBlob(err); gone || fault.OfInput(err) {
		return true
	}
	var failed *fault.StepFailed
	err = fault.Classify(err, nil)
	return fault.Retryable(err) || s.retrySteps && errors.As(err, &failed)
}

// End implements Daemon.
func (s *solver) End() { s.evaluations.end() }
