package sched

import (
	"cmp"
	"math"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// forest is a random problem of some families: a base, shared middle steps, leaves.
func forest(r *rand.Rand, nodes, units int) Config {
	var cfg Config
	for range nodes {
		n := Node{Speed: []float64{1, 1, 1, 2, 0.5}[r.Intn(5)], Slots: 1 + r.Intn(3)}
		cfg.Nodes = append(cfg.Nodes, n)
	}
	add := func(cost float64, in ...VertexID) VertexID {
		cfg.Vertices = append(cfg.Vertices, Vertex{
			Cost:   time.Duration(cost * float64(time.Second)),
			Bytes:  int64(r.Intn(100_000_000)),
			Inputs: in,
		})
		return VertexID(len(cfg.Vertices) - 1)
	}
	cfg.Network = Network{Bandwidth: 50_000_000, Latency: time.Second}
	for len(cfg.Units) < units {
		base := add(5 + 60*r.Float64())
		if r.Intn(4) == 0 {
			cfg.Network.Cached = append(cfg.Network.Cached, base)
		}
		mids := []VertexID{base}
		for range r.Intn(3) {
			mids = append(mids, add(20*r.Float64(), mids[r.Intn(len(mids))]))
		}
		for range 1 + r.Intn(8) {
			if len(cfg.Units) == units {
				break
			}
			v := add(1+math.Exp(4*r.Float64()), mids[r.Intn(len(mids))])
			if r.Intn(2) == 0 {
				v = add(10*r.Float64(), v)
			}
			cfg.Units = append(cfg.Units, Unit{Name: "u", Root: v})
		}
	}
	return cfg
}

// greedy plans units one by one, largest first, on the node that would be done first.
func greedy(cfg *Config) {
	load := make([]float64, len(cfg.Nodes))
	held := make([]map[VertexID]bool, len(cfg.Nodes))
	for i := range held {
		held[i] = map[VertexID]bool{}
	}
	cfg.Plan = make([][]Partition, len(cfg.Nodes))
	var walk func(n int, v VertexID, do bool, seen map[VertexID]bool) float64
	walk = func(n int, v VertexID, do bool, seen map[VertexID]bool) float64 {
		if held[n][v] || seen[v] {
			return 0
		}
		seen[v] = true
		sum := float64(cfg.Vertices[v].Cost) / cfg.Nodes[n].Speed / float64(cfg.Nodes[n].Slots)
		for _, in := range cfg.Vertices[v].Inputs {
			sum += walk(n, in, do, seen)
		}
		if do {
			held[n][v] = true
		}
		return sum
	}
	order := make([]UnitID, len(cfg.Units))
	for i := range order {
		order[i] = UnitID(i)
	}
	slices.SortFunc(order, func(a, b UnitID) int {
		return cmp.Compare(cfg.Vertices[cfg.Units[b].Root].Cost, cfg.Vertices[cfg.Units[a].Root].Cost)
	})
	for _, u := range order {
		best, at := 0, math.Inf(1)
		for n := range cfg.Nodes {
			if t := load[n] + walk(n, cfg.Units[u].Root, false, map[VertexID]bool{}); t < at {
				best, at = n, t
			}
		}
		load[best] += walk(best, cfg.Units[u].Root, true, map[VertexID]bool{})
		cfg.Plan[best] = append(cfg.Plan[best], Partition{u})
	}
}

func play(t *testing.T, cfg Config, set func(*cluster)) (time.Duration, *cluster) {
	t.Helper()
	c, err := newCluster(cfg)
	require.NoError(t, err)
	if set != nil {
		set(c)
	}
	at, err := c.run()
	require.NoError(t, err)
	return at, c
}

// wrong returns factors between 0.3 and 3, even on the logarithmic scale.
func wrong(r *rand.Rand, n int) []float64 {
	fs := make([]float64, n)
	for i := range fs {
		fs[i] = math.Exp(math.Log(0.3) + r.Float64()*math.Log(10))
	}
	return fs
}

// Plans that are good by the estimates, run with steps that take 0.3 to 3 times as
// long: stealing wins on the whole and hardly ever loses; with exact estimates it
// never does.
func TestStealingHelps(t *testing.T) {
	const seed, runs = 1, 300
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewSource(seed))
	var gain, without, worst, worstExact float64
	worse := 0
	for range runs {
		cfg := forest(r, 2+r.Intn(5), 6+r.Intn(40))
		greedy(&cfg)
		factor := wrong(r, len(cfg.Vertices))
		set := func(c *cluster) { c.factor, c.tick = factor, 2*time.Second }
		perfect, _ := play(t, cfg, nil)
		alone, _ := play(t, cfg, set)
		cfg.Options.Steal = true
		exact, _ := play(t, cfg, nil)
		stolen, _ := play(t, cfg, set)
		q := float64(stolen) / float64(alone)
		gain += math.Log(q) / runs
		without += math.Log(float64(alone)/float64(perfect)) / runs
		worst = max(worst, q)
		worstExact = max(worstExact, float64(exact)/float64(perfect))
		if q > 1.05 {
			worse++
		}
	}
	t.Logf("time with stealing / without: geometric mean %.3f, worst %.3f, with exact estimates %.3f; %d of %d more than 5%% worse; wrong estimates alone cost %.3f",
		math.Exp(gain), worst, worstExact, worse, runs, math.Exp(without))
	require.Less(t, math.Exp(gain), 0.98)
	require.LessOrEqual(t, worse, runs/100)
	require.LessOrEqual(t, worstExact, 1.05)
}

// One node is three times slower than it says: the others take over its queue.
func TestStealingFromASlowNode(t *testing.T) {
	r := rand.New(rand.NewSource(2))
	var gain float64
	const runs = 50
	for range runs {
		cfg := forest(r, 4, 40)
		for i := range cfg.Nodes {
			cfg.Nodes[i].Speed, cfg.Nodes[i].Slots = 1, 2
		}
		greedy(&cfg)
		set := func(c *cluster) { c.slow, c.tick = []float64{3, 1, 1, 1}, 2*time.Second }
		alone, _ := play(t, cfg, set)
		cfg.Options.Steal = true
		stolen, c := play(t, cfg, set)
		gain += math.Log(float64(stolen)/float64(alone)) / runs
		require.Less(t, c.s.Status()[0].Speed, 0.7)
	}
	t.Logf("time with stealing / without: %.3f", math.Exp(gain))
	require.Less(t, math.Exp(gain), 0.75)
}

// Whatever is lost, a run with one node left builds everything; and a driver that
// says nothing about steps gets a run that ends as well.
func TestLossesInVirtualTime(t *testing.T) {
	r := rand.New(rand.NewSource(3))
	for range 100 {
		cfg := forest(r, 2+r.Intn(5), 6+r.Intn(40))
		greedy(&cfg)
		cfg.Options = Options{Steal: r.Intn(2) == 0, MaxAttempts: len(cfg.Nodes), Jobs: r.Intn(5)}
		lose := map[NodeID]time.Duration{}
		for n := 1; n < len(cfg.Nodes); n++ {
			if r.Intn(3) > 0 {
				lose[NodeID(n)] = time.Duration(r.Intn(150)) * time.Second
			}
		}
		quiet := r.Intn(2) == 0
		_, c := play(t, cfg, func(c *cluster) { c.loseAt, c.quiet = lose, quiet })
		for u, o := range c.finish.Outcomes {
			require.Equal(t, Built, o.State, "unit %d: %s", u, o.Reason)
		}
	}
}
