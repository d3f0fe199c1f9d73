package partition

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// randomProblem makes small problems with everything in them: platforms, warm and
// cached vertices, different nodes, shared roots and, sometimes, After edges.
func randomProblem(rng *rand.Rand, vertices, nodes, targets int) Problem {
	platforms := []string{"linux/amd64", "linux/arm64"}
	p := Problem{Network: Network{Bandwidth: 10, Latency: Seconds(rng.IntN(3))}}
	mixed := rng.IntN(3) == 0
	for v := range vertices {
		x := Vertex{Name: fmt.Sprint("v", v), Cost: Seconds(rng.IntN(40)), Bytes: int64(rng.IntN(100))}
		for u := range v {
			if rng.IntN(v+1) < 2 {
				x.Inputs = append(x.Inputs, VertexID(u))
			}
		}
		rng.Shuffle(len(x.Inputs), func(i, j int) { x.Inputs[i], x.Inputs[j] = x.Inputs[j], x.Inputs[i] })
		if mixed && rng.IntN(2) == 0 {
			x.Platform = platforms[rng.IntN(2)]
		}
		if rng.IntN(8) == 0 {
			p.Network.Cached = append(p.Network.Cached, VertexID(v))
		}
		p.Vertices = append(p.Vertices, x)
	}
	for n := range nodes {
		x := Node{Name: fmt.Sprint("n", n), Speed: []float64{1, 1, 0.5, 2}[rng.IntN(4)], Slots: 1 + rng.IntN(2), Platforms: platforms[:1]}
		if mixed {
			x.Platforms = [][]string{platforms, platforms[:1], platforms[1:]}[n%3]
			if len(x.Platforms) == 2 && rng.IntN(2) == 0 {
				x.Emulates = map[string]float64{platforms[rng.IntN(2)]: float64(1 + rng.IntN(8))}
			}
		}
		for v := range vertices {
			if rng.IntN(12) == 0 {
				x.Warm = append(x.Warm, VertexID(v))
			}
		}
		p.Nodes = append(p.Nodes, x)
	}
	ordered := rng.IntN(4) == 0
	for i := range targets {
		t := Target{Name: fmt.Sprint("t", i), Root: VertexID(rng.IntN(vertices))}
		if mixed && rng.IntN(2) == 0 {
			t.Platforms = platforms[:1]
		}
		if ordered && i > 0 {
			if d := TargetID(rng.IntN(i)); p.Targets[d].Root < t.Root {
				t.After = []TargetID{d}
			}
		}
		p.Targets = append(p.Targets, t)
	}
	return p
}

// size is a range of sizes: from least on, so many.
type size struct{ least, many int }

func (s size) draw(rng *rand.Rand) int { return s.least + rng.IntN(s.many) }

// drawProblem draws the problem of a seed for the test of a law, then what more draws into it.
// It returns the source of the draws as well.
func drawProblem(law, seed uint64, vertices, nodes, targets size, more ...func(*rand.Rand, uint64, Problem)) (*rand.Rand, Problem) {
	rng := rand.New(rand.NewPCG(seed, law))
	p := randomProblem(rng, vertices.draw(rng), nodes.draw(rng), targets.draw(rng))
	p.Network.Links = int(seed % 7 % 4) // mostly shared, and sometimes by fewer nodes than there are links
	for _, draw := range more {
		draw(rng, seed, p)
	}
	return rng, p
}

func plan(t *testing.T, name string, p Problem, o Options) Plan {
	t.Helper()
	s, err := Lookup(name)
	require.NoError(t, err)
	out, err := s.Plan(context.Background(), p, o)
	require.NoError(t, err)
	return out
}

