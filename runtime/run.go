package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/stopwatch"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
)

// tickInterval is how often the scheduler is told that time has passed, so that it
// sees steps that run late.
const tickInterval = 2 * time.Second

// Build is everything a run needs beside the nodes.
type Build struct {
	// Graph holds the steps of all jobs, those of equal work once.
	Graph *llbmerge.Graph
	// Jobs are indexed by sched.UnitID. Units beyond them are Steps, what nodes
	// build for each other.
	Jobs  []plan.Job
	Steps []plan.Intermediate
	// Sched is the problem and the plan. Its vertex i is Graph.Vertices[i];
	// vertices beyond those stand for no step. Its nodes are those of the pool.
	Sched  sched.Config
	Inputs Inputs
	// Cache is what caches are decided from. Its Nodes and Fleet are filled in by
	// Run.
	Cache cachepolicy.Input
	// CacheHolds are the units whose results refs are known to hold, of all steps; by ref.
	// Like those of Cache, the units need not be among those that are built.
	CacheHolds map[string]map[ir.UnitID]bool
	// Bases is the repository through which base images are passed on; "" is none.
	Bases string
	// Credentials are added to caches where nodes use them.
	Credentials CacheCredentials
	// Registries is this machine's own access to registries, for what no single
	// node can write.
	Registries registry.Options
	// Entitlements are those the user granted and some step needs.
	Entitlements []string
	// Provenance says which provenance of outputs stands in their metadata:
	// ProvenanceMin or ProvenanceMax, "" for none.
	Provenance string
	// Dir is what relative output paths stand against.
	Dir string
	// Stdout takes the archives whose destination is "-". Load takes images for
	// the local engine; nil when there is none.
	Stdout io.Writer
	Load   func(context.Context) (io.WriteCloser, error)
	// LoadEngine is the ID of that engine; "" is not known. What is built in it stays
	// there.
	LoadEngine string
	// Watch is told the phases of the run; nil for nobody.
	Watch *stopwatch.Watch
}

// run is one execution of a Build. One goroutine, the caller of Run, owns all of
// it; workers hold what they were started with and report through messages.
type run struct {
	*Build
	start    time.Time
	observe  func(Event)
	caches   caches
	exchange *exchange
	units    map[ir.UnitID]*frontend.Unit
	steps    map[ir.UnitID][]digest.Digest // that each unit needs
	images   map[ir.UnitID][]*llbmerge.Vertex
	bases    bases
	layouts  map[string]string // directories of OCI image layouts, by id
	sched    *sched.Scheduler
	vertex   map[digest.Digest]sched.VertexID
	ignoring []sched.VertexID                // steps that ignore the cache
	aliases  map[digest.Digest]digest.Digest // of vertices that were made to ignore it
	stepOf   map[sched.VertexID][]string     // targets whose step it is, once asked for
	outputs  [][]output                      // by job
	divided  []*divided
	putIndex func(ctx context.Context, index registry.Index, insecure bool) (ocispecs.Descriptor, error)
	tags     func(insecure []string) tagStore
	nodes    []*nodeRun
	workers  errgroup.Group
	waves    errgroup.Group // those that write shared caches
	messages chan message
	silences chan nodeSilent // may be full: a report is not worth waiting for
	timeout  time.Duration   // how long a node may be silent

	partitions map[sched.PartitionID]*partitionRun // those not ended
	failures   map[failureKey]*StepError           // those reported, in order of errs
	errs       []*StepError
	cut        map[int]cutPush // by job
	sick       []Sickness
	results    []JobResult   // by job
	ended      []bool        // by job: it was reported that it failed or was skipped
	queuesAt   time.Duration // when the queues were reported last; 0 is never
	dirs       dirLocks
	busy       busy
}

// nodeRun is one node's part of a run.
//
// It is absent until it is heard of, then connected; broken while its connection
// has ended and a better one is hoped for, and what it was doing waits (conn is nil);
// lost when that took too long, and its work went elsewhere. It can come back from
// there.
type nodeRun struct {
	info    NodeInfo
	id      sched.NodeID
	tracker *tracker
	sent    transfers
	conn    *connection
	up      bool            // as the scheduler knows it
	lost    error           // why it was given up; nil when it was not, or is back
	jobs    []string        // in order of their end
	held    []chan struct{} // closed when results need not be kept any longer
	// unread are the steps that read what could not be sent to it, and why.
	unread map[sched.VertexID]*InputError

	sick     int                    // failures of its own in a row
	sickness string                 // the last of them
	barred   bool                   // given up because of them
	gone     map[digest.Digest]bool // steps whose results it could not read
	running  map[digest.Digest]bool
	waves    int             // caches being written
	deferred []message       // of solves and exports that ended with the connection
	waiting  []*partitionRun // submitted while there was no connection

	// Those that follow belong to the goroutine that attends to it.
	absent  error // why it did not answer before the run; nil once it is there
	unfit   error // why it cannot be used
	assumed []ocispecs.Platform
}

