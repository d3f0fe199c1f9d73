package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/dbake/dbake/partition"
)

// Conditions say how the world differs from the plan. The zero value: not at all.
type Conditions struct {
	// Errors draws a factor in [0.3, 3] for every vertex, by which its cost was
	// misjudged when the plan was made; log-uniform.
	Errors bool
	// Lose takes the busiest node that can be done without away when this share of
	// the makespan has passed; 0 = never.
	Lose float64
	// Sag lets the node that Lose would take away fall to a fifth of its speed when
	// this share of the makespan has passed; 0 = never.
	Sag float64
	// Slow multiplies the time of transfers; 0 = 1.
	Slow float64
	// Assumed leaves it to the nodes to keep to their slots.
	Assumed bool
	Seed    uint64
}

// Outcome is how a plan fared under conditions.
type Outcome struct {
	// Makespan with stealing, Fixed without, both in seconds.
	Makespan float64 `json:"makespan_s"`
	Fixed    float64 `json:"fixed_s"`
	// Perfect is the makespan of the plan made with right estimates.
	Perfect    float64 `json:"perfect_s"`
	Steals     int     `json:"steals"`
	Hedges     int     `json:"hedges"`
	Rescues    int     `json:"rescues"`
	Duplicated float64 `json:"duplicated_s"`
	// Alone is how long a slow node worked while no other node did.
	Alone float64 `json:"alone_s,omitempty"`

	node []partition.NodeID
}

// Misjudge returns p as it looks with wrong estimates, and by which factor the true
// cost of each vertex differs from them.
func Misjudge(p partition.Problem, seed uint64) (partition.Problem, []float64) {
	rng := rand.New(rand.NewPCG(seed, 0x5eed))
	out := p
	out.Vertices = append([]partition.Vertex(nil), p.Vertices...)
	factor := make([]float64, len(p.Vertices))
	for v := range factor {
		f := math.Exp(math.Log(0.3) + rng.Float64()*(math.Log(3)-math.Log(0.3)))
		out.Vertices[v].Cost = p.Vertices[v].Cost * partition.Seconds(f)
		factor[v] = 1 / f
	}
	return out, factor
}

// Try runs plan, made for p as seen under the conditions, with and without stealing.
func Try(p partition.Problem, plan partition.Plan, world World) (Outcome, error) {
	with, err := Execute(p, plan, world, true)
	if err != nil {
		return Outcome{}, err
	}
	without, err := Execute(p, plan, world, false)
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{
		Makespan: with.Makespan.Seconds(), Fixed: without.Makespan.Seconds(),
		Steals: with.Steals, Hedges: with.Hedges, Rescues: with.Rescues, Duplicated: with.Duplicated, Alone: with.Alone.Seconds(), node: with.Node,
	}, nil
}

// world is what the conditions make of a plan.
func (c Conditions) world(p partition.Problem, plan partition.Plan, factor []float64) World {
	w := World{Factor: factor, Slow: c.Slow, Links: p.Network.Links, Assumed: c.Assumed}
	if c.Lose == 0 && c.Sag == 0 {
		return w
	}
	if n := expendable(p, plan); n >= 0 {
		after := func(share float64) time.Duration {
			return time.Duration(share * float64(plan.Schedule.Makespan.Duration()))
		}
		if c.Lose > 0 {
			w.Lost = []Loss{{n, after(c.Lose)}}
		}
		if c.Sag > 0 {
			w.Slowed = []Slowdown{{n, after(c.Sag), sagFactor}}
		}
	}
	return w
}

// sagFactor is by how much longer steps take on a node that sags.
const sagFactor = 5

// expendable is the busiest node without which everything can still be built, -1 if
// there is none.
func expendable(p partition.Problem, plan partition.Plan) partition.NodeID {
	best := partition.NodeID(-1)
	for n, load := range plan.Schedule.Nodes {
		if best >= 0 && load.Busy <= plan.Schedule.Nodes[best].Busy {
			continue
		}
		rest := p
		rest.Nodes = slices.Delete(slices.Clone(p.Nodes), n, n+1)
		if _, err := partition.LowerBound(rest); err == nil {
			best = partition.NodeID(n)
		}
	}
	return best
}

// resulting is the plan that a run amounted to, as one for p: targets where they
// were built, stages fetched as planned where that is still possible.
func resulting(p partition.Problem, plan partition.Plan, node []partition.NodeID) (partition.Plan, error) {
	out := plan
	out.Assignment = plan.Assignment.Clone()
	out.Assignment.Node = node
	schedule, err := partition.Evaluate(p, out.Assignment)
	if err != nil {
		out.Assignment.Shares = nil
		if schedule, err = partition.Evaluate(p, out.Assignment); err != nil {
			return out, fmt.Errorf("resulting plan: %w", err)
		}
	}
	bound, err := partition.LowerBound(p)
	if err != nil {
		return out, err
	}
	out.Schedule, out.Bound, out.Proven = schedule, bound, false
	return out, nil
}
