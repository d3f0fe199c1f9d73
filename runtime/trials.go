package runtime

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/runtime/sched"
)

// Trials are executions of a step in earlier runs, on the inputs that it has now.
type Trials struct {
	Failed, All int
}

// Flaky reports whether some failed and others did not.
func (t Trials) Flaky() bool { return t.Failed > 0 && t.Failed < t.All }

// FailedStep is a step that ran and failed, whatever became of it after that.
type FailedStep struct {
	Vertex  digest.Digest
	Step    string
	Targets []string // whose step it is
	// Failures are the executions that failed, in the order of the reports.
	Failures []FailedExecution
	// Passed is the node on which it succeeded in the same run; "" when it did not.
	Passed string
	Past   Trials
}

// FailedExecution is one execution of a step that failed.
type FailedExecution struct {
	Node     string
	Number   int    // among the failures of the step on the node, from 1
	ExitCode string // as BuildKit writes it
}

// Verdict says what is known of a step that failed.
type Verdict string

// The verdicts on a step.
const (
	// Flaky is a step that failed and that also succeeded with the same inputs.
	Flaky Verdict = "flaky"
	// Everywhere is a step that failed each of several times.
	Everywhere Verdict = "fails everywhere"
	// Once is a step that failed, and was not executed again.
	Once Verdict = "failed"
)

// Verdict returns what is known of the step.
func (s *FailedStep) Verdict() Verdict {
	switch {
	case s.Passed != "" || s.Past.Flaky():
		return Flaky
	case len(s.Failures) > 1:
		return Everywhere
	}
	return Once
}

// String says where it failed, and where it succeeded.
func (s *FailedStep) String() string {
	var places []string
	for _, f := range s.Failures {
		place := fmt.Sprintf("%s (exit code %s)", f.Node, f.ExitCode)
		places = append(places, place)
	}
	text := "failed on " + strings.Join(places, ", ")
	if s.Passed != "" {
		text += ", then succeeded on " + s.Passed
	}
	if s.Past.Failed > 0 {
		text += fmt.Sprintf("; before this build it failed %d of %d times with the same inputs", s.Past.Failed, s.Past.All)
	}
	return text
}

// trials are the steps of a run that ran and failed. They belong to the loop.
type trials struct {
	work  *work
	steps map[sched.VertexID]*FailedStep
	errs  map[sched.VertexID]*StepError // the newest failure of each
}

func newTrials(w *work) *trials {
	return &trials{work: w, steps: map[sched.VertexID]*FailedStep{}, errs: map[sched.VertexID]*StepError{}}
}

// note notes an execution that failed. It may be known.
func (t *trials) note(v sched.VertexID, f FailedExecution) {
	s := t.steps[v]
	if s == nil {
		vertex := t.work.Graph.Vertices[v]
		s = &FailedStep{Vertex: vertex.Digest, Step: vertex.Step, Targets: t.work.stepTargets(v)}
		if int(v) < len(t.work.Past) {
			s.Past = t.work.Past[v]
		}
		t.steps[v] = s
	}
	if !slices.ContainsFunc(s.Failures, func(g FailedExecution) bool { return g.Node == f.Node && g.Number == f.Number }) {
		s.Failures = append(s.Failures, f)
	}
}

// replace has err stand for a step from now on. It returns the failure that did until now, nil
// for none.
func (t *trials) replace(v sched.VertexID, err *StepError) (old *StepError) {
	old = t.errs[v]
	t.errs[v], err.Trial = err, t.steps[v]
	return old
}

// result returns the steps that failed, with the nodes on which they succeeded.
func (t *trials) result(nodes nodeRuns) []*FailedStep {
	var list []*FailedStep
	for v, s := range t.steps {
		d := t.work.Graph.Vertices[v].Digest
		for _, n := range nodes {
			if st := n.tracker.status(d); s.Passed == "" && len(st.runs) > 0 {
				s.Passed = n.info.Name
			}
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *FailedStep) int { return cmp.Compare(t.work.vertex[a.Vertex], t.work.vertex[b.Vertex]) })
	return list
}

// noteTrial reports that a step is executed again, if ev has led to that, and notes what has
// failed with it otherwise, if no job has reported that.
func (r *run) noteTrial(ev sched.Event) {
	e, ok := ev.(sched.UnitFailed)
	if !ok || e.Execution == 0 {
		return
	}
	failures, over := r.sched.Trial(e.Vertex)
	if over && r.work.onDemand(e.Unit) {
		r.accounts.failOpen(e.Vertex)
	}
	if failures > 0 && !over {
		r.reporter.retry(e.Vertex, r.accounts.trials.steps[e.Vertex], failures)
	}
}
