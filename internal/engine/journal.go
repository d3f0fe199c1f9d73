package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/memory"
	"github.com/dbake/dbake/internal/memory/runs"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime"
)

// journal records the steps of a run from its events.
type journal struct {
	started time.Time
	build   *plan.Build
	steps   map[journalKey]*journalStep
	tasks   map[taskKey]*journalStep
	moves   []runtime.MoveEvent
}

// taskKey identifies a task of a node besides the steps of the graph.
type taskKey struct {
	node   string
	vertex digest.Digest
}

// journalKey is a vertex of the graph on a node.
type journalKey struct {
	node   string
	vertex int
}

type journalStep struct {
	start, end time.Time // by the clock of the node
	cached     bool
	err        string
	targets    []string
	name       string // of a task
	kind       runs.TaskKind
}

func newJournal(b *plan.Build, now time.Time) *journal {
	return &journal{started: now, build: b, steps: map[journalKey]*journalStep{}, tasks: map[taskKey]*journalStep{}}
}

// observe takes an event. A node may report a step several times. Then executions count, and of
// these the last.
func (j *journal) observe(e runtime.Event) {
	if move, ok := e.(runtime.MoveEvent); ok {
		j.moves = append(j.moves, move)
	}
	status, ok := e.(runtime.StatusEvent)
	if !ok {
		return
	}
	for _, v := range status.Status.Vertexes {
		if v.Started == nil {
			continue
		}
		i, known := status.Steps[v.Digest]
		if known && j.build.Graph.Vertices[i].Kind.IsStep() {
			key := journalKey{status.Node, i}
			if j.steps[key] == nil {
				j.steps[key] = &journalStep{cached: true}
			}
			j.steps[key].take(v, status.Targets[v.Digest])
			continue
		}
		kind := taskKind(v.Name)
		if known {
			kind = runs.Pull
			if j.build.Graph.Vertices[i].Local != nil {
				kind = runs.Send
			}
		}
		if kind == "" {
			continue
		}
		key := taskKey{status.Node, v.Digest}
		if j.tasks[key] == nil {
			j.tasks[key] = &journalStep{cached: true, name: v.Name, kind: kind}
		}
		j.tasks[key].take(v, status.Targets[v.Digest])
	}
}

// take records a node's report of a step or task. What has begun may turn out to be
// cached, so only an execution that has ended stands against such a report.
func (s *journalStep) take(v *bkclient.Vertex, targets []string) {
	ran := !s.cached && !s.end.IsZero()
	if ran && (v.Cached || v.Completed == nil) {
		return
	}
	s.start, s.end, s.cached, s.targets = *v.Started, time.Time{}, v.Cached, targets
	if v.Completed != nil {
		s.end = *v.Completed
	}
	s.err, _, _ = strings.Cut(v.Error, "\n")
}

// taskKind is the kind of a vertex that is not in the graph, by the names that BuildKit
// gives to exports and caches; "" is any other.
func taskKind(name string) runs.TaskKind {
	switch {
	case strings.HasPrefix(name, "exporting "):
		return runs.Export
	case strings.HasPrefix(name, "importing cache "):
		return runs.Fetch
	}
	return ""
}

// run assembles the record of the run.
func (j *journal) run(ctx context.Context, project string, x *execution, full *plan.Build) *runs.Run {
	r := &runs.Run{
		ID: runs.NewID(j.started), Project: project, Started: j.started.UTC(), Wall: x.result.Wall.Seconds(),
		Outcome: runs.Done, Nodes: []runs.Node{}, Targets: []runs.Target{}, Steps: []runs.Step{},
	}
	if x.plan != nil {
		r.Predicted, r.Bound = x.plan.Makespan.Seconds(), x.plan.Bound.Seconds()
	}
	switch {
	case ctx.Err() != nil:
		r.Outcome = runs.Interrupted
	case x.failure != nil:
		r.Outcome = runs.Failed
	}
	states := nodeStates(x)
	for _, n := range x.result.Nodes {
		node := runs.Node{Name: n.Name, Ran: n.Ran, Cached: n.Cached, Busy: n.Busy.Seconds(), State: states[n.Name]}
		if n.Lost != nil {
			node.Lost = redact.Text(n.Lost.Error())
		}
		r.Nodes = append(r.Nodes, node)
	}
	for _, t := range x.result.Targets() {
		r.Targets = append(r.Targets, runs.Target{Name: t.Name, State: string(t.State), Reason: redact.Text(t.Reason), Nodes: t.Nodes})
	}
	first := j.first()
	if !first.IsZero() {
		r.Lead = max(first.Sub(j.started).Seconds(), 0)
	}
	places := j.recipes(full, x.engine.memory, r)
	r.Steps, r.Tasks = j.list(first, places), j.listTasks(first)
	names := plan.StepNames(j.build)
	for _, s := range x.result.FailedSteps {
		i := slices.IndexFunc(j.build.Graph.Vertices, func(v *llbmerge.Vertex) bool { return v.Digest == s.Vertex })
		failed := runs.FailedStep{Name: names[i], Targets: s.Targets, Verdict: string(s.Verdict()), Passed: s.Passed}
		for _, f := range s.Failures {
			failed.Failures = append(failed.Failures, runs.Failure{Node: f.Node, ExitCode: f.ExitCode})
		}
		r.FailedSteps = append(r.FailedSteps, failed)
	}
	for _, m := range j.moves {
		r.Moves = append(r.Moves, runs.Move{At: max(m.At.Seconds()-r.Lead, 0), Targets: m.Targets, Node: m.Node, From: m.From, Why: m.Why})
	}
	return r
}

