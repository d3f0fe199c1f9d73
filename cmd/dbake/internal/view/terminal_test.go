package view

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cmd/dbake/internal/ptytest"
	"github.com/dbake/dbake/runtime"
)

var xterm = map[string]string{"TERM": "xterm-256color"}

// start begins a run on a terminal, reports what was recorded, and waits for the
// display.
func start(t *testing.T, p *ptytest.Terminal, env map[string]string) Progress {
	t.Helper()
	progress, err := New(p.File, Options{Keys: p.File, Env: env})
	require.NoError(t, err)
	progress.Note("starting 2 local nodes")
	progress.Warn("no output")
	require.NoError(t, progress.Begin(nil, nil, true))
	for _, e := range exampleEvents() {
		progress.Observe(e)
	}
	p.Wait(t, "Targets", "worker")
	require.True(t, p.FullScreen())
	return progress
}

// breaks reports a step that fails after it has printed lines.
func breaks(p Progress, lines int) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	end := start.Add(time.Second)
	d := digest.FromString("broken")
	st := &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Digest: d, Name: "[2/3] RUN false", Started: &start, Completed: &end, Error: "exit code: 1"}}}
	for i := range lines {
		st.Logs = append(st.Logs, &bkclient.VertexLog{Vertex: d, Stream: 1, Timestamp: start, Data: fmt.Appendf(nil, "line %d\n", i)})
	}
	for _, part := range []*bkclient.SolveStatus{{Logs: st.Logs}, {Vertexes: st.Vertexes}} {
		p.Observe(runtime.StatusEvent{Node: "n1", Targets: map[digest.Digest][]string{d: {"web"}}, Status: part})
	}
}

// On a terminal of any width the live display shows whose step it is. When it has
// ended, the summary and what failed are there, and nothing of the display.
func TestTerminal(t *testing.T) {
	for _, width := range []int{40, 80, 160} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			p := ptytest.New(t, width, 24)
			progress := start(t, p, xterm)
			p.Wait(t, "n1", "worker", "1/6")
			breaks(progress, 100)
			p.Press(t, "f")
			p.Wait(t, "web", "line 99", "follows")
			p.Press(t, "g")
			p.Wait(t, "line 0")
			p.Press(t, "q")
			p.Wait(t, "Targets")
			progress.Warn("kept until the end")
			progress.End()
			progress.Summary(exampleResult(), Run{Makespan: 10 * time.Second, Bound: 8 * time.Second})
			progress.Error(errors.New("broken"), false)
			p.Wait(t, "ERROR: broken")
			require.False(t, p.FullScreen())
			history := p.History()
			for _, text := range []string{"starting 2 local nodes", "WARNING: no output", " > n1 [web 2/3] RUN false:", "line 0\n", "line 57\n", "line 99\nexit code: 1\n", "WARNING: kept until the end", "STEPS RUN", "ERROR: broken"} {
				require.Contains(t, history, text)
			}
			require.NotContains(t, history, "─ Targets")
			require.NotContains(t, history, "enter log")
			require.NotContains(t, p.Output(), "\x1b[2J\x00", "what a step prints is no command to the terminal")
			require.NotContains(t, p.Output(), "\x1b[?1000h", "the mouse is left to the terminal")
			require.NotContains(t, p.Output(), "\x1b[?1002h")
		})
	}
}

// A run that is over at once opens no display.
func TestTerminalQuick(t *testing.T) {
	p := ptytest.New(t, 80, 24)
	progress, err := New(p.File, Options{Keys: p.File, Env: xterm})
	require.NoError(t, err)
	require.NoError(t, progress.Begin(nil, nil, true))
	for _, e := range exampleEvents() {
		progress.Observe(e)
	}
	progress.End()
	progress.Note("done")
	p.Wait(t, "done")
	require.NotContains(t, p.Output(), "\x1b[?1049h")
}

func TestTerminalColours(t *testing.T) {
	for name, tc := range map[string]struct {
		env  map[string]string
		want bool
	}{
		"colours":  {xterm, true},
		"NO_COLOR": {map[string]string{"TERM": "xterm-256color", "NO_COLOR": "1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := ptytest.New(t, 80, 24)
			progress := start(t, p, tc.env)
			progress.End()
			require.Equal(t, tc.want, strings.Contains(p.Output(), "\x1b[36m") || strings.Contains(p.Output(), ";36m"), "%q", p.Output())
		})
	}
}

// The display follows the size of the terminal, and COLUMNS may ask for less.
func TestTerminalSize(t *testing.T) {
	p := ptytest.New(t, 80, 24)
	progress := start(t, p, map[string]string{"TERM": "xterm", "COLUMNS": "60"})
	widest := func(screen string) int {
		n := 0
		for line := range strings.SplitSeq(screen, "\n") {
			n = max(n, len([]rune(line)))
		}
		return n
	}
	require.Equal(t, 60, widest(p.Screen()))
	p.Resize(t, 50, 10)
	p.Until(t, "50 columns", func(screen string) bool { return widest(screen) == 50 && strings.Contains(screen, "Targets") })
	progress.End()

	p = ptytest.New(t, 80, 24)
	progress = start(t, p, xterm)
	p.Resize(t, 200, 50)
	p.Until(t, "200 columns", func(screen string) bool { return widest(screen) == 200 && strings.Contains(screen, " │ ") })
	progress.End()
}

