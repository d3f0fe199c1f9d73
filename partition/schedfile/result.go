package schedfile

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/dbake/dbake/partition"
)

// ReadResult decodes an assignment for p and the makespan claimed for it. It does
// not judge it: partition.Evaluate does.
func ReadResult(r io.Reader, p partition.Problem) (partition.Assignment, float64, error) {
	var f Result
	if err := json.NewDecoder(r).Decode(&f); err != nil {
		return partition.Assignment{}, 0, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	nodes := map[string]partition.NodeID{registry: partition.Registry}
	for n, node := range p.Nodes {
		nodes[node.Name] = partition.NodeID(n)
	}
	vertices := make(map[string]partition.VertexID, len(p.Vertices))
	for v, x := range p.Vertices {
		vertices[x.Name] = partition.VertexID(v)
	}
	a := partition.Assignment{Node: make([]partition.NodeID, len(p.Targets)), Shares: make([]partition.Share, len(p.Nodes))}
	for t, target := range p.Targets {
		n, ok := nodes[f.Assignment[target.Name]]
		if !ok || n == partition.Registry {
			return a, 0, fmt.Errorf("%w: target %s on unknown node %q", ErrFormat, target.Name, f.Assignment[target.Name])
		}
		a.Node[t] = n
	}
	for _, share := range f.PerNode {
		n, ok := nodes[share.Node]
		if !ok || n == partition.Registry {
			return a, 0, fmt.Errorf("%w: unknown node %q", ErrFormat, share.Node)
		}
		s := &a.Shares[n]
		// In order of vertex, whatever the order in the file.
		for v, x := range p.Vertices {
			from, ok := share.Fetch[x.Name]
			if !ok {
				continue
			}
			q, ok := nodes[from]
			if !ok {
				return a, 0, fmt.Errorf("%w: %s fetched from unknown node %q", ErrFormat, x.Name, from)
			}
			s.Fetch = append(s.Fetch, partition.Fetch{Vertex: partition.VertexID(v), From: q})
		}
		for _, list := range []struct {
			names []string
			ids   *[]partition.VertexID
		}{{share.Build, &s.Build}, {share.Order, &s.Order}} {
			for _, name := range list.names {
				v, ok := vertices[name]
				if !ok {
					return a, 0, fmt.Errorf("%w: unknown vertex %q", ErrFormat, name)
				}
				*list.ids = append(*list.ids, v)
			}
		}
	}
	return a, f.Makespan, nil
}
