package plan

import (
	"fmt"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/llbmerge"
)

// prices are the history's predictions for steps and outputs.
type prices struct {
	graph   *graph
	names   *Names
	history *cost.Store

	known []cost.Step       // by vertex: what the history knows it by
	steps []cost.Prediction // by vertex

	jobs    []Job
	exports []export // by job
}

// newPrices asks the history for the cost of each step of the graph.
func newPrices(g *graph, names *Names, history *cost.Store) *prices {
	p := &prices{graph: g, names: names, history: history}
	p.steps = make([]cost.Prediction, len(g.Vertices))
	p.known = make([]cost.Step, len(g.Vertices))
	for i, v := range g.Vertices {
		n := names.list[i]
		p.known[i] = cost.Step{Key: digest.Digest(n.op), Slot: n.slot, Kind: kindOf(v), Command: v.Command, InputBytes: n.read.bytes}
		if v.Platform != nil {
			p.known[i].Platform = PlatformName(*v.Platform)
		}
		p.steps[i] = history.Predict(p.known[i])
		if v.Kind == llbmerge.KindLocal || v.Kind == llbmerge.KindPassthrough {
			// Sending a directory is not a step of any one target, and every
			// node is sent what it needs.
			p.steps[i].Duration = 0
		}
	}
	return p
}

// slotOf returns Dockerfile, stage and position of a step, "" when the place is not
// known. The number of steps of the stage is left out, so that adding one at the end
// leaves the others where they are. dir is the context of one of its targets: most
// Dockerfiles have the same name.
func slotOf(v *llbmerge.Vertex, dir string) string {
	if v.Place.Position == 0 || len(v.Locations) == 0 || v.Locations[0].File == nil {
		return ""
	}
	stage := strings.TrimSpace(v.Place.Platform + " " + v.Place.Stage)
	return fmt.Sprintf("%s/%s/%s/%d", dir, v.Locations[0].File.Filename, stage, v.Place.Position)
}

func kindOf(v *llbmerge.Vertex) cost.Kind {
	switch v.Kind {
	case llbmerge.KindExec:
		return cost.Run
	case llbmerge.KindImage:
		return cost.From
	case llbmerge.KindFile:
		if v.Place.Instruction == "ADD" {
			return cost.Add
		}
		return cost.Copy
	}
	return cost.Other
}
