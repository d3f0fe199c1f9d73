package gen

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/partition/schedfile"
)

// Classes are the kinds of instances, in the order of a full set.
func Classes() []string {
	return []string{
		"fat", "forest", "disjoint", "giant", "chain", "hetero", "mixed", "warm",
		"registry-slow", "registry-fast", "monorepo", "cached",
	}
}

// Size scales an instance.
type Size struct {
	Name    string
	Targets int // about; chosen between 3/4 and 5/4 of it
	Nodes   int // about; chosen between one less and one more
	Slots   int
	Round   bool // costs in whole seconds
}

// The three sizes of a full set.
var (
	Small  = Size{Name: "small", Targets: 8, Nodes: 2, Slots: 1, Round: true}
	Medium = Size{Name: "medium", Targets: 40, Nodes: 4, Slots: 2}
	Large  = Size{Name: "large", Targets: 1000, Nodes: 16, Slots: 8}
)

// New makes one instance.
func New(class string, size Size, seed uint64) (schedfile.Instance, error) {
	g := &generator{rng: rand.New(rand.NewPCG(seed, 0xdbae)), size: size}
	g.p.Network = partition.Network{Bandwidth: 110e6, Latency: 0.8}
	n := size.Targets*3/4 + g.rng.IntN(size.Targets/2+1)
	g.homogeneous()
	switch class {
	case "fat":
		g.fat(n)
	case "forest":
		g.forest(n)
	case "disjoint":
		g.disjoint(n)
	case "giant":
		g.giant(n)
	case "chain":
		g.chain(n)
	case "hetero":
		g.p.Nodes = nil
		g.heterogeneous()
		g.monorepo(n, false)
	case "mixed":
		g.p.Nodes = nil
		g.twoPlatforms()
		g.monorepo(max(2, n/2), true)
	case "warm":
		if g.rng.IntN(2) == 0 {
			g.forest(n)
		} else {
			g.monorepo(n, false)
		}
		g.warm()
	case "registry-slow":
		g.p.Network = partition.Network{Bandwidth: 8e6, Latency: 4}
		g.forest(n)
	case "registry-fast":
		g.p.Network = partition.Network{Bandwidth: 1e9, Latency: 0.05}
		g.forest(n)
	case "monorepo":
		g.monorepo(n, false)
	case "cached":
		g.p.Network = partition.Network{Bandwidth: 40e6, Latency: 1.5}
		g.monorepo(n, false)
		g.fillRegistry()
	default:
		return schedfile.Instance{}, fmt.Errorf("unknown class %q", class)
	}
	g.rng.Shuffle(len(g.p.Targets), func(i, j int) {
		g.p.Targets[i], g.p.Targets[j] = g.p.Targets[j], g.p.Targets[i]
	})
	return schedfile.Instance{Name: fmt.Sprintf("%s-%s-%d", size.Name, class, seed), Class: class, Problem: g.p}, nil
}

type generator struct {
	rng  *rand.Rand
	size Size
	p    partition.Problem
}

// cost draws from a log-normal distribution with the given median.
func (g *generator) cost(median, spread float64) partition.Seconds {
	c := median * math.Exp(spread*g.rng.NormFloat64())
	c = min(c, 300)
	if g.size.Round {
		return partition.Seconds(max(1, math.Round(c)))
	}
	return partition.Seconds(math.Round(c*100) / 100)
}

func (g *generator) megabytes(median float64) int64 {
	return int64(median * 1e6 * math.Exp(0.5*g.rng.NormFloat64()))
}

func (g *generator) vertex(name string, cost partition.Seconds, bytes int64, platform string, inputs ...partition.VertexID) partition.VertexID {
	g.p.Vertices = append(g.p.Vertices, partition.Vertex{
		Name: name, Cost: cost, Bytes: bytes, Inputs: inputs, Platform: platform,
	})
	return partition.VertexID(len(g.p.Vertices) - 1)
}

func (g *generator) target(name string, root partition.VertexID, platforms ...string) {
	g.p.Targets = append(g.p.Targets, partition.Target{Name: name, Root: root, Platforms: platforms})
}

// service is a build on base and what is run from it.
func (g *generator) service(i int, base partition.VertexID) {
	build := g.vertex(fmt.Sprintf("build-%03d", i), g.cost(40, 0.8), g.megabytes(70), "", base)
	run := g.vertex(fmt.Sprintf("run-%03d", i), g.cost(2, 0.5), g.megabytes(20), "", build)
	g.target(fmt.Sprintf("svc-%03d", i), run)
}

func (g *generator) homogeneous() {
	n := max(2, g.size.Nodes+g.rng.IntN(3)-1)
	for i := range n {
		g.p.Nodes = append(g.p.Nodes, partition.Node{
			Name: fmt.Sprintf("n%d", i), Speed: 1, Slots: g.size.Slots, Platforms: []string{"linux/amd64"},
		})
	}
}

