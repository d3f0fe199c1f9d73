package runtime

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
)

const (
	// namingStep is how nodes report the Dockerfile that names a result, and
	// verifyingStep that they compare the platforms of results with those that were
	// asked for: results that only have a cache written are called by numbers.
	// Neither is anything that a user asked for.
	namingStep    = "[internal] " + daemon.NamingStep
	verifyingStep = "Verifying build result"
	// unpacking begins the ids of the statuses of layers that are unpacked.
	unpacking = "extracting "
)

// solveSource is a solve whose status is observed. It belongs to the loop of its run
// but for the fields that are set before the solve starts.
type solveSource struct {
	// targets are those that it is for, in the order of the plan.
	targets []string
	// job is the job whose outputs it writes; "" when it evaluates or writes a cache.
	job string
	// export is set for solves of results that are there already. They repeat the
	// steps that an evaluation ran as if those were cached.
	export bool
	// search is set for a search for lost results. Only what it executes counts: what it finds may
	// be about to be lost.
	search bool
	// id distinguishes an export from all others of its node; output is which of several
	// outputs of the job it is, from 1, or 0 when there is one.
	id     string
	output int
	// ids are the digests under which vertices of this solve alone are known; "" for
	// those that are not shown.
	ids map[digest.Digest]digest.Digest
}

// tracker follows the status streams of all solves of one node. The streams
// overlap: a solve that meets a vertex which is active in another one receives
// that vertex's whole past again. The tracker therefore counts an execution by
// vertex and start time, whatever stream reports it.
//
// A tracker belongs to the loop of its run.
type tracker struct {
	// isStep reports whether a vertex does work. Others are sources, whose first completion
	// only means that their cache key is known.
	isStep func(digest.Digest) bool
	// isShared reports whether a vertex is one of the graph, which is the same in every solve.
	// Other vertices belong to one solve.
	isShared func(digest.Digest) bool
	vertices map[digest.Digest]*vertexStatus
	newest   time.Time // of the times at which vertices began or were done, by the node's clock
}

type vertexStatus struct {
	// lost is set when its result could not be read and has to be made anew. Reports of what
	// happened until since are past, and a cached result is not wanted.
	lost   bool
	since  time.Time
	shown  bool // some stream of an evaluation reported it
	begun  bool
	cached bool
	done   bool
	runs   []execution
	// failures are the executions that failed. ended is set when what comes next belongs to
	// another execution.
	failures []execution
	ended    bool
	says     string // the newest failure in words
	// layers are the times at which layers of its result were fetched or unpacked;
	// unpacked says that some were unpacked.
	layers   []time.Time
	unpacked bool
	job      string    // whose outputs it writes
	targets  []string  // of the solve that reported it first
	logged   time.Time // of the newest output taken in
	printed  time.Time // of the newest output, taken in or not
	tail     outputTail
}

// execution is one time that a node ran a step.
type execution struct {
	started, completed time.Time
}

// overlaps reports whether e and f are one execution. A node runs a step once at a
// time, but a build that waits for a step of another one reports another start.
func (e execution) overlaps(f execution) bool {
	return e.started.Equal(f.started) || e.started.Before(f.completed) && f.started.Before(e.completed)
}

// change is news of a vertex: it began to run, or its result is there. repeated says that the
// result was there before, and was lost without a word.
type change struct {
	vertex   digest.Digest
	done     bool
	repeated bool
	took     time.Duration
	cached   bool
}

func newTracker(isStep, isShared func(digest.Digest) bool) *tracker {
	return &tracker{isStep: isStep, isShared: isShared, vertices: map[digest.Digest]*vertexStatus{}}
}

