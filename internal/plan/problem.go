package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
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
	// SlotsAssumed is set when Slots is a guess: predictions are made with it, and the node
	// is given more if it can do more.
	SlotsAssumed bool
	// SlotsWhy names the basis of the guess, in a few words.
	SlotsWhy string
	// Machine names what it runs on when other nodes do, too, and Shared is how many steps
	// that runs at once for all of them; "" and 0 otherwise. [Build.Capacity] sets Shared.
	Machine string
	Shared  int
	// Cores is the number of its machine's processors, Memory how many bytes that has for
	// the node; 0 is not known.
	Cores  float64
	Memory int64
	// Platforms whose steps it can run; empty is unknown, and taken for all.
	Platforms []ocispecs.Platform
	// Native is the platform of its machine; it emulates others. Zero is unknown.
	Native ocispecs.Platform
	// Holds are the names by which its results are remembered, see [Names.Of].
	Holds warm.Holdings
	// Lost are the results that it held once and has thrown away.
	Lost map[warm.ResultID]bool
	// From is when it is expected to come, since the start of the run; 0 = it is there.
	From time.Duration
	// Tenants is how many others build there: runs of dbake, and other clients.
	Tenants int
}

// sharedSpeed is the speed of the node as one of the builds there finds it. A node gives its
// slots, or its processors, to steps in the order in which they come, so each build that keeps
// it busy gets the same share: a step waits for as many others, or is as much slower. A build
// that uses less leaves more to the rest, but for how long is not known. Fewer slots would say
// the same of many steps, and nothing of one after the other.
func (n Node) sharedSpeed() float64 { return n.Speed / float64(1+n.Tenants) }

// Sharing says with how many others the node is shared; "" when it is not.
func (n Node) Sharing() string {
	switch n.Tenants {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("1 other build runs on %s: steps count as taking twice as long there", n.Name)
	}
	return fmt.Sprintf("%d other builds run on %s: steps count as taking %d times as long there", n.Tenants, n.Name, n.Tenants+1)
}

// unsendable is the size of results that cannot travel: every transfer costs more than
// any rebuild.
const unsendable = int64(1) << 50

// problem returns b as the partitioner's problem. Vertex i is Graph.Vertices[i];
// those beyond join the roots of jobs that have not exactly one, or write outputs.
func (b *Build) problem(nodes []Node) (partition.Problem, error) {
	t := &translation{
		Problem: partition.Problem{Network: b.way.transfers().network()},
		build:   b, graph: b.graph, nodes: nodes, needs: map[string]ocispecs.Platform{},
	}
	sendable := b.graph.sendable(b.Units)
	t.vertices(sendable, b.Freedom())
	t.mounts()
	results := make(map[warm.ResultID][]partition.VertexID, len(b.Graph.Vertices))
	cacheable := b.graph.cacheable()
	for i, v := range b.Graph.Vertices {
		result := b.Names.Result(i)
		if !v.IgnoreCache {
			results[result] = append(results[result], partition.VertexID(i))
		}
		if sendable[i] && cacheable[i] && b.cached[result] {
			t.Network.Cached = append(t.Network.Cached, partition.VertexID(i))
		}
	}
	for _, n := range nodes {
		t.Nodes = append(t.Nodes, partition.Node{
			Name: n.Name, Speed: n.sharedSpeed(), Slots: n.Slots, Machine: n.Machine, Shared: n.Shared, Platforms: n.offers(t.needs), Emulates: b.prices.slower(n, t.needs), Warm: t.warm(n, results), From: partition.SecondsOf(n.From),
			Filled: t.mountsOn(n),
		})
	}
	if err := t.targets(); err != nil {
		return partition.Problem{}, err
	}
	return t.Problem, nil
}

// translation is a build on its way to the partitioner's problem.
type translation struct {
	partition.Problem
	build *Build
	graph *graph
	nodes []Node
	needs map[string]ocispecs.Platform // by name as containerd compares platforms: what steps run on
	used  map[string]bool              // cache mounts whose filling counts, by name
}

