package plan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/cost"
	"github.com/dbake/dbake/partition"
)

// Plan says which node builds what, in which order, and what that is predicted to
// lead to.
type Plan struct {
	Strategy string
	Nodes    []Node
	// Shares are what each node builds, by node.
	Shares []Share
	// Jobs are the predictions for each job, in the order of Build.Jobs.
	Jobs []JobPlan
	// Stages are the groups of steps that several jobs share, the most
	// expensive first.
	Stages []Stage
	// Steps are the vertices of the graph, then those that Problem has beyond them.
	Steps []Step
	// Tasks are the executions and transfers that take time, in the order of their
	// starts.
	// Critical are those that decide the makespan, first to last: each one began
	// when the one before had ended, because it needed its result or its slot.
	Tasks    []Task
	Critical []int

	// Makespan is the predicted time of the whole run, Bound what no plan on
	// these nodes can beat. Single is what the best node would take alone,
	// 0 when none can build everything.
	Makespan, Bound, Single time.Duration
	SingleNode              string
	// Undivided is the makespan with no target divided that need not be; 0 when
	// none is.
	Undivided time.Duration
	// Executed is the cost of all executions, Duplicated that of those beyond
	// the first of each step; both at speed 1.
	Executed, Duplicated time.Duration
	// Proven says that no plan has a smaller makespan.
	Proven bool
	// Effort is how many tasks were scheduled to find the plan. Stopped says that
	// the search was cut short by its time limit.
	Effort  int
	Stopped bool
	// Spent says that it is not known whether there is a shorter plan, because the
	// budget of the search for a proof was used up.
	Spent   bool
	Assumed []string

	// Pooled says that the jobs wait in one queue for whichever node is idle;
	// Shares are then only what is expected.
	Pooled bool

	// Problem is what was solved. Its target i is Build.Jobs[i] and its vertex i
	// is Build.Graph.Vertices[i], as far as those go; further vertices join the
	// roots of jobs that have not exactly one, or write the outputs of a job.
	Problem    partition.Problem
	Assignment partition.Assignment
	Schedule   partition.Schedule
	// Exchange is what nodes build to hand it over. Its targets are the jobs.
	Exchange Exchange
}

// Share is what one node builds.
type Share struct {
	// Partitions are the jobs in order, those that are submitted as one solve
	// together; indices of Build.Jobs.
	Partitions [][]int
	// Busy is the predicted sum of its steps, Finish the end of the last.
	Busy, Finish time.Duration
	// Steps is the number of steps that its jobs consist of, each counted once,
	// Executed that of those it has to run.
	Steps, Executed int
	// Warm is the part of the cost of its jobs, but for what it fetches, that it is
	// spared because of what it holds; from 0 to 1.
	Warm float64
}

// Jobs returns the number of jobs of the share.
func (s Share) Jobs() int {
	n := 0
	for _, part := range s.Partitions {
		n += len(part)
	}
	return n
}

// JobPlan is the prediction for one job.
type JobPlan struct {
	Name   string
	Target string
	// Platforms are those of a part of a divided target; nil for a whole one.
	Platforms []string
	Node      int // index of Plan.Nodes
	// Done is when its result is predicted to be there.
	Done time.Duration
	// Own is the cost of its steps that have to be run and that no other job
	// needs, Shared that of the others; both at speed 1.
	Own, Shared time.Duration
	// Steps is the number of its steps, Warm that of those that need not be run
	// because of what its node holds or fetches. From counts the others by where the
	// prediction of their cost came from.
	Steps, Warm int
	From        map[cost.Source]int
	// First is the position of the first step that has to be run, counted from 1
	// in the order of the graph; 0 when all results are held. FirstStep is its
	// index in Plan.Steps, and Why the reason.
	First, FirstStep int
	Why              Why
	// FetchedFrom are the nodes from which its node takes results for it, ascending;
	// partition.Registry stands for the registry.
	FetchedFrom []int
	// Reason says why it is on its node, once [Plan.Reasons] has found out.
	Reason string
}

