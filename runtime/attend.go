package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/sched"
)

const (
	// breakGrace is how long a connection that broke may take to come about again
	// before the node counts as lost. Its work waits for that long.
	breakGrace = 3 * time.Second
	// endGrace is how long a node may take to end what it keeps for the run, when
	// all is done.
	endGrace = 3 * time.Second
	// mostBreaks is how often a connection may break before its work goes elsewhere
	// at once, mostLosses before the node is used no more. One that stayed for
	// steadyAfter is forgiven.
	mostBreaks  = 2
	mostLosses  = 5
	steadyAfter = time.Minute
)

// connection is a daemon for as long as it can be reached without a break.
type connection struct {
	daemon
	info NodeInfo
	// ended ends with the connection; its cause says why.
	ended context.Context
	// hangUp ends it.
	hangUp context.CancelCauseFunc
	// stop ends the session, and waits.
	stop func()
	// probe returns the registries of caches that do not answer the node, and has
	// it read none from them; nil when there is none to try.
	probe func(context.Context) []string
	// silent returns the registries, of each of which a ref is given, that do not
	// answer the node in time; nil when it cannot be asked.
	silent func(ctx context.Context, refs map[string]string) []string
	// unreadable returns the first of a chain of results that the node cannot read, each of
	// which contains the one before, or their number; nil when it cannot be asked.
	unreadable func(ctx context.Context, chain []*pb.Definition, imports []ir.CacheEntry) int
}

// broken reports whether the connection has ended.
func (c *connection) broken() bool { return c.ended.Err() != nil }

// connectFunc returns a connection to a node as soon as there is one. It fails when
// ctx ends before, and when the node cannot be used for the run, with errUnfit.
type connectFunc func(ctx context.Context, n *nodeRun) (*connection, error)

// errUnfit says that a node cannot be used for a run, however often it is asked.
var errUnfit = errors.New("it cannot be used for this build")

// connect returns what connects to the nodes of p for r.
func (p *Pool) connect(r *run) connectFunc {
	return func(ctx context.Context, n *nodeRun) (*connection, error) {
		node := p.nodes[n.id]
		l, err := node.await(ctx)
		if err != nil {
			return nil, err
		}
		info := node.said()
		if n.absent != nil {
			if err := p.fits(ctx, l, info, n.assumed); err != nil {
				return nil, err
			}
		}
		return r.open(l, info, n)
	}
}

// fits checks that a node that joins late can do what the build was made for.
func (p *Pool) fits(ctx context.Context, l *link, info NodeInfo, assumed []ocispecs.Platform) error {
	for _, want := range assumed {
		if !anyMatch(info.Platforms, want) {
			return fmt.Errorf("%w: it does not run %s", errUnfit, platforms.FormatAll(want))
		}
	}
	set, err := l.caps(ctx)
	if err != nil {
		return err
	}
	if id := p.lacks(set); id != "" {
		return fmt.Errorf("%w: its BuildKit (%s) does not support %s, which the other nodes do", errUnfit, info.Version, id)
	}
	return nil
}

func anyMatch(have []ocispecs.Platform, want ocispecs.Platform) bool {
	for _, p := range have {
		if platforms.Only(p).Match(want) {
			return true
		}
	}
	return false
}

// assumed are the platforms that a node was taken to run before it was heard of:
// those it was said to run, else those of the first node.
func (r *run) assumed(n *nodeRun) []ocispecs.Platform {
	if list, err := parsePlatforms(n.info.Spec.Platforms); err == nil && len(list) > 0 {
		return list
	}
	return r.nodes[0].info.Platforms
}

// addLate adds a node that has not answered yet: it gets no part of the plan and
// steals when it comes.
func (r *run) addLate(c *sched.Config, n *nodeRun) {
	late := sched.Node{Name: n.info.Name, Speed: n.info.Speed, Slots: n.info.Slots, Platforms: []string{}}
	if late.Slots == 0 && len(c.Nodes) > 0 {
		late.Slots, late.SlotsAssumed = c.Nodes[0].Slots, c.Nodes[0].SlotsAssumed
	}
	n.assumed = r.assumed(n)
	for _, v := range c.Vertices {
		if p, err := platforms.Parse(v.Platform); v.Platform != "" && err == nil && anyMatch(n.assumed, p) && !slices.Contains(late.Platforms, v.Platform) {
			late.Platforms = append(late.Platforms, v.Platform)
		}
	}
	c.Nodes = append(c.Nodes, late)
}

// emulates returns by which factors a node that joined late is slower at the platforms
// that it emulates; nil for the others, of which the plan knows.
func (r *run) emulates(n *nodeRun) map[string]float64 {
	if int(n.id) < len(r.Sched.Nodes) {
		return nil
	}
	slower := map[string]float64{}
	for _, v := range r.Sched.Vertices {
		if p, err := platforms.Parse(v.Platform); v.Platform != "" && err == nil && plan.Emulates(n.info.Native, p) {
			slower[v.Platform] = plan.Emulation
		}
	}
	return slower
}

