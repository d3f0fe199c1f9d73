package partition

import (
	"cmp"
	"fmt"
	"slices"
)

// canonical is a problem with nodes and targets in an order that depends on what
// they are and not on where they stood or how they are called. Strategies see only
// this form, so that renaming and reordering change no makespan.
type canonical struct {
	p    Problem
	node []int // original id of each node
	at   []int // new id of each original node
	from []int // original id of each target
}

// gather puts nodes of one machine side by side, where the first of them stands, and
// machines whose first nodes are alike in an order by the others.
func (c *canonical) gather(p Problem, compare func(a, b int) int) {
	shared := map[string][]int{}
	for _, n := range c.node {
		if m := p.Nodes[n].Machine; m != "" {
			shared[m] = append(shared[m], n)
		}
	}
	if len(shared) == 0 {
		return
	}
	var groups [][]int
	for _, n := range c.node {
		switch list := shared[p.Nodes[n].Machine]; {
		case len(list) == 0:
			groups = append(groups, []int{n})
		case list[0] == n:
			groups = append(groups, list)
		}
	}
	slices.SortStableFunc(groups, func(a, b []int) int { return slices.CompareFunc(a, b, compare) })
	c.node = slices.Concat(groups...)
}

func canonicalise(p Problem) canonical {
	c := canonical{
		p:    Problem{Vertices: p.Vertices, Network: p.Network},
		node: identity(len(p.Nodes)), at: make([]int, len(p.Nodes)), from: identity(len(p.Targets)),
	}
	nodeKey := make([]string, len(p.Nodes))
	for i, n := range p.Nodes {
		nodeKey[i] = fmt.Sprint(sortCopy(n.Platforms), sortCopy(n.Warm), n.Emulates, sortCopy(n.Filled)) // maps print in order
	}
	compare := func(a, b int) int {
		x, y := p.Nodes[a], p.Nodes[b]
		return cmp.Or(cmp.Compare(y.Speed, x.Speed), cmp.Compare(y.Slots, x.Slots), cmp.Compare(x.From, y.From), cmp.Compare(nodeKey[a], nodeKey[b]))
	}
	slices.SortStableFunc(c.node, compare)
	c.gather(p, compare)
	for i, n := range c.node {
		c.at[n] = i
		c.p.Nodes = append(c.p.Nodes, p.Nodes[n])
	}
	targetKey := make([]string, len(p.Targets))
	for i, t := range p.Targets {
		if len(t.Platforms)+len(t.After) > 0 {
			roots := make([]VertexID, 0, len(t.After))
			for _, d := range t.After {
				roots = append(roots, p.Targets[d].Root)
			}
			targetKey[i] = fmt.Sprint(sortCopy(t.Platforms), sortCopy(roots))
		}
	}
	slices.SortStableFunc(c.from, func(a, b int) int {
		return cmp.Or(cmp.Compare(p.Targets[a].Root, p.Targets[b].Root), cmp.Compare(targetKey[a], targetKey[b]))
	})
	to := make([]TargetID, len(p.Targets))
	for i, t := range c.from {
		to[t] = TargetID(i)
	}
	for _, t := range c.from {
		target := p.Targets[t]
		if len(target.After) > 0 {
			after := make([]TargetID, len(target.After))
			for k, d := range target.After {
				after[k] = to[d]
			}
			target.After = after
		}
		c.p.Targets = append(c.p.Targets, target)
	}
	return c
}

func identity(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func sortCopy[T cmp.Ordered](s []T) []T {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

// previous translates an earlier plan's nodes.
func (c canonical) previous(nodes []NodeID) []NodeID {
	if nodes == nil {
		return nil
	}
	out := make([]NodeID, len(nodes))
	for i, t := range c.from {
		out[i] = Registry
		if n := nodes[t]; n >= 0 && int(n) < len(c.at) {
			out[i] = NodeID(c.at[n])
		}
	}
	return out
}

// original translates an assignment back.
func (c canonical) original(a Assignment) Assignment {
	out := Assignment{Node: make([]NodeID, len(a.Node)), Shares: make([]Share, len(a.Shares))}
	for i, n := range a.Node {
		out.Node[c.from[i]] = NodeID(c.node[n])
	}
	for i, s := range a.Shares {
		for k, f := range s.Fetch {
			if f.From != Registry {
				s.Fetch[k].From = NodeID(c.node[f.From])
			}
		}
		out.Shares[c.node[i]] = s
	}
	return out
}
