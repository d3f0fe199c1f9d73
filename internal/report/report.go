package report

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/partition"
)

// Report is a plan with further facts for people. It is made for one build and does not
// change.
type Report struct {
	*plan.Plan

	// Shares are the shares of the nodes, by node.
	Shares []Share
	// Jobs are the predictions for each job, in the order of Build.Jobs.
	Jobs []Job
	// Stages are the groups of steps that several jobs share, the most
	// expensive first.
	Stages []Stage
	// Steps are the vertices of the graph, then those that Problem has beyond them.
	Steps []Step
	// Tasks are the executions and transfers that take time, in the order of their
	// starts.
	Tasks []Task
	// Doubled are the steps that several nodes execute.
	Doubled []Doubled
	// Critical are those that decide the makespan, first to last: each one began
	// when the one before had ended, because it needed its result or its slot.
	Critical []int

	// Single is the time of the best node alone, 0 when none can build everything.
	Single     time.Duration
	SingleNode string
	// Assumed are the base images whose config is a guess, sorted.
	Assumed []string

	build *plan.Build
}

// New returns the report on p, a plan for b.
func New(ctx context.Context, b *plan.Build, p *plan.Plan) (*Report, error) {
	r := &Report{Plan: p, Assumed: b.Assumed, build: b}
	r.steps(b)
	r.findDoubles(b)
	r.tasks()
	r.jobs(b)
	r.stages(b)
	return r, r.single(ctx)
}

// gatesOf returns the gates of a target that publishes something.
func gatesOf(t *ir.Target) []string {
	if t.Linked {
		return nil
	}
	return t.Gates
}

// Share is the work of one node.
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

// Job is the prediction for one job.
type Job struct {
	Name   string
	Target string
	// Platforms are those of a part of a divided target; nil for a whole one.
	Platforms []string
	// Gates are the targets that must succeed before it is published.
	Gates []string
	Node  int // index of Plan.Nodes
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
	Why              plan.Why
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
	// Cores is how many processors it keeps busy, Memory the most that it holds; 0 is not
	// known.
	Cores  float64
	Memory int64
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

	op     warm.OpID
	result warm.ResultID // "" where it is op
}

// Fetch reports that one node takes a result from another; indices of Plan.Nodes, and From
// is partition.Registry where it comes from the registry.
type Fetch struct{ To, From int }

// Task is an execution of a step, or a transfer of its result.
type Task struct {
	Kind       TaskKind
	Step, Node int // indices of Plan.Steps and Plan.Nodes
	Start, End time.Duration
}

// TaskKind is the kind of a node's task with a step.
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
	Name  string // that of its costliest step
	Steps int
	Cost  time.Duration // of all its steps, at speed 1
	Jobs  []string
	Nodes []string // those that build it, each once
	Held  []string // those that need it and hold it, or what is made of it
	// Fetched are those that take it, or what is made of it, from another node.
	Fetched []string
}

// Doubled is a step that several nodes execute.
type Doubled struct {
	Step  int   // index of Steps
	Nodes []int // indices of Plan.Nodes, ascending
	Why   plan.Freedom
}

// findDoubles finds the steps that several nodes execute.
func (p *Report) findDoubles(b *plan.Build) {
	nodes := make([][]int, len(b.Graph.Vertices))
	for _, t := range p.Schedule.Tasks {
		if t.Kind == partition.Exec && int(t.Vertex) < len(nodes) && p.Steps[t.Vertex].Work {
			nodes[t.Vertex] = append(nodes[t.Vertex], int(t.Node))
		}
	}
	var free []plan.Freedom
	for i, on := range nodes {
		if len(on) < 2 {
			continue
		}
		if free == nil {
			free = b.Freedom()
		}
		slices.Sort(on)
		p.Doubled = append(p.Doubled, Doubled{Step: i, Nodes: on, Why: free[i]})
	}
}