// Step is a vertex of the graph as people see it.
type Step struct {
	// Name is that of the Dockerfile frontend, "[build 2/4] RUN make".
	Name  string
	Stage string
	// Kind is that of llbmerge, or "export" for the writing of a job's outputs, or
	// "join". Work says that it is a step of a Dockerfile, not a source or output.
	Kind string
	Work bool
	// Cost is at speed 1; Source says where it came from, Samples from how many
	// executions, and Spread how far those lie apart.
	Cost    time.Duration
	Source  cost.Source
	Samples int
	Spread  float64
	// Jobs are those that need it, ascending. Steps of one stage group share the
	// slice.
	Jobs []int
	// Held are the nodes that hold its result, ascending. Cached says that the
	// registry does.
	Held   []int
	Cached bool
	// Fetched are the nodes that take its result from another one, ascending by
	// To.
	Fetched []Fetch

	op digest.Digest
}

// Fetch says that one node takes a result from another; indices of Plan.Nodes, and
// From is partition.Registry where it comes from the registry.
type Fetch struct{ To, From int }

// Task is an execution of a step, or a transfer of its result.
type Task struct {
	Kind       TaskKind
	Step, Node int // indices of Plan.Steps and Plan.Nodes
	Start, End time.Duration
}

// TaskKind says what a node does with a step.
type TaskKind string

// The kinds of tasks. Transfers take no slot.
const (
	TaskRun   TaskKind = "run"
	TaskSend  TaskKind = "send"
	TaskFetch TaskKind = "fetch"
)

var taskKinds = map[partition.Kind]TaskKind{partition.Exec: TaskRun, partition.Export: TaskSend, partition.Pull: TaskFetch}

// Stage is a group of steps that the same jobs need.
type Stage struct {
	Name  string // that of its dearest step
	Steps int
	Cost  time.Duration // of all its steps, at speed 1
	Jobs  []string
	Nodes []string // those that build it, each once
	Held  []string // those that need it and hold it, or what is made of it
	// Fetched are those that take it, or what is made of it, from another node.
	Fetched []string
}

// Make plans b on nodes. It needs no network. Unless opts say which plan was the
// previous one, it is taken from what the nodes hold.
func Make(ctx context.Context, b *Build, nodes []Node, strategy partition.Strategy, opts partition.Options) (*Plan, error) {
	problem, err := b.problem(nodes)
	if err != nil {
		return nil, err
	}
	if opts.Previous == nil {
		opts.Previous = b.previous(nodes)
	}
	made, err := choose(ctx, problem, strategy, opts)
	if err == nil && errors.Is(ctx.Err(), context.Canceled) {
		err = context.Cause(ctx) // nobody wants the plan any more
	}
	if err != nil {
		return nil, fmt.Errorf("divide %d targets among %d nodes: %w", len(b.Jobs), len(nodes), err)
	}
	p := &Plan{
		Strategy: made.Strategy, Nodes: nodes,
		Bound: made.Bound.Max.Duration(), Proven: made.Proven, Effort: made.Steps, Stopped: made.Stopped, Spent: made.Spent,
		Problem: problem, Assignment: made.Assignment, Schedule: made.Schedule,
		Pooled: made.Strategy == queue,
	}
	if err := p.describe(ctx, b); err != nil {
		return nil, err
	}
	p.partitions()
	return p, nil
}

// worthwhile is the part of the makespan that handing results over has to save: how
// long a transfer takes is known less well than how long a step does, and a plan
// without any waits for nobody.
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
		opts.Budget = partition.DefaultBudget
	}
	if opts.Budget > 0 {
		opts.Budget = (opts.Budget + 1) / 2
	}
	opts.Round = partition.DefaultBudget / 2
	alone := p
	alone.Vertices = slices.Clone(p.Vertices)
	cached := map[partition.VertexID]bool{}
	for _, v := range p.Network.Cached {
		cached[v] = true
	}
	for i := range alone.Vertices {
		if !cached[partition.VertexID(i)] {
			alone.Vertices[i].Bytes = unsendable
		}
	}
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
		// No plan is shorter by what transfers would have to save.
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

