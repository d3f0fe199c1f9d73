package plan

import (
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/partition"
)

// previous returns, for each job, the node that built it last, as far as the nodes' holdings
// show it; a negative one where they do not. A job that has to be rebuilt goes back there
// unless another node is better, since a node is sent only what has changed in a directory that
// it knows.
func previous(b *Build, nodes []Node) []partition.NodeID {
	// A node is the better witness the more of the names of the job's root it has:
	// the very result, the same with other files, another step at its place.
	const (
		byPlace = iota
		byOp
		byResult
	)
	var results claims[warm.ResultID]
	var ops claims[warm.OpID]
	var places claims[warm.PlaceID]
	for i, j := range b.Jobs {
		for _, root := range b.graph.roots(j.Units) {
			n := b.Names.list[root]
			results.add(n.result, i)
			ops.add(n.op, i)
			places.add(n.place, i)
			break // one unit speaks for all: they are built together
		}
	}
	found := make([]partition.NodeID, len(b.Jobs))
	ranks := make([]int, len(b.Jobs))
	for i := range found {
		found[i], ranks[i] = partition.Registry, -1
	}
	for n, node := range nodes {
		claim := func(rank int) func(job int) {
			return func(job int) {
				if rank > ranks[job] {
					found[job], ranks[job] = partition.NodeID(n), rank
				}
			}
		}
		results.each(node.Holds.Results, claim(byResult))
		ops.each(node.Holds.Ops, claim(byOp))
		places.each(node.Holds.Places, claim(byPlace))
	}
	return found
}

// claims are the jobs whose roots have a name, by name.
type claims[K ~string] map[K][]int

func (c *claims[K]) add(name K, job int) {
	if name == "" {
		return
	}
	if *c == nil {
		*c = claims[K]{}
	}
	(*c)[name] = append((*c)[name], job)
}

// each calls f for the jobs whose names are held.
func (c claims[K]) each(held map[K]bool, f func(job int)) {
	if len(held) < len(c) {
		for name := range held {
			for _, job := range c[name] {
				f(job)
			}
		}
		return
	}
	for name, jobs := range c {
		for _, job := range jobs {
			if held[name] {
				f(job)
			}
		}
	}
}
