package runtime

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime/sched"
)

const (
	// replanBudget bounds the search for a plan of what is left: about a tenth of a second, and
	// replanTimeout at most. Meanwhile the run goes on.
	replanBudget  = 1_000_000
	replanTimeout = 5 * time.Second
	// Gathering is how long to wait for further nodes when one has come, before what is left is
	// planned. Nodes often come together, and jobs that a plan has given to the first are not
	// taken back for the rest.
	Gathering = time.Second
)

// Replan plans what is left of a run of c for the nodes that are there now. Steps with one
// result are executed by one node and sent by it, and others are built where they are needed. The
// plan begins at now. steps are those that it executes or sends, by nodes and times of the run.
func Replan(ctx context.Context, c *sched.Config, left sched.Outlook, now time.Duration, strategy partition.Strategy) (p sched.NewPlan, steps []partition.Task, err error) {
	r := newRest(c, left)
	made, err := strategy.Plan(ctx, r.problem, partition.Options{Budget: replanBudget})
	if err != nil {
		return p, nil, fmt.Errorf("plan what is left: %w", err)
	}
	nodes := make([]plan.Node, len(r.nodes))
	for i, n := range r.problem.Nodes {
		nodes[i] = plan.Node{Name: n.Name, Speed: n.Speed, Slots: n.Slots, SlotsAssumed: c.Nodes[r.nodes[i]].SlotsAssumed, Machine: n.Machine, Shared: n.Shared}
	}
	for _, t := range made.Schedule.Tasks {
		t.Node, t.Start, t.End = partition.NodeID(r.nodes[t.Node]), t.Start+partition.SecondsOf(now), t.End+partition.SecondsOf(now)
		steps = append(steps, t)
	}
	solved := plan.FromSolution(r.problem, made, nodes)
	return r.newPlan(Schedule(solved, sched.Options{}), solved.Exchange.Steps, now), steps, nil
}

// rest is what is left of a run, as a problem.
type rest struct {
	config  *sched.Config
	problem partition.Problem
	nodes   []sched.NodeID // of the problem
	units   []sched.UnitID // its targets
	free    map[sched.UnitID]bool
}

func newRest(c *sched.Config, left sched.Outlook) *rest {
	r := &rest{config: c, free: map[sched.UnitID]bool{}}
	r.vertices(left)
	r.addNodes(left)
	r.pin(left)
	r.addTargets(left)
	r.problem = plan.WithoutTransfers(r.problem, func(v partition.VertexID) bool { return r.problem.Vertices[v].Once })
	return r
}

func (r *rest) vertices(left sched.Outlook) {
	for v, from := range r.config.Vertices {
		one := partition.Vertex{Cost: partition.SecondsOf(left.Cost[v]), Bytes: from.Bytes, Platform: from.Platform, Once: from.Once, Mounts: from.Mounts, Cold: from.Cold}
		for _, in := range from.Inputs {
			one.Inputs = append(one.Inputs, partition.VertexID(in))
		}
		r.problem.Vertices = append(r.problem.Vertices, one)
	}
	r.problem.Network = partition.Network{Bandwidth: float64(r.config.Network.Bandwidth), Latency: partition.SecondsOf(r.config.Network.Latency), Links: r.config.Network.Links}
	for _, v := range left.Cached {
		r.problem.Network.Cached = append(r.problem.Network.Cached, partition.VertexID(v))
	}
}

func (r *rest) addNodes(left sched.Outlook) {
	var platforms []string
	for _, v := range r.config.Vertices {
		if v.Platform != "" && !slices.Contains(platforms, v.Platform) {
			platforms = append(platforms, v.Platform)
		}
	}
	for i, from := range r.config.Nodes {
		if !left.Nodes[i] {
			continue
		}
		n := partition.Node{Name: fmt.Sprint("node ", i), Speed: left.Speed[i], Slots: max(1, from.Slots), Platforms: slices.Clone(from.Platforms), Emulates: from.Emulates, Filled: left.Filled[i], Machine: from.Machine, Shared: from.Shared}
		if n.Machine != "" && from.SlotsAssumed {
			n.Slots = n.Shared // the others leave it what they do not use
		}
		if len(n.Platforms) == 0 {
			n.Platforms = slices.Clone(platforms)
		}
		for _, v := range left.Holds[i] {
			n.Warm = append(n.Warm, partition.VertexID(v))
		}
		r.nodes, r.problem.Nodes = append(r.nodes, sched.NodeID(i)), append(r.problem.Nodes, n)
	}
}

