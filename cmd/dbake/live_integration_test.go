//go:build integration

package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cmd/dbake/internal/ptytest"
)

// gates is a server that steps ask whether they may go on.
type gates struct {
	*httptest.Server
	mu    sync.Mutex
	open  map[string]bool
	asked chan string // names, as they are asked for; what nobody takes is dropped
}

func newGates(t *testing.T) *gates {
	g := &gates{open: map[string]bool{}, asked: make(chan string, 1)}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		select {
		case g.asked <- name:
		default:
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.open[name] {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *gates) let(names ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range names {
		g.open[name] = true
	}
}

// gated is a project whose targets wait until they are let through.
const gated = `
variable "GATES" {}
group "default" { targets = ["api", "bad", "docs", "web"] }
target "_base" {
  args = { GATES = GATES }
}
target "step" {
  inherits = ["_base"]
  name = tgt
  matrix = { tgt = ["api", "bad", "docs", "web"] }
  dockerfile-inline = <<EOT
FROM busybox:1
ARG GATES
RUN for i in $(seq 50); do echo "${tgt} says $i"; done; until wget -q -O /dev/null $GATES/${tgt}; do sleep 0.1; done; echo "${tgt} goes on"; test ${tgt} != bad
EOT
}
`

// The live display of a real build: every key, a new size, and what is left when the
// build has ended.
func TestLive(t *testing.T) {
	w := newWorld(t, 2)
	dir := bakeDir(t, gated)

	start := func(t *testing.T, g *gates, args ...string) (p *ptytest.Terminal, wait func() int) {
		p = ptytest.New(t, 80, 24)
		cmd := w.command(dir, append(append([]string{"build", "--no-cache", "-k", "--var", "GATES=" + g.URL}, w.on(2)...), args...)...)
		cmd.Env = append(cmd.Env, "TERM=xterm-256color", "TMPDIR="+t.TempDir())
		p.Run(t, cmd)
		t.Cleanup(func() { _ = cmd.Process.Kill() }) // of one that has ended it is an error
		return p, func() int {
			_ = cmd.Wait() // what counts is the status
			return cmd.ProcessState.ExitCode()
		}
	}
	cursor := func(t *testing.T, p *ptytest.Terminal, name string) {
		t.Helper()
		p.Until(t, "the cursor on "+name, func(screen string) bool {
			for line := range strings.SplitSeq(screen, "\n") {
				if strings.Contains(line, "▸") {
					return strings.Contains(line, " "+name+" ")
				}
			}
			return false
		})
	}

	t.Run("keys", func(t *testing.T) {
		g := newGates(t)
		p, wait := start(t, g)
		p.Wait(t, "Targets", "0/4 targets", "n1", "n2", "RUN for i")
		p.Press(t, "g")
		cursor(t, p, "api")
		p.Press(t, "j", "j")
		cursor(t, p, "docs")
		p.Press(t, "k")
		cursor(t, p, "bad")
		p.Press(t, "down")
		cursor(t, p, "docs")
		p.Press(t, "up")
		cursor(t, p, "bad")
		p.Press(t, "G")
		cursor(t, p, "web")
		p.Press(t, "pgup")
		cursor(t, p, "api")
		p.Press(t, "space")
		cursor(t, p, "web")
		p.Press(t, "home")
		cursor(t, p, "api")
		p.Press(t, "end")
		cursor(t, p, "web")
		p.Press(t, "b")
		cursor(t, p, "api")

		p.Press(t, "/", "w", "e")
		p.Wait(t, "/we", "targets whose name contains this")
		p.Press(t, "enter")
		cursor(t, p, "web")
		p.Until(t, "one target", func(screen string) bool { return !strings.Contains(screen, " docs ") })
		p.Press(t, "esc")
		p.Wait(t, " docs ")

		p.Press(t, "?")
		p.Wait(t, "any key goes back")
		p.Press(t, "?")
		p.Wait(t, "Targets")
		p.Press(t, "q")
		p.Wait(t, "Stop the build?")
		p.Press(t, "n")
		p.Wait(t, "enter log")

		// A log, while others run.
		p.Press(t, "g", "enter")
		p.Wait(t, "api says 50", "follows")
		p.Press(t, "g")
		p.Wait(t, "api says 1\n", "1–22 of ")
		p.Press(t, "j")
		p.Wait(t, "2–23 of ")
		p.Press(t, "k")
		p.Wait(t, "1–22 of ")
		p.Press(t, "pgdown")
		p.Wait(t, "22–43 of ")
		p.Press(t, "pgup")
		p.Wait(t, "1–22 of ")
		p.Press(t, "ctrl+d")
		p.Wait(t, "13–34 of ")
		p.Press(t, "ctrl+u")
		p.Wait(t, "1–22 of ")
		p.Press(t, "/", "4", "7", "enter")
		p.Until(t, "one line", func(screen string) bool {
			return strings.Contains(screen, "api says 47") && !strings.Contains(screen, "api says 50")
		})
		p.Press(t, "esc")
		p.Wait(t, "api says 50", "follows")
		p.Press(t, "g")
		p.Wait(t, "api says 1\n")
		p.Press(t, "G")
		p.Wait(t, "api says 50", "follows")
		g.let("api")
		p.Wait(t, "api goes on", "built")
		p.Press(t, "right")
		p.Wait(t, "bad says 50")
		p.Press(t, "left")
		p.Wait(t, "api goes on")
		p.Press(t, "esc")
		p.Wait(t, "Targets", "1/4 targets")

		// Nothing has failed yet: the log opens when something does.
		p.Press(t, "f")
		p.Wait(t, "opens the log of what fails")
		g.let("bad")
		p.Wait(t, "bad goes on", "exit code: 1")
		p.Press(t, "q")
		p.Wait(t, "Targets", "1 failed")

		p.Resize(t, 200, 50)
		p.Wait(t, " │ ")
		p.Resize(t, 60, 16)
		p.Until(t, "60 columns", func(screen string) bool {
			return !strings.Contains(screen, " │ ") && strings.Contains(screen, "Targets")
		})
		g.let("docs", "web")
		require.Equal(t, 1, wait())
		history := p.AwaitEnd()
		require.False(t, p.FullScreen())
		for _, text := range []string{"bad says 1\n", "bad says 50\n", "bad goes on\n", "STEPS RUN", "3 of 4 targets built", "ERROR: bad dockerfile-inline:3: target bad: "} {
			require.Contains(t, history, text)
		}
		for _, text := range []string{"─ Targets", "enter log", "api says"} {
			require.NotContains(t, history, text, "what was on the screen is gone")
		}
	})

	t.Run("ctrl-c", func(t *testing.T) {
		p, wait := start(t, newGates(t))
		p.Wait(t, "Targets", "RUN for i")
		p.Press(t, "ctrl+c")
		require.Equal(t, 130, wait())
		history := p.AwaitEnd()
		require.False(t, p.FullScreen())
		require.Contains(t, history, "stopping; interrupt again to quit at once")
		require.Contains(t, history, "ERROR: interrupted")
	})

	t.Run("q and y", func(t *testing.T) {
		p, wait := start(t, newGates(t))
		p.Wait(t, "Targets", "RUN for i")
		p.Press(t, "q", "y")
		require.Equal(t, 130, wait())
		require.Contains(t, p.AwaitEnd(), "ERROR: interrupted")
	})

	t.Run("the terminal goes away", func(t *testing.T) {
		p, wait := start(t, newGates(t))
		p.Wait(t, "Targets", "RUN for i")
		p.Close()
		require.Equal(t, 130, wait())
	})

	t.Run("nobody reads", func(t *testing.T) {
		g := newGates(t)
		p, wait := start(t, g)
		p.Wait(t, "Targets", "RUN for i")
		release := p.Hold()
		defer release()
		g.let("api", "bad", "docs", "web")
		p.Wait(t, "Targets") // as it was: nothing is read
		release()
		require.Equal(t, 1, wait())
		require.Contains(t, p.AwaitEnd(), "3 of 4 targets built")
	})
}
