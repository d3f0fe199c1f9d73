package runtime

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/output"
	"github.com/dbake/dbake/runtime/publish"
	"github.com/dbake/dbake/runtime/sched"
)

// accounts are the results of a run so far: the ends of its jobs, and the failures behind
// them. They belong to the loop.
type accounts struct {
	work *work
	// results are those of the jobs, by job. done has the names of the jobs that each node has
	// done, in order of their end. Invariant: a job that is Done is among those of its node.
	results []JobResult
	done    map[*nodeRun][]string
	// errs are the failures, each once, in the order in which they were met; known finds them by
	// key. Invariant: both hold the same failures.
	errs  []*StepError
	known map[failureKey]*StepError
	sick  []Sickness
	rests []string // warnings about leftovers of outputs that are not published
	// trials are the steps that ran and failed.
	trials *trials
	given  map[sched.UnitID][]given
}

// given is a time at which a node was given a job.
type given struct {
	node sched.NodeID
	at   time.Duration // since the start of the run
}

func newAccounts(w *work) *accounts {
	a := &accounts{work: w, done: map[*nodeRun][]string{}, known: map[failureKey]*StepError{}, trials: newTrials(w), given: map[sched.UnitID][]given{}}
	for _, j := range w.Jobs {
		a.results = append(a.results, JobResult{Job: j.Name, Target: j.Target.Name, State: NotStarted})
	}
	return a
}

// isDone reports whether a job is done.
func (a *accounts) isDone(j int) bool { return a.results[j].State == Done }

// node returns the name of the node that was given a job last. images returns the images that
// were written for it.
func (a *accounts) node(j int) string { return a.results[j].Node }

func (a *accounts) images(j int) []output.Image { return a.results[j].Images }

// submit notes that n was given a job. at is the time since the start of the run.
func (a *accounts) submit(u sched.UnitID, n *nodeRun, at time.Duration) {
	a.results[u].Node = n.info.Name
	a.given[u] = append(a.given[u], given{n.id, at})
}

// begun reports whether one of units is a job that a node was given before.
func (a *accounts) begun(units []sched.UnitID) bool {
	return slices.ContainsFunc(units, func(u sched.UnitID) bool { return len(a.given[u]) > 0 })
}

// keep notes what was written for a job, which need not be all of its outputs.
func (a *accounts) keep(u sched.UnitID, w written) {
	a.drop(u)
	res := &a.results[u]
	res.Images, res.Files, res.Metadata, res.withheld = w.images, w.files, output.MetadataOf(w.responses), w.withheld
}

// drop discards the withheld outputs of a job.
func (a *accounts) drop(u sched.UnitID) {
	a.warnOfRest(a.results[u].withheld.Discard())
	a.results[u].withheld = nil
}

// warnOfRest notes that a withheld output could not be removed.
func (a *accounts) warnOfRest(err error) {
	if err != nil {
		a.rests = append(a.rests, "an unpublished output is left over: "+err.Error())
	}
}

// withheld returns the outputs of all done jobs that are yet to be published. It discards what
// is withheld of other jobs.
func (a *accounts) withheld() *publish.Batch {
	b := &publish.Batch{}
	for u := range a.results {
		j := &a.results[u]
		if j.State != Done {
			a.drop(sched.UnitID(u))
		}
		if j.withheld != nil {
			b.Tags = append(b.Tags, j.withheld.Tags...)
			b.Held = append(b.Held, j.withheld.Held...)
		}
	}
	return b
}

// finish notes that n has done a job, and returns the job's result.
func (a *accounts) finish(u sched.UnitID, n *nodeRun, w written) *JobResult {
	res := &a.results[u]
	res.Node, res.State, res.Err = n.info.Name, Done, nil
	a.keep(u, w)
	a.done[n] = append(a.done[n], res.Job)
	return res
}

// describe names a job and the images that it pushed.
func (a *accounts) describe(j int) string {
	var images []string
	for _, i := range a.images(j) {
		images = append(images, i.Name)
	}
	if len(images) == 0 {
		return a.results[j].Job
	}
	return a.results[j].Job + " (" + strings.Join(images, ", ") + ")"
}

// reopen forgets what n wrote for a job that is built again, and returns its description.
func (a *accounts) reopen(u sched.UnitID, n *nodeRun) (was string) {
	was = a.describe(int(u))
	a.drop(u)
	j := &a.results[u]
	a.done[n] = slices.DeleteFunc(a.done[n], func(name string) bool { return name == j.Job })
	*j = JobResult{Job: j.Job, Target: j.Target, State: NotStarted}
	return was
}