// Run carries b out on the nodes of p. It returns when nothing of it is running
// any more, with a Result whether it failed or not, but for an error in b itself.
// The error joins one [StepError] for each failure; it is the context's cause when
// the run was cancelled.
//
// observe is called from the goroutine of Run.
func (p *Pool) Run(ctx context.Context, b *Build, observe func(Event)) (*Result, error) {
	r, err := newRun(b, p.All(), observe)
	if err != nil {
		return nil, err
	}
	r.timeout = p.timeout
	for i, n := range r.nodes {
		if i >= p.ready {
			_, n.absent = p.nodes[i].current()
			if n.absent == nil {
				n.absent = errors.New("it answered too late for the plan")
			}
		}
		before := p.nodes[i].onSilence(func(d time.Duration) {
			select {
			case r.silences <- nodeSilent{n, d}:
			default: // the next report says more
			}
		})
		defer func() { p.nodes[i].onSilence(before) }()
	}
	return r.run(ctx, p.connect(r))
}

// newRun prepares a run of b on nodes, of which those beyond b.Sched.Nodes have no
// part in the plan.
func newRun(b *Build, nodes []NodeInfo, observe func(Event)) (*run, error) {
	r := &run{
		Build: b, start: time.Now(), observe: observe,
		units:      map[ir.UnitID]*frontend.Unit{},
		steps:      map[ir.UnitID][]digest.Digest{},
		images:     map[ir.UnitID][]*llbmerge.Vertex{},
		bases:      bases{repo: b.Bases, access: b.Registries, copies: map[digest.Digest]*baseCopy{}, pulled: map[pulledBase]bool{}},
		layouts:    maps.Clone(b.Inputs.Layouts),
		divided:    dividedTargets(b),
		putIndex:   b.putIndex,
		tags:       b.openTags,
		cut:        map[int]cutPush{},
		stepOf:     map[sched.VertexID][]string{},
		vertex:     make(map[digest.Digest]sched.VertexID, len(b.Graph.Vertices)),
		messages:   make(chan message),
		silences:   make(chan nodeSilent, len(nodes)),
		timeout:    DefaultNodeTimeout,
		partitions: map[sched.PartitionID]*partitionRun{},
		failures:   map[failureKey]*StepError{},
	}
	if r.layouts == nil {
		r.layouts = map[string]string{}
	}
	for i, v := range b.Graph.Vertices {
		r.vertex[v.Digest] = sched.VertexID(i)
		if v.IgnoreCache {
			r.ignoring = append(r.ignoring, sched.VertexID(i))
		}
		for _, u := range v.Users {
			switch {
			case v.Kind.IsStep():
				r.steps[ir.UnitID(u)] = append(r.steps[ir.UnitID(u)], v.Digest)
			case v.Kind == llbmerge.KindImage:
				r.images[ir.UnitID(u)] = append(r.images[ir.UnitID(u)], v)
			}
		}
	}
	parts := map[int]*divided{} // by job
	for _, d := range r.divided {
		for _, j := range d.jobs {
			parts[j] = d
		}
	}
	for i, j := range b.Jobs {
		for _, u := range j.Units {
			r.units[u.ID] = u
			maps.Copy(r.layouts, u.OCIStores)
		}
		outs, err := outputs(j.Target, b.Dir, b.Stdout, b.Load)
		if d := parts[i]; err == nil && d != nil {
			outs, err = d.divide(outs)
		}
		if err != nil {
			return nil, err
		}
		r.outputs = append(r.outputs, outs)
		r.results = append(r.results, JobResult{Job: j.Name, Target: j.Target.Name, State: NotStarted})
	}
	r.ended = make([]bool, len(b.Jobs))
	var err error
	if r.caches, err = decideCaches(b); err != nil {
		return nil, err
	}
	for i, info := range nodes {
		r.nodes = append(r.nodes, &nodeRun{info: info, id: sched.NodeID(i), tracker: newTracker(r.isStep, r.isShared), running: map[digest.Digest]bool{}})
	}
	config := b.Sched
	config.Nodes = slices.Clone(config.Nodes)
	for _, n := range r.nodes[min(len(config.Nodes), len(r.nodes)):] {
		r.addLate(&config, n)
	}
	config.Vertices = slices.Clone(config.Vertices)
	for i := len(b.Graph.Vertices); i < len(config.Vertices); i++ {
		config.Vertices[i].Output = true // no step of the graph
	}
	if r.sched, err = sched.New(config); err != nil {
		return nil, fmt.Errorf("schedule: %w", err)
	}
	if r.exchange, err = newExchange(b.Steps, b.Cache); err != nil {
		return nil, err
	}
	return r, nil
}

