package plan

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan/plantest"
)

// during is a measurement in seconds since some time.
func during(node string, from, to float64) Measurement {
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	return Measurement{Node: node, Start: time.Unix(1_700_000_000, 0).Add(seconds(from)), Took: seconds(to - from)}
}

func TestCharge(t *testing.T) {
	for name, c := range map[string]struct {
		slots map[string]int
		ms    []Measurement
		want  []float64
	}{
		"one after the other": {map[string]int{"a": 1}, []Measurement{during("a", 0, 2), during("a", 2, 5)}, []float64{2, 3}},
		"within the slots":    {map[string]int{"a": 2}, []Measurement{during("a", 0, 4), during("a", 1, 5)}, []float64{4, 4}},
		"beyond the slots":    {map[string]int{"a": 1}, []Measurement{during("a", 0, 4), during("a", 2, 6)}, []float64{3, 3}},
		"three on two":        {map[string]int{"a": 2}, []Measurement{during("a", 0, 3), during("a", 0, 3), during("a", 0, 6)}, []float64{2, 2, 5}},
		"each node by itself": {map[string]int{"a": 1, "b": 1}, []Measurement{during("a", 0, 4), during("b", 0, 4)}, []float64{4, 4}},
		"slots not known":     {nil, []Measurement{during("a", 0, 4), during("a", 0, 4)}, []float64{4, 4}},
		"no time at all":      {map[string]int{"a": 1}, []Measurement{during("a", 1, 1), during("a", 0, 4)}, []float64{0, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []float64
			capacity := map[string]Capacity{}
			for n, slots := range c.slots {
				capacity[n] = Capacity{Slots: slots}
			}
			for _, d := range charge(c.ms, capacity) {
				got = append(got, d.Seconds())
			}
			require.InDeltaSlice(t, c.want, got, 1e-6)
		})
	}
}

// Nodes that share a machine wait for each other.
func TestChargeOnASharedMachine(t *testing.T) {
	capacity := map[string]Capacity{"a": {Slots: 1, Cores: 2, Machine: "m"}, "b": {Slots: 1, Cores: 2, Machine: "m"}, "c": {Slots: 1, Cores: 2}}
	ms := []Measurement{during("a", 0, 4), during("a", 0, 4), during("b", 0, 4), during("b", 0, 4), during("c", 0, 4)}
	var got []float64
	for _, d := range charge(ms, capacity) {
		got = append(got, d.Seconds())
	}
	require.InDeltaSlice(t, []float64{2, 2, 2, 2, 4}, got, 1e-6)
}

// Where it is known what steps use of a machine, those that wait take nothing from the
// others, and those that work take more the more they use.
func TestChargeByProcessors(t *testing.T) {
	using := func(from, to, cores float64) Measurement {
		m := during("a", from, to)
		m.CPU = time.Duration(cores * float64(m.Took))
		return m
	}
	two := map[string]Capacity{"a": {Slots: 1, Cores: 2}}
	for name, c := range map[string]struct {
		ms   []Measurement
		want []float64
	}{
		"sleepers":       {[]Measurement{using(0, 8, 0.01), using(0, 8, 0.01), using(0, 8, 0.01)}, []float64{8, 8, 8}},
		"four workers":   {[]Measurement{using(0, 8, 1), using(0, 8, 1), using(0, 8, 1), using(0, 8, 1)}, []float64{4, 4, 4, 4}},
		"a wide one":     {[]Measurement{using(0, 8, 3), using(0, 8, 1)}, []float64{4, 4}},
		"nothing known":  {[]Measurement{during("a", 0, 6), during("a", 0, 6), during("a", 0, 6)}, []float64{4, 4, 4}},
		"within the two": {[]Measurement{using(0, 6, 1), using(0, 6, 1)}, []float64{6, 6}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []float64
			for _, d := range charge(c.ms, two) {
				got = append(got, d.Seconds())
			}
			require.InDeltaSlice(t, c.want, got, 1e-6)
		})
	}
}

