package live

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/output"
)

var update = flag.Bool("update", false, "rewrite the frames in testdata")

// epoch is the clock of the nodes at the start of the run.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// play is a run that a test makes up.
type play struct {
	plan  scene.Outlook
	steps []string
	scene *scene.Scene
	now   time.Duration
	node  map[string]string // by target
}

// newPlay plans targets for nodes by turns; each has a base step that all share and two
// of its own.
func newPlay(nodes int, targets ...string) *play {
	p := &play{node: map[string]string{}, plan: scene.Outlook{Makespan: 65 * time.Second, Bound: 58 * time.Second}}
	for i := range nodes {
		p.plan.Nodes = append(p.plan.Nodes, scene.PlannedNode{Name: fmt.Sprintf("n%d", i+1), Speed: 1})
	}
	step := func(name string, cost time.Duration) {
		p.steps = append(p.steps, name)
		p.plan.Steps = append(p.plan.Steps, scene.Planned{Work: true, Cost: cost, Measured: true})
	}
	step("[base 1/2] RUN apt-get install", 12*time.Second)
	for i, name := range targets {
		p.plan.Jobs = append(p.plan.Jobs, scene.PlannedJob{Target: name, Steps: 3, Node: p.plan.Nodes[i%nodes].Name})
		p.node[name] = p.plan.Nodes[i%nodes].Name
		for _, name := range commands {
			step(name, 20*time.Second)
		}
	}
	p.scene = scene.New(p.plan)
	return p
}

var commands = []string{"[build 2/3] RUN npm ci", "[build 3/3] RUN make all"}

// at sets the clock, in seconds.
func (p *play) at(s float64) *play {
	p.now = time.Duration(s * float64(time.Second))
	return p
}

func (p *play) tell(e runtime.Event) { p.scene.Apply(p.now, e) }

func (p *play) queue(up ...string) {
	e := runtime.QueueEvent{At: p.now}
	for _, n := range p.plan.Nodes {
		q := runtime.NodeQueue{Node: n.Name, Ends: 45*time.Second + time.Duration(len(e.Nodes))*4*time.Second}
		for _, name := range up {
			q.Up = q.Up || name == n.Name
		}
		for _, j := range p.plan.Jobs {
			t := p.scene.Target(j.Target)
			if p.node[j.Target] != n.Name || t == nil {
				continue
			}
			switch t.State {
			case scene.Waiting:
				q.Queued = append(q.Queued, j.Target)
			case scene.Running, scene.Writing:
				q.Open++
			}
		}
		e.Nodes = append(e.Nodes, q)
	}
	p.tell(e)
}

func (p *play) job(target, stage string) {
	e := runtime.JobEvent{At: p.now, Job: target, Target: target, Node: p.node[target], Stage: stage}
	if stage == "exported" {
		e.Result = &runtime.JobResult{Job: target, Target: target, State: runtime.Done, Images: []output.Image{{Name: "example.com/" + target, Digest: "sha256:abc", Place: output.InRegistry}}}
	}
	p.tell(e)
}

// base is the shared step; own are those of a target, 0 and 1.
func (p *play) base() (digest.Digest, int) { return digest.FromString("base"), 0 }

func (p *play) own(target string, n int) (digest.Digest, int) {
	for i, j := range p.plan.Jobs {
		if j.Target == target {
			return digest.FromString(fmt.Sprint(target, n)), 1 + len(commands)*i + n
		}
	}
	return "", -1
}

// step reports that a step began at a time and, unless it is negative, took some.
func (p *play) step(node, target string, n int, began, took float64, mark string) {
	d, index := p.own(target, n)
	targets := []string{target}
	v := &bkclient.Vertex{}
	if n < 0 {
		d, index = p.base()
		targets = nil
		for _, j := range p.plan.Jobs {
			targets = append(targets, j.Target)
		}
	} else if n == 0 {
		base, _ := p.base()
		v.Inputs = []digest.Digest{base}
	} else {
		before, _ := p.own(target, n-1)
		v.Inputs = []digest.Digest{before}
	}
	v.Digest, v.Name = d, p.steps[index]
	start := epoch.Add(time.Duration(began * float64(time.Second)))
	v.Started = &start
	if took >= 0 {
		end := start.Add(time.Duration(took * float64(time.Second)))
		v.Completed = &end
	}
	if mark == "cached" {
		v.Cached = true
	} else {
		v.Error = mark
	}
	p.tell(runtime.StatusEvent{Node: node, Status: &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{v}},
		Targets: map[digest.Digest][]string{d: targets}, Steps: map[digest.Digest]int{d: index}})
}

