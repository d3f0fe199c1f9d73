package plan

import (
	"cmp"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/warm"
)

// Measurement is one execution of a step, or a time during which a node fetched a base image or
// worked at the outputs of a job. An image or a job can have several.
type Measurement struct {
	Node   string            // its address, which distinguishes nodes of several clusters
	Native ocispecs.Platform // of its machine; zero when it is not known
	Vertex digest.Digest     // "" when it is the outputs of Job
	Job    string
	Start  time.Time // by the clock of the node
	Took   time.Duration
	// CPU is the processor time that a step used, Memory the most that it held; 0 is not
	// known.
	CPU    time.Duration
	Memory int64
	// Mounts is the state in which a step found its cache mounts, see [Names.SetMounts].
	Mounts cost.Mounts
}

// Capacity is the number of steps that a node can run at once: as many as it has slots, or,
// when Cores is not 0, as many as keep that many processors busy.
type Capacity struct {
	Slots int
	Cores float64
	// Machine names what the node shares both with those that name the same; "" is
	// nobody.
	Machine string
}

// Record adds the measurements of a run to the history. capacity is that of each node, by
// address; it is unknown for other nodes. kept are the results that each node keeps, with
// their sizes.
//
// A node does not keep to its slots: it runs what is ready, and writes outputs besides. What is
// remembered is what an execution would have taken with no more at once than the node can do.
// The plan keeps to that, and then ends when the run did.
func (b *Build) Record(history *cost.Store, ms []Measurement, capacity map[string]Capacity, kept map[string]warm.Records, now time.Time) {
	b.prices.record(history, ms, capacity, kept, now)
}

func (p *prices) record(history *cost.Store, ms []Measurement, capacity map[string]Capacity, kept map[string]warm.Records, now time.Time) {
	jobs := map[string]int{}
	for i, j := range p.jobs {
		jobs[j.Name] = i
	}
	ran := map[execution]bool{}
	for _, m := range ms {
		ran[execution{m.Node, m.Vertex}] = true
	}
	charged := charge(p.withUsage(ms), capacity)
	// A pull and an export are reported in pieces.
	type pieces struct{ node, key string }
	whole := map[pieces]int{} // index of list
	type sample struct {
		step cost.Step
		cost.Sample
	}
	var list []sample
	for i, m := range ms {
		var step cost.Step
		if m.Vertex == "" {
			j, ok := jobs[m.Job]
			if !ok {
				continue
			}
			step = p.exports[j].again
			for _, v := range p.graph.roots(p.jobs[j].Units) {
				if ran[execution{m.Node, p.graph.Vertices[v].Digest}] {
					step = p.exports[j].fresh
				}
			}
		} else {
			v, ok := p.graph.index[m.Vertex]
			if !ok {
				continue
			}
			step = p.known[v]
		}
		if step.Kind == cost.From || step.Kind == cost.Export {
			piece := pieces{m.Node, string(step.Key)}
			if at, ok := whole[piece]; ok {
				list[at].Took += charged[i]
				continue
			}
			whole[piece] = len(list)
		}
		made := cost.Sample{Node: m.Node, Took: charged[i], When: now}
		if v, ok := p.graph.index[m.Vertex]; ok {
			if on := p.graph.Vertices[v].Platform; step.Kind == cost.Run && on != nil && Emulates(m.Native, *on) {
				made.Node = emulator(m.Node, PlatformName(*on))
				made.Took = time.Duration(float64(made.Took) / Emulation)
			}
			r, _ := kept[m.Node].Find(p.names.trace(v, m)) // 0 is not known
			made.Bytes = max(0, r.Bytes)
			if step.Kind == cost.Run {
				made.Inputs, made.Mounts = p.inputs(v), m.Mounts
			}
		}
		if m.CPU > 0 && step.Kind == cost.Run {
			made.CPU, made.Memory = m.CPU, m.Memory
		}
		list = append(list, sample{step, made})
	}
	for _, s := range list {
		history.Record(s.step, s.Sample)
	}
}

