package sched

import "time"

// A node may be shared with others: other runs of dbake, and other clients. It takes steps in
// the order in which they come, or gives all of them the same part of its processors, so each
// of those that keep it busy has an equal share. The run counts on its share, and submits as if
// it were alone. What others leave is then used, and a run that submitted less than its part of
// the node's queue would get less than its share.

// NodeShared reports how many others build on a node.
type NodeShared struct {
	At      time.Duration
	Node    NodeID
	Tenants int
}

func (e NodeShared) at() time.Duration { return e.At }

// share takes in how many others build on a node.
func share(s *queues, e NodeShared) {
	n := s.node(e.Node)
	if n == nil || n.tenants == e.Tenants || e.Tenants < 0 {
		return
	}
	n.tenants = e.Tenants
	s.touch(n)
	s.wake(n)
}

// part returns what is left to the run of a number of slots of n. Where other builds show in
// the times of steps already, they are not counted again.
func (s *speeds) part(n *node, slots float64) float64 {
	if n.tenants == 0 {
		return slots
	}
	return slots / max(1, float64(1+n.tenants)/max(1, s.slowness(n)))
}
