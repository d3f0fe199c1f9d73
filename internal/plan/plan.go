package plan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dbake/dbake/partition"
)

// Plan is which node builds what, in which order. It holds the work to execute and the
// findings of the search for it; further facts for people are a report (internal/report).
type Plan struct {
	Strategy string
	Nodes    []Node
	// Partitions are the jobs of each node in order, those together that are
	// submitted as one solve; by node, indices of Build.Jobs.
	Partitions [][][]int
	// Pooled is set when the jobs wait in one queue for idle nodes; Partitions are then
	// only expected.
	Pooled bool

	// Problem is what was solved. Its target i is Build.Jobs[i] and its vertex i
	// is Build.Graph.Vertices[i], as far as those go; further vertices join the
	// roots of jobs that have not exactly one, or write the outputs of a job.
	Problem    partition.Problem
	Assignment partition.Assignment
	Schedule   partition.Schedule
	// Exchange is what nodes build for each other. Its targets are the jobs.
	Exchange Exchange

	// Makespan is the predicted time of the whole run, Bound a lower bound on that of every
	// plan on these nodes.
	Makespan, Bound time.Duration
	// Undivided is the makespan with no target divided that need not be; 0 when
	// none is.
	Undivided time.Duration
	// Executed is the cost of all executions, Duplicated that of those beyond
	// the first of each step; both at speed 1.
	Executed, Duplicated time.Duration
	// Proven is set when no plan has a smaller makespan.
	Proven bool
	// Effort is how many tasks were scheduled to find the plan. Stopped is set when the
	// time limit cut the search short.
	Effort  int
	Stopped bool
	// Spent is set when the budget of the search for a proof was used up, so that a shorter
	// plan may exist.
	Spent bool

	// Duplicates is the rule for steps that several nodes may execute. Unbound is the
	// makespan of a plan without such a rule, 0 where it is not known.
	Duplicates Duplicates
	Unbound    time.Duration
	// Transfers is what it counts on for results that nodes send each other.
	Transfers Transfers
}

// Make plans b on nodes. It needs no network. Unless opts say which plan was the
// previous one, it is taken from what the nodes hold.
func Make(ctx context.Context, b *Build, nodes []Node, strategy partition.Strategy, opts partition.Options) (*Plan, error) {
	problem, err := b.problem(nodes)
	if err != nil {
		return nil, err
	}
	if opts.Previous == nil {
		opts.Previous = previous(b, nodes)
	}
	made, err := choose(ctx, problem, strategy, opts)
	if err == nil && errors.Is(ctx.Err(), context.Canceled) {
		err = context.Cause(ctx) // nobody wants the plan any more
	}
	if err != nil {
		return nil, fmt.Errorf("divide %d targets among %d nodes: %w", len(b.Jobs), len(nodes), err)
	}
	p := FromSolution(problem, made, nodes)
	p.Transfers = b.way.transfers()
	p.onDemand(b)
	return p, nil
}

// near is the part of the bound by which a plan may be longer and still not be worth a search
// for a better one that is only to be named.
const near = 0.001

// Near reports whether no plan for b on the nodes of p is noticeably shorter than p, which
// may be one by a stricter rule. It does not know of plans that divide targets further.
func (b *Build) Near(p *Plan) (bool, error) {
	if slices.ContainsFunc(b.Jobs, func(j Job) bool { return len(j.Units) > 1 }) {
		return false, nil
	}
	problem, err := b.problem(p.Nodes)
	if err != nil {
		return false, err
	}
	bound, err := partition.LowerBound(problem)
	return p.Schedule.Makespan <= bound.Max*(1+near), err
}

// FromSolution returns the plan for a solution of a problem. nodes are those of the problem.
func FromSolution(problem partition.Problem, made partition.Plan, nodes []Node) *Plan {
	p := &Plan{
		Strategy: made.Strategy, Nodes: nodes,
		Bound: made.Bound.Max.Duration(), Proven: made.Proven, Effort: made.Steps, Stopped: made.Stopped, Spent: made.Spent,
		Problem: problem, Assignment: made.Assignment, Schedule: made.Schedule,
		Pooled: made.Strategy == queue,
	}
	p.follow()
	p.partitions()
	return p
}

