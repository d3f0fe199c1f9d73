package view

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/printable"
	"github.com/dbake/dbake/internal/stopwatch"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/output"
)

// text is the progress as lines of text. A run is shown by BuildKit's own display; since
// several nodes may run the same step, each vertex is known by its node.
type text struct {
	*outlet
	notes annotations

	// mu guards ch and kept; statuses are sent on ch while it is held.
	mu    sync.Mutex
	ch    chan *bkclient.SolveStatus // of the run that is shown, nil without one
	done  chan struct{}              // closed when its display has ended
	kept  []string                   // warnings to be shown after it
	start time.Time
	shown *statuses
}

func newText(w io.Writer, o Options) *text {
	t := &text{outlet: newOutlet(w), notes: annotations{o}}
	t.guarded = serviceOf(o.Env) != nobody
	return t
}

// Note implements Progress.
func (t *text) Note(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line = printable.Line(line)
	if t.ch == nil {
		fmt.Fprintln(t.outlet, line)
		return
	}
	t.say(time.Now(), "", nil, line)
}

// Warn implements Progress.
func (t *text) Warn(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line = "WARNING: " + printable.Lines(line)
	if t.ch == nil {
		fmt.Fprintln(t.outlet, line)
		return
	}
	t.kept = append(t.kept, line)
}

// Prompt implements Progress.
func (t *text) Prompt(question string) bool {
	fmt.Fprint(t.outlet, question)
	return true
}

// Begin implements Progress.
func (t *text) Begin(_ *plan.Build, _ *plan.Plan, named bool) error {
	display, err := progressui.NewDisplay(t.outlet, progressui.PlainMode)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ch, t.done, t.start = make(chan *bkclient.SolveStatus), make(chan struct{}), time.Now()
	t.shown = newStatuses(named)
	go func(ch chan *bkclient.SolveStatus, done chan struct{}) {
		defer close(done)
		// The display ends when ch is closed; cancelling it earlier would lose the last
		// lines, those that explain why a build failed.
		_, _ = display.UpdateFrom(context.Background(), ch)
	}(t.ch, t.done)
	return nil
}

// End implements Progress.
func (t *text) End() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ch == nil {
		return
	}
	t.send(t.shown.rest())
	close(t.ch)
	select {
	case <-t.done:
	case <-t.unread:
	}
	t.ch = nil
	for _, line := range t.kept {
		fmt.Fprintln(t.outlet, line)
	}
	t.kept = nil
}

// Observe implements Progress.
func (t *text) Observe(e runtime.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ch == nil {
		return
	}
	switch e := e.(type) {
	case runtime.StatusEvent:
		t.send(t.shown.translate(e))
	case runtime.JobEvent:
		if e.Result != nil && e.Result.State == runtime.Done {
			for _, line := range writtenLines(e.Result.Images, e.Result.Files) {
				t.say(t.start.Add(e.At), e.Node, []string{e.Target}, line)
			}
		}
	case runtime.MoveEvent:
		t.say(t.start.Add(e.At), e.Node, e.Targets, moveLine(e))
	case runtime.RetryEvent:
		t.say(t.start.Add(e.At), e.Node, e.Targets, retryLine(e))
	case runtime.SendEvent:
		t.say(t.start.Add(e.At), e.Node, e.Targets, sendLine(e))
	case runtime.WaitEvent:
		t.say(t.start.Add(e.At), e.Node, nil, e.Text)
	case runtime.NodeEvent:
		_, line := nodeLine(e)
		t.say(t.start.Add(e.At), e.Node, nil, line)
	}
}

// moveLine explains why jobs are built on another node than planned.
func moveLine(e runtime.MoveEvent) string {
	if e.From == "" {
		return "built here: " + e.Why
	}
	return fmt.Sprintf("built here: %s from %s", e.Why, e.From)
}

// retryLine says that a step is executed again.
func retryLine(e runtime.RetryEvent) string {
	return fmt.Sprintf("attempt %d of %d failed with exit code %s and is followed by another: %s", e.Attempt, e.Limit, e.ExitCode, printable.Line(e.Step))
}

// sendLine reports how sending a step's result ended.
func sendLine(e runtime.SendEvent) string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("could not send %s: %v", e.Step, e.Err)
	case len(e.To) == 0:
		return "sent " + e.Step
	}
	return fmt.Sprintf("sent %s to %s", e.Step, strings.Join(e.To, ", "))
}

// nodeLine describes the new state of a node: as a kind of event, and in words.
func nodeLine(e runtime.NodeEvent) (kind, line string) {
	switch {
	case e.Err != nil:
		return "node-lost", fmt.Sprintf("lost: %v", e.Err)
	case e.Silent > 0:
		return "node-silent", fmt.Sprintf("has not answered for %s", e.Silent.Round(time.Second))
	default:
		return "node-back", "answers again"
	}
}

// say shows a line of our own as a step that took no time.
func (t *text) say(at time.Time, node string, targets []string, line string) {
	if !t.shown.named {
		node = ""
	}
	name := lineName(node, targets, printable.Line(line))
	t.send(&bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{
		Digest: digest.FromString(name), Name: name, Started: &at, Completed: &at,
	}}})
}

// send passes st to the display.
func (t *text) send(st *bkclient.SolveStatus) {
	if len(st.Vertexes)+len(st.Statuses)+len(st.Logs)+len(st.Warnings) == 0 {
		return
	}
	select {
	case t.ch <- st:
	case <-t.unread:
	}
}

// Remarks implements Progress.
func (t *text) Remarks(list []plan.Remark, debug bool) {
	var b strings.Builder
	Warnings(&b, list, debug)
	fmt.Fprint(t.outlet, printable.Lines(b.String()))
	t.notes.remarks(t.outlet, list)
}

