package plan

import (
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/partition"
)

// previous returns, for each job, the node that built it last, as far as what the
// nodes hold tells; a negative one where it does not. A job that has to be rebuilt
// goes back there unless another node is better: a node is sent only what has
// changed in a directory that it knows.
func (b *Build) previous(nodes []Node) []partition.NodeID {
	// A node is the better witness the more of the name of the job's root it has:
	// the very result, the same with other files, another step at its place.
	type claim struct{ job, rank int }
	names := map[digest.Digest][]claim{}
	for i, j := range b.Jobs {
		for _, u := range j.Units {
			if r, ok := b.Graph.Root(string(u.ID)); ok {
				n := b.names[b.index[r.Digest]]
				for rank, name := range []digest.Digest{n.place, n.op, n.result} {
					if name != "" {
						names[name] = append(names[name], claim{i, rank})
					}
				}
				break // one unit speaks for all: they are built together
			}
		}
	}
	found := make([]partition.NodeID, len(b.Jobs))
	ranks := make([]int, len(b.Jobs))
	for i := range found {
		found[i], ranks[i] = partition.Registry, -1
	}
	for n, node := range nodes {
		settle := func(name digest.Digest) {
			for _, c := range names[name] {
				if c.rank > ranks[c.job] {
					found[c.job], ranks[c.job] = partition.NodeID(n), c.rank
				}
			}
		}
		if len(node.Holds) < len(names) {
			for name := range node.Holds {
				settle(name)
			}
			continue
		}
		for name := range names {
			if node.Holds[name] {
				settle(name)
			}
		}
	}
	return found
}