// single finds the time of one node alone.
func (p *Report) single(ctx context.Context) error {
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
func (p *Report) steps(b *plan.Build) {
	p.Steps = make([]Step, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		c := b.Costs[i]
		p.Steps[i] = Step{
			Name: v.Step, Stage: v.Stage, Kind: v.Kind.String(), Work: v.Kind.IsStep(),
			Cost: c.Duration, Source: c.Source, Samples: c.Samples, Spread: c.Spread, Cores: c.Cores, Memory: c.Memory, op: b.Names.Operation(i),
		}
		if r := b.Names.Result(i); string(r) != string(b.Names.Operation(i)) {
			p.Steps[i].result = r
		}
	}
	p.costMounts()
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

// costMounts gives steps that are executed with filled cache mounts only the time that they take
// then.
func (p *Report) costMounts() {
	slowest := map[partition.VertexID]float64{}
	for _, t := range p.Schedule.Tasks {
		if v := p.Problem.Vertices[t.Vertex]; t.Kind == partition.Exec && len(v.Mounts) > 0 {
			slowest[t.Vertex] = max(slowest[t.Vertex], p.Problem.Nodes[t.Node].Chill(v))
		}
	}
	for v, factor := range slowest {
		if factor == 1 {
			p.Steps[v].Cost = p.Problem.Vertices[v].Cost.Duration()
		}
	}
}

// outputs adds the steps that stand for no vertex of the graph.
func (p *Report) outputs(b *plan.Build) {
	for _, v := range p.Problem.Vertices[len(p.Steps):] {
		p.Steps = append(p.Steps, Step{Name: v.Name, Kind: kindJoin})
	}
	for i, t := range p.Problem.Targets {
		step := &p.Steps[t.Root]
		if int(t.Root) < len(b.Graph.Vertices) {
			continue
		}
		step.Jobs = append(step.Jobs, i)
		if c, ok := b.ExportCost(i, p.Nodes); ok {
			step.Kind, step.Cost, step.Source, step.Samples, step.Spread = kindExport, c.Duration, c.Source, c.Samples, c.Spread
		}
	}
}

// The kinds of steps that llbmerge does not know.
const (
	kindExport = "export" // the writing of a job's outputs
	kindJoin   = "join"   // of several results to that of a job
)

// tasks gathers the executions and transfers that take time.
func (p *Report) tasks() {
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

// jobs fills in the prediction for each job and the work that warm nodes are spared.
func (p *Report) jobs(b *plan.Build) {
	p.Shares = make([]Share, len(p.Nodes))
	for n, load := range p.Schedule.Nodes {
		p.Shares[n].Partitions = p.Partitions[n]
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
	p.Jobs = make([]Job, len(b.Jobs))
	w := plan.NewWalker(p.Problem.Vertices)
	for n := range p.Nodes {
		share := p.share(n, w)
		for i, at := range p.Assignment.Node {
			if int(at) == n {
				p.Jobs[i] = share.job(b, i)
			}
		}
		p.Shares[n].Steps = len(share.steps)
		if share.cost > 0 {
			p.Shares[n].Warm = max(0, 1-float64(spent[n])/float64(share.cost))
		}
	}
}

// nodeShare counts what one node builds while its jobs are described.
type nodeShare struct {
	*Report
	node    int
	walk    *plan.Walker
	warm    map[partition.VertexID]bool
	fetched map[partition.VertexID]partition.NodeID
	// steps are the distinct steps of its jobs; cost is that of all that they consist
	// of but for what stands behind a result that is fetched.
	steps, costed map[partition.VertexID]bool
	cost          time.Duration
}

func (p *Report) share(n int, w *plan.Walker) *nodeShare {
	s := &nodeShare{
		Report: p, node: n, walk: w, warm: map[partition.VertexID]bool{}, fetched: p.Fetches(n),
		steps: map[partition.VertexID]bool{}, costed: map[partition.VertexID]bool{},
	}
	for _, v := range p.Problem.Nodes[n].Warm {
		s.warm[v] = true
	}
	return s
}

// job describes job i and counts its steps.
func (s *nodeShare) job(b *plan.Build, i int) Job {
	root := s.Problem.Targets[i].Root
	j := Job{
		Name: b.Jobs[i].Name, Target: b.Jobs[i].Target.Name, Platforms: b.PartOf(i), Gates: gatesOf(b.Jobs[i].Target),
		Node: s.node, Done: s.Schedule.Done[i].Duration(), From: map[cost.Source]int{},
	}
	position := map[partition.VertexID]int{}
	for _, v := range s.walk.Below(root, nil) {
		if s.Steps[v].Work {
			j.Steps++
			position[v] = j.Steps
			s.steps[v] = true
		}
	}
	taken := func(v partition.VertexID) bool {
		_, ok := s.fetched[v]
		return ok && !s.warm[v]
	}
	for _, v := range s.walk.Below(root, taken) {
		if !s.costed[v] {
			s.costed[v] = true
			s.cost += s.Steps[v].Cost
		}
	}
	cold := 0
	for _, v := range s.walk.Below(root, func(v partition.VertexID) bool {
		if from := int(s.fetched[v]); taken(v) && !slices.Contains(j.FetchedFrom, from) {
			j.FetchedFrom = append(j.FetchedFrom, from)
		}
		return s.warm[v] || taken(v)
	}) {
		step := s.Steps[v]
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
			j.First, j.FirstStep, j.Why = position[v], int(v), b.Why(int(v), s.node, s.Nodes)
		}
	}
	slices.Sort(j.FetchedFrom)
	j.Warm = j.Steps - cold
	return j
}

// stages gathers the steps that several jobs share.
func (p *Report) stages(b *plan.Build) {
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

// Pulls returns how many base images the nodes have from their registries, counted for
// each node, and how many of these are distinct.
func (p *Report) Pulls() (pulls, images int) {
	seen := map[partition.VertexID]bool{}
	for _, t := range p.Schedule.Tasks {
		if t.Kind != partition.Exec || int(t.Vertex) >= len(p.Steps) || p.Steps[t.Vertex].Kind != llbmerge.KindImage.String() {
			continue
		}
		pulls++
		if !seen[t.Vertex] {
			seen[t.Vertex] = true
			images++
		}
	}
	return pulls, images
}
