package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	bkclient "github.com/moby/buildkit/client"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/stopwatch"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/output"
)

// rawJSON is the progress for programs: one JSON object a line. Status of steps is
// BuildKit's SolveStatus with the node and the targets added, as docker buildx prints
// it; everything else is an [event], which a reader of SolveStatus takes for an empty
// one.
type rawJSON struct {
	*outlet
	statuses *statuses
}

func newRawJSON(w io.Writer) *rawJSON {
	return &rawJSON{outlet: newOutlet(w), statuses: newStatuses(false)}
}

// subject is in every object: the node and the targets that it is about, "" and [] when
// it is about the command as a whole.
type subject struct {
	Node    string   `json:"node"`
	Targets []string `json:"targets"`
}

func subjectOf(node string, targets []string) subject {
	if targets == nil {
		targets = []string{}
	}
	return subject{node, targets}
}

// The parts of a status, each with its subject.
type (
	rawVertex struct {
		*bkclient.Vertex
		subject
	}
	rawStatus struct {
		*bkclient.VertexStatus
		subject
	}
	rawLog struct {
		*bkclient.VertexLog
		subject
	}
	rawWarning struct {
		*bkclient.VertexWarning
		subject
	}
)

// status is a SolveStatus whose parts are of one subject.
type status struct {
	subject
	Vertexes []rawVertex  `json:"vertexes,omitempty"`
	Statuses []rawStatus  `json:"statuses,omitempty"`
	Logs     []rawLog     `json:"logs,omitempty"`
	Warnings []rawWarning `json:"warnings,omitempty"`
}

// event is anything but the status of steps.
type event struct {
	subject
	// Event is "note", "warning", "error", "target", "moved", "retry", "sent", "waits",
	// "node-lost", "node-silent", "node-back", "summary" or "timings".
	Event   string `json:"event"`
	Message string `json:"message,omitempty"`
	// Source is the place that an error is about.
	Source *place `json:"source,omitempty"`
	// Log holds the last lines of the step that failed.
	Log []string `json:"log,omitempty"`
	// From is the node that had the job or result, To are the nodes that get it.
	From string   `json:"from,omitempty"`
	To   []string `json:"to,omitempty"`
	// State is the state of a target: "submitted", "built", "exported", "failed" or
	// "skipped".
	State   string     `json:"state,omitempty"`
	Images  []rawImage `json:"images,omitempty"`
	Files   []string   `json:"files,omitempty"` // as of a target in the summary
	Summary *rawTotals `json:"summary,omitempty"`
	Timings []rawPhase `json:"timings,omitempty"`
}

// rawPhase is a part of the command's time, in seconds.
type rawPhase struct {
	Phase   string  `json:"phase"`
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpuSeconds"`
}

// place is a place in a file; lines and columns count from 1.
type place struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

type rawImage struct {
	Name   string `json:"name,omitempty"`
	Digest string `json:"digest"`
	Pushed bool   `json:"pushed"`
	// Place is "registry", "engine", into which it was loaded, "file" or "node".
	Place output.Place `json:"place"`
}

// rawTotals is the summary of a run. Times are in seconds; those that were predicted
// are left out when nothing was.
type rawTotals struct {
	Targets   []rawTarget `json:"targets"`
	Nodes     []rawNode   `json:"nodes"`
	Built     int         `json:"built"`
	Unchanged int         `json:"unchanged,omitempty"`
	Pushed    int         `json:"pushed"`
	Seconds   float64     `json:"seconds"`
	Predicted float64     `json:"predictedSeconds,omitempty"`
	Bound     float64     `json:"predictedBoundSeconds,omitempty"`
	// Moves are the jobs that moved to another node than planned, in order of time.
	Moves []rawMove `json:"moves,omitempty"`
	// FailedSteps are the steps that failed, whether or not they succeeded after that.
	FailedSteps []rawFailedStep `json:"failedSteps,omitempty"`
	// Logs is the directory of the logs of the targets.
	Logs string `json:"logs,omitempty"`
}