// attend follows what becomes of a node until ctx ends: it connects to it, notices
// when the connection ends, waits a moment for a better one, and gives the node up,
// but takes it back whenever it comes.
func (r *run) attend(ctx context.Context, n *nodeRun, connect connectFunc) {
	why, losses := n.absent, 0
	within := func(d time.Duration) *connection {
		ctx, cancel := context.WithTimeoutCause(ctx, d, &SilenceError{For: d})
		defer cancel()
		c, err := connect(ctx, n)
		if errors.Is(err, errUnfit) {
			n.unfit = err
		}
		if why == nil {
			why = err
		}
		if c != nil {
			waits := func(text string) { r.messages <- waitMessage{node: n, text: text} }
			if c.silent != nil {
				c.daemon = &attentive{daemon: c.daemon, silent: c.silent, waits: waits}
			}
			c.daemon = &patient{daemon: c.daemon, waits: waits}
		}
		return c
	}
	for {
		var c *connection
		var silence *SilenceError
		if n.absent == nil {
			if !errors.As(why, &silence) && losses < mostBreaks {
				c = within(breakGrace)
			}
			if c == nil && ctx.Err() == nil {
				r.messages <- nodeLost{node: n, err: why, returning: true}
				c = within(r.timeout)
			}
		}
		for first := true; c == nil; first = false {
			if ctx.Err() != nil {
				return
			}
			if first {
				r.messages <- nodeLost{node: n, err: why}
			}
			if n.unfit != nil {
				r.messages <- nodeLost{node: n, err: n.unfit}
				return
			}
			c = within(r.timeout)
		}
		r.reach(ctx, n, c)
		since := time.Now()
		n.absent = nil
		r.messages <- nodeBack{node: n, conn: c}
		select {
		case <-c.ended.Done():
		case <-ctx.Done():
			return
		}
		why = context.Cause(c.ended)
		r.messages <- nodeBroken{node: n, conn: c}
		c.stop()
		if losses++; time.Since(since) > steadyAfter {
			losses = 0
		}
		if losses >= mostLosses {
			r.messages <- nodeLost{node: n, err: fmt.Errorf("the connection broke %d times, at last because: %w", losses, why)}
			return
		}
	}
}

// nodeBroken says that a connection has ended. What was under way waits for the node
// to come back or to be lost.
type nodeBroken struct {
	node *nodeRun
	conn *connection
}

func (m nodeBroken) take(r *run) []sched.Event {
	if m.node.conn == m.conn {
		m.node.conn = nil
		clear(m.node.running)
	}
	return nil
}

// nodeBack says that a node can be used, for the first time or again.
type nodeBack struct {
	node *nodeRun
	conn *connection
}

func (m nodeBack) take(r *run) []sched.Event {
	n := m.node
	n.conn = m.conn
	if n.barred {
		return nil
	}
	var events []sched.Event
	if n.up && n.info.ID != m.conn.info.ID {
		// The daemon is another one, or has lost all it had.
		events = append(events, sched.NodeLost{At: r.since(), Node: n.id, Err: "it came back empty", Reconnecting: true})
		n.abandon()
		n.up = false
	}
	n.info = m.conn.info
	if n.lost != nil {
		r.observe(NodeEvent{At: r.since(), Node: n.info.Name, Back: true})
	}
	n.lost = nil
	if !n.up {
		n.up = true
		events = append(events, sched.NodeUp{At: r.since(), Node: n.id, Emulates: r.emulates(n)})
	}
	deferred, waiting := n.deferred, n.waiting
	n.abandon()
	for _, d := range deferred {
		events = append(events, d.take(r)...)
	}
	for _, p := range waiting {
		if !p.ended {
			r.begin(p)
		}
	}
	return events
}

// abandon forgets what waits for the node.
func (n *nodeRun) abandon() { n.deferred, n.waiting = nil, nil }

// nodeLost says that a node cannot be used. With returning set, it is hoped for: what
// no other node can do waits for it.
type nodeLost struct {
	node      *nodeRun
	err       error
	returning bool
}

func (m nodeLost) take(r *run) []sched.Event {
	n := m.node
	if n.conn != nil {
		n.conn.hangUp(fmt.Errorf("%w: %w", errNodeLost, m.err))
		n.conn = nil
	}
	clear(n.running)
	n.up = false
	n.abandon()
	if n.barred {
		return nil
	}
	if n.lost == nil {
		n.lost = m.err
		r.observe(NodeEvent{At: r.since(), Node: n.info.Name, Err: m.err})
	}
	return []sched.Event{sched.NodeLost{At: r.since(), Node: n.id, Err: m.err.Error(), Reconnecting: m.returning}}
}

// mostSick is how many failures in a row that are its own end the use of a node: one
// that fails all it is given would be given more and more, as it is always free.
const mostSick = 3

// bar gives a node up that fails whatever it is given, if there is another one.
func (r *run) bar(n *nodeRun) []sched.Event {
	other := func(o *nodeRun) bool { return o != n && o.up }
	if n.barred || n.sick < mostSick || !slices.ContainsFunc(r.nodes, other) {
		return nil
	}
	n.barred, n.up = true, false
	n.lost = &NodeSick{Reason: n.sickness, Err: fmt.Errorf("it failed %d times in a row", n.sick)}
	n.abandon()
	r.observe(NodeEvent{At: r.since(), Node: n.info.Name, Err: n.lost})
	return []sched.Event{sched.NodeLost{At: r.since(), Node: n.id, Err: n.lost.Error()}}
}

// noteSick notes that jobs failed because of a node.
func (r *run) noteSick(n *nodeRun, reason string, jobs []int) {
	at := slices.IndexFunc(r.sick, func(s Sickness) bool { return s.Node == n.info.Name && s.Reason == reason })
	if at < 0 {
		at = len(r.sick)
		r.sick = append(r.sick, Sickness{Node: n.info.Name, Reason: reason})
	}
	for _, j := range jobs {
		r.sick[at].Jobs = appendNew(r.sick[at].Jobs, r.Jobs[j].Name)
	}
}

// nodeSilent says for how long a node has said nothing; 0 that it is heard again.
type nodeSilent struct {
	node *nodeRun
	d    time.Duration
}

func (m nodeSilent) take(r *run) []sched.Event {
	r.observe(NodeEvent{At: r.since(), Node: m.node.info.Name, Silent: m.d, Back: m.d == 0})
	return nil
}
