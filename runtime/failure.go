package runtime

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/sched"
)

// ErrIncomplete is the error of a run in which some job was not built although no step failed,
// as when every node was lost.
var ErrIncomplete = errors.New("not every target was built")

// StepError is the failure of a step, or of an export, on a node.
type StepError struct {
	// Jobs failed because of it, in the order in which they were found.
	Jobs []string
	// Targets are those that the step or the output belongs to. Jobs of other targets fail
	// because they read these.
	Targets []string
	Node    string
	// Step is the name of the step; "" when no step is to blame.
	Step string
	// Log holds the last lines that the step printed.
	Log []string
	// Source points at the step in its Dockerfile; nil when it has no place.
	Source *ir.SourceError
	// Trial describes the executions of the step when failed steps are executed again; else nil.
	Trial *FailedStep
	Err   error
}

// Error names the place and the failure, with the last lines of output.
func (e *StepError) Error() string {
	var b strings.Builder
	b.WriteString(e.Summary())
	if len(e.Log) > 0 {
		b.WriteString("\nlast output of the step:")
		for _, line := range e.Log {
			b.WriteString("\n  " + line)
		}
	}
	return b.String()
}

// Summary is the error in one line.
func (e *StepError) Summary() string {
	var b strings.Builder
	if e.Source != nil {
		fmt.Fprintf(&b, "%s:%d: ", e.Source.Range.Filename, e.Source.Range.Start.Line)
	}
	switch len(e.Targets) {
	case 0:
	case 1:
		fmt.Fprintf(&b, "target %s: ", e.Targets[0])
	default:
		fmt.Fprintf(&b, "targets %s: ", strings.Join(e.Targets, ", "))
	}
	if e.Step != "" {
		fmt.Fprintf(&b, "%s ", e.Step)
	}
	if here := (*fault.OutputError)(nil); errors.As(e.Err, &here) {
		fmt.Fprint(&b, e.Err) // no node is to blame
		return b.String()
	}
	if here := (*fault.InputError)(nil); errors.As(e.Err, &here) {
		fmt.Fprintf(&b, "failed: %v", e.Err) // nor here
		return b.String()
	}
	fmt.Fprintf(&b, "failed on node %s: %v", e.Node, e.Err)
	if e.Trial != nil && len(e.Trial.Failures) > 1 {
		var names []string
		for _, f := range e.Trial.Failures {
			names = append(names, f.Node)
		}
		fmt.Fprintf(&b, " (it was executed %d times and %s: %s)", len(names), map[bool]string{true: "is flaky", false: "fails everywhere"}[e.Trial.Verdict() == Flaky], strings.Join(names, ", "))
	}
	return b.String()
}

// Short names the step and its failure, for readers who know the rest.
func (e *StepError) Short() string {
	if e.Step == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%s: %v", e.Step, e.Err)
}

// Unwrap returns the source location and the cause.
func (e *StepError) Unwrap() []error {
	if e.Source == nil {
		return []error{e.Err}
	}
	return []error{e.Source, e.Err}
}

// failureKey is equal for two failures that are the same.
type failureKey struct {
	node string
	what string // the step's digest, or the error's text
	// number is that of the execution that failed, where steps are executed again.
	number int
}

// failure is an error with the facts that the scheduler needs.
type failure struct {
	err       *StepError
	vertex    sched.VertexID
	retryable bool
	elsewhere bool // only another node may succeed
	sickness  string
	// execution is the number of the failed execution, from 1, among those of the step that
	// failed on the node. It is 0 when no step ran and failed by itself. way is how it failed.
	execution int
	way       string
}

// blames reports whether a unit fails because of f: when a step failed, those that
// need it.
func (f failure) blames(w *work, u sched.UnitID) bool {
	return f.vertex == sched.NoVertex || w.needs(u, f.vertex)
}

// changedURL reports whether v is an HTTP source and err says that its content has changed
// since it was fetched first.
func changedURL(v *llbmerge.Vertex, err error) bool {
	src := v.Op.GetSource()
	return src != nil && strings.HasPrefix(src.Identifier, "http") && fault.DigestMismatch(err)
}

// needs reports whether a job needs a vertex.
func needs(j plan.Job, v *llbmerge.Vertex) bool {
	return slices.ContainsFunc(j.Units, func(u *frontend.Unit) bool { return slices.Contains(v.Users, string(u.ID)) })
}
