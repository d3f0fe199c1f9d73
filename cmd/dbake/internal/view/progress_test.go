package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/output"
)

// exampleEvents is a run on two nodes as runtime reports it: a step that six targets share,
// hostile output, an export, a move, a lost node.
func exampleEvents() []runtime.Event {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s float64) *time.Time {
		t := start.Add(time.Duration(s * float64(time.Second)))
		return &t
	}
	base, build, export := digest.FromString("base"), digest.FromString("build"), digest.FromString("export")
	targets := map[digest.Digest][]string{
		base:   {"api", "auth", "cron", "docs", "web", "worker"},
		build:  {"worker"},
		export: {"worker"},
	}
	status := func(node string, st *bkclient.SolveStatus) runtime.StatusEvent {
		return runtime.StatusEvent{Node: node, Status: st, Targets: targets}
	}
	return []runtime.Event{
		runtime.JobEvent{Job: "worker", Target: "worker", Node: "n1", Stage: "submitted"},
		status("n1", &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{
			{Digest: base, Name: "[base 1/2] RUN base", Started: at(0), Completed: at(0), Cached: true},
		}}),
		status("n1", &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{
			{Digest: build, Name: "[build 2/4] RUN a\n\x1b[2Jb", Inputs: []digest.Digest{base}, Started: at(1)},
		}}),
		status("n2", &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{
			{Digest: base, Name: "[base 1/2] RUN base", Started: at(0), Completed: at(2)},
		}}),
		status("n1", &bkclient.SolveStatus{Logs: []*bkclient.VertexLog{
			{Vertex: build, Stream: 1, Timestamp: *at(1.5), Data: []byte("one\x1b[2J\x00\n::error file=x::forged\r::error::again\n\xe4\xb8")},
			{Vertex: build, Stream: 1, Timestamp: *at(1.6), Data: []byte("\x96 \xff\n")},
		}}),
		status("n1", &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{
			{Digest: build, Name: "[build 2/4] RUN a\n\x1b[2Jb", Inputs: []digest.Digest{base}, Started: at(1), Completed: at(3)},
		}}),
		status("n1", &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{
			{Digest: export, Name: "exporting to image", Started: at(3), Completed: at(4)},
		}}),
		runtime.JobEvent{At: 4 * time.Second, Job: "worker", Target: "worker", Node: "n1", Stage: "exported", Result: &runtime.JobResult{
			Job: "worker", Target: "worker", State: runtime.Done, Images: []output.Image{{Name: "example.com/worker:1", Digest: "sha256:abc", Place: output.InRegistry}},
		}},
		runtime.MoveEvent{At: 4 * time.Second, Jobs: []string{"web"}, Targets: []string{"web"}, Node: "n1", From: "n2", Why: "stolen"},
		runtime.SendEvent{At: 4500 * time.Millisecond, Node: "n1", To: []string{"n2", "n3"}, Step: "[base 2/2] RUN more", Targets: []string{"api", "web"}},
		runtime.NodeEvent{At: 5 * time.Second, Node: "n2", Err: errors.New("no answer within 10s")},
	}
}

// exampleResult is the result of a run in which a target of two parts was built, one
// failed and one needed that.
func exampleResult() *runtime.Result {
	return &runtime.Result{
		Wall: 12 * time.Second,
		Jobs: []runtime.JobResult{
			{Job: "app@linux/amd64", Target: "app", Node: "n1", State: runtime.Done, Images: []output.Image{{Name: "example.com/app:1", Digest: "sha256:abc", Place: output.InRegistry}}},
			{Job: "app@linux/arm64", Target: "app", Node: "n2", State: runtime.Done, Files: []string{"out"}},
			{Job: "base", Target: "base", Node: "n1", State: runtime.Failed, Reason: "[base 1/2] RUN false: exit code: 1", Images: []output.Image{{Name: "example.com/base:1", Digest: "sha256:def", Place: output.InRegistry}}},
			{Job: "web", Target: "web", State: runtime.Skipped, Reason: "base failed"},
			{Job: "late@linux/amd64", Target: "late", Node: "n1", State: runtime.Done},
			{Job: "late@linux/arm64", Target: "late", Node: "n2", State: runtime.Cancelled, Reason: "interrupted"},
			{Job: "tool", Target: "tool", Node: "n1", State: runtime.Done, Images: []output.Image{
				{Name: "docker.io/library/tool:latest", Digest: "sha256:123", Place: output.InEngine},
				{Name: "tool.tar", Digest: "sha256:123", Place: output.InFile}, {Digest: "sha256:123", Place: output.OnNode},
			}},
		},
		Nodes: []runtime.NodeResult{
			{Name: "n1", Targets: []string{"app"}, Ran: 3, Cached: 1, Shared: 2, Busy: 3 * time.Second, ContextBytes: 2048},
			{Name: "n2", Targets: []string{"app"}, Ran: 1, Busy: time.Second, Lost: errors.New("gone")},
		},
		FailedSteps: []*runtime.FailedStep{
			{Step: "[base 1/2] RUN false", Targets: []string{"base"}, Failures: []runtime.FailedExecution{{Node: "n1", Number: 1, ExitCode: "1"}, {Node: "n2", Number: 1, ExitCode: "1"}}},
			{Step: "[app 2/2] RUN make test", Targets: []string{"app"}, Failures: []runtime.FailedExecution{{Node: "n2", Number: 1, ExitCode: "2"}}, Passed: "n1", Past: runtime.Trials{Failed: 1, All: 4}},
			{Step: "[late 2/2] RUN once", Targets: []string{"late"}, Failures: []runtime.FailedExecution{{Node: "n1", Number: 1, ExitCode: "2"}}},
		},
	}
}

