package view

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/runtime"
)

// Progress shows a run as BuildKit shows a build. Several nodes may run the same
// step, so each vertex is told apart, and named, by its node.
type Progress struct {
	ch    chan *bkclient.SolveStatus
	done  chan struct{}
	start time.Time
	named bool
}

// ParseMode returns the display mode of a --progress value; "none" is quiet.
func ParseMode(s string) (progressui.DisplayMode, error) {
	switch mode := progressui.DisplayMode(s); mode {
	case progressui.DefaultMode, progressui.AutoMode, progressui.PlainMode, progressui.QuietMode,
		progressui.TtyMode, progressui.RawJSONMode:
		return mode, nil
	case "none":
		return progressui.QuietMode, nil
	}
	return "", fmt.Errorf("invalid progress mode %q; use auto, plain, tty, quiet or rawjson", s)
}

// NewProgress starts a display on w. With named, lines say which node they come
// from. Close ends it.
func NewProgress(w io.Writer, mode progressui.DisplayMode, named bool) (*Progress, error) {
	display, err := progressui.NewDisplay(w, mode)
	if err != nil {
		return nil, err
	}
	p := &Progress{
		ch:    make(chan *bkclient.SolveStatus),
		done:  make(chan struct{}),
		start: time.Now(),
		named: named,
	}
	go func() {
		defer close(p.done)
		// The display ends when ch is closed; cancelling it earlier would lose
		// the last lines, those that tell why a build failed.
		_, _ = display.UpdateFrom(context.Background(), p.ch)
	}()
	return p, nil
}

// Close waits until everything is shown.
func (p *Progress) Close() {
	close(p.ch)
	<-p.done
}

// Observe shows one event.
func (p *Progress) Observe(e runtime.Event) {
	switch e := e.(type) {
	case runtime.StatusEvent:
		p.ch <- p.rename(e.Node, e.Status)
	case runtime.JobEvent:
		if e.Result != nil && e.Result.State == runtime.Done && len(e.Result.Images) > 0 {
			for _, img := range e.Result.Images {
				p.say(e.At, e.Node, fmt.Sprintf("%s: %s", e.Job, imageLine(img)))
			}
		}
	case runtime.MoveEvent:
		p.say(e.At, e.Node, fmt.Sprintf("builds %s (%s)", strings.Join(e.Jobs, ", "), e.Why))
	case runtime.NodeEvent:
		p.say(e.At, e.Node, fmt.Sprintf("lost: %v", e.Err))
	}
}

// say shows a line of our own as a step that took no time.
func (p *Progress) say(at time.Duration, node, text string) {
	t := p.start.Add(at)
	name := text
	if p.named {
		name = "[" + node + "] " + text
	}
	p.ch <- &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{
		Digest:    digest.FromString(node + "\x00" + text),
		Name:      name,
		Started:   &t,
		Completed: &t,
	}}}
}

// rename returns st with the node in names and digests.
func (p *Progress) rename(node string, st *bkclient.SolveStatus) *bkclient.SolveStatus {
	if !p.named {
		return st
	}
	id := func(d digest.Digest) digest.Digest {
		if d == "" {
			return ""
		}
		return digest.FromString(node + "\x00" + d.String())
	}
	out := &bkclient.SolveStatus{}
	for _, v := range st.Vertexes {
		c := *v
		c.Digest, c.Name = id(v.Digest), nodeName(node, v.Name)
		c.Inputs = make([]digest.Digest, len(v.Inputs))
		for i, in := range v.Inputs {
			c.Inputs[i] = id(in)
		}
		out.Vertexes = append(out.Vertexes, &c)
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

// nodeName puts the node in front of a vertex name: "[build 2/4] RUN x" becomes
// "[n1 build 2/4] RUN x".
func nodeName(node, name string) string {
	if rest, ok := strings.CutPrefix(name, "["); ok {
		return "[" + node + " " + rest
	}
	return "[" + node + "] " + name
}

func imageLine(img runtime.Image) string {
	name := img.Name
	if name == "" {
		name = "image"
	}
	if img.Pushed {
		return fmt.Sprintf("pushed %s@%s", name, img.Digest)
	}
	return fmt.Sprintf("%s@%s", name, img.Digest)
}