// join notes the images that the parts of a target were joined into. The target's first job
// reports them; the names of the parts are of no use.
func (a *accounts) join(jobs []int, w written) {
	for _, j := range jobs {
		res := &a.results[j]
		res.Images = nil
		maps.DeleteFunc(res.Metadata, func(k string, _ any) bool { return output.DescribesImage(k) || k == output.ImagesKey })
	}
	first := &a.results[jobs[0]]
	first.Images = w.images
	if w.withheld != nil {
		first.withheld = w.withheld
	}
	maps.Copy(first.Metadata, output.MetadataOf(w.responses))
}

// failJoin notes that the parts of a target could not be joined.
func (a *accounts) failJoin(jobs []int, err error) {
	for _, j := range jobs {
		a.results[j].State, a.results[j].Err, a.results[j].Reason = Failed, err, err.Error()
	}
}

// fail notes that a unit has failed on a node.
func (a *accounts) fail(u sched.UnitID, n *nodeRun, f failure) {
	jobs := []int{int(u)}
	if step, ok := a.work.step(u); ok {
		v, _ := a.work.stepVertex(step)
		jobs = a.work.jobsWith(v)
	}
	for _, j := range jobs {
		a.results[j].Err = f.err
		f.err.Jobs = appendNew(f.err.Jobs, a.work.Jobs[j].Name)
		if f.vertex == sched.NoVertex {
			f.err.Targets = appendNew(f.err.Targets, a.work.Jobs[j].Target.Name)
		}
	}
	if f.elsewhere {
		a.noteSick(n, f.sickness, jobs)
	}
}

// failOpen notes that the jobs which need a step, and are not done, have failed with its newest
// failure.
func (a *accounts) failOpen(v sched.VertexID) {
	err := a.trials.errs[v]
	if err == nil {
		return
	}
	for _, j := range a.work.jobsWith(a.work.Graph.Vertices[v]) {
		if !a.isDone(j) {
			a.results[j].Err = err
			err.Jobs = appendNew(err.Jobs, a.work.Jobs[j].Name)
		}
	}
}

// noteSick notes that jobs failed because of a node.
func (a *accounts) noteSick(n *nodeRun, reason string, jobs []int) {
	at := slices.IndexFunc(a.sick, func(s Sickness) bool { return s.Node == n.info.Name && s.Reason == reason })
	if at < 0 {
		at = len(a.sick)
		a.sick = append(a.sick, Sickness{Node: n.info.Name, Reason: reason})
	}
	for _, j := range jobs {
		a.sick[at].Jobs = appendNew(a.sick[at].Jobs, a.work.Jobs[j].Name)
	}
}

// result assembles the result of the run.
func (a *accounts) result(finish sched.Finish, nodes nodeRuns) *Result {
	res := &Result{Jobs: a.results, Sick: a.sick}
	for u, o := range finish.Outcomes[:len(a.work.Jobs)] {
		j := &res.Jobs[u]
		j.Reason = o.Reason
		if _, step := a.work.step(o.Because); step && o.State == sched.Skipped {
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
				j.Reason = a.work.Jobs[o.Because].Name + " failed"
			}
		case sched.Unpublished:
			j.State, j.Reason = Unpublished, a.work.closedBy(sched.UnitID(u), o)
		default:
			j.State = NotStarted
			if o.Submits > 0 {
				j.State = Cancelled
			} else {
				j.Node = ""
			}
		}
	}
	res.FailedSteps = a.trials.result(nodes)
	a.blame()
	for _, m := range finish.Moves {
		if s, ok := a.steal(m, nodes); ok {
			res.Steals = append(res.Steals, s)
		}
	}
	slices.SortStableFunc(res.Steals, func(x, y Steal) int { return cmp.Compare(x.At, y.At) })
	for _, n := range nodes {
		res.Nodes = append(res.Nodes, a.nodeResult(n))
		res.Measured = append(res.Measured, n.measurements(a.work.Graph)...)
	}
	return res
}