// observe takes in one message of a status stream. It returns what is new in the message, and
// the changes.
func (t *tracker) observe(st *bkclient.SolveStatus, from *solveSource) (*bkclient.SolveStatus, []change) {
	st = t.own(st, from)
	fresh := &bkclient.SolveStatus{Warnings: st.Warnings}
	var changes []change
	t.noteLayers(st.Statuses)
	t.noteOutput(st.Logs)
	for _, v := range st.Vertexes {
		s := t.at(v.Digest)
		if from.search && !t.executed(v, s) || from.export && s.shown && !t.adds(v, s) || t.note(v, s) {
			continue
		}
		if s.targets == nil {
			s.targets = from.targets
		}
		if from.job != "" && !t.isShared(v.Digest) {
			s.job = from.job
		}
		s.shown = s.shown || !from.export
		if !t.vertex(v, s, &changes) {
			continue
		}
		if t.isStep(v.Digest) && v.Completed != nil && v.Error == "" && s.cached && len(s.runs) == 0 && !v.Cached {
			// What took time was to fetch its result.
			c := *v
			c.Cached, v = true, &c
		}
		fresh.Vertexes = append(fresh.Vertexes, v)
	}
	for _, vs := range st.Statuses {
		if !from.search && (!from.export || !t.at(vs.Vertex).shown) {
			fresh.Statuses = append(fresh.Statuses, vs)
		}
	}
	fresh.Logs = t.output(st.Logs)
	return fresh, changes
}

// output takes output in, and returns what is new. Every stream has a vertex's output in order
// and from its start.
func (t *tracker) output(logs []*bkclient.VertexLog) (fresh []*bkclient.VertexLog) {
	for _, l := range logs {
		s := t.at(l.Vertex)
		if !l.Timestamp.After(s.logged) || l.Timestamp.Before(s.since) {
			continue
		}
		s.logged = l.Timestamp
		if s.ended && l.Timestamp.After(s.failures[len(s.failures)-1].completed) {
			s.renew() // what an execution printed may come after its end is known
		}
		s.tail.add(l.Stream, string(l.Data))
		fresh = append(fresh, l)
	}
	return fresh
}

// note notes the times of v. past is true when v reports a result that is lost.
func (t *tracker) note(v *bkclient.Vertex, s *vertexStatus) (past bool) {
	for _, at := range []*time.Time{v.Started, v.Completed} {
		if at != nil && at.After(t.newest) {
			t.newest = *at
		}
	}
	return s.lost && (v.Cached || v.Started != nil && v.Started.Before(s.since))
}

// executed reports whether v is a step that the node has executed, and not only fetched.
func (t *tracker) executed(v *bkclient.Vertex, s *vertexStatus) bool {
	e, ok := executionOf(v)
	return ok && t.isStep(v.Digest) && !s.fetched(e)
}

// executionOf returns what v reports when that went well and is not that a result was found. It
// may have been a fetch.
func executionOf(v *bkclient.Vertex) (e execution, ok bool) {
	if v.Started == nil || v.Completed == nil || v.Cached || v.Error != "" {
		return execution{}, false
	}
	return execution{*v.Started, *v.Completed}, true
}

// printedIn reports whether v is an execution that printed something: it is no fetch.
func (s *vertexStatus) printedIn(v *bkclient.Vertex) bool {
	e, ok := executionOf(v)
	return ok && !s.printed.Before(e.started) && !s.printed.After(e.completed)
}

// adds reports whether v, which an export reports of a step that was shown before, is an execution
// for the export. The step may be below a result that was found, and have no result of its own.
func (t *tracker) adds(v *bkclient.Vertex, s *vertexStatus) bool {
	return s.printedIn(v) || !s.done && t.executed(v, s)
}

// noteOutput notes when something was printed.
func (t *tracker) noteOutput(logs []*bkclient.VertexLog) {
	for _, l := range logs {
		if s := t.at(l.Vertex); l.Timestamp.After(s.printed) {
			s.printed = l.Timestamp
		}
	}
}

// noteLayers notes the layers that are fetched or unpacked. The time for these was not spent on
// running the step.
func (t *tracker) noteLayers(list []*bkclient.VertexStatus) {
	for _, vs := range list {
		if !isLayer(vs.ID) {
			continue
		}
		s := t.at(vs.Vertex)
		if s.lost {
			continue // somebody still tries to fetch what is lost
		}
		s.unpacked = s.unpacked || strings.HasPrefix(vs.ID, unpacking)
		s.layers = append(s.layers, vs.Timestamp)
		if t.isStep(vs.Vertex) && len(s.runs) > 0 {
			s.runs = slices.DeleteFunc(s.runs, s.fetched)
			s.cached = s.cached || len(s.runs) == 0
		}
	}
}

