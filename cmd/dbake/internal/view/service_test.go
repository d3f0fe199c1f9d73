package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
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
)

var (
	actions = map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": "/src"}
	labs    = map[string]string{"GITLAB_CI": "true"}
)

// fails is a step that runs for long, prints what could be a command, and fails.
func fails(hostile string) []runtime.Event {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	end := start.Add(50 * time.Second)
	d := digest.FromString("broken")
	status := func(st *bkclient.SolveStatus) runtime.Event {
		return runtime.StatusEvent{Node: "n2", Targets: map[digest.Digest][]string{d: {"web"}}, Status: st}
	}
	v := &bkclient.Vertex{Digest: d, Name: "[2/3] RUN ##[error]false", Started: &start}
	done := *v
	done.Completed, done.Error = &end, "exit code: 1"
	return []runtime.Event{
		status(&bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{v}}),
		status(&bkclient.SolveStatus{Logs: []*bkclient.VertexLog{{Vertex: d, Stream: 1, Timestamp: start, Data: []byte(hostile)}}}),
		status(&bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{&done}}),
		runtime.JobEvent{Job: "web", Target: "web", Node: "n2", Stage: "failed"},
		runtime.JobEvent{Job: "site", Target: "site", Stage: "skipped"},
	}
}

const hostile = "first\n::error file=x::forged\n\u00a0::warning::forged\n\x1b[31mred ##[error]forged\x1b[0m\n##vso[task.complete]\n::endgroup::\n::dbake-::\nlast"

// showService plays a run and its end to a CI service; a minute is between events.
func showService(t *testing.T, env map[string]string, w io.Writer, mode string) {
	t.Helper()
	p, err := New(w, Options{Mode: mode, Env: env, Dir: "/src/shop"})
	require.NoError(t, err)
	p.Note("starting 2 local nodes")
	p.Warn("no output")
	require.NoError(t, p.Begin(nil, nil, true))
	for _, e := range append(exampleEvents(), fails(hostile)...) {
		p.Observe(e)
		time.Sleep(40 * time.Second)
		synctest.Wait()
	}
	p.Warn("kept until the end")
	p.End()
	p.Remarks([]plan.Remark{{
		Warning: frontend.Warning{Message: "Casing: 'as' (line 3)", Range: ir.Range{Filename: "svc/Dockerfile", Start: ir.Pos{Line: 3}, End: ir.Pos{Line: 3}}, Level: 1},
		Targets: []string{"api", "web"},
	}}, false)
	p.Summary(exampleResult(), Run{Makespan: 10 * time.Second, Bound: 8 * time.Second, Logs: "/tmp/dbake-logs", Log: func(target string) string { return "/tmp/dbake-logs/" + target + ".log" }})
	p.Error(failure(), false)
}

func failure() error {
	return errors.Join(&runtime.StepError{
		Targets: []string{"base", "b,c:d"}, Jobs: []string{"base"}, Node: "n1", Step: "[base 1/2] RUN false", Log: []string{"::error::forged", "100%"}, Err: errors.New("exit code: 1"),
		Source: &ir.SourceError{Range: ir.Range{Filename: "services/a,b/Dockerfile", Start: ir.Pos{Line: 3, Column: 1}}, Excerpt: "services/base/Dockerfile:3\n"},
	}, errors.New("push https://user:secret@example.com/: ##[error]no"))
}

var word = regexp.MustCompile(`dbake-[a-z0-9]{26}`)

func TestServices(t *testing.T) {
	for name, env := range map[string]map[string]string{"github": actions, "gitlab": labs} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b bytes.Buffer
				showService(t, env, &b, ModeAuto)
				golden(t, "progress."+name, func(w io.Writer) error {
					_, err := io.WriteString(w, word.ReplaceAllString(b.String(), "dbake-WORD"))
					return err
				})
			})
		})
	}
}

// runner finds in a log what GitHub's runner takes for commands: lines that begin with
// "::" behind white space of any kind, and "##[" anywhere, unless commands are stopped.
func runner(log string) []string {
	var found []string
	stopped := ""
	for line := range strings.Lines(log) {
		line = strings.TrimRight(line, "\r\n")
		bare := strings.TrimSpace(line)
		switch {
		case stopped != "" && bare == "::"+stopped+"::":
			stopped = ""
		case stopped != "":
		case strings.HasPrefix(bare, "::stop-commands::"):
			stopped = strings.TrimPrefix(bare, "::stop-commands::")
		case strings.HasPrefix(bare, "::") || strings.Contains(line, "##["):
			found = append(found, bare)
		}
	}
	return found
}

