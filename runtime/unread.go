package runtime

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/sched"
)

// One transfer serves all steps that read a directory. A file that cannot be read is
// left out of it, and only the steps that read the file fail: those that run without
// noticing, too. What was left out is noted before the node has the directory, and
// looked at here before the result of any step is taken for good.

// takeUnread fails the units that read what was left out of what was sent to a node.
func (r *run) takeUnread(n *nodeRun) []sched.Event {
	fresh := n.sent.takeUnread()
	found := false
	for _, source := range ir.SortedKeys(fresh) {
		for i, v := range r.Graph.Vertices {
			id := sched.VertexID(i)
			if n.unread[id] != nil {
				continue
			}
			if path := plan.Reads(r.Graph, v, source, r.Inputs.Dirs[source], fresh[source]); path != "" {
				if n.unread == nil {
					n.unread = map[sched.VertexID]*InputError{}
				}
				n.unread[id] = fresh[source][path]
				found = true
			}
		}
	}
	if !found {
		return nil
	}
	var events []sched.Event
	running := slices.SortedFunc(maps.Values(r.partitions), func(a, b *partitionRun) int { return cmp.Compare(a.id, b.id) })
	for _, p := range running {
		if p.node == n {
			events = append(events, r.failReaders(p)...)
		}
	}
	return events
}

// failReaders fails the open units of p that read what its node was not sent.
func (r *run) failReaders(p *partitionRun) []sched.Event {
	var events []sched.Event
	for _, v := range slices.Sorted(maps.Keys(p.node.unread)) {
		f := r.unreadFailure(p.node, v)
		for _, u := range p.units {
			if p.open[u] && !p.failing[u] && f.blames(r, u) {
				if p.failing == nil {
					p.failing = map[sched.UnitID]bool{}
				}
				p.failing[u] = true
				events = append(events, r.failed(p, u, f))
			}
		}
	}
	return events
}

// unreadFailure is the failure of a step that reads what its node was not sent.
func (r *run) unreadFailure(n *nodeRun, v sched.VertexID) failure {
	f := failure{vertex: v}
	step := r.Graph.Vertices[v]
	key := failureKey{node: n.info.Name, what: step.Digest.String()}
	if f.err = r.failures[key]; f.err != nil {
		return f
	}
	f.err = &StepError{
		Node: n.info.Name, Step: step.Step, Source: r.source(step), Targets: r.stepTargets(v), Err: n.unread[v],
	}
	r.failures[key] = f.err
	r.errs = append(r.errs, f.err)
	return f
}

// isTransfer reports whether err is that of reading a directory of the client.
func (r *run) isTransfer(err error) bool {
	var ve *bkerrdefs.VertexError
	if !errors.As(err, &ve) {
		return false
	}
	v, ok := r.vertex[digest.Digest(ve.Digest)]
	return ok && r.Graph.Vertices[v].Local != nil
}
