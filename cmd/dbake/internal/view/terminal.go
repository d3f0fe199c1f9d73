package view

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/dbake/dbake/cmd/dbake/internal/live"
	"github.com/dbake/dbake/cmd/dbake/internal/scene"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/printable"
	"github.com/dbake/dbake/runtime"
)

// terminal is the progress for a person at a terminal. A live display shows a run while it
// lasts; afterwards text stays, as everywhere else.
type terminal struct {
	*text
	screen *screen
	keys   io.Reader
	env    map[string]string

	// running guards display, which is nil when no run is shown.
	running sync.Mutex
	display *live.Display
	later   []string // warnings to be shown when the run has ended
}

// screen is the terminal as a display writes to it: a write can be given up.
type screen struct {
	*outlet
	file *os.File
}

func (s *screen) Write(p []byte) (int, error) { return s.put(p) }
func (s *screen) Read(p []byte) (int, error)  { return s.file.Read(p) }
func (s *screen) Close() error                { return nil } // it is not ours
func (s *screen) Fd() uintptr                 { return s.file.Fd() }

// quick is how long a run must take before a display is opened for it.
const quick = 300 * time.Millisecond

func newTerminal(f *os.File, o Options) *terminal {
	t := &terminal{text: newText(f, o), env: o.Env}
	t.screen = &screen{outlet: t.outlet, file: f}
	if keys, ok := o.Keys.(*os.File); ok && term.IsTerminal(int(keys.Fd())) && foreground(keys) {
		t.keys = keys
	}
	return t
}

// showing returns the display of the run that is shown, nil when there is none.
func (t *terminal) showing() *live.Display {
	t.running.Lock()
	defer t.running.Unlock()
	return t.display
}

// Note implements Progress.
func (t *terminal) Note(line string) {
	if d := t.showing(); d != nil {
		select {
		case <-t.interrupted:
			_ = d.Stop() // from now on lines are shown as they come
		default:
			d.Say(scene.Remarked, line)
			return
		}
	}
	t.text.Note(line)
}

// Warn implements Progress.
func (t *terminal) Warn(line string) {
	d := t.showing()
	if d == nil {
		t.text.Warn(line)
		return
	}
	d.Say(scene.Warned, line)
	t.running.Lock()
	defer t.running.Unlock()
	t.later = append(t.later, line)
}

// Begin implements Progress.
func (t *terminal) Begin(b *plan.Build, p *plan.Plan, _ bool) error {
	var run scene.Outlook
	if b != nil && p != nil {
		run = scene.NewOutlook(b, p)
	}
	t.running.Lock()
	defer t.running.Unlock()
	t.display = live.Start(run, live.Options{Out: t.screen, In: t.keys, Env: t.env, Interrupt: interrupt, Patience: quick})
	return nil
}

// interrupt does what the terminal does for Ctrl-C when no display has the keys.
func interrupt() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Signal(os.Interrupt) // to oneself
	}
}

// Observe implements Progress.
func (t *terminal) Observe(e runtime.Event) {
	if d := t.showing(); d != nil {
		d.Apply(e)
	}
}

// Interrupt implements Progress: the terminal is given back, so that the next Ctrl-C is
// heard whatever becomes of this process.
func (t *terminal) Interrupt() {
	t.text.Interrupt()
	if d := t.showing(); d != nil {
		go func() { _ = d.Stop() }() // Stop is waited for by End
	}
}

// End implements Progress.
func (t *terminal) End() {
	d := t.showing()
	if d == nil {
		return
	}
	err := d.Stop()
	t.running.Lock()
	t.display = nil
	later := t.later
	t.later = nil
	t.running.Unlock()
	failedLogs(t.outlet, d.Scene())
	if err != nil {
		later = append(later, fmt.Sprintf("the live view ended early: %v", err))
	}
	for _, line := range later {
		t.text.Warn(line)
	}
}

// Error implements Progress.
func (t *terminal) Error(err error, debug bool) {
	t.End()
	t.text.Error(err, debug)
}

// failedLogs prints the whole output of the steps that failed for good.
func failedLogs(w io.Writer, s *scene.Scene) {
	for _, st := range s.Failed {
		if recovered(s, st) {
			continue
		}
		fmt.Fprintf(w, "------\n > %s:\n", printable.Line(lineName(st.Node.Name, st.Targets, st.Name)))
		writeLog(w, &st.Log)
		fmt.Fprintf(w, "%s\n------\n", printable.Lines(st.Err))
	}
}

// recovered reports whether a step that failed was run after all, on another node.
func recovered(s *scene.Scene, st *scene.Step) bool {
	for _, name := range st.Targets {
		if t := s.Target(name); t != nil && t.State != scene.Done {
			return false
		}
	}
	return len(st.Targets) > 0
}

// writeLog writes the kept part of a log.
func writeLog(w io.Writer, log *scene.Log) {
	before, gap, _ := log.Gap()
	var b strings.Builder
	for i, line := range log.Lines() {
		if gap > 0 && i == before {
			fmt.Fprintf(&b, "... %d lines left out ...\n", gap)
		}
		b.WriteString(printable.Lines(line) + "\n")
		if b.Len() > 64<<10 {
			fmt.Fprint(w, b.String())
			b.Reset()
		}
	}
	fmt.Fprint(w, b.String())
}
