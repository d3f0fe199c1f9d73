package runtime

import (
	"slices"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/sched"
)

// reporter makes the reports of a run: events for its observer while it goes on, warnings at
// its end. It belongs to the loop. The run never reads what it notes.
type reporter struct {
	work     *work
	nodes    nodeRuns
	start    time.Time
	observe  func(Event)
	warnings []string
	retried  map[sched.VertexID]int // failures of a step that were reported
	ended    []bool                 // by job: its failure or skip was reported
	queuesAt time.Duration          // when the queues were reported last; 0 = never
	late     []lateJob
}

// lateJob is a job that is exported before its node has reported the ends of its last steps: a
// node's status comes a moment later than its answers. The ends of the steps are reported
// first.
type lateJob struct {
	event JobEvent
	node  *nodeRun
	unit  sched.UnitID
}

func newReporter(w *work, nodes nodeRuns, observe func(Event)) *reporter {
	return &reporter{work: w, nodes: nodes, start: time.Now(), observe: observe, retried: map[sched.VertexID]int{}, ended: make([]bool, len(w.Jobs))}
}

// since is the time since the start of the run.
func (r *reporter) since() time.Duration { return time.Since(r.start) }

// warn keeps a warning for the end of the run, unless it is known.
func (r *reporter) warn(text string) { r.warnings = appendNew(r.warnings, text) }

// warnOf is warn for something that needs one warning only.
func (r *reporter) warnOf(what, more string) {
	if !slices.ContainsFunc(r.warnings, func(w string) bool { return strings.HasPrefix(w, what) }) {
		r.warnings = append(r.warnings, what+more)
	}
}

// job reports the new state of a job on a node.
func (r *reporter) job(u sched.UnitID, n *nodeRun, stage string, res *JobResult) {
	job := r.work.Jobs[u]
	e := JobEvent{At: r.since(), Job: job.Name, Target: job.Target.Name, Node: n.info.Name, Stage: stage, Result: res}
	if stage == "exported" && r.awaits(n, u) {
		r.late = append(r.late, lateJob{e, n, u})
		return
	}
	r.observe(e)
}

// awaits reports whether a node has yet to report the ends of steps of a job. Of the steps that
// it has not mentioned, only the last ones are sure to be mentioned some time.
func (r *reporter) awaits(n *nodeRun, u sched.UnitID) bool {
	var ids []ir.UnitID
	for _, unit := range r.work.Jobs[u].Units {
		ids = append(ids, unit.ID)
		if root, ok := r.work.Graph.Root(string(unit.ID)); ok && r.work.isStep(root.Digest) && !n.tracker.status(root.Digest).done {
			return true
		}
	}
	return slices.ContainsFunc(r.work.stepsOf(ids), func(d digest.Digest) bool { return n.running[d] })
}

// catchUp reports the jobs that a node exported and whose steps have ended by now.
func (r *reporter) catchUp(n *nodeRun) {
	r.release(func(l lateJob) bool { return l.node == n && !r.awaits(n, l.unit) })
}

// reportSolve reports the jobs of a submission that a node exported: no more status of their
// steps will come.
func (r *reporter) reportSolve(p *submission) {
	r.release(func(l lateJob) bool { return l.node == p.node && slices.Contains(p.units, l.unit) })
}

// finish reports all late jobs.
func (r *reporter) finish() { r.release(func(lateJob) bool { return true }) }

// release reports the late jobs for which ready is true.
func (r *reporter) release(ready func(lateJob) bool) {
	r.late = slices.DeleteFunc(r.late, func(l lateJob) bool {
		if !ready(l) {
			return false
		}
		r.observe(l.event)
		return true
	})
}

// move reports a submission that the plan did not foresee; moves are those that the
// scheduler has made.
func (r *reporter) move(cmd sched.Submit, moves []sched.Move) {
	e := MoveEvent{At: r.since(), Node: r.nodes.name(cmd.Node), Why: cmd.Why.String()}
	e.Jobs, e.Targets = r.work.jobNames(cmd.Units), r.work.targetsOf(cmd.Units)
	if len(e.Jobs) == 0 {
		return
	}
	for _, m := range slices.Backward(moves) {
		if m.Why == cmd.Why && m.To == cmd.Node && slices.ContainsFunc(m.Units, func(u sched.UnitID) bool { return slices.Contains(cmd.Units, u) }) {
			e.From = r.nodes.name(m.From)
			break
		}
	}
	r.observe(e)
}