// Strategies that are treated in their own way: exact gives proofs, and the jobs of
// queue are given out during the run.
const (
	exact = "exact"
	queue = "queue"
)

// describe fills in all that follows from the problem and its schedule.
func (p *Plan) describe(ctx context.Context, b *Build) error {
	p.Makespan, p.Assumed = p.Schedule.Makespan.Duration(), b.Assumed
	p.Executed, p.Duplicated = p.Schedule.Executed.Duration(), p.Schedule.Duplicated.Duration()
	p.Exchange = NewExchange(p.Problem, p.Assignment, p.Schedule)
	p.steps(b)
	p.tasks()
	p.jobs(b)
	p.stages(b)
	return p.single(ctx)
}

// single finds what one node would take.
func (p *Plan) single(ctx context.Context) error {
	s, err := partition.Lookup("single")
	if err != nil {
		return err
	}
	made, err := s.Plan(ctx, p.Problem, partition.Options{})
	if err != nil {
		return fmt.Errorf("plan for a single node: %w", err)
	}
	nodes := slices.Compact(slices.Clone(made.Assignment.Node))
	if len(nodes) == 1 { // else some platform needs another node
		p.Single, p.SingleNode = made.Schedule.Makespan.Duration(), p.Nodes[nodes[0]].Name
	}
	return nil
}

// steps describes the vertices of the graph.
func (p *Plan) steps(b *Build) {
	p.Steps = make([]Step, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		c := b.Costs[i]
		p.Steps[i] = Step{
			Name: v.Step, Stage: v.Stage, Kind: v.Kind.String(), Work: v.Kind.IsStep(),
			Cost: c.Duration, Source: c.Source, Samples: c.Samples, Spread: c.Spread, op: b.names[i].op,
		}
	}
	for n, node := range p.Problem.Nodes {
		for _, v := range node.Warm {
			p.Steps[v].Held = append(p.Steps[v].Held, n)
		}
	}
	for _, v := range p.Problem.Network.Cached {
		p.Steps[v].Cached = true
	}
	for n, share := range p.Assignment.Shares {
		for _, f := range share.Fetch {
			if int(f.Vertex) < len(p.Steps) {
				step := &p.Steps[f.Vertex]
				step.Fetched = append(step.Fetched, Fetch{n, int(f.From)})
			}
		}
	}
	jobOf := map[string]int{} // by unit
	for i, j := range b.Jobs {
		for _, u := range j.Units {
			jobOf[string(u.ID)] = i
		}
	}
	for _, g := range b.Graph.Groups() {
		var jobs []int
		for _, u := range g.Users {
			jobs = append(jobs, jobOf[u])
		}
		slices.Sort(jobs)
		jobs = slices.Compact(jobs)
		for _, v := range g.Vertices {
			p.Steps[v].Jobs = jobs
		}
	}
	p.outputs(b)
}

// outputs adds the steps that stand for no vertex of the graph.
func (p *Plan) outputs(b *Build) {
	for _, v := range p.Problem.Vertices[len(p.Steps):] {
		p.Steps = append(p.Steps, Step{Name: v.Name, Kind: kindJoin})
	}
	for i, t := range p.Problem.Targets {
		step := &p.Steps[t.Root]
		if int(t.Root) < len(b.Graph.Vertices) {
			continue
		}
		step.Jobs = append(step.Jobs, i)
		if b.exports[i].fresh.Key != "" {
			c := b.exportCost(i, p.Nodes)
			step.Kind, step.Cost, step.Source, step.Samples, step.Spread = kindExport, c.Duration, c.Source, c.Samples, c.Spread
		}
	}
}

