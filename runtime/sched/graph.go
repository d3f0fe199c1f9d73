package sched

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// graph is the problem, which does not change, and marks on it.
type graph struct {
	cfg     Config
	inputs  [][]VertexID // without duplicates
	readers [][]VertexID
	rank    []int      // topological position of each unit
	deps    [][]UnitID // Unit.After without duplicates
	rdeps   [][]UnitID
	large   []VertexID // steps that memory is kept for

	stamp []uint32 // marks on vertices, see mark
	epoch uint32
	path  []float64 // valid where stamped
	stack []VertexID
	list  []VertexID
	// picked are the units that gather has found, several those of a submission.
	picked, several []UnitID
}

// index builds the edges of the graph without duplicates, in both directions.
func (s *graph) index() {
	s.inputs = make([][]VertexID, len(s.cfg.Vertices))
	s.readers = make([][]VertexID, len(s.cfg.Vertices))
	for v := range s.cfg.Vertices {
		in := s.cfg.Vertices[v].Inputs
		for i, u := range in {
			if slices.Contains(in[:i], u) {
				in = unique(in)
				break
			}
		}
		s.inputs[v] = in
		for _, u := range in {
			s.readers[u] = append(s.readers[u], VertexID(v))
		}
	}
}

// unique returns the first of each value, in order.
func unique[T comparable](in []T) []T {
	seen := make(map[T]bool, len(in))
	var out []T
	for _, x := range in {
		if !seen[x] {
			seen[x] = true
			out = append(out, x)
		}
	}
	return out
}

// order ranks the units topologically and fails on a cycle.
func (s *graph) order() error {
	n := len(s.cfg.Units)
	s.rank = make([]int, n)
	s.deps = make([][]UnitID, n)
	s.rdeps = make([][]UnitID, n)
	waits := make([]int, n)
	for i, u := range s.cfg.Units {
		s.deps[i] = unique(u.After)
		waits[i] = len(s.deps[i])
		for _, d := range s.deps[i] {
			s.rdeps[d] = append(s.rdeps[d], UnitID(i))
		}
	}
	queue := make([]UnitID, 0, n)
	for i := range waits {
		if waits[i] == 0 {
			queue = append(queue, UnitID(i))
		}
	}
	for i := 0; i < len(queue); i++ {
		s.rank[queue[i]] = i
		for _, d := range s.rdeps[queue[i]] {
			if waits[d]--; waits[d] == 0 {
				queue = append(queue, d)
			}
		}
	}
	if len(queue) == n {
		return nil
	}
	var names []string
	for i, w := range waits {
		if w > 0 {
			names = append(names, s.cfg.Units[i].Name)
		}
	}
	return fmt.Errorf("units wait for each other: %s", strings.Join(names, ", "))
}

func (s *graph) validVertex(v VertexID) bool { return v >= 0 && int(v) < len(s.cfg.Vertices) }

// allowKey is equal for sets of units that the same nodes may run.
func (s *graph) allowKey(units []UnitID) string {
	var parts []string
	for _, u := range units {
		c := &s.cfg.Units[u]
		parts = append(parts, fmt.Sprint(slices.Sorted(slices.Values(c.Platforms)), slices.Sorted(slices.Values(c.Nodes))))
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), ";")
}

// mark starts a new set of marks on vertices.
func (s *graph) mark() {
	s.epoch++
	if s.epoch == 0 { // wrapped around
		clear(s.stamp)
		s.epoch = 1
	}
}

// restsOn reports whether a unit needs v.
func (s *graph) restsOn(id UnitID, v VertexID) bool {
	s.mark()
	s.stack = append(s.stack[:0], s.cfg.Units[id].Root)
	for len(s.stack) > 0 {
		x := s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		if x == v {
			return true
		}
		if x > v && s.stamp[x] != s.epoch { // inputs are earlier
			s.stamp[x] = s.epoch
			s.stack = append(s.stack, s.inputs[x]...)
		}
	}
	return false
}

// transfer is the time to fetch a vertex, in nanoseconds.
func (s *graph) transfer(v VertexID) float64 {
	t := float64(s.cfg.Network.Latency)
	if bw := s.cfg.Network.Bandwidth; bw > 0 {
		t += float64(s.cfg.Vertices[v].Bytes) / float64(bw) * float64(time.Second)
	}
	return t
}
