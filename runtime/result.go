package runtime

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/sched"
)

// State is how a job ended.
type State string

// The ends of a job, in order of progress.
const (
	NotStarted State = "not started" // never given to a node
	Skipped    State = "skipped"     // something it needs failed
	Cancelled  State = "cancelled"   // given to a node, stopped before it was done
	Failed     State = "failed"
	Done       State = "done" // built, and every output written
	// Unchanged is a target that was not built because its image, or what it is made
	// of, has not changed.
	Unchanged State = "unchanged"
)

// Good reports whether a target is as it was asked for.
func (s State) Good() bool { return s == Done || s == Unchanged }

// Result is what a run led to. It is complete whether the run failed or not.
type Result struct {
	// Jobs are in the order of the plan.
	Jobs []JobResult
	// Nodes are in the order of the pool.
	Nodes []NodeResult
	// Steals tell which jobs ran elsewhere than planned, in order of time.
	Steals []Steal
	// Measured is what nodes spent time on, for the cost history.
	Measured []Measured
	// Caches are those that were written to registries.
	Caches []WrittenCache
	// Sick are the nodes that failed jobs for reasons of their own.
	Sick []Sickness
	// Warnings are remarks on the run as a whole.
	Warnings []string
	Wall     time.Duration
}

// JobResult is the end of one job.
type JobResult struct {
	Job    string
	Target string
	Node   string // where it was built; "" when it never started
	State  State
	// Reason says why a job is not done; Err is the failure itself.
	Reason string
	Err    error
	Images []Image
	// Metadata is the exporters' response, for the metadata file.
	Metadata map[string]any
}

// TargetResult is the end of one target, whose parts several nodes may have built.
type TargetResult struct {
	Name  string
	Nodes []string // that built it, in the order of the parts
	State State
	// Reason says why it is not done; it is that of the part that came least far.
	Reason string
	Images []Image
}

// severity orders states: a target is what the worst of its parts is.
var severity = map[State]int{Unchanged: 0, Done: 0, NotStarted: 1, Skipped: 2, Cancelled: 3, Failed: 4}

// Targets returns the ends of the targets, in the order of the plan.
func (r *Result) Targets() []TargetResult {
	var list []TargetResult
	index := map[string]int{} // of list
	for _, j := range r.Jobs {
		i, ok := index[j.Target]
		if !ok {
			i = len(list)
			index[j.Target] = i
			list = append(list, TargetResult{Name: j.Target, State: j.State, Reason: j.Reason})
		}
		t := &list[i]
		if j.Node != "" {
			t.Nodes = appendNew(t.Nodes, j.Node)
		}
		if severity[j.State] > severity[t.State] {
			t.State, t.Reason = j.State, j.Reason
		}
		t.Images = append(t.Images, j.Images...)
	}
	for i := range list {
		if t := &list[i]; !t.State.Good() {
			// Parts have no name, and what one output wrote is no whole target.
			t.Images = nil
		}
	}
	return list
}

// NodeResult is what one node did.
type NodeResult struct {
	Name    string
	Targets []string // built here, in order of their end; a part counts as its target
	// Ran is the number of steps that were executed, Cached that of steps
	// answered from a cache; Shared is how many executions were saved because
	// several jobs of the node need the same step.
	Ran, Cached, Shared int
	// Repeated is the number of executions beyond the first of a step; a node
	// that runs a step twice in a run has lost its result in between.
	Repeated int
	// Busy is the time during which at least one step ran.
	Busy time.Duration
	// ContextBytes is what the node read of local directories, Transfers how
	// often it read each, by source name.
	ContextBytes int64
	Transfers    map[string]int
	Held         []digest.Digest // the steps and images whose results are there now
	Lost         error           // why the node was given up; nil when it was not
}

// Steal is work that another node took over.
type Steal struct {
	At       time.Duration // since the start of the run
	Jobs     []string
	From, To string
	Why      string // "stolen", "hedged", "rescued"
	// Here and There are when the jobs were expected to be built on To and, unless
	// rescued from a lost node, on From.
	Here, There time.Duration
}

