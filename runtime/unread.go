package runtime

import (
	"errors"
	"maps"
	"slices"

	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/sched"
)

// One transfer serves all steps that read a directory. A file that cannot be read is left out,
// and only the steps that read the file fail, even those that ran without noticing. What is
// left out is noted before the node has the directory, and checked here before any result of a
// step is accepted.

// unread are the steps that read files which could not be sent to a node, and why. It
// belongs to the loop.
type unread struct {
	work  *work
	steps map[*nodeRun]map[sched.VertexID]*fault.InputError
}

func newUnread(w *work) *unread {
	return &unread{work: w, steps: map[*nodeRun]map[sched.VertexID]*fault.InputError{}}
}

// take notes the files left out of transfers to a node, and reports whether more of its
// steps read them.
func (x *unread) take(n *nodeRun) bool {
	fresh := n.sent.TakeUnread()
	found := false
	for _, source := range ir.SortedKeys(fresh) {
		for i, v := range x.work.Graph.Vertices {
			id := sched.VertexID(i)
			if x.steps[n][id] != nil {
				continue
			}
			if path := plan.Reads(x.work.Graph, v, source, x.work.Inputs.Dirs[source], fresh[source]); path != "" {
				if x.steps[n] == nil {
					x.steps[n] = map[sched.VertexID]*fault.InputError{}
				}
				x.steps[n][id] = fresh[source][path]
				found = true
			}
		}
	}
	return found
}

// count is how many steps of a node read files that it was not sent.
func (x *unread) count(n *nodeRun) int { return len(x.steps[n]) }

// each calls f for each of them, in order.
func (x *unread) each(n *nodeRun, f func(sched.VertexID, *fault.InputError)) {
	for _, v := range slices.Sorted(maps.Keys(x.steps[n])) {
		f(v, x.steps[n][v])
	}
}

// takeUnread fails the units that read files left out of transfers to a node.
func (r *run) takeUnread(n *nodeRun) []sched.Event {
	if !r.unread.take(n) {
		return nil
	}
	var events []sched.Event
	for _, p := range r.submissions.of(n) {
		events = append(events, r.failReaders(p)...)
	}
	return events
}

// failReaders fails the open units of p that read files that its node was not sent.
func (r *run) failReaders(p *submission) []sched.Event {
	var events []sched.Event
	r.unread.each(p.node, func(v sched.VertexID, err *fault.InputError) {
		f := r.accounts.unreadFailure(p.node, v, err)
		for _, u := range p.openUnits() {
			if f.blames(r.work, u) && p.progress(u, failing) {
				events = append(events, r.fail(p, u, f))
			}
		}
	})
	return events
}

// isTransfer reports whether err is that of reading a directory of the client.
func (w *work) isTransfer(err error) bool {
	var ve *bkerrdefs.VertexError
	if !errors.As(err, &ve) {
		return false
	}
	v, ok := w.vertex[digest.Digest(ve.Digest)]
	return ok && w.Graph.Vertices[v].Local != nil
}
