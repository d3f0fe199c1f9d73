package report

import (
	"io"
	"time"

	"github.com/dbake/dbake/internal/plan"
)

// CurveFormat is the value of "format" in the JSON form of a [Curve].
const CurveFormat = "dbake-curve"

// Curve says what a build would take on 1, 2, … nodes, to size a pool that grows and shrinks.
// Times are in seconds.
type Curve struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	// Strategy is how targets are given to nodes, in each of the plans.
	Strategy string `json:"strategy"`
	// Given is how many nodes there are. Those beyond are assumed: they are like the given
	// ones, in turn, and hold nothing.
	Given int `json:"given_nodes"`
	// Enough is the fewest nodes that end as soon as any number of Points; 0 when nothing
	// is to be built, or no number can build it.
	Enough int `json:"enough_nodes"`
	// Points are the plans, for 1 node and more; empty when nothing is to be built.
	Points []CurvePoint `json:"points"`
}

// CurvePoint is the plan for a number of nodes.
type CurvePoint struct {
	Count int `json:"nodes"`
	// Names are those of the nodes, Assumed how many of them do not exist.
	Names   []string `json:"names"`
	Assumed int      `json:"assumed_nodes"`
	// Used is how many of them have something to run.
	Used int `json:"used_nodes"`
	// Possible is set when these nodes can build everything; Why why not. The other fields
	// are 0 then.
	Possible bool    `json:"possible"`
	Why      string  `json:"why,omitempty"`
	Makespan float64 `json:"makespan_s"`
	// NodeSeconds is the sum of the nodes' times when all are kept until the end, Released when
	// each is let go as soon as it has nothing more to build.
	NodeSeconds float64 `json:"node_seconds"`
	Released    float64 `json:"released_node_seconds"`
	// Saves is by how much one node more shortens the build, Costs by how many
	// node-seconds it raises NodeSeconds; left out at the last point, and beside those that
	// are not possible.
	Saves *float64 `json:"next_saves_s,omitempty"`
	Costs *float64 `json:"next_costs_node_seconds,omitempty"`
}

// CurvePlan is what was planned for a number of nodes: a plan, or why there is none.
type CurvePlan struct {
	Nodes   []plan.Node
	Assumed int
	Plan    *plan.Plan // nil when the nodes cannot build everything
	Why     error
}

// NewCurve returns the curve of plans for 1 node and more. Where a plan takes longer than the
// one for fewer nodes, that one is used, and a node has nothing to do.
func NewCurve(strategy string, given int, plans []CurvePlan) *Curve {
	c := &Curve{Format: CurveFormat, Version: Version, Strategy: strategy, Given: given, Points: []CurvePoint{}}
	var best *plan.Plan
	for _, p := range plans {
		point := CurvePoint{Count: len(p.Nodes), Assumed: p.Assumed}
		for _, n := range p.Nodes {
			point.Names = append(point.Names, n.Name)
		}
		if p.Plan != nil && (best == nil || p.Plan.Makespan < best.Makespan) {
			best = p.Plan
			c.Enough = point.Count
		}
		if best == nil {
			if p.Why != nil {
				point.Why = p.Why.Error()
			}
		} else {
			point.count(best)
		}
		if k := len(c.Points) - 1; k >= 0 && c.Points[k].Possible {
			last := &c.Points[k]
			saves, costs := last.Makespan-point.Makespan, point.NodeSeconds-last.NodeSeconds
			last.Saves, last.Costs = &saves, &costs
		}
		c.Points = append(c.Points, point)
	}
	return c
}

// count fills in what a plan says.
func (p *CurvePoint) count(made *plan.Plan) {
	p.Possible, p.Makespan = true, made.Makespan.Seconds()
	p.NodeSeconds = float64(p.Count) * p.Makespan
	var released time.Duration
	for _, load := range made.Schedule.Nodes {
		if load.Finish > 0 {
			p.Used++
			released += load.Finish.Duration()
		}
	}
	p.Released = released.Seconds()
}

// Write writes the JSON form.
func (c *Curve) Write(w io.Writer) error {
	return WriteJSON(w, c)
}
