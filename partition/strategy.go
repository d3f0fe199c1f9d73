package partition

import (
	"context"
	"fmt"
	"math"
	"strings"
)

// Options are the arguments of a strategy beside the problem. The zero value is good.
type Options struct {
	// Budget is how many tasks the strategy may schedule while it searches; 0 =
	// DefaultBudget, negative = none beyond the starting plans. Counting work, not
	// time, makes equal input give equal plans on every machine.
	//
	// More of it never makes a worse plan: it is spent in rounds of fixed sizes, each of
	// which begins with the best plan so far. Up to Round each brings what is spent to
	// four times what it was, from there on to twice that and Round more. A round that
	// the rest is too little for is left out. With Previous there is one round, as the
	// shortest plan is not what is looked for.
	Budget int
	// Round is what the rounds up to one of them amount to; 0 = DefaultBudget.
	Round int
	// Rate is how many tasks a search may schedule for each second of the makespan that is
	// above the bound; 0 = no such limit. It is for searches that are to end when they have
	// taken more time than they can save.
	Rate float64
	// Seed feeds the random choices.
	Seed uint64
	// Previous is the node of each target in an earlier plan, Registry (or any
	// negative) where there was none; nil = no earlier plan. Strategies that search
	// keep targets where they were when that makes the plan at most 2 % longer.
	Previous []NodeID
}

// DefaultBudget is about half a second of search on two slow cores.
const DefaultBudget = 12_000_000

func (o Options) budget() int {
	switch {
	case o.Budget == 0:
		return DefaultBudget
	case o.Budget < 0:
		return 0
	}
	return o.Budget
}

// worth is how much of a budget to spend when a plan is so much longer than the bound.
func (o Options) worth(budget int, gap float64) int {
	if o.Rate <= 0 {
		return budget
	}
	return min(budget, int(min(gap*o.Rate, math.MaxInt32)))
}

// leastRound is the size that the first round is no smaller than: a few plans of a small
// problem.
const leastRound = 1000

// rounds are the budgets to search with, one after the other. What they are does not
// depend on the budget, only how many there are.
func (o Options) rounds() []int {
	if o.Previous != nil {
		return []int{o.budget()}
	}
	round := o.Round
	if round <= 0 {
		round = DefaultBudget
	}
	parts := 1
	for round/(4*parts) >= leastRound {
		parts *= 4
	}
	var list []int
	spent, size := 0, round/parts
	for size <= o.budget()-spent {
		list = append(list, size)
		spent += size
		if parts > 1 {
			parts /= 4
			size = round/parts - spent
		} else {
			size = min(spent, math.MaxInt-round) + round
		}
	}
	return list
}

// Strategy makes plans. Implementations are pure: equal arguments give equal
// plans, as long as ctx is not done before they are ready. When ctx is done, they
// return the best plan so far with Stopped set; an error only if there is none.
// Safe for concurrent use.
type Strategy interface {
	Name() string
	Plan(ctx context.Context, p Problem, o Options) (Plan, error)
}

// Plan is an assignment with what it is predicted to lead to.
type Plan struct {
	Strategy   string
	Assignment Assignment
	Schedule   Schedule
	Bound      Bound
	// Proven is set when no feasible plan has a smaller makespan.
	Proven bool
	// Steps is the number of tasks scheduled to find the plan.
	Steps int
	// Stopped is set when ctx was done before the search was.
	Stopped bool
	// Spent is set when the budget was used up before it was known whether a shorter plan
	// exists. Only of strategies that look for a proof.
	Spent bool
}

// Gap is makespan / lower bound; 1 when both are 0.
func (p Plan) Gap() float64 {
	if p.Bound.Max <= 0 {
		if p.Schedule.Makespan <= 0 {
			return 1
		}
		return math.Inf(1)
	}
	return float64(p.Schedule.Makespan / p.Bound.Max)
}

// Strategies returns all strategies, the simplest first.
func Strategies() []Strategy {
	return []Strategy{
		placement{"single", single},
		placement{"round-robin", roundRobin},
		placement{"random", random},
		placement{"queue", queue},
		placement{"lpt", lpt},
		placement{"rendezvous", rendezvous},
		placement{"heft", heft},
		affinity{},
		exact{},
	}
}

// DefaultStrategy is the name of the strategy that is used by default.
const DefaultStrategy = "affinity"

// Lookup returns the strategy called name; "" is DefaultStrategy.
func Lookup(name string) (Strategy, error) {
	if name == "" {
		name = DefaultStrategy
	}
	var names []string
	for _, s := range Strategies() {
		if s.Name() == name {
			return s, nil
		}
		names = append(names, s.Name())
	}
	return nil, fmt.Errorf("unknown strategy %q; known: %s", name, strings.Join(names, ", "))
}

// placement is a strategy that decides once and does not search.
type placement struct {
	name  string
	place func(*run) *draft
}

func (s placement) Name() string { return s.name }

func (s placement) Plan(ctx context.Context, p Problem, o Options) (Plan, error) {
	r, err := newRun(ctx, p, o)
	if err != nil {
		return Plan{}, fmt.Errorf("plan with %s: %w", s.name, err)
	}
	return r.finish(s.name, s.place(r))
}

// run is the state of one call of Plan.
type run struct {
	ctx   context.Context
	form  canonical
	asked Problem // as the caller gave it
	m     *model  // of the canonical form
	o     Options
	sim   *simulator
	bound Bound
	least float64 // effort of any plan
	steps int
}

func newRun(ctx context.Context, p Problem, o Options) (*run, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	form := canonicalise(p)
	m, err := compile(form.p)
	if err != nil {
		return nil, err
	}
	if o.Previous != nil && len(o.Previous) != m.nt {
		return nil, fmt.Errorf("%w: previous plan has %d targets, the problem %d", ErrProblem, len(o.Previous), m.nt)
	}
	o.Previous = form.previous(o.Previous)
	r := &run{ctx: ctx, form: form, asked: p, m: m, o: o, sim: newSimulator(m), bound: m.bound()}
	for v, needed := range m.must() {
		if needed {
			r.least += m.cost[v]
		}
	}
	return r, nil
}

// settled reports whether no plan can be better: it is as short as the bound, nothing
// is done more than once or moved.
func (r *run) settled(a score) bool {
	return a.makespan <= float64(r.bound.Max)*(1+1e-12) && a.effort <= r.least*(1+1e-12) && a.moved == 0
}

func (r *run) makespan(d *draft) float64 {
	makespan, steps := r.sim.makespan(d)
	r.steps += steps
	return makespan
}

func (r *run) finish(name string, d *draft) (Plan, error) {
	a := r.form.original(r.sim.assignment(d))
	schedule, err := Evaluate(r.asked, a)
	if err != nil {
		return Plan{}, fmt.Errorf("plan with %s: %w", name, err)
	}
	plan := Plan{
		Strategy: name, Assignment: a, Schedule: schedule, Bound: r.bound,
		Steps: r.steps, Stopped: r.ctx.Err() != nil,
	}
	plan.Proven = float64(plan.Schedule.Makespan) <= float64(plan.Bound.Max)*(1+1e-12)
	return plan, nil
}
