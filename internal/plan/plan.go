package plan

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

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
	// Makespan is the predicted time of the whole run, Bound what no plan on
	// these nodes can beat, Single what the first node alone would take.
	Makespan, Bound, Single time.Duration
	// Proven says that no plan has a smaller makespan.
	Proven  bool
	Assumed []string

	// Pooled says that the jobs wait in one queue for whichever node is idle;
	// Shares are then only what is expected.
	Pooled bool

	// Problem is what was solved. Its target i is Build.Jobs[i] and its vertex i
	// is Build.Graph.Vertices[i], as far as those go; further vertices join the
	// roots of jobs that have not exactly one.
	Problem    partition.Problem
	Assignment partition.Assignment
	Schedule   partition.Schedule
}

// Share is what one node builds.
type Share struct {
	// Partitions are the jobs in order, those that are submitted as one solve
	// together; indices of Build.Jobs.
	Partitions [][]int
	// Busy is the predicted sum of its steps, Finish the end of the last.
	Busy, Finish time.Duration
	Steps        int
}

// JobPlan is the prediction for one job.
type JobPlan struct {
	Name string
	Node int // index of Plan.Nodes
	// Done is when its result is predicted to be there.
	Done time.Duration
	// Own is the cost of its steps that no other job needs, Shared that of the
	// others; both at speed 1.
	Own, Shared time.Duration
	// Steps is the number of its steps, Warm that of those whose results its
	// node holds. From counts the others by where the prediction of their cost
	// came from.
	Steps, Warm int
	From        map[cost.Source]int
}

// Stage is a group of steps that the same jobs need.
type Stage struct {
	Name  string
	Steps int
	Cost  time.Duration // of all its steps, at speed 1
	Jobs  []string
	Nodes []string // those that build it
}

// Make plans b on nodes. It needs no network.
func Make(ctx context.Context, b *Build, nodes []Node, strategy partition.Strategy, opts partition.Options) (*Plan, error) {
	problem, err := b.problem(nodes)
	if err != nil {
		return nil, err
	}
	made, err := strategy.Plan(ctx, problem, opts)
	if err != nil {
		return nil, fmt.Errorf("divide %d targets among %d nodes: %w", len(b.Jobs), len(nodes), err)
	}
	p := &Plan{
		Strategy: made.Strategy, Nodes: nodes,
		Makespan: made.Schedule.Makespan.Duration(), Bound: made.Bound.Max.Duration(), Proven: made.Proven,
		Assumed: b.Assumed,
		Problem: problem, Assignment: made.Assignment, Schedule: made.Schedule,
		Pooled: made.Strategy == "queue",
	}
	p.jobs(b)
	p.shares()
	p.stages(b)
	if p.Single, err = single(ctx, problem); err != nil {
		return nil, err
	}
	return p, nil
}

// single is the makespan with everything on the first node that can build it all;
// 0 when none can.
func single(ctx context.Context, problem partition.Problem) (time.Duration, error) {
	s, err := partition.Lookup("single")
	if err != nil {
		return 0, err
	}
	one := problem
	one.Nodes = problem.Nodes[:1]
	made, err := s.Plan(ctx, one, partition.Options{})
	if err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, nil // some platform needs another node
	}
	return made.Schedule.Makespan.Duration(), nil
}

// jobs fills in the prediction for each job.
func (p *Plan) jobs(b *Build) {
	users := make([]int, len(p.Problem.Vertices))
	needs := make([][]partition.VertexID, len(b.Jobs))
	for i, t := range p.Problem.Targets {
		needs[i] = closure(p.Problem, t.Root)
		for _, v := range needs[i] {
			users[v]++
		}
	}
	warm := make([]map[partition.VertexID]bool, len(p.Nodes))
	for n, node := range p.Problem.Nodes {
		warm[n] = map[partition.VertexID]bool{}
		for _, v := range node.Warm {
			warm[n][v] = true
		}
	}
	for i, j := range b.Jobs {
		jp := JobPlan{
			Name: j.Name, Node: int(p.Assignment.Node[i]),
			Done: p.Schedule.Done[i].Duration(), From: map[cost.Source]int{},
		}
		for _, v := range needs[i] {
			step := int(v) < len(b.Graph.Vertices) && b.Graph.Vertices[v].Kind.IsStep()
			if step {
				jp.Steps++
			}
			if warm[jp.Node][v] {
				if step {
					jp.Warm++
				}
				continue
			}
			if step {
				jp.From[b.Costs[v].Source]++
			}
			if c := p.Problem.Vertices[v].Cost.Duration(); users[v] > 1 {
				jp.Shared += c
			} else {
				jp.Own += c
			}
		}
		p.Jobs = append(p.Jobs, jp)
	}
}

// closure returns root and everything below it, ascending.
func closure(p partition.Problem, root partition.VertexID) []partition.VertexID {
	seen := map[partition.VertexID]bool{root: true}
	list := []partition.VertexID{root}
	for i := 0; i < len(list); i++ {
		for _, in := range p.Vertices[list[i]].Inputs {
			if !seen[in] {
				seen[in] = true
				list = append(list, in)
			}
		}
	}
	slices.Sort(list)
	return list
}

// A partition holds jobs until their own work is about quantum, but not more than
// partitionMax of them: large enough that a solve is worth its round trips, small
// enough that there is something left to steal.
const (
	quantum      = 2 * time.Second
	partitionMax = 8
)

// shares orders the jobs of each node by their predicted end and cuts the order
// into partitions.
func (p *Plan) shares() {
	p.Shares = make([]Share, len(p.Nodes))
	for n, load := range p.Schedule.Nodes {
		p.Shares[n].Busy, p.Shares[n].Finish, p.Shares[n].Steps = load.Busy.Duration(), load.Finish.Duration(), load.Executed
	}
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
	jobOf := map[string]int{} // by unit
	for i, j := range b.Jobs {
		for _, u := range j.Units {
			jobOf[string(u.ID)] = i
		}
	}
	for _, g := range b.Graph.Groups() {
		s := Stage{}
		var jobs []int
		for _, u := range g.Users {
			jobs = append(jobs, jobOf[u])
		}
		slices.Sort(jobs)
		if jobs = slices.Compact(jobs); len(jobs) < 2 {
			continue
		}
		nodes := map[int]bool{}
		for _, j := range jobs {
			s.Jobs = append(s.Jobs, p.Jobs[j].Name)
			nodes[p.Jobs[j].Node] = true
		}
		var dearest time.Duration = -1
		for _, v := range g.Vertices {
			if !b.Graph.Vertices[v].Kind.IsStep() {
				continue
			}
			s.Steps++
			c := b.Costs[v].Duration
			s.Cost += c
			if c > dearest {
				dearest, s.Name = c, b.Graph.Vertices[v].Name
			}
		}
		if s.Steps == 0 {
			continue
		}
		for n := range p.Nodes {
			if nodes[n] {
				s.Nodes = append(s.Nodes, p.Nodes[n].Name)
			}
		}
		p.Stages = append(p.Stages, s)
	}
	slices.SortStableFunc(p.Stages, func(x, y Stage) int {
		return cmp.Or(cmp.Compare(y.Cost, x.Cost), cmp.Compare(x.Name, y.Name))
	})
}