// own returns st with digests and names of its own for each vertex that only this export has. A
// node names these after the session, the exporter's number or what they do, which is the same
// in each export. Vertices that an evaluation reported stay as they are: an export repeats
// them.
func (t *tracker) own(st *bkclient.SolveStatus, from *solveSource) *bkclient.SolveStatus {
	if !from.export {
		return st
	}
	if from.ids == nil {
		from.ids = map[digest.Digest]digest.Digest{}
	}
	id := func(d digest.Digest) digest.Digest {
		if own, ok := from.ids[d]; ok {
			return own
		}
		return d
	}
	out := &bkclient.SolveStatus{}
	for _, v := range st.Vertexes {
		if v.Name == namingStep || from.job == "" && v.Name == verifyingStep {
			from.ids[v.Digest] = ""
			continue
		}
		if s := t.vertices[v.Digest]; !t.isShared(v.Digest) && (s == nil || !s.shown) {
			from.ids[v.Digest] = digest.FromString(from.id + "\x00" + v.Digest.String())
			c := *v
			c.Digest = from.ids[v.Digest]
			if from.output > 0 {
				c.Name += " (output " + strconv.Itoa(from.output) + ")"
			}
			v = &c
		}
		out.Vertexes = append(out.Vertexes, v)
	}
	for _, s := range st.Statuses {
		c := *s
		if c.Vertex = id(s.Vertex); c.Vertex != "" {
			out.Statuses = append(out.Statuses, &c)
		}
	}
	for _, l := range st.Logs {
		c := *l
		if c.Vertex = id(l.Vertex); c.Vertex != "" {
			out.Logs = append(out.Logs, &c)
		}
	}
	for _, w := range st.Warnings {
		c := *w
		c.Vertex = id(w.Vertex)
		out.Warnings = append(out.Warnings, &c)
	}
	return out
}

// vertex records v and reports whether anything in it is new.
func (t *tracker) vertex(v *bkclient.Vertex, s *vertexStatus, changes *[]change) bool {
	switch {
	case v.Started == nil:
		return !s.begun
	case v.Completed == nil && v.Cached:
		// Its end is reported with another start, or not at all: it would look
		// unfinished for ever.
		return false
	case v.Completed == nil:
		if s.knows(*v.Started) {
			return false
		}
		s.renew()
		if !s.begun && t.isStep(v.Digest) {
			s.begun = true
			*changes = append(*changes, change{vertex: v.Digest})
		}
		return !s.done
	case v.Error != "":
		s.says = v.Error
		return s.fail(execution{*v.Started, *v.Completed}) && !s.done
	case v.Cached:
		if s.done {
			return false
		}
		s.cached = true
	case s.cached && s.done && t.isStep(v.Digest) && !s.printedIn(v):
		// Its layers were fetched or unpacked, because something that did run
		// wanted them; the step itself did not run.
		return true
	case t.isStep(v.Digest) && s.fetched(execution{*v.Started, *v.Completed}):
		s.cached = true
	default:
		run := execution{*v.Started, *v.Completed}
		if slices.ContainsFunc(s.runs, run.overlaps) {
			return false
		}
		s.runs = append(s.runs, run)
		if !t.isStep(v.Digest) {
			return true
		}
		if s.done {
			s.cached = false
			*changes = append(*changes, change{vertex: v.Digest, repeated: true})
		}
	}
	if !s.done {
		s.done = true
		*changes = append(*changes, change{
			vertex: v.Digest, done: true, cached: s.cached, took: v.Completed.Sub(*v.Started),
		})
	}
	return true
}

// fail notes an execution that failed, and reports whether that is news.
func (s *vertexStatus) fail(e execution) bool {
	if s.knows(e.started) {
		return false
	}
	s.failures, s.ended, s.begun = append(s.failures, e), true, false
	return true
}

// culprit returns the step that err is about. It is for nodes that do not say so: BuildKit
// before v0.10, which is inside Docker 20.10. ok is false when no step failed in these words,
// or several did.
func (t *tracker) culprit(err error) (step digest.Digest, ok bool) {
	for d, s := range t.vertices {
		if s.says == "" || !t.isStep(d) || !strings.HasSuffix(err.Error(), s.says) {
			continue
		}
		if ok {
			return "", false
		}
		step, ok = d, true
	}
	return step, ok
}

