package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/partition"
)

// Node is a node as the planner sees it.
type Node struct {
	Name  string
	Addr  string
	Speed float64 // relative to 1
	Slots int     // steps at once; >= 1
	// SlotsAssumed says that Slots is a guess: predictions are made with it, and the
	// node is given what it can do beyond.
	SlotsAssumed bool
	// SlotsWhy says what they are guessed from, in a few words.
	SlotsWhy string
	// Cores and Memory, in bytes, are what its machine has for it; 0 is not known.
	Cores  float64
	Memory int64
	// Platforms whose steps it can run; empty is unknown, and taken for all.
	Platforms []ocispecs.Platform
	// Native is the platform of its machine; it emulates others. Zero is unknown.
	Native ocispecs.Platform
	// Holds are the names by which its results are remembered, see [Build.Held].
	Holds warm.Holdings
	// Lost are the results that it held once and has thrown away.
	Lost map[warm.ResultID]bool
}

// What a transfer of a result costs, in each direction. A result goes through a
// registry or through the client. To send it takes a solve of its own, of about a
// second, and the layers are compressed on the way out, at what gzip does on one
// core.
const (
	bandwidth = 40e6 // bytes per second
	latency   = 1.0  // seconds
)

// unsendable is the size of results that cannot travel: every transfer costs more than
// any rebuild.
const unsendable = int64(1) << 50

// sendable reports, for every vertex, whether its result can travel to another node:
// sources come from where they are. A step that ignores the cache looks into it on the
// nodes that its result was sent to.
func (b *Build) sendable() []bool {
	ok := make([]bool, len(b.Graph.Vertices))
	output := map[digest.Digest]int64{} // the one that is used; -1 = several
	use := func(d digest.Digest, index int64) {
		if had, seen := output[d]; seen && had != index {
			index = -1
		}
		output[d] = index
	}
	for _, v := range b.Graph.Vertices {
		for k, in := range v.Inputs {
			use(in, v.Op.GetInputs()[k].GetIndex())
		}
	}
	for _, u := range b.Units {
		if r, has := b.Graph.Root(string(u.ID)); has {
			use(r.Digest, int64(r.Index))
		}
	}
	for i, v := range b.Graph.Vertices {
		ok[i] = v.Kind.IsStep() && output[v.Digest] == 0
	}
	return ok
}

