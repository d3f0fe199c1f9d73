package scene

import (
	"time"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/plan"
)

// Outlook is the prediction of a run before it starts. The zero Outlook predicts nothing.
type Outlook struct {
	Nodes []PlannedNode
	// Jobs are in the order of the plan.
	Jobs []PlannedJob
	// Steps are indexed as [runtime.StatusEvent.Steps] says.
	Steps []Planned
	// Makespan is what the plan takes, Bound what no plan can beat if all predictions
	// are exact.
	Makespan, Bound time.Duration
}

// PlannedNode is a node of the plan. Its speed is relative to 1.
type PlannedNode struct {
	Name  string
	Speed float64
}

// PlannedJob is a target, or a part of one, with the node that is to build it, "" when
// that is open, and the number of the target's steps.
type PlannedJob struct {
	Target, Node string
	Steps        int
}

// Planned is a vertex of the graph: whether it is work, and what it costs at speed 1.
// Measured says that this rests on earlier runs.
type Planned struct {
	Work     bool
	Cost     time.Duration
	Measured bool
}

// NewOutlook returns the prediction that a plan makes of the run of a build.
func NewOutlook(b *plan.Build, p *plan.Plan) Outlook {
	o := Outlook{Makespan: p.Makespan, Bound: p.Bound}
	for _, n := range p.Nodes {
		o.Nodes = append(o.Nodes, PlannedNode{n.Name, n.Speed})
	}
	steps := map[string]int{} // by target
	target := map[string]string{}
	for _, j := range b.Jobs {
		for _, u := range j.Units {
			target[string(u.ID)] = j.Target.Name
		}
	}
	for i, v := range b.Graph.Vertices {
		s := Planned{Work: v.Kind.IsStep()}
		if i < len(b.Costs) {
			s.Cost, s.Measured = b.Costs[i].Duration, b.Costs[i].Source != cost.Prior
		}
		o.Steps = append(o.Steps, s)
		seen := map[string]bool{}
		for _, u := range v.Users {
			if name := target[u]; s.Work && !seen[name] {
				seen[name] = true
				steps[name]++
			}
		}
	}
	node := make([]string, len(b.Jobs))
	for i, parts := range p.Partitions {
		for _, jobs := range parts {
			for _, j := range jobs {
				if !p.Pooled {
					node[j] = p.Nodes[i].Name
				}
			}
		}
	}
	for i, j := range b.Jobs {
		o.Jobs = append(o.Jobs, PlannedJob{Target: j.Target.Name, Node: node[i], Steps: steps[j.Target.Name]})
	}
	return o
}