// The kinds of steps that llbmerge does not know.
const (
	kindExport = "export" // the writing of a job's outputs
	kindJoin   = "join"   // of several results to that of a job
)

// fetches returns what n takes from others, by vertex.
func (p *Plan) fetches(n int) map[partition.VertexID]int {
	list := map[partition.VertexID]int{}
	if p.Assignment.Shares != nil {
		for _, f := range p.Assignment.Shares[n].Fetch {
			list[f.Vertex] = int(f.From)
		}
	}
	return list
}

// tasks gathers the executions and transfers that take time.
func (p *Plan) tasks() {
	index := map[int]int{} // of Tasks, by index of Schedule.Tasks
	var order []int
	for i, t := range p.Schedule.Tasks {
		if t.End > t.Start && int(t.Vertex) < len(p.Steps) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(x, y int) int {
		s, t := p.Schedule.Tasks[x], p.Schedule.Tasks[y]
		return cmp.Or(cmp.Compare(s.Start, t.Start), cmp.Compare(s.Node, t.Node), cmp.Compare(s.Vertex, t.Vertex))
	})
	for _, i := range order {
		t := p.Schedule.Tasks[i]
		index[i] = len(p.Tasks)
		p.Tasks = append(p.Tasks, Task{Kind: taskKinds[t.Kind], Step: int(t.Vertex), Node: int(t.Node), Start: t.Start.Duration(), End: t.End.Duration()})
	}
	for _, i := range p.Schedule.CriticalPath() {
		if k, ok := index[i]; ok {
			p.Critical = append(p.Critical, k)
		}
	}
}

// jobs fills in the prediction for each job and what the nodes are spared.
func (p *Plan) jobs(b *Build) {
	p.Shares = make([]Share, len(p.Nodes))
	for n, load := range p.Schedule.Nodes {
		p.Shares[n].Busy, p.Shares[n].Finish = load.Busy.Duration(), load.Finish.Duration()
	}
	spent := make([]time.Duration, len(p.Nodes))
	for _, t := range p.Schedule.Tasks {
		if t.Kind != partition.Exec || int(t.Vertex) >= len(p.Steps) {
			continue
		}
		spent[t.Node] += p.Steps[t.Vertex].Cost
		if p.Steps[t.Vertex].Work {
			p.Shares[t.Node].Executed++
		}
	}
	byNode := make([][]int, len(p.Nodes))
	for i := range b.Jobs {
		n := int(p.Assignment.Node[i])
		byNode[n] = append(byNode[n], i)
	}
	p.Jobs = make([]JobPlan, len(b.Jobs))
	w := newWalker(p.Problem.Vertices)
	// By step: 1 + the node that it, or its cost, was counted for.
	counted, costed := make([]int, len(p.Steps)), make([]int, len(p.Steps))
	for n, jobs := range byNode {
		warm := map[partition.VertexID]bool{}
		for _, v := range p.Problem.Nodes[n].Warm {
			warm[v] = true
		}
		fetched := p.fetches(n)
		total := time.Duration(0)
		for _, i := range jobs {
			root := p.Problem.Targets[i].Root
			position := map[partition.VertexID]int{}
			j := JobPlan{Name: b.Jobs[i].Name, Target: b.Jobs[i].Target.Name, Platforms: b.partOf(i), Node: n, Done: p.Schedule.Done[i].Duration(), From: map[cost.Source]int{}}
			for _, v := range w.below(root, nil) {
				if int(v) >= len(p.Steps) {
					continue
				}
				step := p.Steps[v]
				if step.Work {
					j.Steps++
					position[v] = j.Steps
				}
				if counted[v] != n+1 {
					counted[v] = n + 1
					if step.Work {
						p.Shares[n].Steps++
					}
				}
			}
			for _, v := range w.below(root, func(v partition.VertexID) bool { _, ok := fetched[v]; return ok && !warm[v] }) {
				if int(v) < len(p.Steps) && costed[v] != n+1 {
					costed[v] = n + 1
					total += p.Steps[v].Cost
				}
			}
			cold := 0
			stop := func(v partition.VertexID) bool {
				from, ok := fetched[v]
				if ok && !warm[v] && !slices.Contains(j.FetchedFrom, from) {
					j.FetchedFrom = append(j.FetchedFrom, from)
				}
				return ok || warm[v]
			}
			for _, v := range w.below(root, stop) {
				if int(v) >= len(p.Steps) {
					continue
				}
				step := p.Steps[v]
				if len(step.Jobs) > 1 {
					j.Shared += step.Cost
				} else {
					j.Own += step.Cost
				}
				if !step.Work {
					continue
				}
				j.From[step.Source]++
				if cold++; cold == 1 {
					j.First, j.FirstStep, j.Why = position[v], int(v), b.why(int(v), n, p.Nodes)
				}
			}
			slices.Sort(j.FetchedFrom)
			j.Warm = j.Steps - cold
			p.Jobs[i] = j
		}
		if total > 0 {
			p.Shares[n].Warm = max(0, 1-float64(spent[n])/float64(total))
		}
	}
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
	order := make([]int, len(p.Jobs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(p.Jobs[x].Done, p.Jobs[y].Done) })
	work := make([]time.Duration, len(p.Nodes))
	for _, i := range order {
		j := p.Jobs[i]
		s := &p.Shares[j.Node]
		last := len(s.Partitions) - 1
		if last < 0 || work[j.Node] >= quantum || len(s.Partitions[last]) == partitionMax {
			s.Partitions = append(s.Partitions, nil)
			work[j.Node] = 0
			last++
		}
		s.Partitions[last] = append(s.Partitions[last], i)
		work[j.Node] += j.Own
	}
}