// run carries the run out.
func (r *run) run(ctx context.Context, connect connectFunc) (_ *Result, err error) {
	defer func() {
		if closeErr := r.close(); err == nil {
			err = closeErr
		}
	}()
	over, done := context.WithCancel(context.Background())
	defer done()
	defer hurry(ctx, func() {
		select {
		case r.messages <- hangUp{}:
		case <-over.Done():
		}
	})()
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	finish := r.loop(ctx, writing, connect)
	if finish.Reason != "" {
		stopWriting()
	}
	cacheErr := r.finishCaches(writing, finish)
	r.busy.ends = true
	r.pace()
	r.release()
	res := r.result(finish)
	res.Warnings = append(res.Warnings, r.untag(ctx)...)
	err = r.err(finish)
	if ctx.Err() == nil {
		err = errors.Join(err, r.joinImages(ctx), cacheErr)
		res.Warnings = append(res.Warnings, r.verifyTags(ctx)...)
	}
	res.Wall = r.since()
	if ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	return res, err
}

// release lets go of what nodes hold for the run, and waits for all workers. A node
// that does not answer to this is not waited for: all is done.
func (r *run) release() {
	for _, n := range r.nodes {
		for _, held := range n.held {
			close(held)
		}
		c := n.conn
		if c == nil {
			continue
		}
		r.workers.Go(func() error {
			t := time.AfterFunc(endGrace, func() { c.hangUp(errHungUp) })
			defer t.Stop()
			c.end()
			return nil
		})
	}
	r.pump(&r.workers)
}

// hangUp says that nodes did not end in time what was interrupted.
type hangUp struct{}

func (hangUp) take(r *run) []sched.Event {
	for _, n := range r.nodes {
		if n.conn != nil {
			n.conn.hangUp(errHungUp)
		}
	}
	return nil
}

// open starts a session on a node.
func (r *run) open(l *link, info NodeInfo, nr *nodeRun) (*connection, error) {
	in := r.Inputs
	in.Layouts = r.layouts
	offer, err := in.services(&nr.sent)
	if err != nil {
		return nil, err
	}
	maps.Copy(offer.stores, r.caches.stores)
	maps.Copy(offer.stores, r.exchange.stores())
	ctx, cancel := context.WithCancel(l.ctx)
	silent := func(ctx context.Context, refs map[string]string) []string {
		return l.silent(ctx, offer.attachables(nil), refs)
	}
	s := &solver{
		link: l, life: ctx, services: offer, sharedKey: in.SharedKey, entitlements: r.Entitlements, dirs: &r.dirs,
		asks: silent, unheard: func(where string) { r.messages <- silentMessage{node: nr, host: where} },
	}
	var stop func()
	if s.session, stop, err = l.openSession(ctx, in.SharedKey, offer.attachables(nil)); err != nil {
		cancel()
		return nil, err
	}
	c := &connection{
		daemon: s, info: info, ended: ctx, hangUp: l.fail,
		stop: func() {
			cancel()
			stop()
		},
		silent: silent,
		unreadable: func(ctx context.Context, chain []*pb.Definition, imports []ir.CacheEntry) int {
			return s.unreadable(ctx, offer.attachables(nil), chain, imports)
		},
	}
	if refs := r.registries(); len(refs) > 0 {
		c.probe = func(ctx context.Context) []string { return s.probe(ctx, offer.attachables(nil), refs) }
	}
	return c, nil
}

// close ends the sessions.
func (r *run) close() error {
	for _, n := range r.nodes {
		if n.conn != nil {
			n.conn.stop()
		}
	}
	return r.exchange.close()
}

// since is the time since the start of the run.
func (r *run) since() time.Duration { return time.Since(r.start) }

// isStep tells vertices that do work on other vertices' results from sources and
// from joins.
func (r *run) isStep(d digest.Digest) bool {
	v, ok := r.vertex[d]
	return ok && r.Graph.Vertices[v].Kind.IsStep()
}

// isShared tells vertices of the graph from those that a solve has for itself.
func (r *run) isShared(d digest.Digest) bool {
	_, ok := r.vertex[d]
	return ok
}

// loop feeds the scheduler until it says Finish.
//
// Work on the nodes outlives ctx: when to end it is the scheduler's decision, which
// cancels what runs and is told how it ended.
//
// Caches are written within writing.
func (r *run) loop(ctx, writing context.Context, connect connectFunc) sched.Finish {
	attending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for _, n := range r.nodes {
		r.workers.Go(func() error {
			r.attend(attending, n, connect)
			return nil
		})
	}
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	var queue []sched.Event
	cancelled := ctx.Done()
	r.reportQueues()
	for {
		changed := len(queue) > 0
		r.pace()
		for len(queue) > 0 {
			ev := queue[0]
			cmds := r.sched.Step(ev)
			r.reportEnds(ev)
			queue = append(queue[1:], r.settle(ev, cmds)...)
			for _, cmd := range cmds {
				if f, ok := cmd.(sched.Finish); ok {
					return f
				}
				queue = append(queue, r.carryOut(cmd)...)
			}
		}
		if changed {
			r.reportQueues()
		}
		r.writeWaves(writing)
		select {
		case m := <-r.messages:
			queue = append(queue, m.take(r)...)
		case m := <-r.silences:
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
		r.pace()
		select {
		case m := <-r.messages:
			m.take(r)
		case m := <-r.silences:
			m.take(r)
		case <-done:
			return
		}
	}
}
