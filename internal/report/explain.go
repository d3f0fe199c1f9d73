package report

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
)

// Explanation describes why a job is on its node, the cost of having it on another, and its
// steps.
type Explanation struct {
	Job  Job
	Node string
	Why  string
	// Alternatives are the nodes considered, the best first; the chosen one is
	// among them.
	Alternatives []Alternative
	// Complete is false when there are more nodes that may build the job.
	Complete bool
	// Steps are in the order of the graph, sources that cost nothing left out.
	Steps []JobStep
}

// Alternative is the prediction with the job on another node and all else as planned.
type Alternative struct {
	Node     string
	Chosen   bool
	Makespan time.Duration
	Done     time.Duration
	// Work is how much more would be executed in the whole run, at speed 1.
	Work time.Duration
}

// JobStep is a step of the job that is explained.
type JobStep struct {
	Step
	// Position counts the steps of the job from 1; 0 for sources.
	Position int
	// State is what the job's node does about the step; From is where it is Taken
	// from.
	State StepState
	From  string
	Why   plan.Why // for those that have to be run for a reason of their own
	// Others are the names of the jobs on the same node that need it, too.
	Others []string
	// Mounts are what cache mounts mean for a step that is run; nil where they make no
	// difference.
	Mounts *Mounts
}

// Mounts are the cache mounts of a step that some node has filled.
type Mounts struct {
	Places []string // where they are, in the step
	Here   bool     // the job's node has filled them
	// Filled and Cold are what the step takes at speed 1 where they are filled, and where not.
	Filled, Cold time.Duration
}

// StepState is the treatment of a step on a node.
type StepState string

// The states of a step.
const (
	Held    StepState = "held"     // the node holds the result
	Covered StepState = "not used" // the node holds or takes the result of what is made of it
	Rebuilt StepState = "run"
	// Taken: the node takes the result from another one, or from the registry.
	Taken StepState = "fetched"
)

// Explain explains where the named job was placed.
func (p *Report) Explain(ctx context.Context, name string) (*Explanation, error) {
	i := slices.IndexFunc(p.Jobs, func(j Job) bool { return j.Name == name })
	if i < 0 {
		return nil, p.absent(name)
	}
	reason, err := partition.Explain(ctx, p.Problem, p.Assignment, partition.TargetID(i))
	if err != nil {
		return nil, fmt.Errorf("explain target %s: %w", name, err)
	}
	j := p.Jobs[i]
	e := &Explanation{Job: j, Node: p.Nodes[j.Node].Name, Why: reason.String()}
	able := 0
	for _, n := range p.Problem.Nodes {
		if !slices.ContainsFunc(p.Problem.Targets[i].Platforms, func(name string) bool { return !slices.Contains(n.Platforms, name) }) {
			able++
		}
	}
	e.Complete = len(reason.Alternatives) >= able
	for _, a := range reason.Alternatives {
		e.Alternatives = append(e.Alternatives, Alternative{
			Node: p.Nodes[a.Node].Name, Chosen: int(a.Node) == j.Node,
			Makespan: a.Makespan.Duration(), Done: a.Done.Duration(), Work: a.Executed.Duration(),
		})
	}
	e.Steps = p.jobSteps(i)
	return e, nil
}

// absent returns an error that explains why there is no job of that name.
func (p *Report) absent(name string) error {
	var parts []string
	for _, j := range p.Jobs {
		if j.Target == name {
			parts = append(parts, j.Name)
		}
	}
	if len(parts) > 0 {
		return fmt.Errorf("target %s is built in parts; name one of them: %s", name, strings.Join(parts, ", "))
	}
	return fmt.Errorf("target %s is not in the plan", name)
}

// maxReasons bounds the work of Reasons, in tasks scheduled: it is about that of
// the search for the plan.
const maxReasons = 12_000_000

// Reasons finds out why each job is on its node. In very large plans that would take
// too long, and there are no reasons.
func (p *Report) Reasons(ctx context.Context) error {
	const alternatives = 32 // that are considered for each job, at most
	if len(p.Jobs)*min(len(p.Nodes), alternatives)*len(p.Steps) > maxReasons {
		return nil
	}
	for i := range p.Jobs {
		reason, err := partition.Explain(ctx, p.Problem, p.Assignment, partition.TargetID(i))
		if err != nil {
			return fmt.Errorf("explain target %s: %w", p.Jobs[i].Name, err)
		}
		p.Jobs[i].Reason = reason.String()
	}
	return nil
}

// setMounts notes what the cache mounts of vertex v mean on a node, and the cost there.
func (s *JobStep) setMounts(p *Report, v partition.VertexID, node int) {
	from := p.Problem.Vertices[v]
	if len(from.Mounts) == 0 {
		return
	}
	here := p.Problem.Nodes[node].Chill(from) == 1
	s.Mounts = &Mounts{
		Places: plan.MountPlaces(p.build.Graph.Vertices[v]), Here: here,
		Filled: from.Cost.Duration(), Cold: (from.Cost * partition.Seconds(from.Cold)).Duration(),
	}
	if s.Cost = s.Mounts.Cold; here {
		s.Cost = s.Mounts.Filled
	}
}

// jobSteps lists what job i consists of.
func (p *Report) jobSteps(i int) []JobStep {
	node := p.Jobs[i].Node
	warm := func(v partition.VertexID) bool {
		return int(v) < len(p.Steps) && slices.Contains(p.Steps[v].Held, node)
	}
	fetched := p.Fetches(node)
	there := func(v partition.VertexID) bool {
		_, ok := fetched[v]
		return ok || warm(v)
	}
	w := plan.NewWalker(p.Problem.Vertices)
	root := p.Problem.Targets[i].Root
	run := map[partition.VertexID]bool{}
	for _, v := range w.Below(root, there) {
		run[v] = true
	}
	var list []JobStep
	position := 0
	for _, v := range w.Below(root, nil) {
		if int(v) >= len(p.Steps) {
			continue
		}
		s := JobStep{Step: p.Steps[v], State: Covered}
		if s.Work {
			position++
			s.Position = position
		} else if s.Cost == 0 {
			continue
		}
		switch {
		case run[v]:
			s.State = Rebuilt
			if s.Work && !slices.ContainsFunc(p.Problem.Vertices[v].Inputs, func(in partition.VertexID) bool {
				return run[in] && p.Steps[in].Work
			}) {
				s.Why = p.build.Why(int(v), node, p.Nodes)
			}
			s.setMounts(p, v, node)
		case warm(v):
			s.State = Held
		case there(v):
			s.State, s.From = Taken, p.source(int(fetched[v]))
		}
		for _, other := range s.Jobs {
			if other != i && p.Jobs[other].Node == node {
				s.Others = append(s.Others, p.Jobs[other].Name)
			}
		}
		list = append(list, s)
	}
	return list
}
