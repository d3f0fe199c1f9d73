package engine

import (
	"context"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/memory/runs"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/runtime"
)

// journal gathers what the steps of a run did, from its events.
type journal struct {
	started time.Time
	build   *plan.Build
	steps   map[journalKey]*journalStep
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
}

func newJournal(b *plan.Build, now time.Time) *journal {
	return &journal{started: now, build: b, steps: map[journalKey]*journalStep{}}
}

// observe takes an event. The node may have a step done several times: what ran counts,
// and of that the last.
func (j *journal) observe(e runtime.Event) {
	status, ok := e.(runtime.StatusEvent)
	if !ok {
		return
	}
	for _, v := range status.Status.Vertexes {
		i, ok := status.Steps[v.Digest]
		if !ok || v.Started == nil {
			continue
		}
		key := journalKey{status.Node, i}
		s := j.steps[key]
		if s == nil {
			s = &journalStep{cached: true}
			j.steps[key] = s
		}
		if v.Cached && !s.cached {
			continue
		}
		s.start, s.cached, s.targets = *v.Started, v.Cached, status.Targets[v.Digest]
		if v.Completed != nil {
			s.end = *v.Completed
		}
		s.err, _, _ = strings.Cut(v.Error, "\n")
	}
}

// run puts together what is remembered of the run.
func (j *journal) run(ctx context.Context, project string, x *execution) *runs.Run {
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
	for _, n := range x.result.Nodes {
		node := runs.Node{Name: n.Name, Ran: n.Ran, Cached: n.Cached, Busy: n.Busy.Seconds()}
		if n.Lost != nil {
			node.Lost = redact.Text(n.Lost.Error())
		}
		r.Nodes = append(r.Nodes, node)
	}
	for _, t := range x.result.Targets() {
		r.Targets = append(r.Targets, runs.Target{Name: t.Name, State: string(t.State), Reason: redact.Text(t.Reason), Nodes: t.Nodes})
	}
	r.Steps = j.list()
	return r
}

// list are the steps in order of time.
func (j *journal) list() []runs.Step {
	keys := make([]journalKey, 0, len(j.steps))
	var first time.Time
	for k, s := range j.steps {
		if !j.build.Graph.Vertices[k.vertex].Kind.IsStep() {
			continue
		}
		keys = append(keys, k)
		if !s.cached && (first.IsZero() || s.start.Before(first)) {
			first = s.start
		}
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
	for _, k := range keys {
		s, v := j.steps[k], j.build.Graph.Vertices[k.vertex]
		step := runs.Step{
			Name: redact.Text(v.Step), Targets: s.targets, Node: k.node, Cached: s.cached, Error: redact.Text(s.err),
			Operation: string(j.build.Names.Operation(k.vertex)), Result: string(j.build.Names.Result(k.vertex)),
		}
		if !first.IsZero() {
			step.Start = max(s.start.Sub(first).Seconds(), 0)
		}
		if !s.end.IsZero() {
			step.Took = s.end.Sub(s.start).Seconds()
		}
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
