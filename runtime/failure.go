package runtime

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/sched"
)

// ErrIncomplete is the error of a run in which no step failed and still some job
// was not built, as when every node was lost.
var ErrIncomplete = errors.New("not every target was built")

// StepError is the failure of a step, or of an export, on a node.
type StepError struct {
	// Jobs failed because of it, in the order in which they were found.
	Jobs []string
	// Targets are those whose step or output it is. Jobs of other targets read
	// theirs.
	Targets []string
	Node    string
	// Step is the name of the step; "" when no step is to blame.
	Step string
	// Log holds the last lines that the step printed.
	Log []string
	// Source points at the step in its Dockerfile; nil when it has no place.
	Source *ir.SourceError
	Err    error
}

// Error tells where what failed, with the last lines of its output.
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
	if here := (*OutputError)(nil); errors.As(e.Err, &here) {
		fmt.Fprint(&b, e.Err) // no node is to blame
		return b.String()
	}
	if here := (*InputError)(nil); errors.As(e.Err, &here) {
		fmt.Fprintf(&b, "failed: %v", e.Err) // nor here
		return b.String()
	}
	fmt.Fprintf(&b, "failed on node %s: %v", e.Node, e.Err)
	return b.String()
}

// Short tells what failed and how, for where the rest is plain.
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

// failureKey is what makes two failures the same.
type failureKey struct {
	node string
	what string // the step's digest, or the error's text
}

// failure is an error with what the scheduler has to know of it.
type failure struct {
	err       *StepError
	vertex    sched.VertexID
	retryable bool
	elsewhere bool // only another node may succeed
	sickness  string
}

// blames reports whether a unit fails because of f: when a step failed, those that
// need it.
func (f failure) blames(r *run, u sched.UnitID) bool {
	if f.vertex == sched.NoVertex {
		return true
	}
	if step, ok := r.step(u); ok {
		v, _ := r.stepVertex(step)
		return r.Graph.Needs(v.Digest, r.Graph.Vertices[f.vertex].Digest)
	}
	users := r.Graph.Vertices[f.vertex].Users
	for _, unit := range r.Jobs[u].Units {
		if slices.Contains(users, string(unit.ID)) {
			return true
		}
	}
	return false
}

// explain finds the step that is to blame for err, its place in a Dockerfile and
// what it printed.
func (r *run) explain(p *partitionRun, err error) failure {
	f := failure{vertex: sched.NoVertex}
	key := failureKey{node: p.node.info.Name, what: err.Error()}
	var ve *bkerrdefs.VertexError
	if errors.As(err, &ve) {
		if v, ok := r.vertex[digest.Digest(ve.Digest)]; ok {
			f.vertex = v
			key.what = ve.Digest
		}
	}
	var log []string
	if f.vertex != sched.NoVertex {
		log = p.node.tracker.logTail(r.Graph.Vertices[f.vertex].Digest)
	}
	err = classify(err, log)
	var sick *NodeSick
	var unavailable *Unavailable
	if f.elsewhere = errors.As(err, &sick); f.elsewhere {
		p.node.sick++
		p.node.sickness = sick.Reason
		f.sickness = sick.Reason
	}
	if f.vertex != sched.NoVertex && changedURL(r.Graph.Vertices[f.vertex], err) {
		// Another node has what it was when the build began.
		f.elsewhere, f.sickness = true, "a URL that holds something else by now"
	}
	f.retryable = f.elsewhere || errors.As(err, &unavailable)
	if known := r.failures[key]; known != nil {
		f.err = known
		return f
	}
	f.err = &StepError{Node: p.node.info.Name, Err: plain(err)}
	r.failures[key] = f.err
	r.errs = append(r.errs, f.err)
	if f.vertex != sched.NoVertex {
		v := r.Graph.Vertices[f.vertex]
		f.err.Step = v.Step
		f.err.Log = log
		f.err.Source = r.source(v)
		f.err.Targets = r.stepTargets(f.vertex)
	}
	return f
}

// changedURL reports whether v is an HTTP source and err says that it holds something
// else than when it was fetched first.
func changedURL(v *llbmerge.Vertex, err error) bool {
	src := v.Op.GetSource()
	return src != nil && strings.HasPrefix(src.Identifier, "http") && strings.Contains(err.Error(), "digest mismatch")
}

// wrapping is what says only that a solve failed.
var wrapping = regexp.MustCompile(`failed to run Build function: |failed to solve: |rpc error: code = \w+ desc = `)

// plain returns err as a person would say it: without the layers that say only that
// a solve failed.
func plain(err error) error {
	text := err.Error()
	if short := wrapping.ReplaceAllString(text, ""); short != text {
		return &plainError{text: short, err: err}
	}
	return err
}

type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }

// jobsWith returns the jobs that need a vertex.
func (r *run) jobsWith(v *llbmerge.Vertex) []int {
	var jobs []int
	for i, j := range r.Jobs {
		if needs(j, v) {
			jobs = append(jobs, i)
		}
	}
	return jobs
}

// needs reports whether a job needs a vertex.
func needs(j plan.Job, v *llbmerge.Vertex) bool {
	return slices.ContainsFunc(j.Units, func(u *frontend.Unit) bool { return slices.Contains(v.Users, string(u.ID)) })
}

// source returns the place of a step in the Dockerfile of the first unit whose step
// it is; nil when it has no place.
func (r *run) source(v *llbmerge.Vertex) *ir.SourceError {
	for _, j := range r.owners(v) {
		for _, u := range r.Jobs[j].Units {
			for _, l := range v.Locations {
				if l.Unit != string(u.ID) || l.File == nil || len(l.Ranges) == 0 {
					continue
				}
				file := l.File.CloneVT()
				if u.Dockerfile != "" {
					file.Filename = u.Dockerfile
				}
				var excerpt strings.Builder
				if err := (&bkerrdefs.Source{Info: file, Ranges: l.Ranges}).Print(&excerpt); err != nil {
					continue
				}
				first, last := l.Ranges[0].GetStart(), l.Ranges[len(l.Ranges)-1].GetEnd()
				return &ir.SourceError{
					Range: ir.Range{
						Filename: file.Filename,
						Start:    ir.Pos{Line: int(first.GetLine()), Column: int(first.GetCharacter()) + 1},
						End:      ir.Pos{Line: int(last.GetLine()), Column: int(last.GetCharacter()) + 1},
					},
					Summary: v.Step, Excerpt: excerpt.String(),
				}
			}
		}
	}
	return nil
}