func (p *play) print(node, target string, n int, text string) {
	d, index := p.own(target, n)
	p.tell(runtime.StatusEvent{Node: node, Status: &bkclient.SolveStatus{Logs: []*bkclient.VertexLog{{Vertex: d, Stream: 1, Data: []byte(text), Timestamp: epoch}}},
		Targets: map[digest.Digest][]string{d: {target}}, Steps: map[digest.Digest]int{d: index}})
}

func (p *play) model() *Model { return &Model{Scene: p.scene, Now: p.now} }

var shop = []string{"api", "web", "worker", "auth", "cron", "docs", "mail", "search", "支払い"}

// building is a run in the middle.
func building() *play {
	p := newPlay(3, shop...)
	p.queue("n1", "n2", "n3")
	for _, t := range shop[:6] {
		p.job(t, "submitted")
	}
	for i, n := range []string{"n1", "n2", "n3"} {
		p.at(0.5).step(n, "", -1, 0.5, -1, "")
		p.at(float64(11+i)).step(n, "", -1, 0.5, float64(10+i), "")
	}
	p.at(12).step("n1", "api", 0, 12, 0, "cached")
	p.step("n1", "api", 1, 12, -1, "")
	for i := range 60 {
		p.print("n1", "api", 1, fmt.Sprintf("cc -c \x1b[32mfile%02d.c\x1b[0m\n", i))
	}
	p.print("n1", "api", 1, "\x1b[33mwarning:\x1b[0m コンパイラの警告: "+strings.Repeat("\x1b[31mlong and red ", 14)+"\n")
	p.print("n1", "api", 1, "a\ttab, then a secret: https://user:pass")
	p.print("n1", "api", 1, "word@example.com/\n")
	p.at(13).step("n1", "auth", 0, 13, -1, "")
	p.at(13).step("n2", "web", 0, 13, -1, "")
	p.at(13.5).step("n3", "worker", 0, 13.5, -1, "")
	p.at(20).step("n3", "worker", 0, 13.5, 6.4, "")
	p.step("n3", "worker", 1, 20, -1, "")
	p.at(31).step("n1", "api", 1, 12, 19, "")
	p.job("api", "built")
	p.at(32).job("api", "exported")
	p.queue("n1", "n2", "n3")
	return p.at(34.2)
}

// move reports that a node takes a target over from another one.
func move(p *play, target, from, to string) runtime.Event {
	return runtime.MoveEvent{At: p.now, Jobs: []string{target}, Targets: []string{target}, Node: to, From: from, Why: "stolen"}
}

func playTheft() *play {
	p := building()
	p.at(35)
	p.node["mail"] = "n2"
	p.tell(move(p, "mail", "n1", "n2"))
	p.job("mail", "submitted")
	p.tell(runtime.SendEvent{At: p.now, Node: "n1", To: []string{"n2"}, Step: "[build 2/3] RUN npm ci", Targets: []string{"auth"}})
	p.queue("n1", "n2", "n3")
	return p.at(36)
}

func failing() *play {
	p := building()
	p.at(36).print("n2", "web", 0, "npm ERR! code E404\nnpm ERR! 404 Not Found - left-pad\n")
	p.step("n2", "web", 0, 13, 23, "process \"/bin/sh -c npm ci\" did not complete successfully: exit code: 1")
	p.job("web", "failed")
	return p.at(37)
}

func playLoss() *play {
	p := building()
	p.at(36).tell(runtime.NodeEvent{At: p.now, Node: "n3", Err: errors.New("no answer within 10s")})
	for _, t := range []string{"worker", "docs"} {
		p.node[t] = "n1"
		p.tell(runtime.MoveEvent{At: p.now, Jobs: []string{t}, Targets: []string{t}, Node: "n1", From: "n3", Why: "rescued"})
		p.job(t, "submitted")
	}
	p.queue("n1", "n2")
	return p.at(37)
}

func playCacheHits() *play {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("svc%02d", i+1))
	}
	p := newPlay(3, names...)
	p.queue("n1", "n2", "n3")
	for i, t := range names {
		node := p.node[t]
		p.at(0.6+float64(i)/100).job(t, "submitted")
		p.step(node, "", -1, 0.6, 0, "cached")
		p.step(node, t, 0, 0.6, 0, "cached")
		p.step(node, t, 1, 0.6, 0, "cached")
		p.job(t, "built")
		p.job(t, "exported")
	}
	p.queue("n1", "n2", "n3")
	return p.at(1)
}

