package plan

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/partition"
)

// ErrOutdated is wrapped when a saved plan does not fit what is to be built.
var ErrOutdated = errors.New("the plan is outdated")

// Definitions returns a digest of the resolved definition of each target. registry
// is the address of the local registry, "" when there is none: it may be another
// one in every run, so it does not count.
func Definitions(p *ir.Project, registry string) (map[string]digest.Digest, error) {
	var buf bytes.Buffer
	if err := compiler.WriteJSON(&buf, p); err != nil {
		return nil, err
	}
	text := buf.Bytes()
	if registry != "" {
		text = bytes.ReplaceAll(text, []byte(registry), []byte("LOCAL-REGISTRY"))
	}
	var doc struct {
		Target map[string]json.RawMessage `json:"target"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("read the definition: %w", err)
	}
	digests := make(map[string]digest.Digest, len(doc.Target))
	for name, def := range doc.Target {
		digests[name] = digest.FromBytes(def)
	}
	return digests, nil
}

// Check compares what a saved plan is for with the targets as they are defined now.
// The error says which differ, and wraps [ErrOutdated]. What the targets consist of
// (Dockerfiles, files) may have changed: the plan says where they are built, not
// what they are.
func (f *File) Check(definitions map[string]digest.Digest) error {
	var changed, missing, added []string
	planned := map[string]bool{}
	for _, t := range f.Targets {
		name := t.Name
		if t.Target != "" {
			name = t.Target
		}
		if planned[name] {
			continue // another part of it
		}
		planned[name] = true
		switch now, ok := definitions[name]; {
		case !ok:
			missing = append(missing, name)
		case now != t.Definition:
			changed = append(changed, name)
		}
	}
	for _, name := range ir.SortedKeys(definitions) {
		if !planned[name] {
			added = append(added, name)
		}
	}
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"changed", changed}, {"no longer defined", missing}, {"not in the plan", added}} {
		if len(p.names) > 0 {
			slices.Sort(p.names)
			parts = append(parts, p.what+": "+strings.Join(p.names, ", "))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return fmt.Errorf("%w: since it was made, the definition of targets has changed (%s); make it anew with dbake plan", ErrOutdated, strings.Join(parts, "; "))
}

// Restore returns the saved plan f for b, and b divided as in f. Nodes are recognised by their names; of
// f only the node of each target, the order on each node, the partitions and the
// transfers of steps that are still there are taken, and everything else is
// predicted anew. Nodes that f does not name get
// nothing. The error wraps [ErrOutdated] when f and b have not the same targets, or
// when a node that has something to build is not there.
func (b *Build) Restore(ctx context.Context, nodes []Node, f *File) (*Build, *Plan, error) {
	b = b.divideAs(f)
	p, err := b.restore(ctx, nodes, f)
	return b, p, err
}

// restore is Restore for a build whose jobs are those of f.
func (b *Build) restore(ctx context.Context, nodes []Node, f *File) (*Plan, error) {
	problem, err := b.problem(nodes)
	if err != nil {
		return nil, err
	}
	index := map[string]int{}
	for i, j := range b.Jobs {
		index[j.Name] = i
	}
	byName := map[string]int{}
	for n, node := range nodes {
		byName[node.Name] = n
	}
	a := partition.Assignment{Node: make([]partition.NodeID, len(b.Jobs))}
	placed := make([]bool, len(b.Jobs))
	parts := make([][][]int, len(nodes))
	for _, saved := range f.Nodes {
		if len(saved.Partitions) == 0 {
			continue
		}
		n, ok := byName[saved.Name]
		if !ok {
			return nil, fmt.Errorf("%w: there is no node %s; name a node so with --nodes, or make the plan anew", ErrOutdated, saved.Name)
		}
		for _, names := range saved.Partitions {
			var part []int
			for _, name := range names {
				i, ok := index[name]
				switch {
				case !ok:
					return nil, fmt.Errorf("%w: target %s is not to be built", ErrOutdated, name)
				case placed[i]:
					return nil, fmt.Errorf("%w: target %s is there twice", ErrOutdated, name)
				}
				if missing := lacks(problem.Nodes[n], problem.Targets[i]); missing != "" {
					return nil, fmt.Errorf("%w: node %s does not run steps of %s, which target %s has", ErrOutdated, saved.Name, missing, name)
				}
				placed[i], a.Node[i] = true, partition.NodeID(n)
				part = append(part, i)
			}
			if len(part) > 0 {
				parts[n] = append(parts[n], part)
			}
		}
	}
	for i, ok := range placed {
		if !ok {
			return nil, fmt.Errorf("%w: target %s is in none of its partitions", ErrOutdated, b.Jobs[i].Name)
		}
	}
	p := &Plan{Strategy: f.Strategy, Nodes: nodes, Problem: problem, Assignment: a, Pooled: f.Pooled}
	p.Assignment.Shares = b.restoreShares(f, byName)
	p.Schedule, err = partition.Evaluate(problem, p.Assignment)
	if errors.Is(err, partition.ErrInfeasible) {
		// What was to be handed over is not built where it was: everyone builds
		// what they need.
		p.Assignment.Shares = nil
		p.Schedule, err = partition.Evaluate(problem, p.Assignment)
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
	if err := p.describe(ctx, b); err != nil {
		return nil, err
	}
	for n := range nodes {
		p.Shares[n].Partitions = parts[n]
	}
	return p, nil
}

// restoreShares returns what nodes take from each other by f, as far as steps and
// nodes are the same.
func (b *Build) restoreShares(f *File, nodes map[string]int) []partition.Share {
	vertices := map[digest.Digest]partition.VertexID{}
	for i, n := range b.names {
		vertices[n.op] = partition.VertexID(i)
	}
	vertex := func(step int) (partition.VertexID, bool) {
		if step < 0 || step >= len(f.Steps) {
			return 0, false
		}
		v, ok := vertices[f.Steps[step].Operation]
		return v, ok
	}
	shares := make([]partition.Share, len(nodes))
	for _, saved := range f.Nodes {
		n, ok := nodes[saved.Name]
		if !ok {
			continue
		}
		s := &shares[n]
		for _, x := range saved.Fetch {
			v, known := vertex(x.Step)
			from, up := nodes[x.From]
			if x.From == fromRegistry {
				from, up = int(partition.Registry), true
			}
			if known && up && !slices.ContainsFunc(s.Fetch, func(f partition.Fetch) bool { return f.Vertex == v }) {
				s.Fetch = append(s.Fetch, partition.Fetch{Vertex: v, From: partition.NodeID(from)})
			}
		}
		for _, step := range saved.Build {
			if v, known := vertex(step); known {
				s.Build = append(s.Build, v)
			}
		}
		slices.SortFunc(s.Fetch, func(x, y partition.Fetch) int { return cmp.Compare(x.Vertex, y.Vertex) })
		slices.Sort(s.Build)
		s.Build = slices.Compact(s.Build)
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