// worthwhile is the part of the makespan that transfers have to save. The time of a transfer is
// known less well than that of a step, and a plan without any waits for nobody.
const worthwhile = 0.03

// manyPlaces is the number of targets times nodes beyond which only plans without
// transfers are made: to find one that is worth its transfers takes more time than
// a plan should.
const manyPlaces = 1_000_000

// choose makes a plan in which nodes take nothing from each other, and one in which
// they may, with half of the budget each.
func choose(ctx context.Context, p partition.Problem, strategy partition.Strategy, opts partition.Options) (partition.Plan, error) {
	if strategy.Name() == exact || len(p.Nodes) < 2 {
		return strategy.Plan(ctx, p, opts)
	}
	if opts.Budget == 0 {
		made, done, err := effort(ctx, p, strategy, &opts)
		if err != nil || done {
			return made, err
		}
	}
	if opts.Budget > 0 {
		opts.Budget = (opts.Budget + 1) / 2
	}
	opts.Round = partition.DefaultBudget / 2
	alone := WithoutTransfers(p, func(partition.VertexID) bool { return false })
	first := ctx
	if end, limited := ctx.Deadline(); limited {
		var stop context.CancelFunc
		first, stop = context.WithTimeout(ctx, time.Until(end)/2)
		defer stop()
	}
	simple, err := strategy.Plan(first, alone, opts)
	if err != nil || len(p.Targets)*len(p.Nodes) > manyPlaces {
		return simple, err
	}
	lower, err := partition.LowerBound(p)
	if err != nil {
		return partition.Plan{}, err
	}
	if lower.Max >= simple.Schedule.Makespan*(1-worthwhile) {
		// No plan saves as much as transfers would have to.
		simple.Bound, simple.Proven = lower, simple.Schedule.Makespan <= lower.Max*(1+1e-12)
		return simple, nil
	}
	made, err := strategy.Plan(ctx, p, opts)
	if err != nil {
		return partition.Plan{}, err
	}
	steps, stopped := simple.Steps+made.Steps, simple.Stopped || made.Stopped
	if made.Schedule.Makespan >= simple.Schedule.Makespan*(1-worthwhile) {
		// The bound is that of all plans.
		simple.Bound, simple.Proven = made.Bound, simple.Schedule.Makespan <= made.Bound.Max
		made = simple
	}
	made.Steps, made.Stopped = steps, stopped
	return made, nil
}

// WithoutTransfers returns p with results that are worth no transfer, except those that the
// registry holds already, and those for which but is true.
func WithoutTransfers(p partition.Problem, but func(partition.VertexID) bool) partition.Problem {
	alone := p
	alone.Vertices = slices.Clone(p.Vertices)
	cached := map[partition.VertexID]bool{}
	for _, v := range p.Network.Cached {
		cached[v] = true
	}
	for i := range alone.Vertices {
		if v := partition.VertexID(i); !cached[v] && !but(v) {
			alone.Vertices[i].Bytes = unsendable
		}
	}
	return alone
}

// A search is worth a part of the time that it can save at most. searchRate is how many
// tasks are scheduled in a second on one slow core.
const (
	searchPart = 0.05
	searchRate = 8_000_000
)

// quickPlaces is the number of vertices times nodes up to which the plans that a search
// begins with cost next to nothing.
const quickPlaces = 20_000

// effort sets the budget of the search from what it can save: the difference between
// the best of the plans that it begins with and the bound. done says that made cannot
// be beaten.
func effort(ctx context.Context, p partition.Problem, strategy partition.Strategy, opts *partition.Options) (made partition.Plan, done bool, err error) {
	opts.Budget = partition.DefaultBudget
	if len(p.Vertices)*len(p.Nodes) > quickPlaces {
		opts.Rate = searchPart * searchRate // the search itself looks at its first plans
		return partition.Plan{}, false, nil
	}
	quick := *opts
	quick.Budget = -1
	if made, err = strategy.Plan(ctx, p, quick); err != nil {
		return partition.Plan{}, false, err
	}
	gap := float64(made.Schedule.Makespan - made.Bound.Max)
	if gap <= 0 {
		return made, true, nil
	}
	opts.Budget = max(1, min(opts.Budget, int(gap*searchPart*searchRate)))
	return partition.Plan{}, false, nil
}

