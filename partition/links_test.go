package partition

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// fanOut is a problem in which the first of some nodes holds a base of so many bytes, at a
// bandwidth of 1, that all others need, too.
func fanOut(nodes int, bytes int64, rebuild Seconds, links int) (Problem, Assignment) {
	p := Problem{
		Network:  Network{Bandwidth: 1, Links: links},
		Vertices: []Vertex{{Name: "base", Cost: rebuild, Bytes: bytes}},
	}
	var a Assignment
	for n := range nodes {
		p.Nodes = append(p.Nodes, Node{Name: fmt.Sprint("n", n), Speed: 1, Slots: 1, Platforms: []string{fmt.Sprint("p", n)}})
		p.Vertices = append(p.Vertices, Vertex{Name: fmt.Sprint("v", n), Cost: 1, Bytes: 1 << 40, Inputs: []VertexID{0}})
		p.Targets = append(p.Targets, Target{Name: fmt.Sprint("t", n), Root: VertexID(n + 1), Platforms: []string{fmt.Sprint("p", n)}})
		a.Node = append(a.Node, NodeID(n))
		share := Share{}
		if n > 0 {
			share.Fetch = []Fetch{{Vertex: 0, From: 0}}
		}
		a.Shares = append(a.Shares, share)
	}
	p.Nodes[0].Warm = []VertexID{0}
	return p, a
}

// Four nodes fetch what a fifth sends: one after the other, two at a time, or all at once.
func TestTransfersShareLinks(t *testing.T) {
	for links, want := range map[int]Seconds{0: 10 + 10 + 1, 1: 10 + 40 + 1, 2: 10 + 20 + 1, 3: 10 + 20 + 1, 4: 10 + 10 + 1, 5: 21, 99: 21} {
		p, a := fanOut(5, 10, 1000, links)
		s, err := Evaluate(p, a)
		require.NoError(t, err)
		require.Equal(t, want, s.Makespan, "links: %d", links)
		path := s.CriticalPath()
		require.Equal(t, Seconds(0), s.Tasks[path[0]].Start, "links: %d", links)
		for i := 1; i < len(path); i++ {
			require.Equal(t, s.Tasks[path[i-1]].End, s.Tasks[path[i]].Start, "links: %d", links)
		}
	}
}

// Nodes that would wait long for a result build it, where the plan knows how few transfers there
// are at once.
func TestPlansKnowOfSharedLinks(t *testing.T) {
	for links, want := range map[int]Seconds{0: 21, 1: 26, 2: 26} {
		p, _ := fanOut(9, 10, 25, links)
		for _, name := range []string{"affinity", "heft"} {
			got := plan(t, name, p, Options{})
			require.LessOrEqual(t, got.Schedule.Makespan, want, "%s, links: %d", name, links)
			requireLinks(t, p, got)
		}
	}
	p, _ := fanOut(4, 10, 25, 1)
	got := plan(t, "exact", p, Options{})
	require.EqualValues(t, 26, got.Schedule.Makespan)
	require.True(t, got.Proven)
	p, _ = fanOut(4, 10, 35, 1)
	got = plan(t, "exact", p, Options{})
	require.EqualValues(t, 36, got.Schedule.Makespan, "two fetch, and one builds")
	require.True(t, got.Proven)
}

// As many links as nodes are no limit: the plan is the same to the bit.
func TestEnoughLinksChangeNothing(t *testing.T) {
	for seed := range uint64(30) {
		_, p := drawProblem(8, seed, size{4, 12}, size{1, 4}, size{1, 8}, drawOnce, drawMachines, drawLate, drawMounts)
		if _, err := compile(p); err != nil {
			continue
		}
		free, ample := p, p
		free.Network.Links, ample.Network.Links = 0, len(p.Nodes)
		for _, s := range Strategies() {
			o := Options{Budget: 5000, Seed: seed}
			require.Equal(t, plan(t, s.Name(), free, o), plan(t, s.Name(), ample, o), "seed %d %s", seed, s.Name())
		}
	}
}

// A tighter limit never makes a proven plan shorter, and bounds hold for all.
func TestFewerLinksNeverShortenExact(t *testing.T) {
	proven := 0
	for seed := range uint64(60) {
		_, p := drawProblem(9, seed, size{3, 6}, size{2, 3}, size{2, 4}, drawOnce)
		if _, err := compile(p); err != nil {
			continue
		}
		last := Seconds(0)
		for _, links := range []int{0, 3, 2, 1} {
			p.Network.Links = links
			got := plan(t, "exact", p, Options{Budget: 100_000})
			require.GreaterOrEqual(t, float64(got.Schedule.Makespan), float64(last)*(1-1e-9), "seed %d, links: %d", seed, links)
			if !got.Proven {
				break
			}
			proven, last = proven+1, got.Schedule.Makespan
		}
	}
	require.Greater(t, proven, 150)
}

func TestLinksAreValidated(t *testing.T) {
	p, _ := fanOut(2, 1, 1, -1)
	require.ErrorContains(t, p.Validate(), "network: number of links out of range")
	p.Network.Links = 1 << 40
	require.ErrorIs(t, p.Validate(), ErrProblem)
}

// A transfer that is ready waits only while its own link is taken, or all those that nodes share.
func TestNoTransferWaitsForNothing(t *testing.T) {
	for seed := range uint64(80) {
		_, p := drawProblem(10, seed, size{5, 15}, size{2, 4}, size{2, 8}, drawOnce, drawLate)
		p.Network.Links = 1 + int(seed%2)
		r, err := newRun(t.Context(), p, Options{})
		if err != nil {
			continue
		}
		m, d := r.m, heft(r)
		sim := newSimulator(m)
		sim.derive(d)
		sim.list(d.node)
		sim.rank(nil)
		tasks := slices.Clone(sim.dur)
		sim.play(1e18)
		for i := range tasks {
			if sim.kind[i] == Exec {
				continue
			}
			ready := m.from[sim.where[i]]
			for j := range tasks {
				for e := sim.head[j]; e >= 0; e = sim.edgeNx[e] {
					if int(sim.edgeTo[e]) == i {
						ready = max(ready, sim.end[j])
					}
				}
			}
			for j := range tasks {
				at := sim.end[j]
				if at < ready || at >= sim.start[i] {
					continue
				}
				own, all := false, 0
				for k := range tasks {
					if sim.kind[k] == sim.kind[i] && sim.start[k] <= at && at < sim.end[k] {
						own = own || sim.where[k] == sim.where[i]
						all++
					}
				}
				require.True(t, own || all >= p.Network.Links, "seed %d: task %d waits at %v", seed, i, at)
			}
		}
	}
}
