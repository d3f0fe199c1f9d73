package live

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
)

func TestActions(t *testing.T) {
	m := building().model()
	m.Width, m.Height = 80, 24
	require.Equal(t, Nothing, press(m, "q n"))
	require.Equal(t, Nothing, press(m, "q esc"))
	require.Equal(t, Interrupt, press(m, "q y"))
	require.Equal(t, Interrupt, press(m, "q enter"))
	require.Equal(t, Suspend, press(m, "ctrl+z"))
	require.Equal(t, Nothing, press(m, "/ q y esc"), "typed, not pressed")
	for _, keys := range []string{"ctrl+c", "? ctrl+c", "enter ctrl+c", "/ x ctrl+c"} {
		require.Equal(t, Interrupt, press(m, keys))
	}
}

// Pasted text stops no build.
func TestPaste(t *testing.T) {
	m := building().model()
	m.Width, m.Height = 80, 24
	m.Paste("qy")
	require.NotContains(t, m.Frame(), "Stop the build")
	press(m, "/")
	m.Paste("we")
	require.Len(t, m.list(), 1)
}

// The log of what fails opens when it fails.
func TestFollowFailing(t *testing.T) {
	p := building()
	m := p.model()
	m.Width, m.Height = 80, 24
	press(m, "f")
	require.Contains(t, ansi.Strip(m.Frame()), "opens the log of what fails")
	m.Scene = failing().scene
	require.Contains(t, ansi.Strip(m.Frame()), "npm ERR! 404")
	press(m, "esc")
	require.Contains(t, ansi.Strip(m.Frame()), "─ Targets", "once")
}

// However many steps come and go, the parts of the dashboard stay where they are.
func TestNothingJumps(t *testing.T) {
	for _, size := range sizes {
		var want []int
		names := make([]string, 20)
		for i := range names {
			names[i] = fmt.Sprintf("svc%02d", i+1)
		}
		p := newPlay(3, names...)
		m := p.model()
		m.Width, m.Height = size[0], size[1]
		look := func() {
			var marks []int
			for i, line := range strings.Split(ansi.Strip(m.Frame()), "\n") {
				for _, mark := range []string{"▌n1", "▌n2", "▌n3", "─ Targets", "─ Events", "enter log"} {
					if strings.Contains(line, mark) {
						marks = append(marks, i)
					}
				}
			}
			if want == nil {
				want = marks
			}
			require.Equal(t, want, marks)
			m.Now = p.now
		}
		p.queue("n1", "n2", "n3")
		look()
		for i, name := range names {
			node := p.node[name]
			p.at(float64(i)/10).job(name, "submitted")
			p.step(node, name, 0, float64(i)/10, 0, "cached")
			look()
			p.at(float64(i)/10+0.9).step(node, name, 1, float64(i)/10, -1, "")
			look()
			if i%2 == 0 {
				p.step(node, name, 1, float64(i)/10, 0.5, "")
				p.job(name, "exported")
				look()
			}
		}
	}
}

// No key, size or moment makes a frame that does not fit.
func TestAnyKeys(t *testing.T) {
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewSource(seed))
	keys := strings.Fields("j k up down left right space b pgup pgdown g G home end enter esc / f ? q n a 0 ctrl+d ctrl+u backspace 支 tab f1")
	plays := []func() *play{building, failing, playLoss, playCacheHits, crowd, playEnd, func() *play { return &play{scene: scene.New(scene.Outlook{})} }}
	for range 60 {
		m := plays[r.Intn(len(plays))]().model()
		for range 40 {
			m.Width, m.Height = 1+r.Intn(220), 1+r.Intn(60)
			press(m, keys[r.Intn(len(keys))])
			requireSize(t, m, m.Frame())
		}
	}
}

// A hundred nodes leave room for targets.
func TestManyNodes(t *testing.T) {
	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprintf("t%d", i)
	}
	for _, size := range sizes {
		m := newPlay(100, names...).model()
		m.Width, m.Height = size[0], size[1]
		require.GreaterOrEqual(t, m.rows(), 5)
		frame := m.Frame()
		requireSize(t, m, frame)
		require.Contains(t, ansi.Strip(frame), "nodes more")
	}
}

func duration(ms int) time.Duration { return time.Duration(ms) * time.Millisecond }

func TestTook(t *testing.T) {
	for ms, want := range map[int]string{0: "0.0s", 3240: "3.2s", 59_940: "59.9s", 59_960: "1m00s", 65_000: "1m05s", 3_599_600: "1h00m", 7_800_000: "2h10m"} {
		require.Equal(t, want, took(duration(ms)))
	}
	for ms, want := range map[int]string{3240: "~3.2s", 12_300: "~12s", 59_700: "~1m00s", 65_000: "~1m05s"} {
		require.Equal(t, want, about(duration(ms)))
	}
}
