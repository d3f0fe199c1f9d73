package runtime

import (
	"context"

	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/sched"
)

// tenantsMessage reports how many others build on a node.
type tenantsMessage struct {
	node    *nodeRun
	tenants int
}

func (m tenantsMessage) take(r *run) []sched.Event {
	return []sched.Event{sched.NodeShared{At: r.reporter.since(), Node: m.node.id, Tenants: m.tenants}}
}

// lookAround asks the node how many others build there, reports a change, and returns the
// number. before is the last one; it stays when the node does not say.
func (a *attendant) lookAround(ctx context.Context, c *daemon.Connection, before int) int {
	if c.Witness == nil {
		return before
	}
	both, cancel := c.Within(ctx)
	defer cancel()
	tenants, err := c.Witness.Tenants(both)
	if err != nil || tenants == before {
		return before
	}
	a.workers.report(tenantsMessage{node: a.node, tenants: tenants})
	return tenants
}