// vertices adds the vertices of the graph, and notes the platforms that steps run on.
func (t *translation) vertices(sendable []bool, free []Freedom) {
	b := t.build
	known := map[platformKey]string{}
	t.Vertices = make([]partition.Vertex, len(t.graph.Vertices), len(t.graph.Vertices)+len(b.Jobs))
	for i, v := range t.graph.Vertices {
		pv := partition.Vertex{Name: v.Step, Cost: partition.SecondsOf(b.Costs[i].Duration), Bytes: b.Costs[i].Bytes}
		if !sendable[i] {
			pv.Bytes = unsendable
		}
		pv.Once = free[i] == "" && len(t.nodes) > 1
		for _, in := range v.Inputs {
			if id := partition.VertexID(t.graph.index[in]); !slices.Contains(pv.Inputs, id) {
				pv.Inputs = append(pv.Inputs, id)
			}
		}
		if k := LayerParent(v); k > 0 && k < len(v.Inputs) {
			parent := partition.VertexID(t.graph.index[v.Inputs[k]])
			at := slices.Index(pv.Inputs, parent)
			pv.Inputs = slices.Insert(slices.Delete(pv.Inputs, at, at+1), 0, parent)
		}
		if v.Kind == llbmerge.KindExec && v.Platform != nil {
			key := keyOf(*v.Platform)
			name, ok := known[key]
			if !ok {
				name = PlatformName(*v.Platform)
				known[key], t.needs[name] = name, *v.Platform
			}
			pv.Platform = name
		}
		t.Vertices[i] = pv
	}
}

// warm returns the vertices whose results node n holds, sorted. results are the vertices
// by the names of their results.
func (t *translation) warm(n Node, results map[warm.ResultID][]partition.VertexID) []partition.VertexID {
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
	for i, v := range t.graph.Vertices {
		if at, ok := t.build.rule.url(v); ok && at == n.Name && at != "" && !slices.Contains(list, partition.VertexID(i)) {
			list = append(list, partition.VertexID(i))
		}
	}
	slices.Sort(list)
	return list
}

// targets adds the jobs as targets, with the vertices that they end
// with.
func (t *translation) targets() error {
	jobs := t.build.Jobs
	targets := map[string][]partition.TargetID{} // several where a target is divided
	for i, j := range jobs {
		targets[j.Target.Name] = append(targets[j.Target.Name], partition.TargetID(i))
	}
	for i, j := range jobs {
		one := partition.Target{Name: j.Name, Root: t.exportVertex(i, t.root(j))}
		for _, name := range j.Target.DependsOn {
			one.After = append(one.After, targets[name]...)
		}
		t.Targets = append(t.Targets, one)
	}
	w := NewWalker(t.Vertices)
	for i, j := range jobs {
		one := &t.Targets[i]
		for _, v := range w.Below(one.Root, nil) {
			if name := t.Vertices[v].Platform; name != "" && !slices.Contains(one.Platforms, name) {
				one.Platforms = append(one.Platforms, name)
			}
		}
		slices.Sort(one.Platforms)
		if err := placeable(j, *one, t.Nodes); err != nil {
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
func (t *translation) root(j Job) partition.VertexID {
	var roots []partition.VertexID
	for _, i := range t.graph.roots(j.Units) {
		if id := partition.VertexID(i); !slices.Contains(roots, id) {
			roots = append(roots, id)
		}
	}
	if len(roots) == 1 {
		return roots[0]
	}
	return t.add(partition.Vertex{Name: j.Name, Inputs: roots, Bytes: unsendable})
}

// add adds a vertex that the graph does not have.
func (t *translation) add(v partition.Vertex) partition.VertexID {
	t.Vertices = append(t.Vertices, v)
	return partition.VertexID(len(t.Vertices) - 1)
}

// exportVertex returns the vertex that stands for the outputs of job i, or root when
// there are none.
func (t *translation) exportVertex(i int, root partition.VertexID) partition.VertexID {
	predicted, ok := t.build.ExportCost(i, t.nodes)
	if !ok {
		return root
	}
	return t.add(partition.Vertex{
		Name: "export " + t.build.Jobs[i].Name, Cost: partition.SecondsOf(predicted.Duration), Inputs: []partition.VertexID{root},
		Bytes: unsendable,
	})
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

// placeable returns an error when no node can run all steps of a job.
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
