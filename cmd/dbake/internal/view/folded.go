package view

import (
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/printable"
	"github.com/dbake/dbake/runtime"
)

// folded is the progress in the log of a CI service that can fold lines: one line for each
// change, and the output of a step, folded, when it has ended, so that steps that ran at
// the same time are not mixed up. The output of a failed step is not folded.
type folded struct {
	*text
	service service

	// watch guards what follows, of the run that is shown.
	watch   sync.Mutex
	scene   *scene.Scene // nil without one
	named   bool
	began   time.Time
	alive   map[*scene.Step]time.Duration // when it was last said that it runs
	later   []string                      // warnings to be shown when the run has ended
	stop    chan struct{}
	stopped chan struct{}
}

func newFolded(w io.Writer, o Options, s service) *folded {
	return &folded{text: newText(w, o), service: s}
}

// lifeSign is how often a running step is reported.
const lifeSign = 30 * time.Second

// Begin implements Progress.
func (f *folded) Begin(b *plan.Build, p *plan.Plan, named bool) error {
	var run scene.Outlook
	if b != nil && p != nil {
		run = scene.NewOutlook(b, p)
	}
	f.watch.Lock()
	defer f.watch.Unlock()
	f.scene, f.named, f.began, f.alive = scene.New(run), named, time.Now(), map[*scene.Step]time.Duration{}
	f.stop, f.stopped = make(chan struct{}), make(chan struct{})
	go f.signs(f.stop, f.stopped)
	return nil
}

// signs reports from time to time which steps still run.
func (f *folded) signs(stop, stopped chan struct{}) {
	defer close(stopped)
	t := time.NewTicker(lifeSign / 3)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			f.watch.Lock()
			f.sign(time.Since(f.began))
			f.watch.Unlock()
		}
	}
}

func (f *folded) sign(now time.Duration) {
	for _, n := range f.scene.Nodes {
		for _, st := range n.Running {
			if st == nil || now-max(st.Began, f.alive[st]) < lifeSign {
				continue
			}
			f.alive[st] = now
			line := fmt.Sprintf("%s runs for %s", f.name(st), st.RunTime(now).Round(time.Second))
			if lines := st.Log.Lines(); len(lines) > 0 {
				line += ", and printed last: " + printable.Line(lines[len(lines)-1])
			}
			f.line(line)
		}
	}
}

// Note implements Progress.
func (f *folded) Note(line string) {
	f.watch.Lock()
	defer f.watch.Unlock()
	f.line(printable.Line(line))
}

// Warn implements Progress.
func (f *folded) Warn(line string) {
	f.watch.Lock()
	defer f.watch.Unlock()
	if f.scene != nil {
		f.later = append(f.later, line)
		return
	}
	f.text.Warn(line)
}

// line writes a line. No part of it is a command.
func (f *folded) line(line string) { fmt.Fprintln(f.outlet, printable.Lines(line)) }

// say writes a line about a node and targets.
func (f *folded) say(node string, targets []string, line string) {
	if !f.named {
		node = ""
	}
	f.line(lineName(node, targets, printable.Line(line)))
}

// name names a step, with its node and targets.
func (f *folded) name(st *scene.Step) string {
	node := st.Node.Name
	if !f.named {
		node = ""
	}
	return lineName(node, st.Targets, st.Name)
}

// Observe implements Progress.
func (f *folded) Observe(e runtime.Event) {
	f.watch.Lock()
	defer f.watch.Unlock()
	if f.scene == nil {
		return
	}
	at := time.Since(f.began)
	c := f.scene.Apply(at, e)
	for _, st := range c.Began {
		if st.State == scene.Running {
			f.line(f.name(st))
		}
	}
	for _, st := range c.Ended {
		f.printEnd(st, at)
		st.Log.Forget()
		delete(f.alive, st)
	}
	switch e := e.(type) {
	case runtime.JobEvent:
		if line := resultLine(e); line != "" {
			f.say(e.Node, []string{e.Target}, line)
		}
		if e.Result != nil {
			for _, line := range writtenLines(e.Result.Images, e.Result.Files) {
				f.say(e.Node, []string{e.Target}, line)
			}
		}
	case runtime.MoveEvent:
		f.say(e.Node, e.Targets, moveLine(e))
	case runtime.RetryEvent:
		f.say(e.Node, e.Targets, retryLine(e))
	case runtime.SendEvent:
		f.say(e.Node, e.Targets, sendLine(e))
	case runtime.WaitEvent:
		f.say(e.Node, nil, e.Text)
	case runtime.NodeEvent:
		_, line := nodeLine(e)
		f.say(e.Node, nil, line)
	}
}

// printEnd reports how a step ended, with its output.
func (f *folded) printEnd(st *scene.Step, at time.Duration) {
	title := f.name(st)
	switch st.State {
	case scene.Cached:
		title += " CACHED"
	case scene.Failed:
		title += " ERROR: " + st.Err
	case scene.Cancelled:
		title += " CANCELED"
	default:
		title += fmt.Sprintf(" DONE %s", seconds(st.RunTime(at)))
	}
	switch {
	case len(st.Log.Lines()) == 0:
		f.line(title)
	case st.State == scene.Failed:
		f.line(title)
		f.foreign(func() { writeLog(f.outlet, &st.Log) })
	default:
		f.fold(st, title)
	}
}

// fold writes the log of a step below a title.
func (f *folded) fold(st *scene.Step, title string) {
	to := commands{f.outlet}
	if f.service == github {
		fmt.Fprintf(to, "::group::%s\n", escape(title))
		f.foreign(func() { writeLog(f.outlet, &st.Log) })
		fmt.Fprint(to, "::endgroup::\n")
		return
	}
	name := fmt.Sprintf("dbake_step_%d", st.Number())
	fmt.Fprintf(to, "\x1b[0Ksection_start:%d:%s[collapsed=true]\r\x1b[0K%s\n", time.Now().Add(-st.RunTime(0)).Unix(), name, printable.StripCommands(title))
	writeLog(f.outlet, &st.Log)
	fmt.Fprintf(to, "\x1b[0Ksection_end:%d:%s\r\x1b[0K\n", time.Now().Unix(), name)
}

// foreign writes output of a step while the service ignores all commands but a word that
// nobody can guess.
func (f *folded) foreign(write func()) {
	if f.service != github {
		write()
		return
	}
	word := "dbake-" + strings.ToLower(rand.Text())
	fmt.Fprintf(commands{f.outlet}, "::stop-commands::%s\n", word)
	write()
	fmt.Fprintf(commands{f.outlet}, "::%s::\n", word)
}

// End implements Progress.
func (f *folded) End() {
	f.watch.Lock()
	if f.scene == nil {
		f.watch.Unlock()
		return
	}
	stop, stopped := f.stop, f.stopped
	now := time.Since(f.began)
	for _, st := range f.scene.Steps() { // what was cut off has printed something, too
		if st.State == scene.Running && len(st.Log.Lines()) > 0 {
			f.fold(st, fmt.Sprintf("%s stopped after %s", f.name(st), seconds(st.RunTime(now))))
		}
	}
	f.scene = nil
	for _, line := range f.later {
		f.text.Warn(line)
	}
	f.later = nil
	f.watch.Unlock()
	close(stop)
	<-stopped
}

// Error implements Progress.
func (f *folded) Error(err error, debug bool) {
	f.End()
	f.text.Error(err, debug)
}