// rememberSpans keeps the spans that nodes report of a traced run. Steps have the names there
// that they have in the journal.
func rememberSpans(ctx context.Context, x *execution, store runs.Store, id string) error {
	told, err := x.pool.Spans(ctx, x.work.Tracing)
	var pairs []string
	for i, name := range plan.StepNames(x.build) {
		if step := x.build.Graph.Vertices[i].Step; step != name {
			pairs = append(pairs, step, name)
		}
	}
	plain := strings.NewReplacer(pairs...)
	hide := func(text string) string { return redact.Text(plain.Replace(text)) }
	list := make([]runs.Span, len(told))
	for i, s := range told {
		list[i] = runs.Span{Node: s.Node, ID: s.ID, Parent: s.Parent, Name: hide(s.Name), Start: s.Start, End: s.End, Error: hide(s.Error)}
		for name, value := range s.Attributes {
			if list[i].Attributes == nil {
				list[i].Attributes = map[string]string{}
			}
			list[i].Attributes[name] = hide(value)
		}
	}
	return errors.Join(err, store.AddSpans(id, list))
}

// nodeStates names the states of the nodes of a run, by node.
func nodeStates(x *execution) map[string]string {
	states := map[string]string{}
	if x.pool == nil {
		return states
	}
	infos := x.pool.All()
	for i, n := range x.result.Nodes {
		if i < len(infos) {
			states[n.Name] = infos[i].ID
		}
	}
	return states
}

// recipes adds to a run the recipes of the steps of all targets; full is the build of them.
// It returns the places of the recipes, from 1, by the vertices of the build that ran.
func (j *journal) recipes(full *plan.Build, memory *memory.Memory, r *runs.Run) map[int]int {
	hasher, err := memory.Runs().Hasher()
	if err != nil {
		memory.Forgets(err)
		return nil
	}
	recipes, files, places, err := plan.Recipes(full, hasher)
	if err != nil {
		memory.Forgets(err)
		return nil
	}
	r.Recipes, r.Files, r.Key = recipes, files, hasher.ID()
	byDigest := map[digest.Digest]int{}
	for i, v := range full.Graph.Vertices {
		byDigest[v.Digest] = places[i] + 1
	}
	byResult := map[warm.ResultID]int{}
	for i := range full.Graph.Vertices {
		byResult[full.Names.Result(i)] = places[i] + 1
	}
	list := map[int]int{}
	for i, v := range j.build.Graph.Vertices {
		// Digests change with what else is built, names of results do not.
		if list[i] = byDigest[v.Digest]; list[i] == 0 {
			list[i] = byResult[j.build.Names.Result(i)]
		}
	}
	return list
}

// first returns when the first step began that ran; zero when none did.
func (j *journal) first() (first time.Time) {
	for _, s := range j.steps {
		if !s.cached && (first.IsZero() || s.start.Before(first)) {
			first = s.start
		}
	}
	return first
}

// times returns the start of s since first and its length, in seconds.
func (s *journalStep) times(first time.Time) (start, took float64) {
	if !first.IsZero() {
		start = max(s.start.Sub(first).Seconds(), 0)
	}
	if !s.end.IsZero() {
		took = max(s.end.Sub(s.start).Seconds(), 0)
	}
	return start, took
}

// listTasks returns the tasks that took time, in order of time.
func (j *journal) listTasks(first time.Time) []runs.Task {
	var list []runs.Task
	for k, s := range j.tasks {
		start, took := s.times(first)
		if s.cached || took == 0 {
			continue
		}
		list = append(list, runs.Task{Kind: s.kind, Name: redact.Text(s.name), Targets: s.targets, Node: k.node, Start: start, Took: took, Error: redact.Text(s.err)})
	}
	slices.SortFunc(list, func(x, y runs.Task) int {
		return cmp.Or(cmp.Compare(x.Start, y.Start), strings.Compare(x.Node, y.Node), strings.Compare(x.Name, y.Name))
	})
	return list
}

// list returns the steps in order of time. recipes are the places of their recipes.
func (j *journal) list(first time.Time, recipes map[int]int) []runs.Step {
	keys := make([]journalKey, 0, len(j.steps))
	for k := range j.steps {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y journalKey) int {
		if c := j.steps[x].start.Compare(j.steps[y].start); c != 0 {
			return c
		}
		if c := x.vertex - y.vertex; c != 0 {
			return c
		}
		return strings.Compare(x.node, y.node)
	})
	index := map[digest.Digest]int{}
	for i, v := range j.build.Graph.Vertices {
		index[v.Digest] = i
	}
	place := map[journalKey]int{}
	for i, k := range keys {
		place[k] = i
	}
	list := []runs.Step{}
	names := plan.StepNames(j.build)
	for _, k := range keys {
		s, v := j.steps[k], j.build.Graph.Vertices[k.vertex]
		step := runs.Step{
			Name: names[k.vertex], Targets: s.targets, Node: k.node, Cached: s.cached, Error: redact.Text(s.err),
			Operation: string(j.build.Names.Operation(k.vertex)), Result: string(j.build.Names.Result(k.vertex)),
			Recipe: recipes[k.vertex],
		}
		step.Start, step.Took = s.times(first)
		for _, in := range v.Inputs {
			if i, ok := index[in]; ok {
				if at, ok := place[journalKey{k.node, i}]; ok && !slices.Contains(step.Inputs, at) {
					step.Inputs = append(step.Inputs, at)
				}
			}
		}
		list = append(list, step)
	}
	return list
}
