package sim

import (
	"context"
	"slices"
	"time"

	"github.com/dbake/dbake/partition"
)

// TryLate runs p, where all nodes but the first come late: with the plan that knows this
// (Perfect), with one for the first node alone and new plans when the others come
// (Makespan), and with stealing only (Fixed). Those that come late hold nothing. It reports
// false when the first node cannot do everything.
func TryLate(ctx context.Context, p partition.Problem, late time.Duration, s partition.Strategy, opts partition.Options) (Outcome, bool, error) {
	alone := p
	alone.Nodes = p.Nodes[:1]
	if _, err := partition.LowerBound(alone); err != nil {
		return Outcome{}, false, nil
	}
	world := World{From: make([]time.Duration, len(p.Nodes))}
	p.Nodes = slices.Clone(p.Nodes)
	for n := 1; n < len(p.Nodes); n++ {
		p.Nodes[n].Warm, world.From[n] = nil, late
	}
	known := p
	known.Nodes = slices.Clone(p.Nodes)
	for n := 1; n < len(p.Nodes); n++ {
		known.Nodes[n].From = partition.SecondsOf(late)
	}
	plan, err := s.Plan(ctx, known, opts)
	if err != nil {
		return Outcome{}, false, err
	}
	best, err := Execute(known, plan, world, true)
	if err != nil {
		return Outcome{}, false, err
	}
	made := partition.Plan{Strategy: plan.Strategy, Assignment: partition.Assignment{Node: make([]partition.NodeID, len(p.Targets))}}
	if made.Schedule, err = partition.Evaluate(p, made.Assignment); err != nil {
		return Outcome{}, false, err
	}
	stolen, err := Execute(p, made, world, true)
	if err != nil {
		return Outcome{}, false, err
	}
	world.Replan = s
	planned, err := Execute(p, made, world, true)
	return Outcome{
		Makespan: planned.Makespan.Seconds(), Fixed: stolen.Makespan.Seconds(), Perfect: best.Makespan.Seconds(),
		Steals: planned.Steals, Hedges: planned.Hedges, Duplicated: planned.Duplicated, node: planned.Node,
	}, true, err
}
