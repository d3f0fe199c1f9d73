package plan

import (
	"fmt"
	"regexp"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/cost"
	"github.com/dbake/dbake/llbmerge"
)

// Measurement is one execution of a step.
type Measurement struct {
	Node   string // its address, which tells nodes of several clusters apart
	Vertex digest.Digest
	Took   time.Duration
}

// predict asks the history what each step of the graph will cost.
func (b *Build) predict(history *cost.Store) {
	b.Costs = make([]cost.Prediction, len(b.Graph.Vertices))
	b.steps = make([]cost.Step, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		b.steps[i] = costStep(v, b.content[i].bytes)
		b.Costs[i] = history.Predict(b.steps[i])
		if v.Kind == llbmerge.KindLocal || v.Kind == llbmerge.KindPassthrough {
			// Sending a directory is not a step of any one target, and every
			// node is sent what it needs.
			b.Costs[i].Duration = 0
		}
	}
}

// Record teaches the history what the steps of a run took.
func (b *Build) Record(history *cost.Store, ms []Measurement, now time.Time) {
	index := make(map[digest.Digest]int, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		index[v.Digest] = i
	}
	for _, m := range ms {
		if i, ok := index[m.Vertex]; ok {
			history.Record(b.steps[i], cost.Sample{Node: m.Node, Took: m.Took, When: now})
		}
	}
}

// place takes stage and position out of the name that the Dockerfile frontend
// gives to a step, as "[build 2/4] RUN make". The total is left out, so that
// adding a step at the end leaves the others where they are.
var place = regexp.MustCompile(`^\[(.*?) ?(\d+)/\d+\] (\S+)`)

// costStep describes a vertex to the history.
func costStep(v *llbmerge.Vertex, bytes int64) cost.Step {
	s := cost.Step{Key: v.Digest, Kind: kindOf(v), Command: v.Command, InputBytes: bytes}
	if v.Platform != nil {
		s.Platform = PlatformName(*v.Platform)
	}
	if m := place.FindStringSubmatch(v.Step); m != nil && len(v.Locations) > 0 && v.Locations[0].File != nil {
		s.Slot = fmt.Sprintf("%s/%s/%s", v.Locations[0].File.Filename, m[1], m[2])
	}
	return s
}

func kindOf(v *llbmerge.Vertex) cost.Kind {
	switch v.Kind {
	case llbmerge.KindExec:
		return cost.Run
	case llbmerge.KindImage:
		return cost.From
	case llbmerge.KindFile:
		if m := place.FindStringSubmatch(v.Step); m != nil && m[3] == "ADD" {
			return cost.Add
		}
		return cost.Copy
	}
	return cost.Other
}
