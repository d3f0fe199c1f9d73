package sched

// bits is a set of vertices.
type bits []uint64

func newBits(n int) bits           { return make(bits, (n+63)/64) }
func (b bits) has(v VertexID) bool { return b[v>>6]&(1<<(v&63)) != 0 }
func (b bits) set(v VertexID)      { b[v>>6] |= 1 << (v & 63) }
func (b bits) unset(v VertexID)    { b[v>>6] &^= 1 << (v & 63) }
func (b bits) clear()              { clear(b) }

func (b bits) setAll(vs []VertexID) {
	for _, v := range vs {
		b.set(v)
	}
}

// How a node comes to hold a vertex that it needs.
const (
	byPrediction  = iota // executes it; the cost is the configured one
	byMeasurement        // executes it; the cost was measured in this run
	byFetch              // fetches it from the registry
	ways
)

// demand is the set of vertices that a node must still come to hold for a set of
// units. A vertex is in it once for each unit whose root it is and for each vertex
// of the set that reads it; it leaves when the last of them does, or when the
// node holds it. Adding and dropping therefore cost only the vertices that enter
// and leave.
type demand struct {
	s    *estimator
	n    *node
	m    map[VertexID]need
	load [ways]int64 // nanoseconds: at speed 1 for the first two
	// ready is the number of vertices whose inputs are all held: what runs or could
	// run. Kept only where it is asked for.
	track bool
	ready int
	// by is the submission that add works for.
	by PartitionID
	// gone collects what has left since it was last emptied; kept with track.
	gone  []VertexID
	stack []VertexID
}

type need struct {
	refs    int32
	missing int32
	way     uint8
	work    int64
	// by is the submission that brought the vertex in.
	by PartitionID
}

// newDemand returns an empty demand of n.
func (s *estimator) newDemand(n *node, track bool) demand {
	return demand{s: s, n: n, track: track, m: map[VertexID]need{}}
}

// follows returns the inputs that a node needs first in order to come to hold v in this way.
func (d *demand) follows(v VertexID, way uint8) []VertexID {
	in := d.s.inputs[v]
	if way == byFetch && len(in) > 1 {
		return in[:1]
	}
	return in
}

func (d *demand) add(root VertexID) {
	d.stack = append(d.stack[:0], root)
	for len(d.stack) > 0 {
		v := d.stack[len(d.stack)-1]
		d.stack = d.stack[:len(d.stack)-1]
		if d.n.held.has(v) {
			continue
		}
		e, ok := d.m[v]
		e.refs++
		if !ok {
			way, work := d.s.way(d.n, v)
			e.way, e.work, e.by = way, work, d.by
			for _, in := range d.follows(v, way) {
				if !d.n.held.has(in) {
					e.missing++
					d.stack = append(d.stack, in)
				}
			}
			d.load[way] += work
			if d.track && e.missing == 0 {
				d.ready++
			}
		}
		d.m[v] = e
	}
}

func (d *demand) drop(root VertexID) {
	d.stack = append(d.stack[:0], root)
	d.unwind()
}

// unwind takes one reference from each vertex on the stack.
func (d *demand) unwind() {
	for len(d.stack) > 0 {
		v := d.stack[len(d.stack)-1]
		d.stack = d.stack[:len(d.stack)-1]
		e, ok := d.m[v]
		if !ok {
			continue // held since
		}
		if e.refs--; e.refs > 0 {
			d.m[v] = e
			continue
		}
		d.remove(v, e)
	}
}

// remove takes v out and puts the inputs it no longer needs on the stack.
func (d *demand) remove(v VertexID, e need) {
	delete(d.m, v)
	d.load[e.way] -= e.work
	if d.track {
		if e.missing == 0 {
			d.ready--
		}
		d.gone = append(d.gone, v)
	}
	d.stack = append(d.stack, d.follows(v, e.way)...)
}

// hold is called after the node came to hold v.
func (d *demand) hold(v VertexID) {
	e, ok := d.m[v]
	if !ok {
		return
	}
	if d.track {
		for _, c := range d.s.readers[v] {
			ce, ok := d.m[c]
			if !ok || ce.way == byFetch && d.s.inputs[c][0] != v {
				continue
			}
			if ce.missing--; ce.missing == 0 {
				d.ready++
			}
			d.m[c] = ce
		}
	}
	d.stack = d.stack[:0]
	d.remove(v, e)
	d.unwind()
}
