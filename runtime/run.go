package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/stopwatch"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/layout"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
	"github.com/dbake/dbake/runtime/watchdog"
)

// tickInterval is how often the scheduler hears that time has passed, so that it
// sees steps that run late.
const tickInterval = 2 * time.Second

// Build is the input of a run beside the nodes.
type Build struct {
	// Graph holds the steps of all jobs, those of equal work once.
	Graph *llbmerge.Graph
	// Jobs are indexed by sched.UnitID. Units beyond them are Steps, what nodes
	// build for each other.
	Jobs  []plan.Job
	Steps []plan.Intermediate
	// Sched is the problem and the plan. Its vertex i is Graph.Vertices[i];
	// vertices beyond those stand for no step. Its nodes are those of the pool.
	Sched sched.Config
	// Past is what is known of the vertices of Graph from earlier runs; it may be shorter.
	Past   []Trials
	Inputs daemon.Inputs
	// Cache is the input of the decision about caches. Its Nodes and Fleet are filled in by
	// Run.
	Cache cachepolicy.Input
	// CacheHolds are, by ref of a cache, the units for which it is known to hold the results of
	// all steps. Like those of Cache, the units need not be among those that are built.
	CacheHolds map[string]map[ir.UnitID]bool
	// Kept are the units whose results are all known to be on the node that Sched plans them
	// on.
	Kept map[ir.UnitID]bool
	// Bases is the repository through which base images are passed on; "" is none.
	Bases string
	// Credentials are added to caches where nodes use them.
	Credentials cacheentry.Credentials
	// Faulty are the targets that could not be prepared and are not among Jobs.
	Faulty []string
	// Withhold publishes nothing: what was written is left to [Result.Withheld].
	Withhold bool
	// Registries is this machine's own access to registries, for what no single
	// node can write.
	Registries registry.Options
	// Entitlements are those the user granted and some step needs.
	Entitlements []string
	// Provenance chooses the provenance in the metadata of outputs: ProvenanceMin or
	// ProvenanceMax, "" for none.
	Provenance string
	// Tracing has the nodes record what they do; nil is not wanted.
	Tracing *daemon.Tracing
	// Dir is the base of relative output paths.
	Dir string
	// Stdout takes the archives whose destination is "-". Load takes images for
	// the local engine; nil when there is none.
	Stdout io.Writer
	Load   func(context.Context) (io.WriteCloser, error)
	// LoadEngine is the ID of that engine; "" is not known. What is built in it stays
	// there.
	LoadEngine string
	// Drained reports whether the user wants a node to go. It is called every few seconds, from
	// any goroutine. nil for none.
	Drained func(daemon.NodeInfo) bool
	// Held returns the digests of the steps whose results a node keeps that was not there when
	// the run was planned, or was lost. records are the results that the node reports, executed
	// is what it ran in this run. nil when nobody knows.
	Held func(info daemon.NodeInfo, records warm.Records, executed []plan.Measurement) []digest.Digest
	// Watch measures the phases of the run; nil for none.
	Watch *stopwatch.Watch
}

// run is one execution of a Build. One goroutine, the caller of Run, owns all of it: it feeds
// the scheduler, carries out its commands, and reports to the parts what concerns them. Each
// part has one idea and fields that are its own; workers hold what they were started with and
// report through messages.
type run struct {
	work        *work
	sched       *sched.Scheduler
	nodes       nodeRuns
	attendants  []*attendant
	workers     *workers
	submissions *submissions
	accounts    *accounts
	reporter    *reporter
	activity    *activity
	exports     *exports
	caches      *caches
	waves       *waves
	unwritten   unwritten
	exchange    *exchange
	bases       *bases
	lost        *lostResults
	unread      *unread
	drains      *drains
	replans     *replans
	dirs        layout.Locks
}