// retry reports that a step is executed again after so many failures, unless that was reported
// before.
func (r *reporter) retry(v sched.VertexID, s *FailedStep, failures int) {
	if s == nil || r.retried[v] >= failures || failures > len(s.Failures) {
		return
	}
	r.retried[v] = failures
	f := s.Failures[failures-1]
	r.observe(RetryEvent{At: r.since(), Node: f.Node, Step: s.Step, Targets: s.Targets, ExitCode: f.ExitCode, Attempt: failures, Limit: 1 + r.work.Sched.Options.RetrySteps})
}

// send reports how sending a step by a node ended.
func (r *reporter) send(n *nodeRun, step int, err error) {
	v, _ := r.work.stepVertex(step)
	e := SendEvent{At: r.since(), Node: n.info.Name, Step: v.Step, Targets: r.work.stepTargets(r.work.vertex[v.Digest]), Err: err}
	for i, n := range r.work.Sched.Nodes {
		takes := func(v sched.VertexID) bool { return slices.Contains(r.work.Steps[step].Sent, int(v)) }
		if slices.ContainsFunc(n.Fetches, takes) {
			e.To = append(e.To, r.nodes.name(sched.NodeID(i)))
		}
	}
	r.observe(e)
}

// queueInterval is the least time between two reports of the nodes' queues.
const queueInterval = 200 * time.Millisecond

// queues reports the work that every node has before it, at most once in queueInterval.
func (r *reporter) queues(s *sched.Scheduler) {
	now := r.since()
	if r.queuesAt > 0 && now-r.queuesAt < queueInterval {
		return
	}
	r.queuesAt = max(now, 1)
	e := QueueEvent{At: now}
	for i, s := range s.Status() {
		q := NodeQueue{Node: r.nodes.name(sched.NodeID(i)), Up: s.Up, Open: s.Open, Ends: s.Ends}
		// Not sorted: this is the order in which it gets them.
		for _, u := range s.Queued {
			if _, ok := r.work.step(u); !ok {
				q.Queued = appendNew(q.Queued, r.work.Jobs[u].Target.Name)
			}
		}
		e.Nodes = append(e.Nodes, q)
	}
	r.observe(e)
}

// ends reports the jobs that ev has ended and that were not built: the one that failed, and
// those that need it.
func (r *reporter) ends(ev sched.Event, s *sched.Scheduler) {
	switch ev.(type) {
	case sched.UnitFailed, sched.PartitionEnded, sched.NodeLost:
	default:
		return
	}
	for u, o := range s.Outcomes()[:len(r.work.Jobs)] {
		if r.ended[u] || o.State != sched.Failed && o.State != sched.Skipped {
			continue
		}
		r.ended[u] = true
		e := JobEvent{At: r.since(), Job: r.work.Jobs[u].Name, Target: r.work.Jobs[u].Target.Name, Stage: o.State.String()}
		if o.Node != sched.NoNode {
			e.Node = r.nodes.name(o.Node)
		}
		r.observe(e)
	}
}

// status reports progress of the steps of a node.
func (r *reporter) status(n *nodeRun, st *bkclient.SolveStatus) {
	if len(st.Vertexes)+len(st.Statuses)+len(st.Logs)+len(st.Warnings) == 0 {
		return
	}
	e := StatusEvent{Node: n.info.Name, Status: st, Targets: map[digest.Digest][]string{}, Steps: map[digest.Digest]int{}}
	name := func(d digest.Digest) {
		if _, ok := e.Targets[d]; ok {
			return
		}
		if v, ok := r.work.vertex[d]; ok {
			e.Targets[d], e.Steps[d] = r.work.stepTargets(v), int(v)
		} else {
			e.Targets[d] = n.tracker.status(d).targets
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
	r.observe(e)
}

// waits reports what a node waits for.
func (r *reporter) waits(n *nodeRun, text string) {
	r.observe(WaitEvent{At: r.since(), Node: n.info.Name, Text: text})
}

// node reports the new state of a node; its name and the time are filled in.
func (r *reporter) node(n *nodeRun, e NodeEvent) {
	e.At, e.Node = r.since(), n.info.Name
	r.observe(e)
}

// waitMessage reports what a worker waits for.
type waitMessage struct {
	node *nodeRun
	text string
}

func (m waitMessage) take(r *run) []sched.Event {
	r.reporter.waits(m.node, m.text)
	return nil
}