// stages gathers what several jobs share.
func (p *Plan) stages(b *Build) {
	type execution struct{ step, node int }
	run := map[execution]bool{}
	for _, t := range p.Schedule.Tasks {
		if t.Kind == partition.Exec && int(t.Vertex) < len(p.Steps) && p.Steps[t.Vertex].Work {
			run[execution{int(t.Vertex), int(t.Node)}] = true
		}
	}
	for _, g := range b.Graph.Groups() {
		jobs := p.Steps[g.Vertices[0]].Jobs
		if len(jobs) < 2 {
			continue
		}
		s := Stage{}
		var nodes []int
		for _, j := range jobs {
			s.Jobs = append(s.Jobs, p.Jobs[j].Name)
			nodes = append(nodes, p.Jobs[j].Node)
		}
		slices.Sort(nodes)
		nodes = slices.Compact(nodes)
		builds := map[int]bool{}
		var dearest time.Duration = -1
		for _, v := range g.Vertices {
			step := p.Steps[v]
			if !step.Work {
				continue
			}
			s.Steps++
			s.Cost += step.Cost
			if step.Cost > dearest {
				dearest, s.Name = step.Cost, step.Name
			}
			for _, n := range nodes {
				if run[execution{v, n}] {
					builds[n] = true
				}
			}
		}
		if s.Steps == 0 {
			continue
		}
		for _, n := range nodes {
			switch name := p.Nodes[n].Name; {
			case builds[n]:
				s.Nodes = append(s.Nodes, name)
			case slices.ContainsFunc(jobs, func(j int) bool { return p.Jobs[j].Node == n && len(p.Jobs[j].FetchedFrom) > 0 }):
				s.Fetched = append(s.Fetched, name)
			default:
				s.Held = append(s.Held, name)
			}
		}
		p.Stages = append(p.Stages, s)
	}
	slices.SortStableFunc(p.Stages, func(x, y Stage) int {
		return cmp.Or(cmp.Compare(y.Cost, x.Cost), cmp.Compare(x.Name, y.Name))
	})
}
