package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/sched"
	"github.com/dbake/dbake/runtime/watchdog"
)

const (
	// breakGrace is how long a broken connection may take to come back before the node counts as
	// lost. Until then its work waits.
	breakGrace = 3 * time.Second
	// endGrace is how long a node may take to end the run's builds when all is done.
	endGrace = 3 * time.Second
	// mostBreaks is how often a connection may break before its work goes elsewhere at once.
	// mostLosses is how often before the node is used no more. A connection that held for
	// steadyAfter starts the count anew.
	mostBreaks  = 2
	mostLosses  = 5
	steadyAfter = time.Minute
	// probeAfter is how long a node is connected before it tries the registries that caches are
	// read from: most have been read by then, and the run may be over. Nothing waits for a trial.
	probeAfter = time.Second
)

// connectFunc returns a connection to a node as soon as there is one. It fails when ctx ends
// first, and with ErrUnfit when the node cannot be used for the run.
type connectFunc func(ctx context.Context, a *attendant) (*daemon.Connection, error)

// connectTo returns a function that connects to the nodes of p for r.
func connectTo(p *daemon.Pool, r *run) connectFunc {
	return func(ctx context.Context, a *attendant) (*daemon.Connection, error) {
		if a.absent != nil {
			return p.ConnectLate(ctx, int(a.node.id), a.assumed, r.session(a.node))
		}
		return p.Connect(ctx, int(a.node.id), r.session(a.node))
	}
}

// addLate adds a node that has not answered yet: it gets no part of the plan and
// steals when it comes.
func addLate(c *sched.Config, n *nodeRun, assumed []ocispecs.Platform) {
	late := sched.Node{Name: n.info.Name, Speed: n.info.Speed, Slots: n.info.Slots, Platforms: []string{}}
	if late.Slots == 0 && len(c.Nodes) > 0 {
		late.Slots, late.SlotsAssumed = c.Nodes[0].Slots, c.Nodes[0].SlotsAssumed
	}
	expected := daemon.NodeInfo{Platforms: assumed}
	for _, v := range c.Vertices {
		if p, err := platforms.Parse(v.Platform); v.Platform != "" && err == nil && expected.Runs(p) && !slices.Contains(late.Platforms, v.Platform) {
			late.Platforms = append(late.Platforms, v.Platform)
		}
	}
	c.Nodes = append(c.Nodes, late)
}

// attendant follows one node of a run: it connects, notices when the connection ends, waits a
// moment for a better one, and then gives the node up. It takes the node back whenever it
// answers again. It is a worker; its state is its own.
type attendant struct {
	node    *nodeRun
	workers *workers
	connect connectFunc
	timeout time.Duration // how long the node may be silent

	// read and other are the sources to ask for, by server. They show which servers of caches
	// answer the node: those that caches are read from, and the others.
	read, other map[string]string

	absent  error         // why it did not answer before the run; nil once it is there
	due     time.Duration // when the plan expects it, if it does, since the start of the run
	assumed []ocispecs.Platform
	unfit   error // why it cannot be used
	why     error // why there is no connection
	losses  int   // connections that ended early, in a row
	// missed is set when the node was not there when the run was planned, or was given up. What
	// it holds is unknown then.
	missed bool
	// marked reports whether the user wants the node to go; nil when nobody can.
	marked func(daemon.NodeInfo) bool
}

// expect sets how long the node may be silent, and why it did not answer before the run;
// nil if it did.
func (a *attendant) expect(timeout time.Duration, absent error) {
	a.timeout, a.absent, a.missed = timeout, absent, absent != nil
}

// promise says when the node is to come, since the start of the run: the plan has work for it.
// It is assumed to run the platforms in assumed.
func (a *attendant) promise(due time.Duration, assumed []ocispecs.Platform) {
	a.due, a.assumed = due, assumed
}

// join adds the node to a problem that it has no part in yet. Until it answers, it is assumed
// to run the platforms in assumed.
func (a *attendant) join(c *sched.Config, assumed []ocispecs.Platform) {
	a.assumed = assumed
	addLate(c, a.node, assumed)
}