// stuck reports whether it has no result, or failed after its last execution: the node may have
// come back empty.
func (s *vertexStatus) stuck() bool {
	return !s.done || len(s.runs) > 0 && len(s.failures) > 0 &&
		s.failures[len(s.failures)-1].completed.After(s.runs[len(s.runs)-1].completed)
}

// unread reports whether it is stuck as it could not read what is lost.
func (s *vertexStatus) unread() bool {
	_, lost := fault.LostBlob(errors.New(s.says))
	return lost && s.stuck()
}

// knows reports whether the execution that started then is known to have failed.
func (s *vertexStatus) knows(started time.Time) bool {
	return slices.ContainsFunc(s.failures, func(f execution) bool { return f.started.Equal(started) })
}

// renew forgets the output of an execution that has failed, since another one has begun.
func (s *vertexStatus) renew() {
	if s.ended {
		s.ended, s.tail = false, outputTail{}
	}
}

// isLayer reports whether a status is that of a layer that is fetched or unpacked.
func isLayer(id string) bool {
	return strings.HasPrefix(id, "sha256:") || strings.HasPrefix(id, unpacking)
}

// fetched reports whether what looks like an execution was the fetch of a result
// from a cache.
func (s *vertexStatus) fetched(e execution) bool {
	return slices.ContainsFunc(s.layers, func(at time.Time) bool {
		return !at.Before(e.started) && !at.After(e.completed)
	})
}

func (t *tracker) at(d digest.Digest) *vertexStatus {
	s := t.vertices[d]
	if s == nil {
		s = &vertexStatus{}
		t.vertices[d] = s
	}
	return s
}

// status returns what is known of a vertex, which is nothing at first.
func (t *tracker) status(d digest.Digest) vertexStatus {
	if s := t.vertices[d]; s != nil {
		return *s
	}
	return vertexStatus{}
}

// forget forgets a vertex whose result could not be read, and which is about to run. Other
// streams may still report that it was found, and builds that have not failed yet may report
// that its layers are fetched.
func (t *tracker) forget(d digest.Digest) {
	t.vertices[d] = &vertexStatus{lost: true, since: t.newest}
}

// failures is how many executions of a step have failed.
func (t *tracker) failures(d digest.Digest) int { return len(t.status(d).failures) }

// hasRun reports whether the node ran any of the steps.
func (t *tracker) hasRun(steps []digest.Digest) bool {
	return slices.ContainsFunc(steps, func(d digest.Digest) bool { return len(t.status(d).runs) > 0 })
}

// present returns those of the steps whose results are on the node.
func (t *tracker) present(steps []digest.Digest) []digest.Digest {
	var list []digest.Digest
	for _, d := range steps {
		if t.status(d).done {
			list = append(list, d)
		}
	}
	return list
}

// measurements returns what the node spent time on, by start.
func (n *nodeRun) measurements(g *llbmerge.Graph) []plan.Measurement {
	t := n.tracker
	var list []plan.Measurement
	add := func(m plan.Measurement, runs []execution) {
		for _, e := range runs {
			m.Node, m.Native = n.info.Addr, n.info.Native
			m.Start, m.Took = e.started, e.completed.Sub(e.started)
			list = append(list, m)
		}
	}
	for _, v := range g.Vertices {
		s := t.vertices[v.Digest]
		// An image that was there already takes no time, which says nothing of
		// what it takes elsewhere.
		if s != nil && (v.Kind.IsStep() || v.Kind == llbmerge.KindImage && s.unpacked) {
			add(plan.Measurement{Vertex: v.Digest}, s.runs)
		}
	}
	for _, s := range t.vertices {
		if s.job != "" {
			add(plan.Measurement{Job: s.job}, s.runs)
		}
	}
	slices.SortFunc(list, func(a, b plan.Measurement) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Vertex, b.Vertex), cmp.Compare(a.Job, b.Job))
	})
	return list
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

// logTail returns the last lines that the step printed, fit to be shown anywhere.
func (t *tracker) logTail(d digest.Digest) []string {
	return t.at(d).tail.lines()
}
