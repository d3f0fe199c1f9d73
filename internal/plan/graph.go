package plan

import (
	"slices"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/llbmerge"
)

// graph holds the steps of all units, with indices to find them. Vertices are known by
// their index.
type graph struct {
	*llbmerge.Graph
	index map[digest.Digest]int
}

func newGraph(g *llbmerge.Graph) *graph {
	out := &graph{g, make(map[digest.Digest]int, len(g.Vertices))}
	for i, v := range g.Vertices {
		out.index[v.Digest] = i
	}
	return out
}

// roots returns the vertices that units end with.
func (g *graph) roots(units []*frontend.Unit) []int {
	var list []int
	for _, u := range units {
		if r, ok := g.Root(string(u.ID)); ok {
			list = append(list, g.index[r.Digest])
		}
	}
	return list
}

// layers returns vertex i and the vertices that its layers stand on, the highest first.
func (g *graph) layers(i int) []int {
	list := []int{i}
	for v := g.Vertices[i]; len(v.Inputs) > 0; v = g.Vertices[i] {
		k := LayerParent(v)
		if k < 0 || k >= len(v.Inputs) {
			break
		}
		i = g.index[v.Inputs[k]]
		list = append(list, i)
	}
	return list
}

// findShared reports, for every vertex, whether several jobs need it.
func (g *graph) findShared(jobs []Job) []bool {
	job := map[string]int{} // by unit
	for i, j := range jobs {
		for _, u := range j.Units {
			job[string(u.ID)] = i
		}
	}
	list := make([]bool, len(g.Vertices))
	for i, v := range g.Vertices {
		first := -1
		for _, u := range v.Users {
			if j, ok := job[u]; ok && first < 0 {
				first = j
			} else if ok && j != first {
				list[i] = true
			}
		}
	}
	return list
}

// sendable reports, for every vertex, whether its result can travel to another node:
// sources come from where they are. A step that ignores the cache looks into it on the
// nodes that its result was sent to. units are all that end in the graph.
func (g *graph) sendable(units []*frontend.Unit) []bool {
	ok := make([]bool, len(g.Vertices))
	output := map[digest.Digest]int64{} // the one that is used; -1 = several
	use := func(d digest.Digest, index int64) {
		if had, seen := output[d]; seen && had != index {
			index = -1
		}
		output[d] = index
	}
	for _, v := range g.Vertices {
		for k, in := range v.Inputs {
			use(in, v.Op.GetInputs()[k].GetIndex())
		}
	}
	for _, u := range units {
		if r, has := g.Root(string(u.ID)); has {
			use(r.Digest, int64(r.Index))
		}
	}
	for i, v := range g.Vertices {
		ok[i] = v.Kind.IsStep() && output[v.Digest] == 0
	}
	return ok
}

// cacheable reports, for every vertex, whether neither it nor one below it ignores the
// cache: what is in a cache from before the run is used for no other.
func (g *graph) cacheable() []bool {
	ok := make([]bool, len(g.Vertices))
	for i, v := range g.Vertices {
		ok[i] = !v.IgnoreCache && !slices.ContainsFunc(v.Inputs, func(in digest.Digest) bool { return !ok[g.index[in]] })
	}
	return ok
}

// LayerParent returns the input on whose layers the result of v stands, -1 when
// there is none.
func LayerParent(v *llbmerge.Vertex) int {
	if f := v.Op.GetFile(); f != nil && len(f.GetActions()) > 0 {
		return int(f.GetActions()[0].GetInput())
	}
	return 0
}
