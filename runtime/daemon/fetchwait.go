package daemon

import (
	"context"
	"fmt"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/runtime/fault"
)

const (
	// fetchShown is the time before, and between, lines that show what a node does before the
	// build. longestFetch is how long that may report nothing. A node itself waits for a git
	// server or a web server for as long as the connection lasts.
	fetchShown   = 10 * time.Second
	longestFetch = 10 * time.Minute
)

// fetchWait follows what a node does before the build, such as fetching a definition or the
// context of a Dockerfile.
type fetchWait struct {
	note    func(text string)           // shows a line; nil shows none
	observe func(*bkclient.SolveStatus) // takes the status, too; may be nil
	giveUp  context.CancelCauseFunc

	open map[digest.Digest]fetching
	log  []fetchLine // the last lines that were printed
	good map[digest.Digest]bool
}

// fetchLine is a line that was printed on the way to a definition.
type fetchLine struct {
	by   digest.Digest
	text string
}

// fetching is something that the node is doing.
type fetching struct {
	name  string
	since time.Time
}

// follow takes in the status of a call until there is no more.
func (w *fetchWait) follow(status <-chan *bkclient.SolveStatus) {
	w.open, w.good = map[digest.Digest]fetching{}, map[digest.Digest]bool{}
	shown := time.NewTicker(fetchShown)
	defer shown.Stop()
	heard := time.Now()
	for {
		select {
		case st, ok := <-status:
			if !ok {
				return
			}
			heard = time.Now()
			w.take(st)
			if w.observe != nil {
				w.observe(st)
			}
		case <-shown.C:
			f, ok := w.oldest()
			if !ok {
				continue
			}
			if silent := time.Since(heard); silent >= longestFetch {
				w.giveUp(&fault.Rejected{Err: fmt.Errorf("%s: no progress for %s", f.name, silent.Round(time.Second))})
				return
			}
			if took := time.Since(f.since); w.note != nil && took >= fetchShown {
				w.note(fmt.Sprintf("waiting for %s (%s)", f.name, took.Round(time.Second)))
			}
		}
	}
}

func (w *fetchWait) take(st *bkclient.SolveStatus) {
	for _, v := range st.Vertexes {
		_, known := w.open[v.Digest]
		switch {
		case v.Completed != nil:
			delete(w.open, v.Digest)
			w.good[v.Digest] = v.Error == ""
		case v.Started != nil && !known:
			w.open[v.Digest] = fetching{name: redact.Text(strings.TrimPrefix(v.Name, "[internal] ")), since: time.Now()}
		}
	}
	// What happens on the way to a definition is not shown unless it fails.
	for _, line := range st.Logs {
		for text := range strings.SplitSeq(strings.TrimRight(string(line.Data), "\n"), "\n") {
			w.log = append(w.log, fetchLine{line.Vertex, text})
		}
		w.log = w.log[max(0, len(w.log)-gatewayLog):]
	}
}

// complaints returns the last lines of what did not succeed. They may say why.
func (w *fetchWait) complaints() []string {
	var list []string
	for _, line := range w.log {
		if !w.good[line.by] {
			list = append(list, line.text)
		}
	}
	return list
}

// oldest returns what the node has been doing for the longest time.
func (w *fetchWait) oldest() (f fetching, ok bool) {
	for _, x := range w.open {
		if !ok || x.since.Before(f.since) || x.since.Equal(f.since) && x.name < f.name {
			f, ok = x, true
		}
	}
	return f, ok
}