// Run carries b out on the nodes of p. It returns when nothing of the run is active any more,
// with a Result whether the run failed or not. Only an error in b itself gives none. The error
// joins one [StepError] for each failure; it is the context's cause when the run was cancelled.
//
// observe is called from the goroutine of Run.
func Run(ctx context.Context, p *daemon.Pool, b *Build, observe func(Event)) (*Result, error) {
	r, err := newRun(b, p.All(), observe)
	if err != nil {
		return nil, err
	}
	for i, a := range r.attendants {
		a.expect(p.Timeout(), p.Late(i))
		if a.absent != nil && i < len(b.Sched.Nodes) {
			a.promise(b.Sched.Nodes[i].From, r.nodes.assumedPlatforms(a.node))
		}
		defer p.OnSilence(i, func(d time.Duration) { r.workers.silent(a.node, d) })()
	}
	return r.run(ctx, connectTo(p, r))
}

// newRun prepares a run of b on nodes. Those beyond b.Sched.Nodes have no part in the
// plan.
func newRun(b *Build, nodes []daemon.NodeInfo, observe func(Event)) (*run, error) {
	w := newWork(b)
	r := &run{
		work: w, workers: newWorkers(len(nodes)), submissions: newSubmissions(), accounts: newAccounts(w),
		unwritten: unwritten{}, bases: newBases(w), unread: newUnread(w), drains: newDrains(),
	}
	var warnings []string
	var err error
	if r.caches, warnings, err = decideCaches(b); err != nil {
		return nil, err
	}
	read, other := r.caches.probes(w.Jobs)
	for i, info := range nodes {
		n := newNodeRun(i, info, newTracker(w.isStep, w.isShared))
		r.nodes = append(r.nodes, n)
		r.attendants = append(r.attendants, &attendant{node: n, workers: r.workers, timeout: daemon.DefaultNodeTimeout, read: read, other: other, marked: b.Drained})
	}
	r.reporter = newReporter(w, r.nodes, observe)
	r.activity = &activity{watch: b.Watch, nodes: r.nodes}
	for _, text := range warnings {
		r.reporter.warn(text)
	}
	if r.exports, err = newExports(w, r.caches, r.reporter, r.workers, &r.dirs); err != nil {
		return nil, err
	}
	r.replans = &replans{config: r.config(), workers: r.workers}
	if r.sched, err = sched.New(r.replans.config); err != nil {
		return nil, fmt.Errorf("schedule: %w", err)
	}
	if r.exchange, err = newExchange(w, r.reporter); err != nil {
		return nil, err
	}
	r.lost = newLostResults(w, r.exchange, r.reporter, r.workers)
	r.waves = newWaves(w, r.caches, r.nodes, r.lost, r.reporter, r.workers, r.activity, r.drains, r.pump)
	return r, nil
}

// config is the problem and the plan with the nodes that have no part in it.
func (r *run) config() sched.Config {
	c := r.work.Sched
	c.Nodes = slices.Clone(c.Nodes)
	for _, a := range r.attendants[min(len(c.Nodes), len(r.attendants)):] {
		a.join(&c, r.nodes.assumedPlatforms(a.node))
	}
	c.Units = r.work.gates(c.Units)
	c.Vertices = slices.Clone(c.Vertices)
	for i := len(r.work.Graph.Vertices); i < len(c.Vertices); i++ {
		c.Vertices[i].Output = true // no step of the graph
	}
	return c
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
	defer watchdog.Hurry(ctx, func() { r.workers.reportWithin(over, hangUp{}) })()
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	finish := r.loop(ctx, writing, connect)
	if finish.Reason != "" {
		stopWriting()
	}
	cacheErr := r.waves.finish(writing, finish, r.exchange.images.list())
	r.activity.end()
	r.activity.pace()
	r.release()
	r.reporter.finish()
	res := r.result(finish)
	res.Transfers = r.exchange.done
	res.Warnings = append(res.Warnings, r.exchange.untag(ctx, r.exports.tags)...)
	err = r.accounts.err(finish, r.nodes)
	if ctx.Err() == nil {
		err = errors.Join(err, r.exports.join(ctx, r.accounts), cacheErr)
		res.Warnings = append(res.Warnings, r.exports.verifyTags(ctx, r.accounts)...)
	}
	res.Wall = r.reporter.since()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return res, r.withheld(res, err)
}