// MeasuredBytes returns the size of what some vertices of b's graph have made together, by the
// history; 0 when that of one of them was never measured.
func MeasuredBytes(b *Build, vertices []int) int64 {
	sum := int64(0)
	for _, v := range vertices {
		made := b.prices.history.Predict(b.prices.known[v])
		if made.Source != cost.Measured {
			return 0
		}
		sum += made.Bytes
	}
	return sum
}

// Mishap is an execution of a step that failed.
type Mishap struct {
	Node   string // its address
	Vertex digest.Digest
}

// RecordFailures teaches the history which executions of steps failed in a run.
func (b *Build) RecordFailures(history *cost.Store, list []Mishap, now time.Time) {
	for i, m := range list {
		if v, ok := b.graph.index[m.Vertex]; ok {
			when := now.Add(time.Duration(i)) // equal ones would be one
			history.RecordFailure(b.prices.known[v], cost.Failure{Node: m.Node, When: when, Inputs: b.prices.inputs(v)})
		}
	}
}

// Trials counts the latest executions of vertex i on what it reads now that failed, and
// all of them, as far as the history knows.
func (b *Build) Trials(i int) (failed, all int) {
	return b.prices.history.Trials(b.prices.known[i], b.prices.inputs(i))
}

// inputs names what a step is executed on.
func (p *prices) inputs(v int) string {
	r := string(p.names.list[v].result)
	return r[:min(len(r), inputsLength)]
}

// inputsLength is how much of the name of a result distinguishes it from others of one step.
const inputsLength = len("sha256:") + 16

// execution is something that ran on a node.
type execution struct {
	node   string
	vertex digest.Digest
}

// withUsage returns the measurements with the processor time of steps whose nodes reported
// none, by what is known of the steps: nodes are asked only for what is unknown.
func (p *prices) withUsage(ms []Measurement) []Measurement {
	out := slices.Clone(ms)
	for i, m := range ms {
		if v, ok := p.graph.index[m.Vertex]; ok && m.CPU == 0 && p.steps[v].Cores > 0 {
			out[i].CPU = max(1, time.Duration(p.steps[v].Cores*float64(m.Took))) // 0 would be unknown
		}
	}
	return out
}

// charge returns the time of each measurement. The parts during which its node, or the node's
// machine, did more at once than it can are counted in proportion.
func charge(ms []Measurement, capacity map[string]Capacity) []time.Duration {
	byNode := map[string][]int{}
	for i, m := range ms {
		at := cmp.Or(capacity[m.Node].Machine, m.Node)
		byNode[at] = append(byNode[at], i)
	}
	out := make([]time.Duration, len(ms))
	for _, list := range byNode {
		most := capacity[ms[list[0]].Node].most()
		type edge struct {
			at    time.Time
			index int
			begin bool
		}
		var edges []edge
		for _, i := range list {
			if ms[i].Took > 0 {
				edges = append(edges, edge{ms[i].Start, i, true}, edge{ms[i].Start.Add(ms[i].Took), i, false})
			}
		}
		slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.index, b.index)) })
		// shared is the time, counted in proportion, since the first edge: it is
		// the same for all that run.
		var shared time.Duration
		load := 0. // of what runs
		began := map[int]time.Duration{}
		for k, e := range edges {
			if k > 0 {
				span := e.at.Sub(edges[k-1].at)
				if most > 0 && load > most {
					span = time.Duration(float64(span) * most / load)
				}
				shared += span
			}
			if e.begin {
				began[e.index] = shared
				load += ms[e.index].load(capacity[ms[e.index].Node])
			} else {
				out[e.index] = shared - began[e.index]
				delete(began, e.index)
				load -= ms[e.index].load(capacity[ms[e.index].Node])
			}
		}
	}
	return out
}

// most returns what a node can do at once: slots, or processors; 0 is not known.
func (c Capacity) most() float64 {
	if c.Cores > 0 {
		return c.Cores
	}
	return float64(c.Slots)
}

// load returns the part of its node that m takes: one slot, or the processors that it keeps
// busy, which is one when that is not known.
func (m Measurement) load(c Capacity) float64 {
	if c.Cores > 0 && m.CPU > 0 && m.Took > 0 {
		return m.CPU.Seconds() / m.Took.Seconds()
	}
	return 1
}