// cacheable reports, for every vertex, whether neither it nor one below it ignores the
// cache: what is in a cache from before the run is used for no other.
func (b *Build) cacheable() []bool {
	ok := make([]bool, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		ok[i] = !v.IgnoreCache
		for _, in := range v.Inputs {
			ok[i] = ok[i] && ok[b.index[in]]
		}
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

// problem returns b as the partitioner's problem. Vertex i is Graph.Vertices[i];
// those beyond join the roots of jobs that have not exactly one, or write outputs.
func (b *Build) problem(nodes []Node) (partition.Problem, error) {
	p := partition.Problem{Network: partition.Network{Bandwidth: bandwidth, Latency: latency}}
	sendable := b.sendable()
	// The platforms that steps need, compared as containerd does.
	needs := map[string]ocispecs.Platform{}
	p.Vertices = b.vertices(sendable, len(nodes) > 1, needs)
	results := make(map[warm.ResultID][]partition.VertexID, len(b.names))
	cacheable := b.cacheable()
	for i, n := range b.names {
		if !b.Graph.Vertices[i].IgnoreCache {
			results[n.result] = append(results[n.result], partition.VertexID(i))
		}
		if sendable[i] && cacheable[i] && b.cached[n.result] {
			p.Network.Cached = append(p.Network.Cached, partition.VertexID(i))
		}
	}
	for _, n := range nodes {
		p.Nodes = append(p.Nodes, partition.Node{
			Name: n.Name, Speed: n.Speed, Slots: n.Slots, Platforms: n.offers(needs), Emulates: b.slower(n, needs), Warm: b.warm(n, results),
		})
	}
	if err := b.targets(&p, nodes); err != nil {
		return partition.Problem{}, err
	}
	return p, nil
}

// vertices returns the vertices of the graph, and notes in needs the platforms that
// steps run on. several says that there is more than one node.
func (b *Build) vertices(sendable []bool, several bool, needs map[string]ocispecs.Platform) []partition.Vertex {
	free := b.Freedom()
	known := map[platformKey]string{}
	list := make([]partition.Vertex, len(b.Graph.Vertices), len(b.Graph.Vertices)+len(b.Jobs))
	for i, v := range b.Graph.Vertices {
		pv := partition.Vertex{Name: v.Step, Cost: partition.Of(b.Costs[i].Duration), Bytes: b.Costs[i].Bytes}
		if !sendable[i] {
			pv.Bytes = unsendable
		}
		pv.Once = free[i] == "" && several
		for _, in := range v.Inputs {
			if id := partition.VertexID(b.index[in]); !slices.Contains(pv.Inputs, id) {
				pv.Inputs = append(pv.Inputs, id)
			}
		}
		if k := LayerParent(v); k > 0 && k < len(v.Inputs) {
			parent := partition.VertexID(b.index[v.Inputs[k]])
			at := slices.Index(pv.Inputs, parent)
			pv.Inputs = slices.Insert(slices.Delete(pv.Inputs, at, at+1), 0, parent)
		}
		if v.Kind == llbmerge.KindExec && v.Platform != nil {
			key := keyOf(*v.Platform)
			name, ok := known[key]
			if !ok {
				name = PlatformName(*v.Platform)
				known[key], needs[name] = name, *v.Platform
			}
			pv.Platform = name
		}
		list[i] = pv
	}
	return list
}

// warm returns the vertices whose results node n holds, sorted. results are the vertices
// by the names of their results.
func (b *Build) warm(n Node, results map[warm.ResultID][]partition.VertexID) []partition.VertexID {
	var list []partition.VertexID
	if len(n.Holds.Results) < len(results) {
		for d := range n.Holds.Results {
			list = append(list, results[d]...)
		}
	} else {
		for d, found := range results {
			if n.Holds.Results[d] {
				list = append(list, found...)
			}
		}
	}
	for i, v := range b.Graph.Vertices {
		if at, ok := b.url(v); ok && at == n.Name && at != "" && !slices.Contains(list, partition.VertexID(i)) {
			list = append(list, partition.VertexID(i))
		}
	}
	slices.Sort(list)
	return list
}

// targets adds the jobs to the problem as its targets, with the vertices that they end
// with.
func (b *Build) targets(p *partition.Problem, nodes []Node) error {
	targets := map[string][]partition.TargetID{} // several where a target is divided
	for i, j := range b.Jobs {
		targets[j.Target.Name] = append(targets[j.Target.Name], partition.TargetID(i))
	}
	for i, j := range b.Jobs {
		t := partition.Target{Name: j.Name, Root: b.exported(i, b.root(j, p), nodes, p)}
		for _, name := range j.Target.DependsOn {
			t.After = append(t.After, targets[name]...)
		}
		p.Targets = append(p.Targets, t)
	}
	w := NewWalker(p.Vertices)
	for i, j := range b.Jobs {
		t := &p.Targets[i]
		for _, v := range w.Below(t.Root, nil) {
			if name := p.Vertices[v].Platform; name != "" && !slices.Contains(t.Platforms, name) {
				t.Platforms = append(t.Platforms, name)
			}
		}
		slices.Sort(t.Platforms)
		if err := placeable(j, *t, p.Nodes); err != nil {
			return err
		}
	}
	return nil
}

// platformKey is a platform as a key: comparing them by name is slow.
type platformKey struct{ os, arch, variant, version, features string }

func keyOf(p ocispecs.Platform) platformKey {
	return platformKey{p.OS, p.Architecture, p.Variant, p.OSVersion, strings.Join(p.OSFeatures, ",")}
}

// root returns the vertex that stands for a job: that of its only unit, or one
// that joins several.
func (b *Build) root(j Job, p *partition.Problem) partition.VertexID {
	var roots []partition.VertexID
	for _, u := range j.Units {
		if r, ok := b.Graph.Root(string(u.ID)); ok {
			if id := partition.VertexID(b.index[r.Digest]); !slices.Contains(roots, id) {
				roots = append(roots, id)
			}
		}
	}
	if len(roots) == 1 {
		return roots[0]
	}
	p.Vertices = append(p.Vertices, partition.Vertex{Name: j.Name, Inputs: roots, Bytes: unsendable})
	return partition.VertexID(len(p.Vertices) - 1)
}

// exported returns the vertex that stands for the outputs of job i, or root when
// there are none.
func (b *Build) exported(i int, root partition.VertexID, nodes []Node, p *partition.Problem) partition.VertexID {
	predicted, ok := b.ExportCost(i, nodes)
	if !ok {
		return root
	}
	p.Vertices = append(p.Vertices, partition.Vertex{
		Name: "export " + b.Jobs[i].Name, Cost: partition.Of(predicted.Duration), Inputs: []partition.VertexID{root},
		Bytes: unsendable,
	})
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