func TestStrategiesObeyTheRules(t *testing.T) {
	for seed := range uint64(60) {
		_, p := drawProblem(0, seed, size{3, 12}, size{1, 4}, size{1, 8}, drawOnce, drawMachines, drawLate, drawMounts)
		if _, err := compile(p); err != nil {
			require.ErrorIs(t, err, ErrUnplaceable, "seed %d", seed)
			continue
		}
		o := Options{Budget: 20_000, Seed: seed}
		makespan := map[string]Seconds{}
		for _, s := range Strategies() {
			got := plan(t, s.Name(), p, o)
			// Evaluate checks platforms and everything else.
			schedule, err := Evaluate(p, got.Assignment)
			require.NoError(t, err, "seed %d %s\n%s", seed, s.Name(), got.Assignment)
			require.Equal(t, schedule.Makespan, got.Schedule.Makespan)
			require.LessOrEqual(t, float64(got.Bound.Max), float64(got.Schedule.Makespan)*(1+1e-9), "seed %d %s", seed, s.Name())
			requireOrder(t, p, got)
			requireOnce(t, p, got)
			requireSlots(t, p, got)
			requireLinks(t, p, got)
			requireThere(t, p, got)
			require.Equal(t, got, plan(t, s.Name(), p, o), "seed %d %s: not deterministic", seed, s.Name())
			makespan[s.Name()] = got.Schedule.Makespan
		}
		for _, name := range []string{"single", "queue", "lpt", "heft"} {
			require.LessOrEqual(t, makespan["affinity"], makespan[name], "seed %d: worse than %s", seed, name)
			require.LessOrEqual(t, makespan["exact"], makespan[name], "seed %d: worse than %s", seed, name)
		}
	}
}

// drawOnce makes, in every second problem, a third of the vertices such as may have one
// result.
func drawOnce(rng *rand.Rand, seed uint64, p Problem) {
	if seed%2 != 0 {
		return
	}
	for v := range p.Vertices {
		p.Vertices[v].Once = rng.IntN(3) == 0
	}
}

// drawMachines puts, in every third problem, some of the nodes on machines that they share.
func drawMachines(rng *rand.Rand, seed uint64, p Problem) {
	if seed%3 != 0 {
		return
	}
	shared := map[string]int{"m1": 1 + rng.IntN(4), "m2": 1 + rng.IntN(4)}
	for n := range p.Nodes {
		x := &p.Nodes[n]
		x.Machine = []string{"", "m1", "m2"}[rng.IntN(3)]
		x.Shared = shared[x.Machine]
	}
}

// drawMounts gives, in most problems, half of the vertices cache mounts, which some of the nodes
// have filled.
func drawMounts(rng *rand.Rand, seed uint64, p Problem) {
	if seed%5 == 4 {
		return
	}
	mounts := []string{"apt", "go", "npm"}
	for v := range p.Vertices {
		if x := &p.Vertices[v]; rng.IntN(2) == 0 {
			x.Mounts, x.Cold = mounts[rng.IntN(3):], []float64{1, 1.5, 2, 7}[rng.IntN(4)]
		}
	}
	for n := range p.Nodes {
		for _, name := range mounts {
			if p.Nodes[n].From == 0 && rng.IntN(2) == 0 {
				p.Nodes[n].Filled = append(p.Nodes[n].Filled, name)
			}
		}
	}
}

// drawLate has, in every fourth problem, some of the nodes come later.
func drawLate(rng *rand.Rand, seed uint64, p Problem) {
	if seed%4 != 1 {
		return
	}
	for n := range p.Nodes {
		if rng.IntN(2) == 0 {
			p.Nodes[n].From, p.Nodes[n].Warm = Seconds(1+rng.IntN(60)), nil
		}
	}
}

// requireThere checks that no node does anything before it comes.
func requireThere(t *testing.T, p Problem, got Plan) {
	t.Helper()
	for _, x := range got.Schedule.Tasks {
		require.GreaterOrEqual(t, x.Start, p.Nodes[x.Node].From, "%s begins something before it comes", p.Nodes[x.Node].Name)
	}
}