// show plays every event that a progress can get.
func show(t *testing.T, mode string, w io.Writer) {
	t.Helper()
	showPaced(t, mode, w, func() {})
}

// showPaced is show with a pause after each event.
func showPaced(t *testing.T, mode string, w io.Writer, pause func()) {
	t.Helper()
	p, err := New(w, Options{Mode: mode})
	require.NoError(t, err)
	p.Note("starting 2 local nodes")
	p.Warn("no output")
	require.NoError(t, p.Begin(nil, nil, true))
	for _, e := range exampleEvents() {
		p.Observe(e)
		pause()
	}
	p.Warn("kept until the end")
	p.End()
	p.Remarks([]plan.Remark{{
		Warning: frontend.Warning{Message: "Casing: 'as' (line 3)", Range: ir.Range{Filename: "svc/Dockerfile", Start: ir.Pos{Line: 3}, End: ir.Pos{Line: 3}}, Level: 1},
		Targets: []string{"api", "web"},
	}}, false)
	p.Summary(exampleResult(), Run{Makespan: 10 * time.Second, Bound: 8 * time.Second})
	p.Error(errors.Join(&runtime.StepError{
		Targets: []string{"base"}, Jobs: []string{"base", "web"}, Node: "n1", Step: "[base 1/2] RUN false", Log: []string{"::error::forged"}, Err: errors.New("exit code: 1"),
		Source: &ir.SourceError{Range: ir.Range{Filename: "services/base/Dockerfile", Start: ir.Pos{Line: 3, Column: 1}}, Excerpt: "services/base/Dockerfile:3\n"},
	}, &daemon.NodeError{Node: "n2", Addr: "tcp://x:1", Op: "lost", Err: errors.New("gone")}), false)
}

// TestProgress compares every mode with its golden. BuildKit's plain display shows what
// it gets one every 150 ms, in no order: by the clock of the bubble, each event is
// shown before the next.
func TestProgress(t *testing.T) {
	for _, mode := range []string{ModePlain, ModeQuiet, ModeRawJSON} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b bytes.Buffer
				showPaced(t, mode, &b, func() { time.Sleep(time.Second) })
				golden(t, "progress."+mode, func(w io.Writer) error {
					_, err := b.WriteTo(w)
					return err
				})
			})
		})
	}
}

// Every line of rawjson is an object with a node and targets, and is a SolveStatus to
// one who reads it as such.
func TestRawJSONIsSolveStatus(t *testing.T) {
	var b bytes.Buffer
	show(t, ModeRawJSON, &b)
	vertices, logs := map[digest.Digest]string{}, ""
	for line := range strings.Lines(b.String()) {
		var subject struct {
			Node    *string
			Targets []string
		}
		require.NoError(t, json.Unmarshal([]byte(line), &subject), line)
		require.NotNil(t, subject.Node, line)
		require.NotNil(t, subject.Targets, line)
		var st bkclient.SolveStatus
		require.NoError(t, json.Unmarshal([]byte(line), &st), line)
		for _, v := range st.Vertexes {
			vertices[v.Digest] = v.Name
		}
		for _, l := range st.Logs {
			require.Contains(t, vertices, l.Vertex)
			logs += string(l.Data)
		}
	}
	require.Len(t, vertices, 4, "a step is another one on another node")
	require.Contains(t, logs, "\x1b[2J\x00\n::error file=x", "output is as it was")
}

func TestLineName(t *testing.T) {
	for _, tc := range []struct {
		node, name string
		targets    []string
		want       string
	}{
		{"", "[build 2/4] RUN x", []string{"worker"}, "[worker build 2/4] RUN x"},
		{"n1", "[build 2/4] RUN x", []string{"worker"}, "n1 [worker build 2/4] RUN x"},
		{"", "exporting to image", []string{"worker"}, "[worker] exporting to image"},
		{"", "[linux/arm64 2/4] RUN x", []string{"a", "b", "c", "d"}, "[a,b,c,d linux/arm64 2/4] RUN x"},
		{"", "[2/4] RUN x", []string{"a", "b", "c", "d", "e"}, "[a,b,c,+2 2/4] RUN x"},
		{"n1", "lost", nil, "n1 lost"},
	} {
		require.Equal(t, tc.want, lineName(tc.node, tc.targets, tc.name))
	}
}