// pin says where steps may be executed that a node has begun, or is to execute for all: elsewhere
// the first take their whole time, and the others are not executed at all.
func (r *rest) pin(left sched.Outlook) {
	begun := map[sched.VertexID][]sched.UnderWay{}
	for _, x := range left.UnderWay {
		begun[x.Vertex] = append(begun[x.Vertex], x)
	}
	for i := range r.problem.Vertices {
		v := sched.VertexID(i)
		owner, some := left.Owner[v]
		if !some && begun[v] == nil || some && !slices.Contains(r.nodes, owner) {
			continue
		}
		takes := make([]time.Duration, len(r.nodes)) // on each node, 0 where it is not executed
		for k, n := range r.nodes {
			if some && owner != n {
				continue
			}
			takes[k] = max(left.Cost[v], 1)
			for _, x := range begun[v] {
				if x.Node == n {
					takes[k] = max(x.Left, 1)
				}
			}
		}
		r.only(partition.VertexID(v), takes)
	}
}

// only has a vertex executed in the time that it takes on each node, 0 where it is not.
func (r *rest) only(v partition.VertexID, takes []time.Duration) {
	least := time.Duration(0)
	for _, took := range takes {
		if took > 0 && (least == 0 || took < least) {
			least = took
		}
	}
	x, name := &r.problem.Vertices[v], fmt.Sprint("step ", v)
	for k := range r.nodes {
		n := &r.problem.Nodes[k]
		if takes[k] == 0 || x.Platform != "" && !slices.Contains(n.Platforms, x.Platform) {
			continue
		}
		n.Platforms = append(n.Platforms, name)
		factor := float64(takes[k]) / float64(least)
		if f, ok := n.Emulates[x.Platform]; ok {
			factor *= f
		}
		if factor > 1 {
			n.Emulates = maps.Clone(n.Emulates)
			if n.Emulates == nil {
				n.Emulates = map[string]float64{}
			}
			n.Emulates[name] = factor
		}
	}
	x.Cost, x.Platform = partition.SecondsOf(least), name
}

// addTargets adds the units: those that have begun have to stay where they are.
func (r *rest) addTargets(left sched.Outlook) {
	stays := map[sched.UnitID][]sched.NodeID{}
	units := slices.Clone(left.Queued)
	for _, u := range units {
		r.free[u] = true
	}
	for i, list := range left.Begun {
		for _, u := range list {
			if left.Nodes[i] && stays[u] == nil {
				stays[u] = []sched.NodeID{sched.NodeID(i)}
				units = append(units, u)
			}
		}
	}
	index := map[sched.UnitID]partition.TargetID{}
	for _, u := range units {
		may := stays[u]
		if may == nil {
			may = r.config.Units[u].Nodes
		}
		platforms := slices.Clone(r.config.Units[u].Platforms)
		if len(may) > 0 {
			// Only these nodes offer it.
			own := fmt.Sprint("unit ", u)
			platforms = append(platforms, own)
			for k, n := range r.nodes {
				if slices.Contains(may, n) {
					r.problem.Nodes[k].Platforms = append(r.problem.Nodes[k].Platforms, own)
				}
			}
		}
		if !r.fits(platforms) {
			delete(r.free, u)
			continue // its node has yet to come
		}
		index[u] = partition.TargetID(len(r.units))
		r.units = append(r.units, u)
		r.problem.Targets = append(r.problem.Targets, partition.Target{Root: partition.VertexID(r.config.Units[u].Root), Platforms: platforms})
	}
	for i, u := range r.units {
		for _, a := range r.config.Units[u].After {
			if k, ok := index[a]; ok {
				r.problem.Targets[i].After = append(r.problem.Targets[i].After, k)
			}
		}
	}
}

// fits reports whether a node offers all the platforms.
func (r *rest) fits(platforms []string) bool {
	return slices.ContainsFunc(r.problem.Nodes, func(n partition.Node) bool {
		return !slices.ContainsFunc(platforms, func(p string) bool { return !slices.Contains(n.Platforms, p) })
	})
}