// A node that comes in time for a part of the work gets that, and one that comes too late
// nothing.
func TestLateNodes(t *testing.T) {
	p := Problem{Network: Network{Bandwidth: 1e9}, Nodes: []Node{{Name: "a", Speed: 1, Slots: 1}, {Name: "b", Speed: 1, Slots: 1}}}
	for i := range 4 {
		p.Vertices = append(p.Vertices, Vertex{Name: fmt.Sprint("v", i), Cost: 10})
		p.Targets = append(p.Targets, Target{Name: fmt.Sprint("t", i), Root: VertexID(i)})
	}
	for from, want := range map[Seconds]struct {
		makespan Seconds
		late     int // targets on the node that comes
	}{0: {20, 2}, 5: {25, 2}, 10: {30, 1}, 15: {30, 1}, 25: {35, 1}, 30: {40, 0}, 60: {40, 0}} {
		p.Nodes[1].From = from
		for _, name := range []string{"affinity", "exact", "heft"} {
			got := plan(t, name, p, Options{})
			require.Equal(t, want.makespan, got.Schedule.Makespan, "%s, from %v", name, from)
			if name == "affinity" {
				require.Equal(t, want.late, got.Schedule.Nodes[1].Targets, "from %v", from)
			}
			requireThere(t, p, got)
		}
	}
	p.Nodes[1].From, p.Nodes[1].Warm = 5, []VertexID{0}
	_, err := LowerBound(p)
	require.ErrorContains(t, err, "node b: it must come at a time, and hold nothing at time 0 if that is later")
}

// requireSlots checks that no node and no machine runs more at once than it may.
func requireSlots(t *testing.T, p Problem, got Plan) {
	t.Helper()
	for n, node := range p.Nodes {
		for _, at := range got.Schedule.Tasks {
			here, beside := 0, 0
			for _, x := range got.Schedule.Tasks {
				if x.Kind != Exec || at.Start < x.Start || x.End <= at.Start {
					continue
				}
				if int(x.Node) == n {
					here++
				}
				if p.Nodes[x.Node].Machine == node.Machine {
					beside++
				}
			}
			require.LessOrEqual(t, here, node.Slots, "%s at %v", node.Name, at.Start)
			if node.Machine != "" {
				require.LessOrEqual(t, beside, node.Shared, "%s at %v", node.Machine, at.Start)
			}
		}
	}
}

// requireLinks checks that no node carries more at once than it may, nor the registry for all.
func requireLinks(t *testing.T, p Problem, got Plan) {
	t.Helper()
	links := p.Network.Links
	if links == 0 {
		links = len(p.Nodes)
	}
	for _, at := range got.Schedule.Tasks {
		if at.Kind == Exec {
			continue
		}
		here, all := 0, 0
		for _, x := range got.Schedule.Tasks {
			if x.Kind != at.Kind || at.Start < x.Start || x.End <= at.Start {
				continue
			}
			if all++; x.Node == at.Node {
				here++
			}
		}
		require.LessOrEqual(t, here, 1, "node %d at %v", at.Node, at.Start)
		require.LessOrEqual(t, all, links, "all at %v", at.Start)
	}
}

// requireOnce checks that all nodes that need a vertex with one result have the same.
func requireOnce(t *testing.T, p Problem, got Plan) {
	t.Helper()
	executed, fetched := map[VertexID]int{}, map[VertexID]bool{}
	for _, x := range got.Schedule.Tasks {
		switch x.Kind {
		case Exec:
			executed[x.Vertex]++
		case Pull:
			fetched[x.Vertex] = true
		}
	}
	for v := range p.Vertices {
		if !p.Vertices[v].Once {
			continue
		}
		require.LessOrEqual(t, executed[VertexID(v)], 1, p.Vertices[v].Name)
		if from := slices.IndexFunc(got.Assignment.Shares, func(s Share) bool {
			return slices.Contains(s.Fetch, Fetch{VertexID(v), Registry})
		}); from >= 0 && fetched[VertexID(v)] {
			require.Zero(t, executed[VertexID(v)], p.Vertices[v].Name)
		}
	}
}