// within returns a connection to the node that comes about within d; nil when none does.
func (a *attendant) within(ctx context.Context, d time.Duration) *daemon.Connection {
	ctx, cancel := context.WithTimeoutCause(ctx, d, &watchdog.SilenceError{For: d})
	defer cancel()
	c, err := a.connect(ctx, a)
	if errors.Is(err, daemon.ErrUnfit) {
		a.unfit = err
	}
	if a.why == nil {
		a.why = err
	}
	if c != nil {
		waits := func(text string) { a.workers.report(waitMessage{node: a.node, text: text}) }
		c.Daemon = daemon.Patiently(c.Daemon, c.Witness, waits)
	}
	return c
}

// await returns a connection to the node, however long that takes, and reports when hope for
// one is given up. It returns nil when ctx ends, or the node cannot be used.
func (a *attendant) await(ctx context.Context) *daemon.Connection {
	var c *daemon.Connection
	var silence *watchdog.SilenceError
	switch {
	case a.due > 0: // its work waits for it
		c = a.within(ctx, a.due+a.timeout)
		a.due = 0
	case a.absent == nil:
		if !errors.As(a.why, &silence) && a.losses < mostBreaks {
			c = a.within(ctx, breakGrace)
		}
		if c == nil && ctx.Err() == nil {
			a.missed = true
			a.workers.report(nodeLost{node: a.node, err: a.why, returning: true})
			c = a.within(ctx, a.timeout)
		}
	}
	for first := true; c == nil; first = false {
		if ctx.Err() != nil {
			return nil
		}
		if first {
			a.missed = true
			a.workers.report(nodeLost{node: a.node, err: a.why})
		}
		if a.unfit != nil {
			a.workers.report(nodeLost{node: a.node, err: a.unfit})
			return nil
		}
		c = a.within(ctx, a.timeout)
	}
	return c
}

// attend follows the node until ctx ends or the node is given up for good.
func (a *attendant) attend(ctx context.Context, connect connectFunc) {
	a.connect, a.why = connect, a.absent
	for {
		c := a.await(ctx)
		if c == nil {
			return
		}
		if c.Witness != nil {
			a.workers.start(func() { a.probe(ctx, c, 0, a.other) })
			a.workers.start(func() { a.probe(ctx, c, probeAfter, a.read) })
		}
		since := time.Now()
		a.absent = nil
		why, _ := a.drains(ctx, c)
		a.workers.report(nodeBack{node: a.node, conn: c, drains: why, records: a.recall(ctx, c)})
		a.follow(ctx, c, why)
		if ctx.Err() != nil {
			return
		}
		a.why = context.Cause(c.Ended)
		a.workers.report(nodeBroken{node: a.node, conn: c})
		c.Stop()
		if a.losses++; time.Since(since) > steadyAfter {
			a.losses = 0
		}
		if a.losses >= mostLosses {
			a.workers.report(nodeLost{node: a.node, err: fmt.Errorf("the connection broke %d times, last: %w", a.losses, a.why)})
			return
		}
	}
}

// probe has the node try servers of caches after a while, and leave out those that do not
// answer.
func (a *attendant) probe(ctx context.Context, c *daemon.Connection, after time.Duration, probes map[string]string) {
	both, cancel := c.Within(ctx)
	defer cancel()
	if len(probes) == 0 || pause.For(both, after) != nil {
		return
	}
	for _, server := range c.Witness.Silent(both, probes) {
		if c.Witness.LeaveOut(server) {
			a.workers.report(silentMessage{node: a.node, host: server})
		}
	}
}

// recall returns the results that a node which was missed keeps. It returns nil when the node
// was not missed, or does not report them.
func (a *attendant) recall(ctx context.Context, c *daemon.Connection) warm.Records {
	missed := a.missed
	a.missed = false
	if !missed || c.Witness == nil {
		return nil
	}
	both, cancel := c.Within(ctx)
	defer cancel()
	records, _ := c.Witness.Records(both) // unknown is no failure
	return records
}