// Sickness is what a node could not do, and why. The jobs were tried elsewhere.
type Sickness struct {
	Node   string
	Reason string // in a few words
	Jobs   []string
}

// Measured is one execution of a step, or a time during which a node fetched a base
// image or worked at the outputs of a job; these can have several.
type Measured struct {
	Node   string
	Vertex digest.Digest // "" when it is the outputs of Job
	Job    string
	Start  time.Time // by the clock of the node
	Took   time.Duration
}

// Event is something that happened during a run. Observers receive events one
// after the other, from one goroutine.
type Event interface{ event() }

// StatusEvent is progress of a node's steps. Nothing is reported twice, although the
// solves of a node overlap.
type StatusEvent struct {
	Node   string
	Status *bkclient.SolveStatus
	// Targets are those that each vertex of Status is for, in the order of the plan.
	// A step that a target has from another one, which it reads, is for that one.
	Targets map[digest.Digest][]string
	// Steps are the places in [Build.Graph] of those vertices of Status that are there.
	Steps map[digest.Digest]int
}

// JobEvent reports that a job started, was built or ended.
type JobEvent struct {
	At     time.Duration
	Job    string
	Target string
	Node   string // "" for one that was skipped before a node had it
	// Stage is "submitted", "built" or "exported", or "failed" or "skipped" for a job
	// that is not tried again.
	Stage  string
	Result *JobResult // of one that was exported
}

// MoveEvent reports that jobs were given to a node other than planned, or again.
type MoveEvent struct {
	At      time.Duration
	Jobs    []string
	Targets []string
	Node    string
	From    string // the node that had them; "" when it is the same
	Why     string
}

// SendEvent reports that a node has sent the result of a step for others, or that it
// could not; then those build it themselves.
type SendEvent struct {
	At      time.Duration
	Node    string
	To      []string // the nodes that are to take it
	Step    string
	Targets []string // whose step it is
	Err     error
}

// QueueEvent says what every node has before it. It is reported at the start of a run,
// then when that has changed, but not more often than anybody can read.
type QueueEvent struct {
	At    time.Duration
	Nodes []NodeQueue // in the order of the pool
}

// NodeQueue is what one node has before it.
type NodeQueue struct {
	Node   string
	Up     bool     // it is in use
	Queued []string // targets that it has not been given yet, in order
	Open   int      // jobs that it was given and that have not ended
	// Ends is when it is expected to be done, since the start of the run.
	Ends time.Duration
}

// NodeEvent says what became of a node: it was given up, is back, or is silent.
type NodeEvent struct {
	At     time.Duration
	Node   string
	Err    error         // why it was given up; nil when it was not
	Silent time.Duration // for how long it has said nothing although it was asked
	Back   bool          // it is used again, or heard again
}

// WaitEvent tells what a node waits for.
type WaitEvent struct {
	At   time.Duration
	Node string
	Text string
}

func (StatusEvent) event() {}
func (WaitEvent) event()   {}
func (JobEvent) event()    {}
func (MoveEvent) event()   {}
func (NodeEvent) event()   {}
func (SendEvent) event()   {}
func (QueueEvent) event()  {}

// moveEvent tells of a submission that the plan did not foresee.
func moveEvent(r *run, cmd sched.Submit) MoveEvent {
	e := MoveEvent{At: r.since(), Node: r.nodes[cmd.Node].info.Name, Why: cmd.Why.String()}
	e.Jobs, e.Targets = r.jobNames(cmd.Units), r.targetsOf(cmd.Units)
	for _, m := range slices.Backward(r.sched.Moves()) {
		if m.Why == cmd.Why && m.To == cmd.Node && slices.ContainsFunc(m.Units, func(u sched.UnitID) bool { return slices.Contains(cmd.Units, u) }) {
			e.From = r.nodes[m.From].info.Name
			break
		}
	}
	return e
}