// requireOrder checks that every task starts after what it needs is there.
func requireOrder(t *testing.T, p Problem, got Plan) {
	t.Helper()
	type place struct {
		v VertexID
		n NodeID
	}
	held, exported := map[place]Seconds{}, map[VertexID]Seconds{}
	for n, node := range p.Nodes {
		for _, v := range node.Warm {
			held[place{v, NodeID(n)}] = 0
		}
	}
	for _, v := range p.Network.Cached {
		exported[v] = 0
	}
	for _, x := range got.Schedule.Tasks {
		switch x.Kind {
		case Export:
			exported[x.Vertex] = x.End
		default:
			held[place{x.Vertex, x.Node}] = x.End
		}
	}
	for _, x := range got.Schedule.Tasks {
		switch x.Kind {
		case Exec:
			node, v := p.Nodes[x.Node], p.Vertices[x.Vertex]
			took := v.Cost / Seconds(node.Speed)
			if factor, ok := node.Emulates[v.Platform]; ok {
				took *= Seconds(factor)
			}
			if slices.ContainsFunc(v.Mounts, func(name string) bool { return !slices.Contains(node.Filled, name) }) {
				took *= Seconds(v.Cold)
			}
			require.InDelta(t, float64(took), float64(x.End-x.Start), 1e-9)
			require.True(t, p.Vertices[x.Vertex].Platform == "" || slices.Contains(p.Nodes[x.Node].Platforms, p.Vertices[x.Vertex].Platform))
			for _, u := range p.Vertices[x.Vertex].Inputs {
				at, ok := held[place{u, x.Node}]
				require.True(t, ok && at <= x.Start)
			}
		case Export:
			at, ok := held[place{x.Vertex, x.Node}]
			require.True(t, ok && at <= x.Start)
		case Pull:
			at, ok := exported[x.Vertex]
			require.True(t, ok)
			// A cached vertex may also have been exported, later than it was fetched.
			require.True(t, at <= x.Start || slices.Contains(p.Network.Cached, x.Vertex))
			if in := p.Vertices[x.Vertex].Inputs; len(in) > 0 {
				at, ok := held[place{in[0], x.Node}]
				require.True(t, ok && at <= x.Start)
			}
		}
	}
	for i, target := range p.Targets {
		for _, d := range target.After {
			if p.Targets[d].Root != target.Root && got.Schedule.Done[i] > 0 {
				require.LessOrEqual(t, got.Schedule.Done[d], got.Schedule.Done[i])
			}
		}
	}
}

// Nothing that random search or enumeration finds is shorter than a proven plan.
func TestExactAgainstBruteForce(t *testing.T) {
	proven := 0
	for seed := range uint64(250) {
		rng, p := drawProblem(1, seed, size{2, 5}, size{1, 3}, size{1, 4}, drawOnce, drawMachines, drawMounts)
		m, err := compile(p)
		if err != nil {
			continue
		}
		got := plan(t, "exact", p, Options{Budget: 30_000})
		if !got.Proven {
			continue
		}
		proven++
		shortest := bruteForce(m, rng, 4000)
		require.LessOrEqual(t, float64(got.Schedule.Makespan), shortest*(1+1e-9), "seed %d\n%+v\n%s", seed, p, got.Assignment)
	}
	require.Greater(t, proven, 200)
}

// bruteForce tries every assignment of targets with random wishes.
func bruteForce(m *model, rng *rand.Rand, tries int) float64 {
	sim := newSimulator(m)
	shortest := -1.0
	d := m.newDraft()
	d.build = make([]uint64, m.nv)
	d.order = make([][]int32, m.nn)
	for k := range tries {
		for t := range m.nt {
			for d.node[t] = -1; d.node[t] < 0 || !m.allows(t, int(d.node[t])); {
				d.node[t] = int32(rng.IntN(m.nn))
			}
		}
		for v := range m.nv {
			d.fetch[v] = rng.Uint64() & rng.Uint64() & (1<<m.nn - 1)
			d.src[v] = int32(rng.IntN(m.nn+2)) - 2
			if d.build[v] = 0; k%4 == 0 {
				d.build[v] = rng.Uint64() & rng.Uint64() & rng.Uint64() & (1<<m.nn - 1)
			}
		}
		for n := range d.order {
			d.order[n] = d.order[n][:0]
			if k%3 > 0 {
				for _, v := range rng.Perm(m.nv) {
					d.order[n] = append(d.order[n], int32(v))
				}
			}
		}
		if mk, _ := sim.makespan(d); shortest < 0 || mk < shortest {
			shortest = mk
		}
	}
	return shortest
}