func crowd() *play {
	var names []string
	for i := range 200 {
		names = append(names, fmt.Sprintf("service-%03d", i+1))
	}
	p := newPlay(8, names...)
	var up []string
	for _, n := range p.plan.Nodes {
		up = append(up, n.Name)
	}
	p.queue(up...)
	for i, t := range names[:120] {
		p.at(float64(i)/4).job(t, "submitted")
		p.step(p.node[t], t, 0, float64(i)/4, 2, "")
		p.step(p.node[t], t, 1, float64(i)/4+2, -1, "")
		if i < 90 {
			p.step(p.node[t], t, 1, float64(i)/4+2, 3, "")
			p.job(t, "built")
			p.job(t, "exported")
		}
	}
	p.queue(up...)
	return p.at(33)
}

func playEnd() *play {
	p := newPlay(3, shop...)
	p.queue("n1", "n2", "n3")
	for i, t := range shop {
		p.at(1).job(t, "submitted")
		p.step(p.node[t], t, 0, 1, 10, "")
		p.step(p.node[t], t, 1, 11, 10, "")
		p.at(float64(21+i)).job(t, "built")
		p.job(t, "exported")
	}
	p.queue("n1", "n2", "n3")
	return p.at(30)
}

// playFreed has more steps at once than lines, and the first of them have ended.
func playFreed() *play {
	p := newPlay(1, shop...)
	p.queue("n1")
	for _, t := range shop {
		p.at(1).job(t, "submitted")
		p.step("n1", t, 0, 1, -1, "")
	}
	for _, t := range shop[:2] {
		p.at(5).step("n1", t, 0, 1, 4, "")
	}
	p.queue("n1")
	return p.at(6)
}

// cases are the frames that are compared with those in testdata.
var cases = []struct {
	name string
	play func() *play
	keys string
}{
	{"starting", func() *play { return newPlay(3, shop...).at(0.4) }, ""},
	{"building", building, ""},
	{"steal", playTheft, ""},
	{"failing", failing, ""},
	{"lost", playLoss, ""},
	{"freed", playFreed, ""},
	{"cached", playCacheHits, ""},
	{"crowd", crowd, ""},
	{"crowd-moved", crowd, "g j j"},
	{"filter", crowd, "/ 0 9 enter"},
	{"typing", crowd, "/ 0 9"},
	{"log", building, "g enter"},
	{"log-scrolled", building, "g enter g j j"},
	{"log-filter", building, "g enter / 5 9 enter"},
	{"log-next", building, "g enter l"},
	{"log-failing", failing, "f"},
	{"help", building, "?"},
	{"question", building, "q"},
	{"ended", playEnd, ""},
}

var sizes = [][2]int{{60, 20}, {80, 24}, {120, 40}, {200, 50}}

func press(m *Model, keys string) Action {
	last := Nothing
	for k := range strings.FieldsSeq(keys) {
		text := ""
		if len([]rune(k)) == 1 {
			text = k
		}
		last = m.Key(k, text)
	}
	return last
}

func TestFrames(t *testing.T) {
	for _, tc := range cases {
		for _, size := range sizes {
			t.Run(fmt.Sprintf("%s/%d", tc.name, size[0]), func(t *testing.T) {
				m := tc.play().model()
				m.Width, m.Height = size[0], size[1]
				press(m, tc.keys)
				frame := m.Frame()
				require.Equal(t, frame, m.Frame(), "the same scene is the same frame")
				requireSize(t, m, frame)
				if dir := os.Getenv("FRAMES"); dir != "" { // to be looked at, with colours
					require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s.%d.ansi", tc.name, size[0])), []byte(frame), 0o644))
				}
				var b strings.Builder
				for line := range strings.SplitSeq(ansi.Strip(frame), "\n") {
					b.WriteString(strings.TrimRight(line, " ") + "\n")
				}
				path := filepath.Join("testdata", fmt.Sprintf("%s.%d", tc.name, size[0]))
				if *update {
					require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
				}
				want, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, string(want), b.String())
			})
		}
	}
}

// requireSize checks that a frame fills the screen exactly.
func requireSize(t *testing.T, m *Model, frame string) {
	t.Helper()
	lines := strings.Split(frame, "\n")
	require.Len(t, lines, m.Height)
	for i, line := range lines {
		require.Equal(t, m.Width, ansi.StringWidth(line), "line %d: %q", i, line)
	}
}
