package sched

// A node whose memory is known is not given steps that do not fit into it side by side:
// of each submission the largest step that is yet to be done counts. A part that does
// not fit beside what is submitted waits in the queue, where others can steal it; one
// that fits nowhere is submitted to a node that has nothing else large.

// largeStep is the least part of the smallest node's memory that makes a step large.
const largeStep = 1. / 16

// findLarge notes the steps that memory is kept for.
func (s *graph) findLarge() {
	var least int64
	for _, n := range s.cfg.Nodes {
		if n.Memory > 0 && (least == 0 || n.Memory < least) {
			least = n.Memory
		}
	}
	if least == 0 {
		return
	}
	for i, v := range s.cfg.Vertices {
		if float64(v.Memory) >= largeStep*float64(least) {
			s.large = append(s.large, VertexID(i))
		}
	}
}

// crowds returns the steps submitted to n beside which p does not fit; none when it
// does.
func (s *estimator) crowds(n *node, p *part) []VertexID {
	memory := s.cfg.Nodes[n.id].Memory
	if memory == 0 || len(s.large) == 0 || p.lane.n != n {
		return nil
	}
	s.list = s.list[:0]
	most := map[PartitionID]int64{} // by submission
	for _, v := range s.large {
		if e, ok := n.sub.m[v]; ok && e.way != byFetch {
			s.list = append(s.list, v)
			most[e.by] = max(most[e.by], s.cfg.Vertices[v].Memory)
		}
	}
	if len(s.list) == 0 {
		return nil
	}
	need := s.largest(n, p)
	for _, m := range most {
		memory -= m
	}
	if need == 0 || need <= memory {
		return nil
	}
	return s.list
}

// largest returns the memory of the largest step that p would add to n.
func (s *estimator) largest(n *node, p *part) int64 {
	var need int64
	s.mark()
	s.stack = s.stack[:0]
	for _, u := range s.pick(n, p.units) {
		s.stack = append(s.stack, s.cfg.Units[u].Root)
	}
	for len(s.stack) > 0 {
		v := s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		if _, submitted := n.sub.m[v]; submitted || s.stamp[v] == s.epoch || n.held.has(v) {
			continue
		}
		s.stamp[v] = s.epoch
		way := n.all.m[v].way
		if way != byFetch {
			need = max(need, s.cfg.Vertices[v].Memory)
		}
		s.stack = append(s.stack, n.all.follows(v, way)...)
	}
	return need
}