// Steps that are known to wait are not thought short because many waited at
// once, also when nodes are not asked again what the steps use.
func TestChargeOfKnownSteps(t *testing.T) {
	for name, c := range map[string]struct {
		cores float64 // known of the steps; 0 = nothing
		want  time.Duration
	}{
		"they wait":       {cores: 0.01, want: 8 * time.Second},
		"they do nothing": {cores: 1e-12, want: 8 * time.Second},
		"they work":       {cores: 1, want: 4 * time.Second},
		"nothing known":   {want: 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, plantest.Shop)
			b := p.prepare()
			var list []Measurement
			for i, v := range b.Graph.Vertices {
				if b.prices.known[i].Kind == cost.Run {
					b.Costs[i].Cores = c.cores
					m := during("a", 0, 8)
					m.Vertex = v.Digest
					list = append(list, m)
				}
			}
			require.Len(t, list, 4)
			b.Record(p.History, list, map[string]Capacity{"a": {Slots: 2, Cores: 2}}, nil, time.Unix(1_700_000_000, 0))
			again := p.prepare()
			for _, m := range list {
				known := again.Costs[again.graph.index[m.Vertex]]
				require.InDelta(t, c.want, known.Duration, float64(time.Millisecond))
				require.Zero(t, known.Cores, "nothing was measured")
			}
		})
	}
}

// What writing outputs and fetching base images took is part of the next plan.
func TestOutputsAndImagesAreLearned(t *testing.T) {
	p := newProject(t, plantest.Shop)
	p.Replace("docker-bake.hcl", `target = "app"`, "target = \"app\"\n  output = [\"type=image,name=registry/app,push=true\"]")
	b := p.prepare("app", "web")
	before := makePlan(t, b, "single", holding("a", nil))
	var list []Measurement
	for _, v := range b.Graph.Vertices {
		m := during("tcp://a:1", 0, 1)
		m.Vertex = v.Digest
		list = append(list, m)
		if !v.Kind.IsStep() {
			list = append(list, m) // a pull is reported in pieces
		}
	}
	for _, part := range []Measurement{during("tcp://a:1", 10, 14), during("tcp://a:1", 14, 15)} {
		part.Job = "app"
		list = append(list, part)
	}
	b.Record(p.History, list, nil, nil, time.Unix(1_700_000_000, 0))

	// Elsewhere images have other names.
	p.Replace("docker-bake.hcl", "registry/app", "elsewhere/app")
	b = p.prepare("app", "web")
	plan := makePlan(t, b, "single", holding("a", nil))
	require.Equal(t, cost.Measured, b.prices.exports[0].freshCost.Source)
	require.Equal(t, 5*time.Second, b.prices.exports[0].freshCost.Duration)
	require.Zero(t, b.prices.exports[1], "nothing is written of it")
	// Base image, two shared steps, two steps of each on two slots.
	require.Equal(t, 6*time.Second, plan.Schedule.Done[1].Duration())
	require.Equal(t, 11*time.Second, plan.Schedule.Done[0].Duration())
	require.Equal(t, 11*time.Second, plan.Makespan)
	require.NotEqual(t, before.Makespan, plan.Makespan)
	path := plan.Schedule.CriticalPath()
	last := plan.Schedule.Tasks[path[len(path)-1]]
	require.Equal(t, "export app", plan.Problem.Vertices[last.Vertex].Name)
	require.Equal(t, plan.Makespan, last.End.Duration())

	// What is held has to be written all the same, but that is another thing.
	require.Equal(t, cost.Prior, b.prices.exports[0].againCost.Source)
	again := during("tcp://a:1", 0, 2)
	again.Job = "app"
	b.Record(p.History, []Measurement{again}, nil, nil, time.Unix(1_700_000_100, 0))
	b = p.prepare("app", "web")
	require.Equal(t, 2*time.Second, makePlan(t, b, "single", holding("a", b)).Makespan)
	require.Equal(t, 11*time.Second, makePlan(t, b, "single", holding("a", nil)).Makespan)
}

func TestSizesAreLearned(t *testing.T) {
	p := newProject(t, plantest.Shop)
	b := p.prepare("docs")
	var list []Measurement
	for _, v := range b.Graph.Vertices {
		m := during("tcp://a:1", 0, 1)
		m.Vertex = v.Digest
		list = append(list, m)
	}
	at := list[0].Start.Add(time.Second / 2)
	kept := map[string]warm.Records{"tcp://a:1": warm.NewRecords([]warm.Record{
		{Text: "mount / from exec /bin/sh -c make docs", Made: at, Bytes: 5},
		{Text: "[2/3] COPY . /docs", Made: at.Add(time.Minute), Bytes: 7}, // another one
	})}
	b.Record(p.History, list, nil, kept, time.Unix(1_700_000_000, 0))
	bytes := map[string]int64{}
	b = p.prepare("docs")
	for i, v := range b.Graph.Vertices {
		if v.Kind.IsStep() {
			bytes[v.Step] = b.Costs[i].Bytes
		}
	}
	require.Equal(t, map[string]int64{"[2/3] COPY . /docs": 0, "[3/3] RUN make docs": 5}, bytes)
}