// steal returns what came of a move. ok is false when the node that was to take the jobs over
// was given none of them.
func (a *accounts) steal(m sched.Move, nodes nodeRuns) (Steal, bool) {
	s := Steal{Why: m.Why.String(), From: nodes.name(m.From), To: nodes.name(m.To), Here: m.Here, There: m.There}
	var units []sched.UnitID
	for _, u := range m.Units {
		i := slices.IndexFunc(a.given[u], func(g given) bool { return g.node == m.To && g.at >= m.At })
		if i < 0 {
			continue
		}
		if at := a.given[u][i].at; len(units) == 0 || at < s.At {
			s.At = at
		}
		units = append(units, u)
	}
	s.Jobs = a.work.jobNames(units)
	return s, len(s.Jobs) > 0
}

// blame fails the targets of each step that failed for good, also those that were stopped
// before they met it. It skips targets that only read such a target.
func (a *accounts) blame() {
	for _, e := range a.errs {
		if e.Step == "" || a.recovered(e) {
			continue
		}
		failed := false
		for i := range a.results {
			if j := &a.results[i]; slices.Contains(e.Targets, j.Target) && j.State != Done {
				failed = true
				if j.State != Failed {
					j.State, j.Reason, j.Node, j.Err = Failed, e.Short(), e.Node, e
				}
			}
		}
		for i := range a.results {
			if j := &a.results[i]; failed && j.State == Failed && j.Err == error(e) && !slices.Contains(e.Targets, j.Target) {
				j.State, j.Reason, j.Node = Skipped, strings.Join(e.Targets, ", ")+" failed", ""
			}
		}
	}
}

