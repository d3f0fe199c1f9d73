package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/partition"
)

// ErrOutdated is wrapped when a saved plan does not fit what is to be built.
var ErrOutdated = errors.New("the plan is outdated")

// Saved is the part of an earlier plan that is carried out again. Everything else is
// predicted again.
type Saved struct {
	Strategy string
	Pooled   bool
	// Parts are the parts of divided targets.
	Parts []Part
	Nodes []SavedNode
}

// partSign stands between the target and the platforms in the name of a part.
const partSign = "@"

// Part is a part of a divided target.
type Part struct {
	Target    string
	Platforms []string
}

// SavedNode is the work of one node. Nodes are recognised by name.
type SavedNode struct {
	Name string
	// Partitions are the names of jobs, in order.
	Partitions [][]string
	// Fetch are the results that it takes from others, Build those that it makes for
	// others only.
	Fetch []SavedFetch
	Build []warm.OpID
}

// SavedFetch is the transfer of the result of an operation, see [Names.Operation].
type SavedFetch struct {
	Operation warm.OpID
	From      string // a node; "" is the registry
}

// Restore returns the saved plan for b, and b divided as it says. Transfers of steps
// that no longer exist are left out. Nodes that the saved plan does not name get
// nothing. The targets of faults were to be built and are not in b. The error wraps
// [ErrOutdated] when b has other targets besides, or when a node that has something to
// build is missing.
func (b *Build) Restore(nodes []Node, saved *Saved, faults []Fault) (*Build, *Plan, error) {
	b = b.withJobs(saved.divide(b.Jobs))
	p, err := restore(b, nodes, saved.without(faults))
	return b, p, err
}

// without returns s without the jobs of targets that have faults.
func (s *Saved) without(faults []Fault) *Saved {
	if len(faults) == 0 {
		return s
	}
	bad := map[string]bool{}
	for _, f := range faults {
		bad[f.Target] = true
	}
	out := *s
	out.Nodes = slices.Clone(s.Nodes)
	for i := range out.Nodes {
		var partitions [][]string
		for _, names := range out.Nodes[i].Partitions {
			left := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
				target, _, _ := strings.Cut(name, partSign)
				return bad[target]
			})
			if len(left) > 0 {
				partitions = append(partitions, left)
			}
		}
		out.Nodes[i].Partitions = partitions
	}
	return &out
}

// restore is Restore for a build whose jobs are those of the saved plan.
func restore(b *Build, nodes []Node, saved *Saved) (*Plan, error) {
	problem, err := b.problem(nodes)
	if err != nil {
		return nil, err
	}
	byName := map[string]int{}
	for n, node := range nodes {
		byName[node.Name] = n
	}
	p := &Plan{Strategy: saved.Strategy, Nodes: nodes, Problem: problem, Pooled: saved.Pooled, Transfers: b.way.transfers()}
	if err := p.place(b, saved, byName); err != nil {
		return nil, err
	}
	p.Assignment.Shares = saved.shares(b.Names, byName)
	p.Schedule, err = partition.Evaluate(problem, p.Assignment)
	if errors.Is(err, partition.ErrInfeasible) {
		// A transfer has lost its sender, or steps are not to be
		// built where they were: the targets stay where they are, and take what is there.
		if p.Assignment, err = partition.Settle(problem, p.Assignment); err == nil {
			p.Schedule, err = partition.Evaluate(problem, p.Assignment)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("predict the saved plan: %w", err)
	}
	lower, err := partition.LowerBound(problem)
	if err != nil {
		return nil, fmt.Errorf("predict the saved plan: %w", err)
	}
	p.Bound = lower.Max.Duration()
	p.Proven = float64(p.Schedule.Makespan) <= float64(lower.Max)*(1+1e-12)
	p.follow()
	p.onDemand(b)
	return p, nil
}

// place puts the jobs where the saved plan has them.
func (p *Plan) place(b *Build, saved *Saved, nodes map[string]int) error {
	index := map[string]int{}
	for i, j := range b.Jobs {
		index[j.Name] = i
	}
	p.Assignment.Node = make([]partition.NodeID, len(b.Jobs))
	p.Partitions = make([][][]int, len(p.Nodes))
	placed := make([]bool, len(b.Jobs))
	for _, s := range saved.Nodes {
		if len(s.Partitions) == 0 {
			continue
		}
		n, ok := nodes[s.Name]
		if !ok {
			return fmt.Errorf("%w: there is no node %s; name a node so with --nodes, or make the plan anew", ErrOutdated, s.Name)
		}
		for _, names := range s.Partitions {
			var part []int
			for _, name := range names {
				i, ok := index[name]
				switch {
				case !ok:
					return fmt.Errorf("%w: target %s is not to be built", ErrOutdated, name)
				case placed[i]:
					return fmt.Errorf("%w: target %s is there twice", ErrOutdated, name)
				}
				if missing := lacks(p.Problem.Nodes[n], p.Problem.Targets[i]); missing != "" {
					return fmt.Errorf("%w: node %s does not run steps of %s, which target %s has", ErrOutdated, s.Name, missing, name)
				}
				placed[i], p.Assignment.Node[i] = true, partition.NodeID(n)
				part = append(part, i)
			}
			if len(part) > 0 {
				p.Partitions[n] = append(p.Partitions[n], part)
			}
		}
	}
	for i, ok := range placed {
		if !ok {
			return fmt.Errorf("%w: target %s is in none of its partitions", ErrOutdated, b.Jobs[i].Name)
		}
	}
	return nil
}

// shares returns what nodes take from each other, as far as steps and nodes are
// the same.
func (s *Saved) shares(known *Names, nodes map[string]int) []partition.Share {
	vertices := map[warm.OpID]partition.VertexID{}
	for i, n := range known.list {
		vertices[n.op] = partition.VertexID(i)
	}
	shares := make([]partition.Share, len(nodes))
	for _, node := range s.Nodes {
		n, ok := nodes[node.Name]
		if !ok {
			continue
		}
		one := &shares[n]
		for _, x := range node.Fetch {
			v, there := vertices[x.Operation]
			from, up := nodes[x.From]
			if x.From == "" {
				from, up = int(partition.Registry), true
			}
			if there && up && !slices.ContainsFunc(one.Fetch, func(f partition.Fetch) bool { return f.Vertex == v }) {
				one.Fetch = append(one.Fetch, partition.Fetch{Vertex: v, From: partition.NodeID(from)})
			}
		}
		for _, op := range node.Build {
			if v, there := vertices[op]; there {
				one.Build = append(one.Build, v)
			}
		}
		slices.SortFunc(one.Fetch, func(x, y partition.Fetch) int { return cmp.Compare(x.Vertex, y.Vertex) })
		slices.Sort(one.Build)
		one.Build = slices.Compact(one.Build)
	}
	return shares
}

// lacks returns a platform that the target needs and the node does not offer.
func lacks(n partition.Node, t partition.Target) string {
	for _, name := range t.Platforms {
		if !slices.Contains(n.Platforms, name) {
			return name
		}
	}
	return ""
}