// newPlan translates a schedule of the problem.
func (r *rest) newPlan(s sched.Config, steps []plan.Intermediate, now time.Duration) sched.NewPlan {
	p := sched.NewPlan{Plan: make([][]sched.Partition, len(r.config.Nodes)), Begin: slices.Clone(r.config.Begin), Slots: make([]int, len(r.config.Nodes))}
	for k, n := range s.Nodes {
		p.Slots[r.nodes[k]] = n.Slots
	}
	helpers := r.helpers()
	for k, list := range s.Plan {
		for _, part := range list {
			var units sched.Partition
			for _, t := range part {
				if int(t) < len(r.units) {
					if r.free[r.units[t]] {
						units = append(units, r.units[t])
					}
					continue
				}
				for _, u := range r.help(helpers, s.Units[t].Root, len(steps[int(t)-len(r.units)].Sent) > 0) {
					units = append(units, u)
					if int(u) < len(p.Begin) {
						p.Begin[u] = sched.Begin{At: now + s.Begin[t].At, Step: s.Begin[t].Step}
					}
				}
			}
			p.Plan[r.nodes[k]] = append(p.Plan[r.nodes[k]], units)
		}
	}
	for t, u := range r.units {
		if int(u) < len(p.Begin) && t < len(s.Begin) && r.free[u] {
			p.Begin[u] = sched.Begin{At: now + s.Begin[t].At, Step: s.Begin[t].Step}
		}
	}
	return p
}

// helper is a step that a node builds for others: to send it, or before what stands on it there.
type helper struct {
	root  sched.VertexID
	sends bool
}

// helpers returns the units that a new plan may have nodes build beyond the targets.
func (r *rest) helpers() map[helper]sched.UnitID {
	known := map[helper]sched.UnitID{}
	for u, unit := range r.config.Units {
		if unit.OnDemand {
			known[helper{unit.Root, !unit.Stage}] = sched.UnitID(u)
		}
	}
	return known
}

// help returns the units that stand for a step of the new plan beyond the targets. Short steps have
// none to be built early: what is below them is built then.
func (r *rest) help(known map[helper]sched.UnitID, v sched.VertexID, sends bool) (list []sched.UnitID) {
	if u, ok := known[helper{v, sends}]; ok || sends {
		if ok {
			list = append(list, u)
		}
		return list
	}
	if r.config.Vertices[v].Cost.Seconds() >= plan.WorthStage {
		return nil
	}
	for _, in := range r.config.Vertices[v].Inputs {
		for _, u := range r.help(known, in, false) {
			if !slices.Contains(list, u) {
				list = append(list, u)
			}
		}
	}
	return list
}

// replans makes a plan of what is left when a node has come that the plan knew nothing of.
// It belongs to the loop.
type replans struct {
	config  sched.Config
	workers *workers
	wanted  bool
	// busy is set while a worker gathers nodes or plans, gathered when the nodes are to be
	// planned for. Invariant: when gathered is set, so is busy.
	busy, gathered bool
}

// advance has a worker gather nodes if a plan is wanted and no worker is at one, and then make
// the plan. Where nothing is stolen, a plan does not give work to other nodes either. The
// workers end with ctx.
func (p *replans) advance(ctx context.Context, r *run) {
	if p.gathered {
		p.gathered, p.wanted = false, false
		p.plan(ctx, r)
	}
	if !p.wanted || p.busy {
		return
	}
	p.wanted = false
	if !p.config.Options.Steal || len(p.config.Pool) > 0 {
		return
	}
	p.busy = true
	p.workers.start(func() {
		if pause.For(ctx, Gathering) == nil {
			p.workers.report(gatheredMessage{})
		}
	})
}

// gatheredMessage reports that nodes which have come are to be planned for.
type gatheredMessage struct{}

func (gatheredMessage) take(r *run) []sched.Event {
	r.replans.gathered = true
	return nil
}

// plan has a worker make a plan of what is left.
func (p *replans) plan(ctx context.Context, r *run) {
	left, now := r.sched.Outlook(), r.reporter.since()
	strategy, err := partition.Lookup(partition.DefaultStrategy)
	if p.busy = err == nil && len(left.Queued) > 0; !p.busy {
		return
	}
	p.workers.start(func() {
		ctx, cancel := context.WithTimeout(ctx, replanTimeout)
		defer cancel()
		made, _, err := Replan(ctx, &p.config, left, now, strategy)
		p.workers.report(replanMessage{plan: made, err: err})
	})
}

// replanMessage reports a plan of what is left.
type replanMessage struct {
	plan sched.NewPlan
	err  error
}

func (m replanMessage) take(r *run) []sched.Event {
	r.replans.busy = false
	if m.err != nil {
		r.reporter.warn(fmt.Sprintf("nodes that joined during the run only steal work: %v", m.err))
		return nil
	}
	m.plan.At = r.reporter.since()
	return []sched.Event{m.plan}
}