func (g *generator) heterogeneous() {
	kinds := []partition.Node{{Speed: 1, Slots: 12}, {Speed: 0.8, Slots: 4}, {Speed: 0.18, Slots: 4}, {Speed: 1.3, Slots: 8}, {Speed: 0.6, Slots: 2}}
	if g.size.Slots == 1 {
		kinds = []partition.Node{{Speed: 1, Slots: 2}, {Speed: 0.7, Slots: 1}, {Speed: 0.25, Slots: 1}}
	}
	for i := range max(3, g.size.Nodes) {
		node := kinds[i%len(kinds)]
		node.Name, node.Platforms = fmt.Sprintf("n%d", i), []string{"linux/amd64"}
		g.p.Nodes = append(g.p.Nodes, node)
	}
}

func (g *generator) twoPlatforms() {
	for i := range max(2, g.size.Nodes) {
		node := partition.Node{Name: fmt.Sprintf("n%d", i), Speed: 1, Slots: 2 * g.size.Slots, Platforms: []string{"linux/amd64"}}
		if i%2 == 1 {
			node.Speed, node.Slots, node.Platforms = 0.7, g.size.Slots, []string{"linux/arm64"}
		}
		if i%4 == 3 {
			node.Platforms = []string{"linux/amd64", "linux/arm64"}
		}
		g.p.Nodes = append(g.p.Nodes, node)
	}
}

func (g *generator) fat(n int) {
	base := g.vertex("base", g.cost(150, 0.3), g.megabytes(800), "")
	for i := range n {
		g.service(i, base)
	}
}

func (g *generator) forest(n int) {
	os := g.vertex("os", 60, g.megabytes(180), "")
	langs := make([]partition.VertexID, 2+n/8)
	for i := range langs {
		langs[i] = g.vertex(fmt.Sprintf("lang-%d", i), g.cost(110, 0.4), g.megabytes(600), "", os)
	}
	for i := range n {
		g.service(i, langs[g.rng.IntN(len(langs))])
	}
}

func (g *generator) disjoint(n int) {
	for i := range n {
		base := g.vertex(fmt.Sprintf("base-%03d", i), g.cost(12, 0.4), g.megabytes(150), "")
		build := g.vertex(fmt.Sprintf("build-%03d", i), g.cost(100, 0.8), g.megabytes(100), "", base)
		run := g.vertex(fmt.Sprintf("run-%03d", i), g.cost(2, 0.5), g.megabytes(20), "", build)
		g.target(fmt.Sprintf("svc-%03d", i), run)
	}
}

func (g *generator) giant(n int) {
	base := g.vertex("base", g.cost(70, 0.3), g.megabytes(500), "")
	tools := g.vertex("toolchain", g.cost(150, 0.4), g.megabytes(1100), "", base)
	inputs := []partition.VertexID{base}
	for i := range 2 + g.size.Targets/12 {
		inputs = append(inputs, g.vertex(fmt.Sprintf("giant-part-%d", i), g.cost(120, 0.4), g.megabytes(150), "", tools))
	}
	g.target("giant", g.vertex("giant-link", g.cost(40, 0.3), g.megabytes(300), "", inputs...))
	for i := range n {
		g.service(i, []partition.VertexID{base, tools}[g.rng.IntN(2)])
	}
}

func (g *generator) chain(n int) {
	base := g.vertex("base", g.cost(50, 0.3), g.megabytes(450), "")
	tools := g.vertex("tools", g.cost(40, 0.3), g.megabytes(500), "", base)
	length := 2 + g.size.Targets/20
	var links []partition.VertexID
	for c := range max(1, n/length) {
		parent := base
		for l := range length {
			inputs := []partition.VertexID{parent}
			add := func(v partition.VertexID) {
				for _, u := range inputs {
					if u == v {
						return
					}
				}
				inputs = append(inputs, v)
			}
			if len(links) > 0 && g.rng.IntN(4) == 0 {
				add(links[g.rng.IntN(len(links))])
			}
			if g.rng.IntN(2) == 0 {
				add(tools)
			}
			parent = g.vertex(fmt.Sprintf("link-%d-%d", c, l), min(140, g.cost(50, 0.7)), g.megabytes(80), "", inputs...)
			links = append(links, parent)
			g.target(fmt.Sprintf("chain%d-%d", c, l), parent)
		}
	}
}

