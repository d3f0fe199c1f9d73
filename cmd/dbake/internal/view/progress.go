package view

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/printable"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/internal/stopwatch"
	"github.com/dbake/dbake/runtime"
)

// Progress shows the progress of a command to people or programs, on one stream. Nothing
// else writes there. All methods but Observe may be called from any goroutine.
type Progress interface {
	// Note shows a remark, in one line.
	Note(text string)
	// Warn shows a warning, in one line. During a run it is kept until the run has ended.
	Warn(text string)
	// Prompt shows text that a person has to answer. It is false when no person
	// reads the stream; then nothing was shown.
	Prompt(text string) bool
	// Begin starts the display of a run of b by plan p. With named, several nodes take part
	// and every line says which one it is about.
	Begin(b *plan.Build, p *plan.Plan, named bool) error
	// Observe shows an event of the run. It is called from one goroutine.
	Observe(e runtime.Event)
	// End returns when everything about the run is shown.
	End()
	// Remarks shows the warnings of the Dockerfile frontend; with debug also the reasons
	// and the lines concerned.
	Remarks(list []plan.Remark, debug bool)
	// Summary shows the result of a run, with further facts about it.
	Summary(r *runtime.Result, run Run)
	// Timings shows where the time of the command went.
	Timings(list []stopwatch.Phase)
	// Error shows why the command failed; with debug also the chain of causes.
	Error(err error, debug bool)
	// Interrupt announces the end of the command: from now on no write waits longer than
	// [patience] for a reader.
	Interrupt()
}

// Run holds facts about a run beside its result.
type Run struct {
	// Makespan is the predicted time.
	Makespan time.Duration
	// Bound is the lower bound on the time of every plan if all predictions had been exact;
	// 0 when there is none.
	Bound time.Duration
	// Logs is the directory of the logs of the targets, "" when there is none; Log
	// returns the file of one, "" when it has none.
	Logs string
	Log  func(target string) string
}

// log is Log where there are logs.
func (r Run) log(target string) string {
	if r.Log == nil {
		return ""
	}
	return r.Log(target)
}

// The values of --progress.
const (
	ModeAuto    = "auto"
	ModePlain   = "plain"
	ModeTTY     = "tty"
	ModeQuiet   = "quiet"
	ModeNone    = "none" // quiet under another name
	ModeRawJSON = "rawjson"
)

// Modes are the values of --progress that help and completion name.
func Modes() []string { return []string{ModeAuto, ModePlain, ModeTTY, ModeQuiet, ModeRawJSON} }

// ModeList is Modes in words.
func ModeList() string {
	modes := Modes()
	last := len(modes) - 1
	return strings.Join(modes[:last], ", ") + " or " + modes[last]
}

// Options choose how progress is shown.
type Options struct {
	Mode string // a value of --progress; "" is auto
	// Keys is where a person types, if it is a terminal.
	Keys io.Reader
	// Env is the environment: TERM and NO_COLOR say what a terminal can do, others
	// which CI service reads the stream.
	Env map[string]string
	// Dir is the directory that file names in errors stand against.
	Dir string
}

// New returns the progress that the options ask for, on w. Auto is a live display when w is
// a terminal, else the form of the CI service that reads w, else plain lines.
func New(w io.Writer, o Options) (Progress, error) {
	service := serviceOf(o.Env)
	switch o.Mode {
	case ModeRawJSON:
		return newRawJSON(w), nil
	case ModeQuiet, ModeNone:
		return &quiet{Progress: newText(w, o)}, nil
	case ModePlain:
		return newText(w, o), nil
	case "", ModeAuto, ModeTTY:
		f, why := screenOf(w, o.Env)
		switch {
		case why == "" && (o.Mode == ModeTTY || foreground(f)):
			return newTerminal(f, o), nil
		case o.Mode == ModeTTY:
			return nil, fmt.Errorf("progress mode tty needs a terminal%s; use plain or auto", why)
		}
		if service == github || service == gitlab {
			return newFolded(w, o, service), nil
		}
		return newText(w, o), nil
	}
	return nil, fmt.Errorf("invalid progress mode %q; use %s", o.Mode, ModeList())
}

// screenOf returns the terminal that w is, or why no display can be shown on it.
func screenOf(w io.Writer, env map[string]string) (f *os.File, why string) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, ", and the output is none"
	}
	if name := env["TERM"]; name == "" || name == "dumb" {
		return nil, fmt.Sprintf(" that can move its cursor, and TERM is %q", name)
	}
	return f, ""
}

// quiet shows errors and warnings only.
type quiet struct{ Progress }

func (*quiet) Note(string)                               {}
func (*quiet) Begin(*plan.Build, *plan.Plan, bool) error { return nil }
func (*quiet) Observe(runtime.Event)                     {}
func (*quiet) End()                                      {}
func (*quiet) Remarks([]plan.Remark, bool)               {}
func (*quiet) Summary(*runtime.Result, Run)              {}
func (*quiet) Timings([]stopwatch.Phase)                 {}

// patience bounds how long a write waits for a reader once the command is to end.
const patience = 2 * time.Second

// errUnread is the error of writes that no one reads.
var errUnread = errors.New("nobody reads the progress")

// outlet is a writer that can be abandoned: after Interrupt, a write that nobody reads
// within patience makes it fail for good. It is safe for concurrent use.
type outlet struct {
	w io.Writer
	// guarded is set when a CI service reads this, and acts on text that looks like a
	// command.
	guarded     bool
	interrupted chan struct{}
	once        sync.Once
	unread      chan struct{} // closed when the stream was given up

	mu sync.Mutex // held during a write
}

func newOutlet(w io.Writer) *outlet {
	return &outlet{w: w, interrupted: make(chan struct{}), unread: make(chan struct{})}
}

// Interrupt ends the time in which writes wait for ever.
func (o *outlet) Interrupt() { o.once.Do(func() { close(o.interrupted) }) }

// Write implements io.Writer. Passwords in URLs are hidden.
func (o *outlet) Write(p []byte) (int, error) {
	text := redact.Text(string(p))
	if o.guarded {
		text = printable.StripCommands(text)
	}
	if _, err := o.put([]byte(text)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// put writes p as it is.
func (o *outlet) put(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.unread:
		return 0, errUnread
	default:
	}
	// A write to a full pipe cannot be called off: its goroutine ends with the
	// process when nobody reads any more.
	data := bytes.Clone(p)
	done := make(chan error, 1)
	go func() {
		_, err := o.w.Write(data)
		done <- err
	}()
	if o.wait(done) {
		return 0, errUnread
	}
	return len(p), nil // nobody could read an error about an output that takes no text
}

// wait returns when done is, or with true when patience is at an end.
func (o *outlet) wait(done <-chan error) (unread bool) {
	select {
	case <-done:
		return false
	case <-o.interrupted:
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-done:
		return false
	case <-t.C:
		close(o.unread)
		return true
	}
}