// No run beats a bound.
func TestCompared(t *testing.T) {
	p := Run{Makespan: 10 * time.Second, Bound: 8 * time.Second}
	require.Equal(t, " (predicted 10.0s, predicted bound 8.0s)", comparison(8*time.Second, p))
	require.Equal(t, " (predicted 10.0s: the predictions were too high)", comparison(7*time.Second, p))
	require.Equal(t, " (predicted 10.0s)", comparison(7*time.Second, Run{Makespan: 10 * time.Second}))
	require.Empty(t, comparison(time.Second, Run{}))
}

func TestNewRefuses(t *testing.T) {
	_, err := New(io.Discard, Options{Mode: "loud"})
	require.EqualError(t, err, `invalid progress mode "loud"; use auto, plain, tty, quiet or rawjson`)
	_, err = New(io.Discard, Options{Mode: ModeTTY})
	require.ErrorContains(t, err, "needs a terminal")
}

// A reader that takes nothing does not keep an interrupted command.
func TestInterruptUnread(t *testing.T) {
	for _, mode := range []string{ModePlain, ModeQuiet, ModeRawJSON} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				p, err := New(w, Options{Mode: mode})
				require.NoError(t, err)
				began := time.Now()
				p.Interrupt()
				require.NoError(t, p.Begin(nil, nil, true))
				for range 3 {
					for _, e := range exampleEvents() {
						p.Observe(e)
					}
				}
				p.End()
				for i := range 10 {
					p.Error(fmt.Errorf("failure %d", i), false)
				}
				require.LessOrEqual(t, time.Since(began), 2*patience)
				require.NoError(t, r.Close()) // ends the write that hangs
			})
		})
	}
}

func TestRetryLine(t *testing.T) {
	e := runtime.RetryEvent{Node: "n2", Step: "[build 2/4] RUN a\n\x1b[2Jb", Targets: []string{"api"}, ExitCode: "1", Attempt: 1, Limit: 3}
	require.Equal(t, "attempt 1 of 3 failed with exit code 1 and is followed by another: [build 2/4] RUN a b", retryLine(e))
	var b bytes.Buffer
	newRawJSON(&b).Observe(e)
	require.JSONEq(t, `{"node": "n2", "targets": ["api"], "event": "retry", "message": "`+retryLine(e)+`"}`, b.String())
}

// What outputs wrote is said in words that tell the places apart.
func TestWrittenLines(t *testing.T) {
	require.Equal(t, []string{
		"pushed example.com/a:1@sha256:1", "loaded docker.io/library/a:1@sha256:1 into the Docker engine", "wrote a.tar: image@sha256:1",
		"wrote standard output: image@sha256:1", "kept image@sha256:1", "wrote out", "wrote standard output",
	}, writtenLines([]output.Image{
		{Name: "example.com/a:1", Digest: "sha256:1", Place: output.InRegistry},
		{Name: "docker.io/library/a:1", Digest: "sha256:1", Place: output.InEngine},
		{Name: "a.tar", Digest: "sha256:1", Place: output.InFile},
		{Name: "-", Digest: "sha256:1", Place: output.InFile},
		{Digest: "sha256:1", Place: output.OnNode},
	}, []string{"out", "-"}))
}

// What a node took over is one line, however often it did.
func TestStealsAreJoined(t *testing.T) {
	steal := func(s int, to, from, why string, jobs ...string) runtime.Steal {
		return runtime.Steal{At: time.Duration(s) * time.Second, Jobs: jobs, From: from, To: to, Why: why}
	}
	var b bytes.Buffer
	nodes(&b, &runtime.Result{Nodes: []runtime.NodeResult{{Name: "n1"}}, Steals: []runtime.Steal{
		steal(2, "n2", "n1", "stolen", "a"), steal(3, "n3", "n1", "stolen", "b"), steal(4, "n2", "n1", "stolen", "c", "d"),
		steal(5, "n2", "n1", "hedged", "e"), steal(6, "n2", "n1", "stolen", "f"),
	}})
	lines := b.String()[strings.Index(b.String(), "n2 took"):]
	require.Equal(t, `n2 took over a, c and 2 more from n1, the first after 2.0s (stolen)
n3 took over b from n1 after 3.0s (stolen)
n2 took over e from n1 after 5.0s (hedged)
`, lines)
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "just now", 13 * time.Second: "13 seconds ago", 65 * time.Second: "about a minute ago"} {
		require.Equal(t, want, ago(d))
	}
}