func TestRelabelling(t *testing.T) {
	for seed := range uint64(40) {
		rng, p := drawProblem(2, seed, size{3, 10}, size{1, 4}, size{1, 6}, drawOnce, drawMachines, drawMounts)
		if _, err := compile(p); err != nil {
			continue
		}
		q := Problem{Vertices: p.Vertices, Network: p.Network}
		for _, n := range rng.Perm(len(p.Nodes)) {
			node := p.Nodes[n]
			node.Name += "-renamed"
			q.Nodes = append(q.Nodes, node)
		}
		to := rng.Perm(len(p.Targets))
		q.Targets = make([]Target, len(p.Targets))
		for i, x := range p.Targets {
			x.After = slices.Clone(x.After)
			for k := range x.After {
				x.After[k] = TargetID(to[x.After[k]])
			}
			q.Targets[to[i]] = x
		}
		for _, name := range []string{"single", "queue", "lpt", "heft", "affinity", "exact"} {
			o := Options{Budget: 20_000}
			a, b := plan(t, name, p, o), plan(t, name, q, o)
			require.Equal(t, a.Schedule.Makespan, b.Schedule.Makespan, "seed %d %s", seed, name)
		}
	}
}

// A node that emulates gets what is foreign to it only where that ends sooner.
func TestNativeNodesArePreferred(t *testing.T) {
	foreign := func(copies int) Problem {
		p := Problem{Network: Network{Bandwidth: 1}, Nodes: []Node{
			{Name: "arm", Speed: 1, Slots: 1, Platforms: []string{"arm64"}},
			{Name: "amd", Speed: 1, Slots: 1, Platforms: []string{"amd64", "arm64"}, Emulates: map[string]float64{"arm64": 5}},
		}}
		for i := range copies {
			p.Vertices = append(p.Vertices, Vertex{Name: fmt.Sprint("v", i), Cost: 10, Bytes: 1 << 40, Platform: "arm64"})
			p.Targets = append(p.Targets, Target{Name: fmt.Sprint("t", i), Root: VertexID(i), Platforms: []string{"arm64"}})
		}
		return p
	}
	for _, s := range []string{"affinity", "exact", "heft"} {
		few := plan(t, s, foreign(4), Options{})
		require.Equal(t, []NodeID{0, 0, 0, 0}, few.Assignment.Node, s)
		many := plan(t, s, foreign(12), Options{})
		require.InDelta(t, 100, float64(many.Schedule.Makespan), 1e-9, s)
	}
}

// A node that has filled a mount gets what works with it, until it has so much of that to do
// that a cold start elsewhere ends sooner. Of nodes that end as soon, it is the one with less
// to do.
func TestFilledMountsArePreferred(t *testing.T) {
	compiles := func(copies int, cold float64) Problem {
		p := Problem{Network: Network{Bandwidth: 1}, Nodes: []Node{
			{Name: "cold", Speed: 1, Slots: 1},
			{Name: "filled", Speed: 1, Slots: 1, Filled: []string{"go", "npm"}},
			{Name: "half", Speed: 1, Slots: 1, Filled: []string{"npm"}},
		}}
		for i := range copies {
			p.Vertices = append(p.Vertices, Vertex{Name: fmt.Sprint("v", i), Cost: 10, Bytes: 1 << 40, Mounts: []string{"npm", "go"}, Cold: cold})
			p.Targets = append(p.Targets, Target{Name: fmt.Sprint("t", i), Root: VertexID(i)})
		}
		return p
	}
	for _, s := range []string{"affinity", "exact", "heft"} {
		few := plan(t, s, compiles(4, 5), Options{})
		require.Equal(t, []NodeID{1, 1, 1, 1}, few.Assignment.Node, s)
		require.EqualValues(t, 40, few.Schedule.Executed, s)
		many := plan(t, s, compiles(14, 5), Options{})
		require.EqualValues(t, 100, many.Schedule.Makespan, s)
		require.Equal(t, 10, many.Schedule.Nodes[1].Targets, s)
		require.EqualValues(t, 10*10+4*50, many.Schedule.Executed, s)
		little := plan(t, s, compiles(3, 1.1), Options{})
		require.InDelta(t, 11, float64(little.Schedule.Makespan), 1e-9, "%s: the mount does not pay", s)
		require.Equal(t, 1, little.Schedule.Nodes[1].Targets, s)
	}
	// Something else takes long enough for a cold start to delay nothing.
	p := compiles(1, 2)
	p.Vertices = append(p.Vertices, Vertex{Name: "long", Cost: 40, Bytes: 1 << 40})
	p.Targets = append(p.Targets, Target{Name: "long", Root: 1})
	for _, s := range []string{"affinity", "exact"} {
		got := plan(t, s, p, Options{})
		require.EqualValues(t, 40, got.Schedule.Makespan, s)
		require.EqualValues(t, 1, got.Assignment.Node[0], s)
	}
	why, err := Explain(t.Context(), p, Assignment{Node: []NodeID{1, 0}}, 0)
	require.NoError(t, err)
	require.Equal(t, []VertexID{0}, why.Filled)
	require.Equal(t, BecauseFilled, why.Why)
	why, err = Explain(t.Context(), p, Assignment{Node: []NodeID{0, 1}}, 0)
	require.NoError(t, err)
	require.Empty(t, why.Filled)
}

