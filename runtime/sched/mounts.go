package sched

import "slices"

// A step is faster on a node that has filled the cache mounts it works with. The first step that
// is executed with a mount fills it: those that begin on the node after that find it so, and
// what the node has to do is less from then on.

// lacks reports whether n has yet to fill one of the mounts of v.
func (n *node) lacks(v *Vertex) bool {
	return slices.ContainsFunc(v.Mounts, func(name string) bool { return !n.filled[name] })
}

// setFilled makes these the mounts that n has filled. vertices are all steps.
func (n *node) setFilled(mounts []string, vertices []Vertex) {
	n.filled, n.cold = map[string]bool{}, nil
	for _, name := range mounts {
		n.filled[name] = true
	}
	for i := range vertices {
		v := &vertices[i]
		if v.Cold <= 1 || !n.lacks(v) {
			continue
		}
		if n.cold == nil {
			n.cold = newBits(len(vertices))
		}
		n.cold.set(VertexID(i))
	}
}

// fillMounts notes that n has executed v, and counts what it has to do again. Steps under way found
// the mounts as they were.
func (s *estimator) fillMounts(n *node, v VertexID) {
	fresh := false
	for _, name := range s.cfg.Vertices[v].Mounts {
		fresh = fresh || !n.filled[name]
		n.filled[name] = true
	}
	if !fresh || n.cold == nil {
		return
	}
	for i := range s.cfg.Vertices {
		x := VertexID(i)
		if !n.cold.has(x) || n.lacks(&s.cfg.Vertices[i]) || slices.ContainsFunc(n.running, func(r running) bool { return r.v == x }) {
			continue
		}
		n.cold.unset(x)
		n.all.reprice(x)
		n.sub.reprice(x)
	}
}

// reprice counts the execution of v again, which takes another time than before.
func (d *demand) reprice(v VertexID) {
	e, ok := d.m[v]
	if !ok || e.way == byFetch {
		return
	}
	way, work := d.s.way(d.n, v)
	if way == byFetch {
		return // what it needs first would be another
	}
	d.load[e.way] -= e.work
	d.load[way] += work
	e.way, e.work = way, work
	d.m[v] = e
}