// sendEvent reports what became of the sending of a step.
func (r *run) sendEvent(p *partitionRun, step int, err error) SendEvent {
	v, _ := r.stepVertex(step)
	e := SendEvent{At: r.since(), Node: p.node.info.Name, Step: v.Step, Targets: r.stepTargets(r.vertex[v.Digest]), Err: err}
	for i, n := range r.Sched.Nodes {
		takes := func(v sched.VertexID) bool { return slices.Contains(r.Steps[step].Sent, int(v)) }
		if slices.ContainsFunc(n.Fetches, takes) {
			e.To = append(e.To, r.nodes[i].info.Name)
		}
	}
	return e
}

// queueInterval is the least time between two reports of what nodes have before them.
const queueInterval = 200 * time.Millisecond

// reportQueues says what every node has before it, unless that was said a moment ago.
func (r *run) reportQueues() {
	now := r.since()
	if r.queuesAt > 0 && now-r.queuesAt < queueInterval {
		return
	}
	r.queuesAt = max(now, 1)
	e := QueueEvent{At: now}
	for i, s := range r.sched.Status() {
		q := NodeQueue{Node: r.nodes[i].info.Name, Up: s.Up, Open: s.Open, Ends: s.Ends}
		// Not sorted: this is the order in which it gets them.
		for _, u := range s.Queued {
			if _, ok := r.step(u); !ok {
				q.Queued = appendNew(q.Queued, r.Jobs[u].Target.Name)
			}
		}
		e.Nodes = append(e.Nodes, q)
	}
	r.observe(e)
}

// reportEnds says which jobs ev has ended that were not built: the one that failed, and
// those that need it.
func (r *run) reportEnds(ev sched.Event) {
	switch ev.(type) {
	case sched.UnitFailed, sched.PartitionEnded, sched.NodeLost:
	default:
		return
	}
	for u, o := range r.sched.Outcomes()[:len(r.Jobs)] {
		if r.ended[u] || o.State != sched.Failed && o.State != sched.Skipped {
			continue
		}
		r.ended[u] = true
		e := JobEvent{At: r.since(), Job: r.Jobs[u].Name, Target: r.Jobs[u].Target.Name, Stage: o.State.String()}
		if o.Node != sched.NoNode {
			e.Node = r.nodes[o.Node].info.Name
		}
		r.observe(e)
	}
}

// jobEvent reports what a job has come to on a node.
func (r *run) jobEvent(u sched.UnitID, n *nodeRun, stage string) JobEvent {
	return JobEvent{At: r.since(), Job: r.Jobs[u].Name, Target: r.Jobs[u].Target.Name, Node: n.info.Name, Stage: stage}
}

// statusEvent reports progress on a node.
func (r *run) statusEvent(n *nodeRun, st *bkclient.SolveStatus) StatusEvent {
	e := StatusEvent{Node: n.info.Name, Status: st, Targets: map[digest.Digest][]string{}, Steps: map[digest.Digest]int{}}
	name := func(d digest.Digest) {
		if _, ok := e.Targets[d]; ok {
			return
		}
		if v, ok := r.vertex[d]; ok {
			e.Targets[d], e.Steps[d] = r.stepTargets(v), int(v)
		} else if s := n.tracker.vertices[d]; s != nil {
			e.Targets[d] = s.targets
		}
	}
	for _, v := range st.Vertexes {
		name(v.Digest)
	}
	for _, s := range st.Statuses {
		name(s.Vertex)
	}
	for _, l := range st.Logs {
		name(l.Vertex)
	}
	for _, w := range st.Warnings {
		name(w.Vertex)
	}
	return e
}

// owners returns the jobs whose step a vertex is: those that need it, but for those
// that have it from a target which they read and which needs it, too.
func (r *run) owners(v *llbmerge.Vertex) []int {
	jobs := r.jobsWith(v)
	names := map[string]bool{}
	for _, j := range jobs {
		names[r.Jobs[j].Target.Name] = true
	}
	return slices.DeleteFunc(jobs, func(j int) bool {
		return slices.ContainsFunc(r.Jobs[j].Target.Links(), func(name string) bool { return names[name] })
	})
}