// Nodes that differ in what they have filled are not taken for each other: whichever is named
// first, plans are the same.
func TestFilledMountsTellNodesApart(t *testing.T) {
	p := Problem{
		Network: Network{Bandwidth: 1}, Vertices: []Vertex{{Name: "v", Cost: 10, Mounts: []string{"go"}, Cold: 2}},
		Nodes: []Node{
			{Name: "a", Speed: 1, Slots: 1, Filled: []string{"go", "npm"}}, {Name: "b", Speed: 1, Slots: 1}, {Name: "c", Speed: 1, Slots: 1, Filled: []string{"npm"}},
		},
		Targets: []Target{{Name: "t"}},
	}
	m, err := compile(p)
	require.NoError(t, err)
	require.False(t, m.twins(0, 1))
	require.True(t, m.twins(1, 2), "the mount that only one of them has filled is not used")
	require.Len(t, m.classes(), 2)
	queue := plan(t, "queue", p, Options{}).Schedule.Makespan
	slices.Reverse(p.Nodes)
	require.Equal(t, queue, plan(t, "queue", p, Options{}).Schedule.Makespan)
}

// A cold mount and emulation both make a vertex slower.
func TestColdMountsUnderEmulation(t *testing.T) {
	p := Problem{
		Network: Network{Bandwidth: 1}, Vertices: []Vertex{{Name: "v", Cost: 10, Platform: "arm64", Mounts: []string{"go"}, Cold: 3}},
		Nodes:   []Node{{Name: "n", Speed: 2, Slots: 1, Platforms: []string{"arm64"}, Emulates: map[string]float64{"arm64": 4}}},
		Targets: []Target{{Name: "t", Platforms: []string{"arm64"}}},
	}
	got := plan(t, "exact", p, Options{})
	require.EqualValues(t, 60, got.Schedule.Makespan)
	require.EqualValues(t, 60, got.Bound.Max)
	p.Nodes[0].Filled = []string{"go"}
	require.EqualValues(t, 20, plan(t, "exact", p, Options{}).Schedule.Makespan)
}

// Mounts have names, and cost something only where there are some.
func TestMountsAreValidated(t *testing.T) {
	for want, change := range map[string]func(*Problem){
		"": func(*Problem) {},
		`vertex v: mount "go" without a name or twice`:                                 func(p *Problem) { p.Vertices[0].Mounts = []string{"go", "go"} },
		`vertex v: mount "" without a name or twice`:                                   func(p *Problem) { p.Vertices[0].Mounts = []string{""} },
		"vertex v: it must not be faster with cold mounts, and have some to be slower": func(p *Problem) { p.Vertices[0].Cold = 0.5 },
		"vertex w: it must not be faster with cold mounts, and have some to be slower": func(p *Problem) { p.Vertices = append(p.Vertices, Vertex{Name: "w", Cold: 2}) },
		"node n: filled mount without a name":                                          func(p *Problem) { p.Nodes[0].Filled = []string{""} },
		"node n: it must come at a time, and hold nothing at time 0 if that is later":  func(p *Problem) { p.Nodes[0].From = 1 },
	} {
		p := Problem{Network: Network{Bandwidth: 1}, Vertices: []Vertex{{Name: "v", Mounts: []string{"go"}, Cold: 2}}, Nodes: []Node{{Name: "n", Speed: 1, Slots: 1, Filled: []string{"go"}}}}
		change(&p)
		err := p.Validate()
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, ErrProblem)
		require.ErrorContains(t, err, want)
	}
}

