package sched

import (
	"fmt"
	"maps"
	"slices"
)

// When a node is lost, others are told at once to execute what it had executed. It may be back,
// with its results, before they begin. Then they concede: what they were told is taken back, and
// as soon as they confirm that nothing of it was executed, the result that exists is that of
// the run. Until then nobody is given what needs the step.

// concede has what needs a step of the list, which n holds and no cache does, taken back from
// nodes that have not begun any of it.
func concede(s *fates, n *node, list []VertexID) {
	list = slices.DeleteFunc(list, func(v VertexID) bool {
		return slices.ContainsFunc(s.nodes, func(o *node) bool {
			return slices.ContainsFunc(o.runs, func(r *run) bool {
				return !r.waits && !r.conceded && s.needs(r, v)
			})
		})
	})
	for _, v := range list {
		s.once.keeper[v] = n.id
	}
	for _, o := range s.nodes {
		for _, r := range o.runs {
			if r.conceded || !slices.ContainsFunc(list, func(v VertexID) bool { return s.needs(r, v) }) {
				continue
			}
			s.commit(r)
			r.canceled, r.conceded = true, true
			s.emit(CancelPartition{Partition: r.id, Reason: fmt.Sprintf("%s is back, and had executed it", n.name), Recalled: true})
		}
	}
}

// settleKept decides about the steps that were to be conceded: a submission has ended.
func settleKept(s *fates) {
	if len(s.once.keeper) == 0 {
		return
	}
	for _, v := range slices.Sorted(maps.Keys(s.once.keeper)) {
		n, o := s.nodes[s.once.keeper[v]], s.owner(v)
		if o != nil && !s.cached.has(v) && slices.ContainsFunc(o.runs, func(r *run) bool { return r.conceded && s.needs(r, v) }) {
			continue // it has yet to confirm
		}
		delete(s.once.keeper, v)
		if o == nil && !s.cached.has(v) && n.state == up {
			n.relics.unset(v)
			s.once.by[v] = n.id
			s.hold(n, v)
			s.wake(n)
		}
	}
	s.reconsider()
}

// dropKept ends what others concede to n, which is lost.
func dropKept(s *fates, n *node) {
	maps.DeleteFunc(s.once.keeper, func(_ VertexID, by NodeID) bool { return by == n.id })
}

// kept reports whether others are to concede v.
func (s *fleet) kept(v VertexID) bool {
	_, ok := s.once.keeper[v]
	return ok
}

// opening is a step that a node may have begun, for submissions that were taken back.
type opening struct {
	node NodeID
	runs int // how many of those have not ended
}

// isOpen reports whether a node other than n may have begun v.
func isOpen(s *fleet, n *node, v VertexID) bool {
	o := s.once.open[v]
	return o.runs > 0 && o.node != n.id
}

// leaveOpen notes the steps that a submission may have begun although nothing of it was heard
// until it is taken back. Until it has ended, no other node is given what needs them: what the
// node has begun is known then.
func leaveOpen(s *fates, r *run) {
	if !s.once.some {
		return
	}
	s.walk(r.toBuild(), func(v VertexID) bool {
		if r.n.held.has(v) || s.cached.has(v) || s.elsewhere(r.n, v) != nil {
			return false
		}
		if s.cfg.Vertices[v].Once && !s.once.free.has(v) {
			r.open = append(r.open, v)
			s.once.open[v] = opening{r.n.id, s.once.open[v].runs + 1}
		}
		return true
	})
}

// settleOpen ends what leaveOpen has begun: the submission has ended.
func settleOpen(s *fates, r *run) {
	for _, v := range r.open {
		if o := s.once.open[v]; o.runs > 1 {
			s.once.open[v] = opening{o.node, o.runs - 1}
		} else {
			delete(s.once.open, v)
		}
	}
	if len(r.open) > 0 {
		r.open = nil
		s.reconsider()
	}
}