// withheld leaves what is yet to be published to the result of a run that has ended with
// err, or removes it if that is an error.
func (r *run) withheld(res *Result, err error) error {
	if !r.work.Withhold {
		return err
	}
	batch := r.accounts.withheld()
	res.Warnings = append(res.Warnings, r.accounts.rests...)
	if err != nil {
		return errors.Join(err, batch.Discard())
	}
	res.Withheld = batch
	return nil
}

// result assembles the result of the run.
func (r *run) result(finish sched.Finish) *Result {
	res := r.accounts.result(finish, r.nodes)
	r.accounts.warnUnwritten(r.unwritten, r.reporter.warn)
	res.Caches = append(r.waves.written, r.accounts.writtenCaches(r.caches, r.nodes)...)
	res.Warnings = r.reporter.warnings
	return res
}

// release lets go of what nodes hold for the run, and waits for all workers. A node
// that does not answer to this is not waited for: all is done.
func (r *run) release() {
	for _, n := range r.nodes {
		n.letGo()
		c := n.conn
		if c == nil {
			continue
		}
		r.workers.start(func() {
			t := time.AfterFunc(endGrace, func() { c.HangUp(daemon.ErrHungUp) })
			defer t.Stop()
			c.End()
		})
	}
	r.pump(&r.workers.all)
}

// hangUp reports that nodes did not end in time what was interrupted.
type hangUp struct{}

func (hangUp) take(r *run) []sched.Event {
	for _, n := range r.nodes {
		if n.conn != nil {
			n.conn.HangUp(daemon.ErrHungUp)
		}
	}
	return nil
}

// session returns what a session on a node offers, and how it solves.
func (r *run) session(nr *nodeRun) daemon.SessionOptions {
	in := r.work.Inputs
	in.Layouts = r.work.layouts
	stores := r.exchange.stores()
	maps.Copy(stores, r.caches.stores)
	return daemon.SessionOptions{
		Inputs: in, Sent: &nr.sent, Stores: stores, Entitlements: r.work.Entitlements, RetrySteps: r.work.Sched.Options.RetrySteps > 0,
		Locks: &r.dirs, Tracing: r.work.Tracing,
		Unheard: func(server string) { r.workers.report(silentMessage{node: nr, host: server}) },
	}
}

// close ends the sessions.
func (r *run) close() error {
	for _, n := range r.nodes {
		if n.conn != nil {
			n.conn.Stop()
		}
	}
	return r.exchange.close()
}

// loop feeds the scheduler until it says Finish.
//
// Work on the nodes outlives ctx: when to end it is the scheduler's decision, which
// cancels what runs and hears how it ended.
//
// Caches are written within writing.
func (r *run) loop(ctx, writing context.Context, connect connectFunc) sched.Finish {
	attending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for _, a := range r.attendants {
		r.workers.start(func() { a.attend(attending, connect) })
	}
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	var queue []sched.Event
	cancelled := ctx.Done()
	r.reporter.queues(r.sched)
	for {
		changed := len(queue) > 0
		r.activity.pace()
		for len(queue) > 0 {
			ev := queue[0]
			cmds := r.sched.Step(ev)
			r.reporter.ends(ev, r.sched)
			r.noteTrial(ev)
			queue = append(queue[1:], r.settle(ev, cmds)...)
			for _, cmd := range cmds {
				if f, ok := cmd.(sched.Finish); ok {
					return f
				}
				queue = append(queue, r.carryOut(cmd)...)
			}
		}
		if changed {
			r.reporter.queues(r.sched)
			r.drains.settle(r)
		}
		r.waves.begin(writing)
		r.replans.advance(attending, r)
		select {
		case m := <-r.workers.messages:
			queue = append(queue, m.take(r)...)
		case m := <-r.workers.silences:
			queue = append(queue, m.take(r)...)
		case <-tick.C:
			queue = append(queue, sched.Tick{At: r.reporter.since()})
		case <-cancelled:
			cancelled = nil
			queue = append(queue, sched.Cancel{At: r.reporter.since(), Reason: context.Cause(ctx).Error()})
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
		r.activity.pace()
		select {
		case m := <-r.workers.messages:
			m.take(r)
		case m := <-r.workers.silences:
			m.take(r)
		case <-done:
			return
		}
	}
}