// err returns why the run did not build everything, nil when it did.
func (a *accounts) err(finish sched.Finish, nodes nodeRuns) error {
	var errs []error
	for _, e := range a.errs {
		if len(e.Jobs) > 0 && !a.recovered(e) {
			errs = append(errs, e)
		}
	}
	for u, o := range finish.Outcomes[:len(a.work.Jobs)] {
		if o.State == sched.Unpublished {
			errs = append(errs, fmt.Errorf("%s is built but not published: %s", a.work.Jobs[u].Name, a.results[u].Reason))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, o := range finish.Outcomes[:len(a.work.Jobs)] {
		if o.State != sched.Built {
			lost := []error{ErrIncomplete}
			for _, n := range nodes {
				if n.err != nil {
					lost = append(lost, &daemon.NodeError{Node: n.info.Name, Addr: n.info.Addr, Op: "lost", Err: n.err})
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
func (a *accounts) recovered(e *StepError) bool {
	for i, j := range a.work.Jobs {
		if slices.Contains(e.Jobs, j.Name) && a.results[i].State != Done {
			return false
		}
	}
	return true
}

// nodeResult sums up the work of a node.
func (a *accounts) nodeResult(n *nodeRun) NodeResult {
	res := NodeResult{
		Name: n.info.Name, Lost: n.err,
		ContextBytes: n.sent.Bytes(), Transfers: n.sent.Walks(),
	}
	for _, name := range a.done[n] {
		for _, j := range a.work.Jobs {
			if j.Name == name {
				res.Targets = appendNew(res.Targets, j.Target.Name)
			}
		}
	}
	here := map[string]bool{} // unit ids
	for i, j := range a.work.Jobs {
		if a.results[i].Node != n.info.Name {
			continue
		}
		for _, u := range j.Units {
			here[string(u.ID)] = true
		}
	}
	var busy []execution
	base := map[digest.Digest]bool{} // inputs of the steps that ran
	for _, v := range a.work.Graph.Vertices {
		if !v.Kind.IsStep() {
			continue
		}
		s := n.tracker.status(v.Digest)
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
	for _, v := range a.work.Graph.Vertices {
		if v.Kind == llbmerge.KindImage && base[v.Digest] {
			res.Held = append(res.Held, v.Digest)
		}
	}
	res.Busy = union(busy)
	return res
}

// explain finds the step that is to blame for err, its place in a Dockerfile and its
// output.
func (a *accounts) explain(n *nodeRun, err error) failure {
	f := failure{vertex: sched.NoVertex}
	key := failureKey{node: n.info.Name, what: err.Error()}
	var ve *bkerrdefs.VertexError
	var blamed digest.Digest
	if errors.As(err, &ve) {
		blamed = digest.Digest(ve.Digest)
	} else {
		blamed, _ = n.tracker.culprit(err)
	}
	if v, ok := a.work.vertex[blamed]; ok {
		f.vertex = v
		key.what = string(blamed)
	}
	var log []string
	if f.vertex != sched.NoVertex {
		log = n.tracker.logTail(a.work.Graph.Vertices[f.vertex].Digest)
	}
	err = fault.Classify(err, log)
	var sick *fault.NodeSick
	var unavailable *fault.Unavailable
	if f.elsewhere = errors.As(err, &sick); f.elsewhere {
		n.fail(sick.Reason)
		f.sickness = sick.Reason
	}
	if f.vertex != sched.NoVertex && changedURL(a.work.Graph.Vertices[f.vertex], err) {
		// Another node may hold the content from when the build began.
		f.elsewhere, f.sickness = true, "a URL whose content has changed"
	}
	f.retryable = f.elsewhere || errors.As(err, &unavailable)
	if f.vertex != sched.NoVertex {
		n.flaw(f.vertex)
	}
	var failed *fault.StepFailed
	if f.vertex != sched.NoVertex && errors.As(err, &failed) {
		f.execution, f.way = max(1, n.tracker.failures(a.work.Graph.Vertices[f.vertex].Digest)), failed.Way
		a.trials.note(f.vertex, FailedExecution{Node: n.info.Name, Number: f.execution, ExitCode: failed.ExitCode})
		if a.retries() {
			key.number = f.execution
		}
	}
	if known := a.known[key]; known != nil {
		f.err = known
		return f
	}
	f.err = &StepError{Node: n.info.Name, Err: fault.Plain(err)}
	a.known[key] = f.err
	a.errs = append(a.errs, f.err)
	if f.vertex != sched.NoVertex {
		v := a.work.Graph.Vertices[f.vertex]
		f.err.Step = v.Step
		f.err.Log = log
		f.err.Source = a.work.source(v)
		f.err.Targets = a.work.stepTargets(f.vertex)
	}
	if f.execution > 0 && a.retries() {
		a.supersede(a.trials.replace(f.vertex, f.err), f.err)
	}
	return f
}

// retries reports whether steps that fail are executed again.
func (a *accounts) retries() bool { return a.work.Sched.Options.RetrySteps > 0 }

// supersede replaces an older failure of a step by its newest; old may be nil.
func (a *accounts) supersede(old, err *StepError) {
	if old == nil {
		return
	}
	a.errs = slices.DeleteFunc(a.errs, func(e *StepError) bool { return e == old })
	for k, e := range a.known {
		if e == old {
			a.known[k] = err
		}
	}
	for _, name := range old.Jobs {
		err.Jobs = appendNew(err.Jobs, name)
	}
	for i := range a.results {
		if a.results[i].Err == error(old) {
			a.results[i].Err = err
		}
	}
}

// unreadFailure returns the failure of a step that reads files which its node was not sent.
func (a *accounts) unreadFailure(n *nodeRun, v sched.VertexID, err *fault.InputError) failure {
	f := failure{vertex: v}
	step := a.work.Graph.Vertices[v]
	key := failureKey{node: n.info.Name, what: step.Digest.String()}
	if f.err = a.known[key]; f.err != nil {
		return f
	}
	f.err = &StepError{
		Node: n.info.Name, Step: step.Step, Source: a.work.source(step), Targets: a.work.stepTargets(v), Err: err,
	}
	a.known[key] = f.err
	a.errs = append(a.errs, f.err)
	return f
}

// writtenCaches returns the caches that targets asked for and that were written with their
// outputs.
func (a *accounts) writtenCaches(c *caches, nodes nodeRuns) []WrittenCache {
	var list []WrittenCache
	for i, j := range a.work.Jobs {
		n := nodes.byName(a.results[i].Node)
		if !a.isDone(i) || n == nil || len(j.Units) == 0 {
			continue
		}
		var ids []ir.UnitID
		for _, u := range j.Units {
			ids = append(ids, u.ID)
		}
		for _, e := range c.byUnit[ids[0]] {
			if e.Type == ir.TypeRegistry && e.Attrs["mode"] == "max" && e.Attrs["ref"] != "" && e.Attrs["ignore-error"] == "" {
				list = append(list, WrittenCache{Ref: e.Attrs["ref"], Steps: n.tracker.present(a.work.stepsOf(ids))})
			}
		}
	}
	return list
}

// warnUnwritten warns of the caches that could not be written although their targets succeeded.
// The errors of failed targets report their caches.
func (a *accounts) warnUnwritten(x unwritten, warn func(text string)) {
	for i, j := range a.work.Jobs {
		if !a.isDone(i) {
			continue
		}
		for _, fault := range x.of(j.Name) {
			warn(fmt.Sprintf("target %s: %s", j.Target.Name, fault))
		}
	}
}
