package plan

import (
	"fmt"
	"slices"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/partition"
)

// Node is a node as the planner sees it.
type Node struct {
	Name  string
	Addr  string
	Speed float64 // relative to 1
	Slots int     // steps at once; >= 1
	// Platforms whose steps it can run; empty is unknown, and taken for all.
	Platforms []ocispecs.Platform
	// Holds names the results that the node has, by [Build.Held].
	Holds map[digest.Digest]bool
}

// The network between nodes and registry when nothing is known of it.
const (
	bandwidth = 100e6 // bytes per second
	latency   = 0.5   // seconds
)

// noExchange makes every transfer dearer than any rebuild: without a cache
// registry nodes have no way to hand results to each other.
const noExchange = partition.Seconds(1e9)

// problem returns b as the partitioner's problem. Vertex i is Graph.Vertices[i];
// those beyond join the roots of jobs that have not exactly one.
func (b *Build) problem(nodes []Node) (partition.Problem, error) {
	p := partition.Problem{Network: partition.Network{Bandwidth: bandwidth, Latency: noExchange}}
	index := make(map[string]partition.VertexID, len(b.Graph.Vertices)) // by digest
	// The platforms that steps need, compared as containerd does.
	needs := map[string]ocispecs.Platform{}
	for i, v := range b.Graph.Vertices {
		index[v.Digest.String()] = partition.VertexID(i)
		pv := partition.Vertex{Name: v.Name, Cost: partition.Of(b.Costs[i].Duration), Bytes: b.Costs[i].Bytes}
		for _, in := range v.Inputs {
			id := index[in.String()]
			if !slices.Contains(pv.Inputs, id) {
				pv.Inputs = append(pv.Inputs, id)
			}
		}
		if v.Kind == llbmerge.KindExec && v.Platform != nil {
			pv.Platform = PlatformName(*v.Platform)
			needs[pv.Platform] = *v.Platform
		}
		p.Vertices = append(p.Vertices, pv)
	}
	for _, n := range nodes {
		pn := partition.Node{Name: n.Name, Speed: n.Speed, Slots: n.Slots, Platforms: n.offers(needs)}
		for i, v := range b.Graph.Vertices {
			if n.Holds[b.keys[i]] && !v.IgnoreCache {
				pn.Warm = append(pn.Warm, partition.VertexID(i))
			}
		}
		p.Nodes = append(p.Nodes, pn)
	}
	targets := map[string]partition.TargetID{}
	for i, j := range b.Jobs {
		targets[j.Name] = partition.TargetID(i)
	}
	for _, j := range b.Jobs {
		t := partition.Target{Name: j.Name, Root: b.root(j, index, &p)}
		for _, name := range j.Target.DependsOn {
			if id, ok := targets[name]; ok {
				t.After = append(t.After, id)
			}
		}
		t.Platforms = execPlatforms(p, t.Root)
		if err := placeable(j, t, p.Nodes); err != nil {
			return partition.Problem{}, err
		}
		p.Targets = append(p.Targets, t)
	}
	return p, nil
}

// root returns the vertex that stands for a job: that of its only unit, or one
// that joins several.
func (b *Build) root(j Job, index map[string]partition.VertexID, p *partition.Problem) partition.VertexID {
	var roots []partition.VertexID
	for _, u := range j.Units {
		if r, ok := b.Graph.Root(string(u.ID)); ok {
			if id := index[r.Digest.String()]; !slices.Contains(roots, id) {
				roots = append(roots, id)
			}
		}
	}
	if len(roots) == 1 {
		return roots[0]
	}
	p.Vertices = append(p.Vertices, partition.Vertex{Name: j.Name, Inputs: roots})
	return partition.VertexID(len(p.Vertices) - 1)
}

// offers returns those of the needed platforms that the node can run, sorted.
func (n Node) offers(needs map[string]ocispecs.Platform) []string {
	var list []string
	for _, name := range ir.SortedKeys(needs) {
		if len(n.Platforms) == 0 || slices.ContainsFunc(n.Platforms, func(have ocispecs.Platform) bool {
			return platforms.Only(have).Match(needs[name])
		}) {
			list = append(list, name)
		}
	}
	return list
}

// execPlatforms returns the platforms of the steps below root, sorted.
func execPlatforms(p partition.Problem, root partition.VertexID) []string {
	var list []string
	seen := map[partition.VertexID]bool{root: true}
	stack := []partition.VertexID{root}
	for len(stack) > 0 {
		v := p.Vertices[stack[len(stack)-1]]
		stack = stack[:len(stack)-1]
		if v.Platform != "" && !slices.Contains(list, v.Platform) {
			list = append(list, v.Platform)
		}
		for _, in := range v.Inputs {
			if !seen[in] {
				seen[in] = true
				stack = append(stack, in)
			}
		}
	}
	slices.Sort(list)
	return list
}

// placeable says so when no node can run all steps of a job.
func placeable(j Job, t partition.Target, nodes []partition.Node) error {
	for _, n := range nodes {
		if !slices.ContainsFunc(t.Platforms, func(p string) bool { return !slices.Contains(n.Platforms, p) }) {
			return nil
		}
	}
	return &ir.SourceError{
		Range:   j.Target.Origin("platforms"),
		Summary: fmt.Sprintf("target %s: %v", j.Name, ErrNoNode),
		Detail:  fmt.Sprintf("its steps run on %v, which no single node offers; add a node that does, or build the platforms as targets of their own", t.Platforms),
		Err:     ErrNoNode,
	}
}
