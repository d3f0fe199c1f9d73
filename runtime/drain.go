package runtime

import (
	"context"
	"errors"
	"time"

	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/sched"
)

// A node drains when its label or the user says so: it is to go, ends what it was given, and
// gets nothing new.

// drainAsked is the time between two questions to a node whether it drains, and who else builds
// there.
const drainAsked = 3 * time.Second

// errDrained is why a node that is to go does not write a shared cache.
var errDrained = errors.New("it is drained; what only it has built is built again next time")

// drainMessage reports that a node is to go, for a reason, or is to stay.
type drainMessage struct {
	node *nodeRun
	why  string // "" = it is to stay
}

func (m drainMessage) take(r *run) []sched.Event { return r.drains.note(r, m.node, m.why) }

// drains are the nodes that are to go. They belong to the loop.
type drains struct {
	why  map[*nodeRun]string
	done map[*nodeRun]bool // said to have nothing left
}

func newDrains() *drains { return &drains{why: map[*nodeRun]string{}, done: map[*nodeRun]bool{}} }

// note notes whether a node is to go, and why.
func (d *drains) note(r *run, n *nodeRun, why string) []sched.Event {
	if d.why[n] == why {
		return nil
	}
	switch before := d.why[n]; {
	case why == "":
		delete(d.why, n)
		delete(d.done, n)
		r.reporter.waits(n, "is not drained any more, and gets work again")
	case before == "":
		d.why[n] = why
		r.reporter.waits(n, why+": it is drained, ends what it has begun, and gets nothing new")
	default:
		d.why[n] = why
		return nil
	}
	return []sched.Event{sched.NodeDrain{At: r.reporter.since(), Node: n.id, On: why != ""}}
}

// has reports whether a node is to go.
func (d *drains) has(n *nodeRun) bool { return d.why[n] != "" }

// settle reports, once each, the draining nodes that have nothing left to do.
func (d *drains) settle(r *run) {
	if len(d.why) == len(d.done) {
		return
	}
	for i, st := range r.sched.Status() {
		n := r.nodes[i]
		if d.has(n) && !d.done[n] && st.Drained && r.waves.underway[n] == 0 {
			d.done[n] = true
			r.reporter.waits(n, "is drained: nothing is left to do there")
		}
	}
}

// follow asks whether the node drains, and who else builds there, until its connection or ctx
// ends. before is the last answer to the first question.
func (a *attendant) follow(ctx context.Context, c *daemon.Connection, before string) {
	if c.Witness == nil && a.marked == nil {
		select {
		case <-c.Ended.Done():
		case <-ctx.Done():
		}
		return
	}
	tick := time.NewTicker(drainAsked)
	defer tick.Stop()
	for tenants := -1; ; {
		tenants = a.lookAround(ctx, c, tenants)
		select {
		case <-c.Ended.Done():
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if why, ok := a.drains(ctx, c); ok && why != before {
			before = why
			a.workers.report(drainMessage{node: a.node, why: why})
		}
	}
}

// drains returns why the node is to go, "" when it is not. ok is false when that is unknown.
func (a *attendant) drains(ctx context.Context, c *daemon.Connection) (why string, ok bool) {
	if a.marked != nil && a.marked(c.Info) {
		return "dbake nodes drain", true
	}
	if c.Witness == nil {
		return "", true
	}
	both, cancel := c.Within(ctx)
	defer cancel()
	on, err := c.Witness.Drains(both)
	if err != nil {
		return "", false
	}
	if on {
		return "its label " + daemon.DrainLabel, true
	}
	return "", true
}