type rawTarget struct {
	Name   string     `json:"name"`
	Nodes  []string   `json:"nodes"`
	State  string     `json:"state"`
	Reason string     `json:"reason,omitempty"`
	Images []rawImage `json:"images,omitempty"`
	// Files are the files and directories that outputs wrote and that hold no image.
	Files []string `json:"files,omitempty"`
	Log   string   `json:"log,omitempty"` // the file
}

// rawFailedStep is a step that failed.
type rawFailedStep struct {
	Step    string   `json:"step"`
	Targets []string `json:"targets"`
	// Verdict is "flaky", "fails-everywhere" or "failed".
	Verdict  string       `json:"verdict"`
	Failures []rawFailure `json:"failures"`
	PassedOn string       `json:"passedOn,omitempty"` // the node on which it succeeded
	// PastFailures and PastExecutions count those before this build on the same inputs.
	PastFailures   int `json:"pastFailures,omitempty"`
	PastExecutions int `json:"pastExecutions,omitempty"`
}

// rawFailure is an execution that failed.
type rawFailure struct {
	Node     string `json:"node"`
	ExitCode string `json:"exitCode"`
}

// rawMove is a move at a time since the start of the run, in seconds.
type rawMove struct {
	At   float64  `json:"atSeconds"`
	Jobs []string `json:"jobs"`
	From string   `json:"from"`
	To   string   `json:"to"`
	Why  string   `json:"why"`
}

type rawNode struct {
	Name         string  `json:"name"`
	Targets      int     `json:"targets"`
	Run          int     `json:"stepsRun"`
	Cached       int     `json:"stepsCached"`
	Shared       int     `json:"stepsShared"`
	Busy         float64 `json:"busySeconds"`
	ContextBytes int64   `json:"contextBytes"`
	Lost         string  `json:"lost,omitempty"`
}

// print writes one object in one write, so that lines of several goroutines stay whole.
func (j *rawJSON) print(v any) {
	line, err := json.Marshal(v)
	if err != nil {
		line, _ = json.Marshal(event{subject: subjectOf("", nil), Event: "error", Message: err.Error()}) // strings always encode
	}
	// Only a string can hold text that a CI service takes for a command.
	line = bytes.ReplaceAll(line, []byte("##"), []byte(`#\u0023`))
	_, _ = j.Write(append(line, '\n')) // nothing can be done about a stream that takes no text
}

// Note implements Progress.
func (j *rawJSON) Note(text string) {
	j.print(event{subject: subjectOf("", nil), Event: "note", Message: text})
}

// Warn implements Progress.
func (j *rawJSON) Warn(text string) {
	j.print(event{subject: subjectOf("", nil), Event: "warning", Message: text})
}

// Prompt implements Progress.
func (j *rawJSON) Prompt(string) bool { return false }

// Begin implements Progress.
func (j *rawJSON) Begin(_ *plan.Build, _ *plan.Plan, named bool) error {
	j.statuses = newStatuses(named)
	return nil
}

// End implements Progress.
func (j *rawJSON) End() {}

// Observe implements Progress.
func (j *rawJSON) Observe(e runtime.Event) {
	switch e := e.(type) {
	case runtime.StatusEvent:
		for _, st := range j.split(e) {
			j.print(st)
		}
	case runtime.JobEvent:
		ev := event{subject: subjectOf(e.Node, []string{e.Target}), Event: "target", State: e.Stage}
		if e.Result != nil {
			ev.Images, ev.Files = rawImages(e.Result.Images), e.Result.Files
		}
		j.print(ev)
	case runtime.MoveEvent:
		j.print(event{subject: subjectOf(e.Node, e.Targets), Event: "moved", Message: e.Why, From: e.From})
	case runtime.RetryEvent:
		j.print(event{subject: subjectOf(e.Node, e.Targets), Event: "retry", Message: retryLine(e)})
	case runtime.SendEvent:
		ev := event{subject: subjectOf(e.Node, e.Targets), Event: "sent", Message: e.Step, To: e.To}
		if e.Err != nil {
			ev.Event, ev.Message = "warning", sendLine(e)
		}
		j.print(ev)
	case runtime.WaitEvent:
		j.print(event{subject: subjectOf(e.Node, nil), Event: "waits", Message: e.Text})
	case runtime.NodeEvent:
		kind, _ := nodeLine(e)
		ev := event{subject: subjectOf(e.Node, nil), Event: kind}
		switch {
		case e.Err != nil:
			ev.Message = e.Err.Error()
		case e.Silent > 0:
			_, ev.Message = nodeLine(e)
		}
		j.print(ev)
	}
}