// Characters of two columns move nothing: what is said of targets stands in one column.
func TestTerminalWide(t *testing.T) {
	p := ptytest.New(t, 80, 24)
	progress := start(t, p, xterm)
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d := digest.FromString("wide")
	progress.Observe(runtime.StatusEvent{Node: "n1", Targets: map[digest.Digest][]string{d: {"支払い"}}, Status: &bkclient.SolveStatus{
		Vertexes: []*bkclient.Vertex{{Digest: d, Name: "[1/1] RUN 作る", Started: &start}},
		Logs:     []*bkclient.VertexLog{{Vertex: d, Stream: 1, Timestamp: start, Data: []byte("完了 80%\n")}},
	}})
	screen := p.Wait(t, "支払い", "RUN 作る")
	columns := map[string]int{}
	_, list, _ := strings.Cut(screen, "─ Targets")
	for line := range strings.SplitSeq(list, "\n") {
		require.LessOrEqual(t, ansi.StringWidth(line), 80)
		for _, name := range []string{"支払い", " docs"} {
			if before, after, ok := strings.Cut(line, name); ok {
				gap := len(after) - len(strings.TrimLeft(after, " "))
				columns[name] = ansi.StringWidth(before+name) + gap
			}
		}
	}
	require.Len(t, columns, 2, screen)
	require.Equal(t, columns[" docs"], columns["支払い"], screen)
	p.Press(t, "/", "払")
	p.Wait(t, "/払")
	p.Press(t, "enter", "enter")
	p.Wait(t, "完了 80%", "follows")
	progress.End()
}

// Where no display can be shown there are lines; if a display was asked for, they say why.
func TestTerminalDumb(t *testing.T) {
	p := ptytest.New(t, 80, 24)
	for _, env := range []map[string]string{{}, {"TERM": "dumb"}} {
		_, err := New(p.File, Options{Mode: ModeTTY, Env: env})
		require.ErrorContains(t, err, "needs a terminal that can move its cursor, and TERM is ")
		progress, err := New(p.File, Options{Env: env})
		require.NoError(t, err)
		require.NoError(t, progress.Begin(nil, nil, true))
		for _, e := range exampleEvents() {
			progress.Observe(e)
		}
		progress.End()
		p.Wait(t, "n1 [worker build 2/4] RUN a b")
		require.NotContains(t, p.Output(), "\x1b[?1049h")
	}
}

// A terminal that takes nothing, and one that goes away, hold up neither the run nor
// the end of the command.
func TestTerminalGone(t *testing.T) {
	t.Run("slow", func(t *testing.T) {
		p := ptytest.New(t, 80, 24)
		progress := start(t, p, xterm)
		release := p.Hold()
		defer release()
		for range 2000 { // more than the terminal takes unread
			breaks(progress, 10)
		}
		progress.Interrupt()
		progress.Note("stopping")
		progress.End()
		progress.Error(errors.New("interrupted"), false)
	})
	t.Run("closed", func(t *testing.T) {
		p := ptytest.New(t, 80, 24)
		progress := start(t, p, xterm)
		p.Close()
		breaks(progress, 1000)
		progress.End()
		progress.Summary(exampleResult(), Run{})
		progress.Error(errors.New("broken"), false)
	})
}

// Ctrl-C gives the terminal back at once; what is said afterwards are lines.
func TestTerminalInterrupted(t *testing.T) {
	p := ptytest.New(t, 80, 24)
	progress := start(t, p, xterm)
	progress.Interrupt()
	progress.Note("stopping; interrupt again to quit at once")
	p.Wait(t, "stopping; interrupt again to quit at once")
	require.False(t, p.FullScreen())
	breaks(progress, 1)
	progress.End()
	p.Wait(t, "line 0", "------")
}

var _ io.ReadWriteCloser = (*screen)(nil)

// displayVariable has the test executable show a run on its terminal until Ctrl-C.
const displayVariable = "DBAKE_TEST_DISPLAY"

func TestMain(m *testing.M) {
	if os.Getenv(displayVariable) != "" {
		os.Exit(display())
	}
	os.Exit(m.Run())
}

func display() int {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	progress, err := New(os.Stdout, Options{Keys: os.Stdin, Env: xterm})
	if err != nil {
		return 1
	}
	if err := progress.Begin(nil, nil, true); err != nil {
		return 1
	}
	for _, e := range exampleEvents() {
		progress.Observe(e)
	}
	<-interrupted
	progress.End()
	progress.Note("the display has ended")
	return 0
}

// Ctrl-Z gives the terminal to the shell until it continues the process. Where there is
// no shell that could, the display comes back by itself.
func TestTerminalSuspended(t *testing.T) {
	show := func(t *testing.T, name string, args ...string) *ptytest.Terminal {
		p := ptytest.New(t, 80, 24)
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), displayVariable+"=1")
		p.Run(t, cmd)
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // of one that has ended it is an error
			_ = cmd.Wait()         // what counts is what is shown
		})
		p.Wait(t, "Targets", "worker")
		return p
	}
	takesKeys := func(t *testing.T, p *ptytest.Terminal) {
		t.Helper()
		p.Press(t, "?")
		p.Wait(t, "any key goes back")
		p.Press(t, "ctrl+c")
		require.Contains(t, p.AwaitEnd(), "the display has ended")
		require.False(t, p.FullScreen())
	}
	t.Run("by a shell", func(t *testing.T) {
		p := show(t, "sh", "-c", `set -m; "$0"; echo "the shell has the terminal"; read line; fg >/dev/null`, os.Args[0])
		p.Press(t, "ctrl+z")
		p.Wait(t, "the shell has the terminal")
		require.False(t, p.FullScreen())
		p.Press(t, "enter")
		p.Wait(t, "Targets", "worker")
		require.True(t, p.FullScreen())
		takesKeys(t, p)
	})
	t.Run("with no shell", func(t *testing.T) {
		p := show(t, os.Args[0])
		p.Press(t, "ctrl+z")
		p.Until(t, "the display again", func(string) bool { return strings.Count(p.Output(), "\x1b[?1049h") == 2 })
		takesKeys(t, p)
	})
}
