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

// Measurement is one execution of a step, or a time during which a node fetched a
// base image or worked at the outputs of a job.
type Measurement struct {
	Node   string            // its address, which tells nodes of several clusters apart
	Native ocispecs.Platform // of its machine; zero when it is not known
	Vertex digest.Digest     // "" when it is the outputs of Job
	Job    string
	Start  time.Time // by the clock of the node
	Took   time.Duration
}

// Record teaches the history what a run took. slots says how many steps each node is
// planned to run at once, by address; of a node that is not among them it is not
// known. kept are the results that each node keeps, which tell the size of those that
// were made.
//
// A node does not keep to its slots: it runs what is ready, and writes outputs
// besides. What is remembered is what an execution would have taken with no more
// than slots of them at once, so that the plan, which keeps to them, ends when the
// run did.
func (b *Build) Record(history *cost.Store, ms []Measurement, slots map[string]int, kept map[string]warm.Records, now time.Time) {
	jobs := map[string]int{}
	for i, j := range b.Jobs {
		jobs[j.Name] = i
	}
	ran := map[execution]bool{}
	for _, m := range ms {
		ran[execution{m.Node, m.Vertex}] = true
	}
	charged := charge(ms, slots)
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
			step = b.exports[j].again
			for _, v := range b.rootsOf(b.Jobs[j]) {
				if ran[execution{m.Node, b.Graph.Vertices[v].Digest}] {
					step = b.exports[j].fresh
				}
			}
		} else {
			v, ok := b.index[m.Vertex]
			if !ok {
				continue
			}
			step = b.steps[v]
		}
		if step.Kind == cost.From || step.Kind == cost.Export {
			p := pieces{m.Node, string(step.Key)}
			if at, ok := whole[p]; ok {
				list[at].Took += charged[i]
				continue
			}
			whole[p] = len(list)
		}
		made := cost.Sample{Node: m.Node, Took: charged[i], When: now}
		if v, ok := b.index[m.Vertex]; ok {
			if p := b.Graph.Vertices[v].Platform; step.Kind == cost.Run && p != nil && Emulates(m.Native, *p) {
				made.Node = emulator(m.Node, PlatformName(*p))
				made.Took = time.Duration(float64(made.Took) / Emulation)
			}
			r, _ := kept[m.Node].Find(b.trace(v, m)) // 0 is not known
			made.Bytes = max(0, r.Bytes)
		}
		list = append(list, sample{step, made})
	}
	for _, s := range list {
		history.Record(s.step, s.Sample)
	}
}

// execution is something that ran on a node.
type execution struct {
	node   string
	vertex digest.Digest
}

// charge returns, for each measurement, its time with the parts during which its node
// did more than slots things at once counted in proportion.
func charge(ms []Measurement, slots map[string]int) []time.Duration {
	byNode := map[string][]int{}
	for i, m := range ms {
		byNode[m.Node] = append(byNode[m.Node], i)
	}
	out := make([]time.Duration, len(ms))
	for node, list := range byNode {
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
		began := map[int]time.Duration{}
		for k, e := range edges {
			if k > 0 {
				span := e.at.Sub(edges[k-1].at)
				if n, most := len(began), slots[node]; most > 0 && n > most {
					span = span * time.Duration(most) / time.Duration(n)
				}
				shared += span
			}
			if e.begin {
				began[e.index] = shared
			} else {
				out[e.index] = shared - began[e.index]
				delete(began, e.index)
			}
		}
	}
	return out
}