// split returns the parts of a status by their targets, in the order of the first
// part of each.
func (j *rawJSON) split(e runtime.StatusEvent) []*status {
	var list []*status
	byName := map[string]*status{}
	at := func(vertex digest.Digest) *status {
		targets := e.Targets[vertex]
		key, _ := json.Marshal(targets) // strings always encode
		st := byName[string(key)]
		if st == nil {
			st = &status{subject: subjectOf(e.Node, targets)}
			byName[string(key)] = st
			list = append(list, st)
		}
		return st
	}
	for _, v := range e.Status.Vertexes {
		st, c := at(v.Digest), *v
		c.Digest, c.Name = j.statuses.id(e.Node, v.Digest), lineName("", e.Targets[v.Digest], v.Name)
		c.Inputs = make([]digest.Digest, len(v.Inputs))
		for i, in := range v.Inputs {
			c.Inputs[i] = j.statuses.id(e.Node, in)
		}
		st.Vertexes = append(st.Vertexes, rawVertex{&c, st.subject})
	}
	for _, s := range e.Status.Statuses {
		st, c := at(s.Vertex), *s
		c.Vertex = j.statuses.id(e.Node, s.Vertex)
		st.Statuses = append(st.Statuses, rawStatus{&c, st.subject})
	}
	for _, l := range e.Status.Logs {
		st, c := at(l.Vertex), *l
		c.Vertex = j.statuses.id(e.Node, l.Vertex)
		st.Logs = append(st.Logs, rawLog{&c, st.subject})
	}
	for _, w := range e.Status.Warnings {
		st, c := at(w.Vertex), *w
		c.Vertex = j.statuses.id(e.Node, w.Vertex)
		st.Warnings = append(st.Warnings, rawWarning{&c, st.subject})
	}
	return list
}

// Remarks implements Progress.
func (j *rawJSON) Remarks(list []plan.Remark, debug bool) {
	for _, w := range list {
		vw := &bkclient.VertexWarning{Level: w.Level, Short: []byte(w.Message), URL: w.URL}
		if w.Detail != "" {
			vw.Detail = [][]byte{[]byte(w.Detail)}
		}
		if w.Range.Filename != "" {
			vw.SourceInfo = &pb.SourceInfo{Filename: w.Range.Filename}
			vw.Range = []*pb.Range{{
				Start: &pb.Position{Line: int32(w.Range.Start.Line)},
				End:   &pb.Position{Line: int32(max(w.Range.End.Line, w.Range.Start.Line))},
			}}
		}
		o := subjectOf("", w.Targets)
		j.print(status{subject: o, Warnings: []rawWarning{{vw, o}}})
	}
}

// Summary implements Progress.
func (j *rawJSON) Summary(r *runtime.Result, run Run) {
	t := newTotals(r, run)
	var names []string
	for _, target := range t.Targets {
		names = append(names, target.Name)
	}
	j.print(event{subject: subjectOf("", names), Event: "summary", Summary: t})
}