// stepTargets returns the targets whose step a vertex is.
func (r *run) stepTargets(v sched.VertexID) []string {
	list, ok := r.stepOf[v]
	if !ok {
		for _, j := range r.owners(r.Graph.Vertices[v]) {
			list = appendNew(list, r.Jobs[j].Target.Name)
		}
		r.stepOf[v] = list
	}
	return list
}

// targetsOf returns the targets that units are built for, in the order of the plan.
func (r *run) targetsOf(units []sched.UnitID) []string {
	var jobs []int
	for _, u := range units {
		if step, ok := r.step(u); ok {
			v, _ := r.stepVertex(step)
			jobs = append(jobs, r.owners(v)...)
		} else {
			jobs = append(jobs, int(u))
		}
	}
	slices.Sort(jobs)
	var names []string
	for _, j := range jobs {
		names = appendNew(names, r.Jobs[j].Target.Name)
	}
	return names
}

// appendNew appends name unless it is there.
func appendNew(list []string, name string) []string {
	if slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}

// jobNames names those of the units that are jobs.
func (r *run) jobNames(units []sched.UnitID) []string {
	var names []string
	for _, u := range units {
		if _, ok := r.step(u); !ok {
			names = append(names, r.Jobs[u].Name)
		}
	}
	return names
}

// result gathers what the run led to.
func (r *run) result(finish sched.Finish) *Result {
	res := &Result{Jobs: r.results, Sick: r.sick}
	for u, o := range finish.Outcomes[:len(r.Jobs)] {
		j := &res.Jobs[u]
		j.Reason = o.Reason
		if _, step := r.step(o.Because); step && o.State == sched.Skipped {
			// It was to be built elsewhere for several jobs: each of them failed.
			o.State = sched.Failed
		}
		switch o.State {
		case sched.Built:
			j.State, j.Reason = Done, ""
		case sched.Failed:
			j.State = Failed
			var e *StepError
			if errors.As(j.Err, &e) {
				j.Reason = e.Short()
			}
		case sched.Skipped:
			j.State, j.Node = Skipped, ""
			if o.Because != sched.NoUnit {
				j.Reason = r.Jobs[o.Because].Name + " failed"
			}
		default:
			j.State = NotStarted
			if o.Submits > 0 {
				j.State = Cancelled
			} else {
				j.Node = ""
			}
		}
	}
	r.blame()
	for _, m := range finish.Moves {
		s := Steal{At: m.At, Why: m.Why.String(), From: r.nodes[m.From].info.Name, To: r.nodes[m.To].info.Name, Here: m.Here, There: m.There}
		if s.Jobs = r.jobNames(m.Units); len(s.Jobs) > 0 {
			res.Steals = append(res.Steals, s)
		}
	}
	for _, n := range r.nodes {
		res.Nodes = append(res.Nodes, r.nodeResult(n))
		res.Measured = append(res.Measured, r.measured(n)...)
	}
	r.writtenByTargets()
	r.warnUnwritten()
	res.Caches, res.Warnings = r.caches.written, r.caches.warnings
	return res
}

// blame sees to it that a step that failed for good makes the targets fail whose
// step it is, also those that were stopped before they met it, and that those which
// only read such a target are skipped.
func (r *run) blame() {
	for _, e := range r.errs {
		if e.Step == "" || r.recovered(e) {
			continue
		}
		failed := false
		for i := range r.results {
			if j := &r.results[i]; slices.Contains(e.Targets, j.Target) && j.State != Done {
				failed = true
				if j.State != Failed {
					j.State, j.Reason, j.Node, j.Err = Failed, e.Short(), e.Node, e
				}
			}
		}
		for i := range r.results {
			if j := &r.results[i]; failed && j.State == Failed && j.Err == error(e) && !slices.Contains(e.Targets, j.Target) {
				j.State, j.Reason, j.Node = Skipped, strings.Join(e.Targets, ", ")+" failed", ""
			}
		}
	}
}