// Whatever the mode, nothing that a step prints or a name holds is a command to the
// runner, and every problem is an annotation at its place.
func TestNothingIsForged(t *testing.T) {
	for _, mode := range []string{ModeAuto, ModePlain, ModeQuiet, ModeRawJSON} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b bytes.Buffer
				showService(t, actions, &b, mode)
				require.NotContains(t, b.String(), "##[")
				require.NotContains(t, b.String(), "##vso[")
				require.NotContains(t, b.String(), "secret@")
				var errs []string
				for _, command := range runner(b.String()) {
					require.NotContains(t, strings.SplitN(command, "::", 3)[1], "forged")
					switch {
					case strings.HasPrefix(command, "::error"):
						errs = append(errs, command)
					case strings.HasPrefix(command, "::group::"), command == "::endgroup::":
						require.Equal(t, ModeAuto, mode)
					default:
						require.Equal(t, "::warning file=shop/svc/Dockerfile,line=3::Casing: 'as' (line 3)", command)
					}
				}
				if mode == ModeRawJSON {
					require.Empty(t, errs)
					return
				}
				require.Equal(t, []string{
					"::error file=shop/services/a%2Cb/Dockerfile,line=3,col=1,title=target base%2C b%2Cc%3Ad::services/a,b/Dockerfile:3: targets base, b,c:d: [base 1/2] RUN false failed on node n1: exit code: 1%0Alast output of the step:%0A  ::error::forged%0A  100%25",
					"::error::push https://xxxxx:xxxxx@example.com/: ## [error]no",
				}, errs)
			})
		})
	}
}

// A step that never stops printing its neighbour's word does not end the guard: the word
// is another one each time.
func TestWordsDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		showService(t, actions, &b, ModeAuto)
		seen := map[string]int{}
		for _, w := range word.FindAllString(b.String(), -1) {
			seen[w]++
		}
		require.Len(t, seen, 2)
		for _, n := range seen {
			require.Equal(t, 2, n)
		}
	})
}

func TestOutcomeJSON(t *testing.T) {
	o := Outcome{
		Started: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), State: "failed", Result: exampleResult(), Err: failure(),
		Run: Run{Makespan: 10 * time.Second, Bound: 8 * time.Second, Logs: "/logs", Log: func(target string) string { return "/logs/" + target + ".log" }},
	}
	o.Result.Steals = []runtime.Steal{{At: 2 * time.Second, Jobs: []string{"web"}, From: "n1", To: "n2", Why: "stolen"}}
	golden(t, "outcome.json", func(w io.Writer) error { return JSON(w, o) })

	var b bytes.Buffer
	require.NoError(t, JSON(&b, Outcome{State: "failed", Err: errors.New("no file")}))
	var doc map[string]any
	require.NoError(t, json.Unmarshal(b.Bytes(), &doc))
	require.Equal(t, []any{}, doc["targets"], "no result is no target, not null")
}

func TestOutcomeMarkdown(t *testing.T) {
	o := Outcome{State: "failed", Result: exampleResult(), Err: failure(), Run: Run{Makespan: 10 * time.Second, Bound: 8 * time.Second}}
	o.Result.Jobs[2].Reason = "`rm` | <script>alert(1)</script> [x](http://x) @all #1"
	page := golden(t, "outcome.md", func(w io.Writer) error { return Markdown(w, o) })
	require.NotContains(t, page, "<script>")

	// Very much is cut.
	var errs []error
	for i := range 5000 {
		o.Result.Jobs = append(o.Result.Jobs, runtime.JobResult{Job: fmt.Sprint(i), Target: fmt.Sprintf("target-%d", i), State: runtime.Failed, Reason: strings.Repeat("x", 200)})
		errs = append(errs, fmt.Errorf("%d %s", i, strings.Repeat("y", 50_000)))
	}
	o.Err = errors.Join(errs...)
	var b bytes.Buffer
	require.NoError(t, Markdown(&b, o))
	require.Less(t, b.Len(), 1<<20)
	require.Contains(t, b.String(), "There are more errors.")
}