// Strategies that are treated in their own way: exact gives proofs, and the jobs of
// queue are given out during the run.
const (
	exact = "exact"
	queue = "queue"
)

// follow derives further fields from the problem and its schedule.
func (p *Plan) follow() {
	p.Makespan = p.Schedule.Makespan.Duration()
	p.Executed, p.Duplicated = p.Schedule.Executed.Duration(), p.Schedule.Duplicated.Duration()
	if !p.Pooled { // else nobody knows who will need what
		p.Exchange = NewExchange(p.Problem, p.Assignment, p.Schedule)
	}
}

// onDemand adds the steps that nodes fetch from each other when the run asks for them, by the
// rule of b for steps that several nodes may execute.
func (p *Plan) onDemand(b *Build) {
	p.Duplicates = b.rule.duplicates
	p.Exchange.AddOnDemand(slices.Concat(b.graph.onDemand(p.Problem), Stages(p.Problem)))
}

// Fetches returns the sources of the results that node n takes from others, by vertex: a
// node, or partition.Registry.
func (p *Plan) Fetches(n int) map[partition.VertexID]partition.NodeID {
	list := map[partition.VertexID]partition.NodeID{}
	if p.Assignment.Shares != nil {
		for _, f := range p.Assignment.Shares[n].Fetch {
			list[f.Vertex] = f.From
		}
	}
	return list
}

// own returns, by job, the cost of the steps that its node has to run for it alone.
func (p *Plan) own() []time.Duration {
	w := NewWalker(p.Problem.Vertices)
	users := make([]int, len(p.Problem.Vertices))
	for _, t := range p.Problem.Targets {
		for _, v := range w.Below(t.Root, nil) {
			users[v]++
		}
	}
	spared := make([]map[partition.VertexID]bool, len(p.Nodes)) // what need not be run
	for n := range spared {
		spared[n] = map[partition.VertexID]bool{}
		for _, v := range p.Problem.Nodes[n].Warm {
			spared[n][v] = true
		}
		for v := range p.Fetches(n) {
			spared[n][v] = true
		}
	}
	own := make([]time.Duration, len(p.Problem.Targets))
	for i, t := range p.Problem.Targets {
		here := spared[p.Assignment.Node[i]]
		for _, v := range w.Below(t.Root, func(v partition.VertexID) bool { return here[v] }) {
			if users[v] == 1 {
				own[i] += p.Problem.Vertices[v].Cost.Duration()
			}
		}
	}
	return own
}

// A partition holds jobs until their own work is about quantum, but not more than
// partitionMax of them: large enough that a solve is worth its round trips, small
// enough that there is something left to steal.
const (
	quantum      = 2 * time.Second
	partitionMax = 8
)

// partitions orders the jobs of each node by their predicted end and cuts the
// order into partitions.
func (p *Plan) partitions() {
	own := p.own()
	order := make([]int, len(own))
	for i := range order {
		order[i] = i
	}
	done := func(i int) time.Duration { return p.Schedule.Done[i].Duration() }
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(done(x), done(y)) })
	p.Partitions = make([][][]int, len(p.Nodes))
	work := make([]time.Duration, len(p.Nodes))
	for _, i := range order {
		n := p.Assignment.Node[i]
		list := p.Partitions[n]
		last := len(list) - 1
		if last < 0 || work[n] >= quantum || len(list[last]) == partitionMax {
			list = append(list, nil)
			work[n] = 0
			last++
		}
		list[last] = append(list[last], i)
		p.Partitions[n] = list
		work[n] += own[i]
	}
}