// Summary implements Progress.
func (t *text) Summary(r *runtime.Result, run Run) {
	var b strings.Builder
	if t.shown != nil {
		b.WriteString("\n") // the display ends without an empty line
	}
	Summary(&b, r, run)
	fmt.Fprint(t.outlet, printable.Lines(b.String()))
}

// Timings implements Progress.
func (t *text) Timings(list []stopwatch.Phase) {
	var b strings.Builder
	Timings(&b, list)
	fmt.Fprint(t.outlet, b.String())
}

// Error implements Progress.
func (t *text) Error(err error, debug bool) {
	t.End() // what the display still holds comes before
	var b strings.Builder
	Error(&b, err, debug)
	fmt.Fprint(t.outlet, printable.Lines(b.String()))
	t.notes.errors(t.outlet, err)
}

// statuses translates the status of nodes into what one display can show.
type statuses struct {
	named bool
	logs  map[stream]*printable.Filter
}

// stream is the output of one step.
type stream struct {
	vertex digest.Digest
	number int
}

func newStatuses(named bool) *statuses {
	return &statuses{named: named, logs: map[stream]*printable.Filter{}}
}

// id is the digest under which a vertex of a node is shown.
func (s *statuses) id(node string, d digest.Digest) digest.Digest {
	if d == "" || !s.named {
		return d
	}
	return digest.FromString(node + "\x00" + d.String())
}

// translate returns the status of e with the node and the targets in names and the
// node in digests, and with output that no terminal acts on.
func (s *statuses) translate(e runtime.StatusEvent) *bkclient.SolveStatus {
	node := e.Node
	if !s.named {
		node = ""
	}
	out := &bkclient.SolveStatus{}
	for _, v := range e.Status.Vertexes {
		c := *v
		c.Digest = s.id(e.Node, v.Digest)
		c.Name = lineName(node, e.Targets[v.Digest], printable.Line(v.Name))
		c.Error = printable.Lines(v.Error)
		if g := v.ProgressGroup; g != nil { // shown in place of its members
			g = g.CloneVT()
			g.Id, g.Name = node+"\x00"+g.Id, lineName(node, e.Targets[v.Digest], printable.Line(g.Name))
			c.ProgressGroup = g
		}
		c.Inputs = make([]digest.Digest, len(v.Inputs))
		for i, in := range v.Inputs {
			c.Inputs[i] = s.id(e.Node, in)
		}
		out.Vertexes = append(out.Vertexes, &c)
	}
	for _, st := range e.Status.Statuses {
		c := *st
		c.Vertex, c.ID, c.Name = s.id(e.Node, st.Vertex), printable.Line(st.ID), printable.Line(st.Name)
		out.Statuses = append(out.Statuses, &c)
	}
	for _, l := range e.Status.Logs {
		c := *l
		c.Vertex = s.id(e.Node, l.Vertex)
		if c.Data = s.filter(c.Vertex, l.Stream).Write(l.Data); len(c.Data) > 0 {
			out.Logs = append(out.Logs, &c)
		}
	}
	for _, w := range e.Status.Warnings {
		c := *w
		c.Vertex, c.Short = s.id(e.Node, w.Vertex), []byte(printable.Line(string(w.Short)))
		out.Warnings = append(out.Warnings, &c)
	}
	return out
}

func (s *statuses) filter(vertex digest.Digest, number int) *printable.Filter {
	key := stream{vertex, number}
	f := s.logs[key]
	if f == nil {
		f = &printable.Filter{}
		s.logs[key] = f
	}
	return f
}

// rest returns what filters still hold.
func (s *statuses) rest() *bkclient.SolveStatus {
	out := &bkclient.SolveStatus{}
	for key, f := range s.logs {
		if data := f.Close(); len(data) > 0 {
			out.Logs = append(out.Logs, &bkclient.VertexLog{Vertex: key.vertex, Stream: key.number, Data: data, Timestamp: time.Now()})
		}
	}
	return out
}

// namedTargets is how many targets a line names; "and one more" would not be shorter
// than the name of one.
const namedTargets = 3

// lineName puts the targets, and the node unless it is "", into the name of a step:
// "[build 2/4] RUN x" becomes "n1 [worker build 2/4] RUN x".
func lineName(node string, targets []string, name string) string {
	if len(targets) > 0 {
		who := strings.Join(targets, ",")
		if more := len(targets) - namedTargets; more > 1 {
			who = fmt.Sprintf("%s,+%d", strings.Join(targets[:namedTargets], ","), more)
		}
		if rest, ok := strings.CutPrefix(name, "["); ok {
			name = "[" + who + " " + rest
		} else {
			name = "[" + who + "] " + name
		}
	}
	if node != "" {
		name = node + " " + name
	}
	return name
}

// writtenLines says what outputs wrote, one line each.
func writtenLines(images []output.Image, files []string) []string {
	var list []string
	for _, img := range images {
		list = append(list, imageLine(img))
	}
	for _, name := range files {
		list = append(list, "wrote "+fileName(name))
	}
	return list
}

// fileName is the destination of an output as people read it.
func fileName(name string) string {
	if name == "-" {
		return "standard output"
	}
	return name
}

// imageName is the name of an image with its digest.
func imageName(img output.Image) string {
	if img.Name == "" {
		return "image@" + img.Digest
	}
	return img.Name + "@" + img.Digest
}

func imageLine(img output.Image) string {
	switch img.Place {
	case output.InRegistry:
		return "pushed " + imageName(img)
	case output.InEngine:
		return fmt.Sprintf("loaded %s into the Docker engine", imageName(img))
	case output.InFile:
		return fmt.Sprintf("wrote %s: image@%s", fileName(img.Name), img.Digest)
	}
	return "kept " + imageName(img)
}
