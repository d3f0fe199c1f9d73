package runtime

import (
	"slices"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
)

// tailLines is how many of the last log lines of a step an error shows.
const tailLines = 20

// tracker follows the status streams of all solves of one node. The streams
// overlap: a solve that meets a vertex which is active in another one receives
// that vertex's whole past again. The tracker therefore counts an execution by
// vertex and start time, whatever stream tells of it.
//
// A tracker belongs to the loop of its run.
type tracker struct {
	// isStep tells vertices that do work from sources, whose first completion
	// only means that their cache key is known.
	isStep   func(digest.Digest) bool
	vertices map[digest.Digest]*vertexStatus
}

type vertexStatus struct {
	shown  bool // some stream of an evaluation told of it
	begun  bool
	cached bool
	done   bool
	runs   []execution
	// layers are the times at which layers of its result were fetched or unpacked;
	// unpacked says that some were unpacked.
	layers   []time.Time
	unpacked bool
	job      string    // whose export it is
	logged   time.Time // of the newest output taken in
	tail     []string  // the last complete lines
	partial  string    // the line still being written
}

// execution is one time that a node ran a step.
type execution struct {
	started, completed time.Time
}

// change is news of a vertex: it began to run, or its result is there.
type change struct {
	vertex digest.Digest
	done   bool
	took   time.Duration
	cached bool
}

func newTracker(isStep func(digest.Digest) bool) *tracker {
	return &tracker{isStep: isStep, vertices: map[digest.Digest]*vertexStatus{}}
}

// observe takes one message of a status stream in. It returns the message without
// what is known, and what it changes. An export repeats, as if they were cached,
// the steps that an evaluation ran; those are left out.
func (t *tracker) observe(st *bkclient.SolveStatus, export bool) (*bkclient.SolveStatus, []change) {
	fresh := &bkclient.SolveStatus{Warnings: st.Warnings}
	var changes []change
	for _, vs := range st.Statuses {
		if !isLayer(vs.ID) {
			continue
		}
		s := t.at(vs.Vertex)
		s.unpacked = s.unpacked || strings.HasPrefix(vs.ID, unpacking)
		s.layers = append(s.layers, vs.Timestamp)
		if t.isStep(vs.Vertex) && len(s.runs) > 0 {
			s.runs = slices.DeleteFunc(s.runs, s.fetched)
			s.cached = s.cached || len(s.runs) == 0
		}
	}
	for _, v := range st.Vertexes {
		s := t.at(v.Digest)
		if export && s.shown {
			continue
		}
		if export {
			s.job = exportedJob(v.Name)
		}
		s.shown = s.shown || !export
		if t.vertex(v, s, &changes) {
			fresh.Vertexes = append(fresh.Vertexes, v)
		}
	}
	for _, vs := range st.Statuses {
		if !export || !t.at(vs.Vertex).shown {
			fresh.Statuses = append(fresh.Statuses, vs)
		}
	}
	for _, l := range st.Logs {
		// Every stream tells a vertex's output in order and from its start.
		if s := t.at(l.Vertex); l.Timestamp.After(s.logged) {
			s.logged = l.Timestamp
			s.log(string(l.Data))
			fresh.Logs = append(fresh.Logs, l)
		}
	}
	return fresh, changes
}

// vertex records v and reports whether it tells anything new.
func (t *tracker) vertex(v *bkclient.Vertex, s *vertexStatus, changes *[]change) bool {
	switch {
	case v.Started == nil:
		return !s.begun
	case v.Completed == nil:
		if !s.begun && !v.Cached && t.isStep(v.Digest) {
			s.begun = true
			*changes = append(*changes, change{vertex: v.Digest})
		}
		return !s.done
	case v.Error != "":
		return !s.done
	case v.Cached:
		if s.done {
			return false
		}
		s.cached = true
	case s.cached && s.done && t.isStep(v.Digest):
		// Its layers were fetched or unpacked, because something that did run
		// wanted them; the step itself did not run.
		return true
	case t.isStep(v.Digest) && s.fetched(execution{*v.Started, *v.Completed}):
		s.cached = true
	default:
		for _, e := range s.runs {
			if e.started.Equal(*v.Started) {
				return false
			}
		}
		s.runs = append(s.runs, execution{*v.Started, *v.Completed})
		if !t.isStep(v.Digest) {
			return true
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

// isLayer tells the statuses of layers that are fetched or unpacked from others.
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

// log appends output to the tail, line by line.
func (s *vertexStatus) log(data string) {
	s.partial += data
	for {
		line, rest, ok := strings.Cut(s.partial, "\n")
		if !ok {
			return
		}
		s.partial = rest
		s.tail = append(s.tail, strings.TrimSuffix(line, "\r"))
		if len(s.tail) > tailLines {
			s.tail = s.tail[1:]
		}
	}
}

// logTail returns the last lines that the step printed.
func (t *tracker) logTail(d digest.Digest) []string {
	s := t.at(d)
	lines := append([]string(nil), s.tail...)
	if s.partial != "" {
		lines = append(lines, s.partial)
	}
	return lines
}

// ownVertices tells the vertices of one export from those of all others. A node
// names what an exporter does after the session and the exporter's number, which
// are the same in each of them.
type ownVertices struct {
	name string
	ids  map[digest.Digest]digest.Digest
}

const (
	// exporting begins the names of vertices that are an exporter's work.
	exporting = "exporting "
	// unpacking begins the ids of what is told of a layer being unpacked.
	unpacking = "extracting "
	// furtherOutput stands between the name of a job and the number of its
	// output, when there are several.
	furtherOutput = ", output "
)

// exportedJob returns the job of a vertex that rename has named, "" when it is no
// export.
func exportedJob(name string) string {
	if !strings.HasPrefix(name, exporting) {
		return ""
	}
	_, name, _ = strings.Cut(name, " (")
	name, _, _ = strings.Cut(strings.TrimSuffix(name, ")"), furtherOutput)
	return name
}

// rename returns st with the exporter's vertices under names and digests of their
// own.
func (o *ownVertices) rename(st *bkclient.SolveStatus) *bkclient.SolveStatus {
	out := &bkclient.SolveStatus{}
	id := func(d digest.Digest) digest.Digest {
		if own, ok := o.ids[d]; ok {
			return own
		}
		return d
	}
	for _, v := range st.Vertexes {
		if strings.HasPrefix(v.Name, exporting) {
			o.ids[v.Digest] = digest.FromString(o.name + "\x00" + v.Digest.String())
			c := *v
			c.Digest, c.Name = o.ids[v.Digest], v.Name+" ("+o.name+")"
			v = &c
		}
		out.Vertexes = append(out.Vertexes, v)
	}
	for _, s := range st.Statuses {
		c := *s
		c.Vertex = id(s.Vertex)
		out.Statuses = append(out.Statuses, &c)
	}
	for _, l := range st.Logs {
		c := *l
		c.Vertex = id(l.Vertex)
		out.Logs = append(out.Logs, &c)
	}
	for _, w := range st.Warnings {
		c := *w
		c.Vertex = id(w.Vertex)
		out.Warnings = append(out.Warnings, &c)
	}
	return out
}