// measured is what a node spent time on, by start.
func (r *run) measured(n *nodeRun) []Measured {
	var list []Measured
	add := func(m Measured, runs []execution) {
		for _, e := range runs {
			m.Node, m.Start, m.Took = n.info.Name, e.started, e.completed.Sub(e.started)
			list = append(list, m)
		}
	}
	for _, v := range r.Graph.Vertices {
		s := n.tracker.vertices[v.Digest]
		// An image that was there already takes no time, which says nothing of
		// what it takes elsewhere.
		if s != nil && (v.Kind.IsStep() || v.Kind == llbmerge.KindImage && s.unpacked) {
			add(Measured{Vertex: v.Digest}, s.runs)
		}
	}
	for _, s := range n.tracker.vertices {
		if s.job != "" {
			add(Measured{Job: s.job}, s.runs)
		}
	}
	slices.SortFunc(list, func(a, b Measured) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Vertex, b.Vertex), cmp.Compare(a.Job, b.Job))
	})
	return list
}

// nodeResult counts what a node did.
func (r *run) nodeResult(n *nodeRun) NodeResult {
	res := NodeResult{
		Name: n.info.Name, Lost: n.lost,
		ContextBytes: n.sent.bytes.Load(), Transfers: n.sent.walked(),
	}
	for _, name := range n.jobs {
		for _, j := range r.Jobs {
			if j.Name == name {
				res.Targets = appendNew(res.Targets, j.Target.Name)
			}
		}
	}
	here := map[string]bool{} // unit ids
	for i, j := range r.Jobs {
		if r.results[i].Node != n.info.Name {
			continue
		}
		for _, u := range j.Units {
			here[string(u.ID)] = true
		}
	}
	var busy []execution
	base := map[digest.Digest]bool{} // what ran steps stand on
	for _, v := range r.Graph.Vertices {
		s := n.tracker.vertices[v.Digest]
		if s == nil || !v.Kind.IsStep() {
			continue
		}
		switch {
		case len(s.runs) > 0:
			res.Ran++
			res.Repeated += len(s.runs) - 1
			busy = append(busy, s.runs...)
			for _, in := range v.Inputs {
				base[in] = true
			}
		case s.cached:
			res.Cached++
		}
		if s.done {
			res.Held = append(res.Held, v.Digest)
		}
		users := 0
		for _, u := range v.Users {
			if here[u] {
				users++
			}
		}
		if users > 1 && len(s.runs) > 0 {
			res.Shared += users - 1 // a cache would have answered each of them
		}
	}
	for _, v := range r.Graph.Vertices {
		if v.Kind == llbmerge.KindImage && base[v.Digest] {
			res.Held = append(res.Held, v.Digest)
		}
	}
	res.Busy = union(busy)
	return res
}

// union is the time that is covered by at least one of the executions.
func union(list []execution) time.Duration {
	slices.SortFunc(list, func(a, b execution) int { return a.started.Compare(b.started) })
	var total time.Duration
	var end time.Time
	for _, e := range list {
		if e.started.After(end) {
			end = e.started
		}
		if e.completed.After(end) {
			total += e.completed.Sub(end)
			end = e.completed
		}
	}
	return total
}

// err returns why the run did not build everything, nil when it did.
func (r *run) err(finish sched.Finish) error {
	var errs []error
	for _, e := range r.errs {
		if len(e.Jobs) > 0 && !r.recovered(e) {
			errs = append(errs, e)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, o := range finish.Outcomes[:len(r.Jobs)] {
		if o.State != sched.Built {
			lost := []error{ErrIncomplete}
			for _, n := range r.nodes {
				if n.lost != nil {
					lost = append(lost, &NodeError{Node: n.info.Name, Addr: n.info.Addr, Op: "lost", Err: n.lost})
				}
			}
			if len(lost) == 1 && finish.Reason != "" {
				lost = append(lost, errors.New(finish.Reason))
			}
			return errors.Join(lost...)
		}
	}
	return nil
}

// recovered reports whether every job that e made fail was built after all.
func (r *run) recovered(e *StepError) bool {
	for i, j := range r.Jobs {
		if slices.Contains(e.Jobs, j.Name) && r.results[i].State != Done {
			return false
		}
	}
	return true
}
