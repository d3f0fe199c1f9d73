package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/sched"
)

// tickInterval is how often the scheduler is told that time has passed, so that it
// sees steps that run late.
const tickInterval = 2 * time.Second

// Build is everything a run needs beside the nodes.
type Build struct {
	// Graph holds the steps of all jobs, those of equal work once.
	Graph *llbmerge.Graph
	// Jobs are indexed by sched.UnitID.
	Jobs []plan.Job
	// Sched is the problem and the plan. Its vertex i is Graph.Vertices[i];
	// vertices beyond those stand for no step. Its nodes are those of the pool.
	Sched  sched.Config
	Inputs Inputs
	// Cache is what caches are decided from. Its Nodes and Fleet are filled in by
	// Run.
	Cache cachepolicy.Input
	// Entitlements are those the user granted and some step needs.
	Entitlements []string
	// Dir is what relative output paths stand against.
	Dir string
	// Stdout takes the archives whose destination is "-". Load takes images for
	// the local engine; nil when there is none.
	Stdout io.Writer
	Load   func(context.Context) (io.WriteCloser, error)
}

// run is one execution of a Build. One goroutine, the caller of Run, owns all of
// it; workers hold what they were started with and report through messages.
type run struct {
	*Build
	start    time.Time
	observe  func(Event)
	caches   caches
	units    map[ir.UnitID]*frontend.Unit
	sched    *sched.Scheduler
	vertex   map[digest.Digest]sched.VertexID
	outputs  [][]output // by job
	nodes    []*nodeRun
	workers  errgroup.Group
	messages chan message

	partitions map[sched.PartitionID]*partitionRun // those not ended
	failures   map[failureKey]*StepError           // those reported, in order of errs
	errs       []*StepError
	results    []JobResult // by job
}

// nodeRun is one node's part of a run.
type nodeRun struct {
	*node
	id      sched.NodeID
	session *session.Session
	solver  *solver
	tracker *tracker
	sent    transfers
	ctx     context.Context // ends when the node is given up
	cancel  context.CancelCauseFunc
	stop    func() // ends the session and waits for it
	lost    error
	jobs    []string        // in order of their end
	held    []chan struct{} // closed when results need not be kept any longer
}

// Run carries b out on the nodes of p. It returns when nothing of it is running
// any more, with a Result whether it failed or not, but for an error in b itself.
// The error joins one [StepError] for each failure; it is the context's cause when
// the run was cancelled.
//
// observe is called from the goroutine of Run.
func (p *Pool) Run(ctx context.Context, b *Build, observe func(Event)) (*Result, error) {
	r := &run{
		Build: b, start: time.Now(), observe: observe,
		caches:     decideCaches(b),
		units:      map[ir.UnitID]*frontend.Unit{},
		vertex:     make(map[digest.Digest]sched.VertexID, len(b.Graph.Vertices)),
		messages:   make(chan message),
		partitions: map[sched.PartitionID]*partitionRun{},
		failures:   map[failureKey]*StepError{},
	}
	for i, v := range b.Graph.Vertices {
		r.vertex[v.Digest] = sched.VertexID(i)
	}
	for _, j := range b.Jobs {
		for _, u := range j.Units {
			r.units[u.ID] = u
		}
		outs, err := outputs(j.Target, b.Dir, b.Stdout, b.Load)
		if err != nil {
			return nil, err
		}
		r.outputs = append(r.outputs, outs)
		r.results = append(r.results, JobResult{Job: j.Name, Target: j.Target.Name, State: NotStarted})
	}
	var err error
	if r.sched, err = sched.New(b.Sched); err != nil {
		return nil, fmt.Errorf("schedule: %w", err)
	}
	// Work on the nodes outlives ctx: when to end it is the scheduler's decision,
	// which cancels what runs and is told how it ended.
	work := context.WithoutCancel(ctx)
	if err := r.open(work, p); err != nil {
		r.close()
		return nil, err
	}
	finish := r.loop(ctx, work)
	cacheErr := r.exportCaches(ctx, finish)
	for _, n := range r.nodes {
		for _, held := range n.held {
			close(held)
		}
	}
	r.pump(&r.workers)
	r.close()
	res := r.result(finish)
	return res, errors.Join(r.err(ctx, finish), cacheErr)
}

// open starts a session on every node.
func (r *run) open(ctx context.Context, p *Pool) error {
	for i, n := range p.nodes {
		nr := &nodeRun{node: n, id: sched.NodeID(i), stop: func() {}}
		r.nodes = append(r.nodes, nr)
		nr.ctx, nr.cancel = context.WithCancelCause(ctx)
		nr.tracker = newTracker(r.isStep)
		attach, err := r.Inputs.attachables(&nr.sent)
		if err != nil {
			return err
		}
		nr.session, nr.stop, err = n.openSession(nr.ctx, r.Inputs.SharedKey, attach)
		if err != nil {
			return err
		}
		nr.solver = &solver{node: n, session: nr.session, attach: attach, imports: r.caches.imports, entitlements: r.Entitlements}
	}
	return nil
}

// close ends the sessions.
func (r *run) close() {
	for _, n := range r.nodes {
		n.cancel(nil)
		n.stop()
	}
}

// since is the time since the start of the run.
func (r *run) since() time.Duration { return time.Since(r.start) }

// isStep tells vertices that do work on other vertices' results from sources and
// from joins.
func (r *run) isStep(d digest.Digest) bool {
	v, ok := r.vertex[d]
	return ok && r.Graph.Vertices[v].Kind.IsStep()
}

// loop feeds the scheduler until it says Finish.
func (r *run) loop(ctx, work context.Context) sched.Finish {
	watching, stopWatching := context.WithCancel(work)
	defer stopWatching()
	for _, n := range r.nodes {
		r.workers.Go(func() error {
			if err := n.watch(watching); err != nil {
				r.messages <- nodeLost{node: n, err: err}
			}
			return nil
		})
	}
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	var queue []sched.Event
	for _, n := range r.nodes {
		queue = append(queue, sched.NodeUp{Node: n.id})
	}
	cancelled := ctx.Done()
	for {
		for len(queue) > 0 {
			ev := queue[0]
			cmds := r.sched.Step(ev)
			queue = append(queue[1:], r.settle(ev, cmds)...)
			for _, cmd := range cmds {
				if f, ok := cmd.(sched.Finish); ok {
					return f
				}
				queue = append(queue, r.carryOut(cmd)...)
			}
		}
		select {
		case m := <-r.messages:
			queue = append(queue, m.take(r)...)
		case <-tick.C:
			queue = append(queue, sched.Tick{At: r.since()})
		case <-cancelled:
			cancelled = nil
			queue = append(queue, sched.Cancel{At: r.since(), Reason: context.Cause(ctx).Error()})
		}
	}
}

// pump takes messages in until every goroutine of g has ended; the scheduler has
// finished.
func (r *run) pump(g *errgroup.Group) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Wait() // they report through messages
	}()
	for {
		select {
		case m := <-r.messages:
			m.take(r)
		case <-done:
			return
		}
	}
}