// Nodes that share a machine are together no faster than that.
func TestNodesShareAMachine(t *testing.T) {
	p := Problem{Network: Network{Bandwidth: 1}}
	for i := range 9 {
		p.Vertices = append(p.Vertices, Vertex{Name: fmt.Sprint("v", i), Cost: 10})
		p.Targets = append(p.Targets, Target{Name: fmt.Sprint("t", i), Root: VertexID(i)})
	}
	for n := range 3 {
		p.Nodes = append(p.Nodes, Node{Name: fmt.Sprint("n", n), Speed: 1, Slots: 1, Machine: "this", Shared: 2})
	}
	for _, s := range Strategies() {
		got := plan(t, s.Name(), p, Options{Budget: 20_000})
		require.EqualValues(t, 45, got.Bound.Work, s.Name())
		switch s.Name() {
		case "single":
			require.EqualValues(t, 90, got.Schedule.Makespan)
		case "affinity", "exact", "heft", "lpt":
			require.EqualValues(t, 50, got.Schedule.Makespan, s.Name())
		default:
			require.GreaterOrEqual(t, got.Schedule.Makespan, Seconds(50), s.Name())
		}
	}
	apart := p
	apart.Nodes = slices.Clone(p.Nodes)
	apart.Nodes[2].Machine = ""
	require.EqualValues(t, 30, plan(t, "affinity", apart, Options{}).Schedule.Makespan)
	apart.Nodes[1].Shared = 3
	require.ErrorContains(t, apart.Validate(), "node n1: machine this must run the same number")
	apart.Nodes[1].Shared = 0
	require.ErrorContains(t, apart.Validate(), "node n1: machine this must run the same number")
}

func TestMoreNodesNeverRaiseTheBound(t *testing.T) {
	for seed := range uint64(300) {
		rng, p := drawProblem(3, seed, size{3, 12}, size{1, 3}, size{1, 8})
		b, err := LowerBound(p)
		if err != nil {
			continue
		}
		more := randomProblem(rng, len(p.Vertices), 2, 1)
		q := p
		q.Nodes = append(slices.Clone(p.Nodes), more.Nodes...)
		c, err := LowerBound(q)
		require.NoError(t, err)
		require.LessOrEqual(t, float64(c.Max), float64(b.Max)*(1+1e-9), "seed %d\n%+v", seed, q)
	}
}

func TestWarmthNeverLengthensExact(t *testing.T) {
	for seed := range uint64(60) {
		rng, p := drawProblem(4, seed, size{2, 6}, size{1, 3}, size{1, 4})
		if _, err := compile(p); err != nil {
			continue
		}
		o := Options{Budget: 100_000}
		cold := plan(t, "exact", p, o)
		q := p
		q.Nodes = slices.Clone(p.Nodes)
		n := rng.IntN(len(q.Nodes))
		q.Nodes[n].Warm = append(slices.Clone(q.Nodes[n].Warm), VertexID(rng.IntN(len(p.Vertices))))
		warm := plan(t, "exact", q, o)
		if warm.Proven {
			require.LessOrEqual(t, float64(warm.Schedule.Makespan), float64(cold.Schedule.Makespan)*(1+1e-9), "seed %d\n%+v", seed, q)
		}
	}
}

// What the search compares is what Evaluate says of the plan that comes of it.
func TestTheSearchReckonsAsEvaluateDoes(t *testing.T) {
	for seed := range uint64(40) {
		_, p := drawProblem(7, seed, size{4, 20}, size{2, 3}, size{1, 10}, drawOnce)
		r, err := newRun(t.Context(), p, Options{Seed: seed})
		if err != nil {
			require.ErrorIs(t, err, ErrUnplaceable)
			continue
		}
		s := newSearcher(r, seed, 0)
		s.begin(heft(r))
		for range 50 {
			s.undo = s.undo[:0]
			if !s.move() {
				continue
			}
			makespan := r.makespan(s.cur)
			if r.sim.broken {
				continue
			}
			got, err := Evaluate(r.form.p, r.sim.assignment(s.cur))
			require.NoError(t, err, "seed %d", seed)
			require.Equal(t, makespan, float64(got.Makespan), "seed %d", seed)
		}
	}
}