// nodeBroken reports that a connection has ended. Work under way waits for the node to come
// back or to be given up.
type nodeBroken struct {
	node *nodeRun
	conn *daemon.Connection
}

func (m nodeBroken) take(*run) []sched.Event {
	m.node.disconnect(m.conn)
	return nil
}

// nodeBack reports that a node can be used, for the first time or again.
type nodeBack struct {
	node   *nodeRun
	conn   *daemon.Connection
	drains string // why the node is to go; "" = it is not
	// records are the results that the node keeps, for one that was missed; nil = not known.
	records warm.Records
}

func (m nodeBack) take(r *run) []sched.Event {
	n := m.node
	if n.state == barred {
		n.connect(m.conn)
		return nil
	}
	var events []sched.Event
	back, fresh := n.err != nil, !n.up()
	empty := n.info.ID != m.conn.Info.ID
	if !fresh && empty {
		// The daemon is another one, or has lost all it had.
		events = append(events, sched.NodeLost{At: r.reporter.since(), Node: n.id, Err: "it came back empty", Reconnecting: true})
		n.abandon()
		fresh = true
	}
	holds := r.holdings(n, m.conn.Info, m.records)
	deferred, waiting := n.connect(m.conn)
	if back {
		r.reporter.node(n, NodeEvent{Back: true})
	}
	events = append(events, r.drains.note(r, n, m.drains)...)
	if fresh {
		r.replans.wanted = r.replans.wanted || back || len(holds) > 0 || int(n.id) >= len(r.work.Sched.Nodes)
		events = append(events, sched.NodeUp{At: r.reporter.since(), Node: n.id, Emulates: r.work.emulates(n.id, n.info.Native), Empty: empty, Holds: holds})
	}
	for _, d := range deferred {
		events = append(events, d.take(r)...)
	}
	for _, p := range waiting {
		if p.state == submitted {
			r.begin(p)
		}
	}
	return events
}

// holdings returns the vertices whose results a node that has come, or come back, still keeps:
// from earlier runs, and from this one.
func (r *run) holdings(n *nodeRun, info daemon.NodeInfo, records warm.Records) []sched.VertexID {
	if records == nil || r.work.Held == nil {
		return nil
	}
	var executed []plan.Measurement
	if n.info.ID == info.ID {
		executed = n.measurements(r.work.Graph)
	}
	var list []sched.VertexID
	for _, d := range r.work.Held(info, records, executed) {
		if v, ok := r.work.vertex[d]; ok {
			list = append(list, v)
		}
	}
	return list
}

// nodeLost reports that a node cannot be used. With returning set, it may come back: work
// that no other node can do waits for it.
type nodeLost struct {
	node      *nodeRun
	err       error
	returning bool
}

func (m nodeLost) take(r *run) []sched.Event {
	n := m.node
	if n.lose(m.err, fmt.Errorf("%w: %w", errNodeLost, m.err)) {
		r.reporter.node(n, NodeEvent{Err: m.err})
	}
	if n.state == barred {
		return nil
	}
	return []sched.Event{sched.NodeLost{At: r.reporter.since(), Node: n.id, Err: m.err.Error(), Reconnecting: m.returning}}
}

// bar gives up a node that fails all its work, if there is another one.
func (r *run) bar(n *nodeRun) []sched.Event {
	err := n.failsAll()
	if err == nil || !slices.ContainsFunc(r.nodes, func(o *nodeRun) bool { return o != n && o.up() }) {
		return nil
	}
	n.bar(err)
	r.reporter.node(n, NodeEvent{Err: err})
	return []sched.Event{sched.NodeLost{At: r.reporter.since(), Node: n.id, Err: err.Error()}}
}

// nodeSilent reports for how long a node has been silent; 0 that it is heard again.
type nodeSilent struct {
	node *nodeRun
	d    time.Duration
}

func (m nodeSilent) take(r *run) []sched.Event {
	r.reporter.node(m.node, NodeEvent{Silent: m.d, Back: m.d == 0})
	return nil
}