// newTotals sums a run up.
func newTotals(r *runtime.Result, run Run) *rawTotals {
	t := &rawTotals{
		Seconds: r.Wall.Seconds(), Predicted: run.Makespan.Seconds(), Bound: run.Bound.Seconds(), Logs: run.Logs,
		Targets: []rawTarget{}, Nodes: []rawNode{},
	}
	for _, target := range r.Targets() {
		switch target.State {
		case runtime.Done:
			t.Built++
			t.Pushed += countIn(output.InRegistry, target.Images)
		case runtime.Unchanged:
			t.Unchanged++
		}
		nodes := target.Nodes
		if nodes == nil {
			nodes = []string{}
		}
		t.Targets = append(t.Targets, rawTarget{
			Name: target.Name, Nodes: nodes, State: string(target.State), Reason: target.Reason,
			Images: rawImages(target.Images), Files: target.Files, Log: run.log(target.Name),
		})
	}
	for _, n := range r.Nodes {
		rn := rawNode{Name: n.Name, Targets: len(n.Targets), Run: n.Ran, Cached: n.Cached, Shared: n.Shared, Busy: n.Busy.Seconds(), ContextBytes: n.ContextBytes}
		if n.Lost != nil {
			rn.Lost = n.Lost.Error()
		}
		t.Nodes = append(t.Nodes, rn)
	}
	for _, s := range r.FailedSteps {
		raw := rawFailedStep{
			Step: s.Step, Targets: s.Targets, Verdict: strings.ReplaceAll(string(s.Verdict()), " ", "-"), Failures: []rawFailure{}, PassedOn: s.Passed,
			PastFailures: s.Past.Failed, PastExecutions: s.Past.All,
		}
		for _, f := range s.Failures {
			raw.Failures = append(raw.Failures, rawFailure{f.Node, f.ExitCode})
		}
		t.FailedSteps = append(t.FailedSteps, raw)
	}
	for _, s := range r.Steals {
		t.Moves = append(t.Moves, rawMove{At: s.At.Seconds(), Jobs: s.Jobs, From: s.From, To: s.To, Why: s.Why})
	}
	return t
}

// Timings implements Progress.
func (j *rawJSON) Timings(list []stopwatch.Phase) {
	e := event{subject: subjectOf("", nil), Event: "timings"}
	for _, p := range list {
		e.Timings = append(e.Timings, rawPhase{p.Name, p.Wall.Seconds(), p.CPU.Seconds()})
	}
	j.print(e)
}

// Error implements Progress.
func (j *rawJSON) Error(err error, debug bool) {
	for _, p := range rawErrors(err) {
		j.print(event{subject: p.subject, Event: "error", Message: p.Message, Source: p.Source, Log: p.Log})
	}
}

// rawError is one problem of an error.
type rawError struct {
	subject
	Message string   `json:"message"`
	Source  *place   `json:"source,omitempty"`
	Log     []string `json:"log,omitempty"`
}

// rawErrors are the problems of an error.
func rawErrors(err error) []rawError {
	var list []rawError
	for _, p := range split(err) {
		e := rawError{subject: subjectOf("", nil), Message: p.Error(), Source: placeOf(p)}
		var step *runtime.StepError
		var node *daemon.NodeError
		switch {
		case errors.As(p, &step):
			e.subject, e.Log = subjectOf(step.Node, step.Targets), step.Log
		case errors.As(p, &node):
			e.subject = subjectOf(node.Node, nil)
		}
		list = append(list, e)
	}
	return list
}

// placeOf returns the place that err points at, nil when there is none.
func placeOf(err error) *place {
	var source *ir.SourceError
	if errors.As(err, &source) && source.Range.Filename != "" {
		return &place{source.Range.Filename, source.Range.Start.Line, source.Range.Start.Column}
	}
	for _, s := range bkerrdefs.Sources(err) {
		if s.Info != nil && len(s.Ranges) > 0 {
			return &place{s.Info.Filename, int(s.Ranges[0].GetStart().GetLine()), int(s.Ranges[0].GetStart().GetCharacter()) + 1}
		}
	}
	return nil
}

func rawImages(list []output.Image) []rawImage {
	var out []rawImage
	for _, img := range list {
		out = append(out, rawImage{img.Name, img.Digest, img.Place == output.InRegistry, img.Place})
	}
	return out
}
