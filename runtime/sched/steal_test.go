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

func TestStealingHelps(t *testing.T) {
	const seed = 1
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewSource(seed))
	var logGain, logWrong, worst, worstExact float64
	const runs = 300
	for range runs {
		cfg := forest(r, 2+r.Intn(5), 6+r.Intn(40))
		greedy(&cfg)
		factor := wrong(r, len(cfg.Vertices))
		set := func(c *cluster) { c.factor = factor }
		perfect, _ := play(t, cfg, nil)
		without, _ := play(t, cfg, set)
		cfg.Options.Steal = true
		exact, ec := play(t, cfg, nil)
		with, wc := play(t, cfg, set)
		logGain += math.Log(float64(with) / float64(without))
		logWrong += math.Log(float64(with) / float64(perfect))
		if q := float64(with)/float64(without) - 1; q > 0.05 {
			t.Logf("worse with wrong estimates: %v %v: %d nodes %d units moves %d", without, with, len(cfg.Nodes), len(cfg.Units), len(wc.finish.Moves))
		}
		if q := float64(exact)/float64(perfect) - 1; q > 0.05 {
			t.Logf("worse with exact estimates: %v %v: %d nodes %d units moves %d", perfect, exact, len(cfg.Nodes), len(cfg.Units), len(ec.finish.Moves))
		}
		worst = max(worst, float64(with)/float64(without))
		worstExact = max(worstExact, float64(exact)/float64(perfect))
	}
	t.Logf("stealing: %.3f of the time without it, %.3f of the plan with exact estimates; worst %.3f, with exact estimates %.3f",
		math.Exp(logGain/runs), math.Exp(logWrong/runs), worst, worstExact)
}
