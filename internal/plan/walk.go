package plan

import (
	"slices"

	"github.com/dbake/dbake/partition"
)

// Walker finds what stands below a vertex, many times over one graph.
type Walker struct {
	vertices []partition.Vertex
	seen     []int // by vertex: the walk that was there last
	walks    int
	list     []partition.VertexID
}

// NewWalker returns a walker of a graph.
func NewWalker(vertices []partition.Vertex) *Walker {
	return &Walker{vertices: vertices, seen: make([]int, len(vertices))}
}

// Below returns root and everything below it, ascending. It leaves out what stop is true for
// and what is needed for that only. The result is good until the next call.
func (w *Walker) Below(root partition.VertexID, stop func(partition.VertexID) bool) []partition.VertexID {
	w.walks++
	w.list = w.list[:0]
	visit := func(v partition.VertexID) {
		if w.seen[v] != w.walks {
			w.seen[v] = w.walks
			if stop == nil || !stop(v) {
				w.list = append(w.list, v)
			}
		}
	}
	visit(root)
	for i := 0; i < len(w.list); i++ {
		for _, in := range w.vertices[w.list[i]].Inputs {
			visit(in)
		}
	}
	slices.Sort(w.list)
	return w.list
}