// monorepo has languages, each with a base, sets of dependencies and a runtime
// image; with platforms every app is built for two, some by cross-compiling.
func (g *generator) monorepo(n int, platforms bool) {
	type language struct {
		base, runtime map[string]partition.VertexID
		deps          []map[string]partition.VertexID
	}
	languages := make([]language, max(1, min(2+n/20, 12)))
	names := []string{"go", "node", "py"}
	baseOf := func(l int, pf string) partition.VertexID {
		lang := &languages[l]
		if lang.base == nil {
			lang.base, lang.runtime = map[string]partition.VertexID{}, map[string]partition.VertexID{}
		}
		if _, ok := lang.base[pf]; !ok {
			r := rand.New(rand.NewPCG(uint64(l), 1)) // alike on every platform
			lang.base[pf] = g.vertex(fmt.Sprintf("base-%s%d%s", names[l%3], l, at(pf)),
				partition.Seconds(20+r.IntN(50)), int64(4e8+r.Float64()*5e8), pf)
		}
		return lang.base[pf]
	}
	depsOf := func(l, k int, pf string) partition.VertexID {
		lang := &languages[l]
		for len(lang.deps) <= k {
			lang.deps = append(lang.deps, map[string]partition.VertexID{})
		}
		if v, ok := lang.deps[k][pf]; ok {
			return v
		}
		cost, bytes := g.cost(60, 0.9), g.megabytes(500)
		for _, other := range []string{"", "linux/amd64", "linux/arm64"} {
			if v, ok := lang.deps[k][other]; ok {
				cost, bytes = g.p.Vertices[v].Cost, g.p.Vertices[v].Bytes
			}
		}
		base := baseOf(l, pf)
		lang.deps[k][pf] = g.vertex(fmt.Sprintf("deps-%s%d.%d%s", names[l%3], l, k, at(pf)), cost, bytes, pf, base)
		return lang.deps[k][pf]
	}
	for i := range n {
		l := g.rng.IntN(len(languages))
		k := g.rng.IntN(max(1, n/len(languages)/3))
		cross := g.rng.IntN(3) == 0
		buildCost, runCost, buildBytes := g.cost(40, 0.9), g.cost(2.5, 0.5), g.megabytes(70)
		list := []string{""}
		if platforms {
			list = []string{"linux/amd64", "linux/arm64"}
		}
		for _, pf := range list {
			on := pf
			if cross {
				on = ""
			}
			deps := depsOf(l, k, on)
			build := g.vertex(fmt.Sprintf("build-%03d%s", i, at(pf)), buildCost, buildBytes, on, deps)
			baseOf(l, on)
			rt, ok := languages[l].runtime[pf]
			if !ok {
				rt = g.vertex(fmt.Sprintf("rt-%s%d%s", names[l%3], l, at(pf)), partition.Seconds(2+l%3*3), int64(25e6*(1+l%3*4)), pf)
				languages[l].runtime[pf] = rt
			}
			run := g.vertex(fmt.Sprintf("run-%03d%s", i, at(pf)), runCost, buildBytes, pf, rt, build)
			if pf == "" {
				g.target(fmt.Sprintf("app-%03d", i), run)
			} else {
				g.target(fmt.Sprintf("app-%03d%s", i, at(pf)), run, pf)
			}
		}
	}
}

func at(platform string) string {
	if platform == "" {
		return ""
	}
	return "@" + platform[len("linux/"):]
}

// warm lets nodes hold some of the shared vertices with all below them.
func (g *generator) warm() {
	shared := g.sharedVertices()
	for n := range g.p.Nodes {
		held := map[partition.VertexID]bool{}
		var hold func(v partition.VertexID)
		hold = func(v partition.VertexID) {
			held[v] = true
			for _, u := range g.p.Vertices[v].Inputs {
				hold(u)
			}
		}
		for _, v := range shared {
			if g.rng.IntN(3) == 0 {
				hold(v)
			}
		}
		for v := range g.p.Vertices {
			if held[partition.VertexID(v)] {
				g.p.Nodes[n].Warm = append(g.p.Nodes[n].Warm, partition.VertexID(v))
			}
		}
	}
}

// fillRegistry puts most of the shared vertices and some others into the registry.
func (g *generator) fillRegistry() {
	in := map[partition.VertexID]bool{}
	for _, v := range g.sharedVertices() {
		in[v] = g.rng.IntN(4) > 0
	}
	for v := range g.p.Vertices {
		if in[partition.VertexID(v)] || g.rng.IntN(8) == 0 {
			g.p.Network.Cached = append(g.p.Network.Cached, partition.VertexID(v))
		}
	}
}

func (g *generator) sharedVertices() []partition.VertexID {
	users := make([]int, len(g.p.Vertices))
	for _, v := range g.p.Vertices {
		for _, u := range v.Inputs {
			users[u]++
		}
	}
	var out []partition.VertexID
	for v, k := range users {
		if k > 1 {
			out = append(out, partition.VertexID(v))
		}
	}
	return out
}
