//go:build integration

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// trialsFile has a step whose end a server decides, each time that it is executed, between
// targets that share a base.
const trialsFile = `
group "default" { targets = ["flaky", "other"] }
target "flaky" {
  entitlements = ["network.host"]
  dockerfile-inline = "FROM busybox\nRUN head -c 9 /dev/urandom > /r\nRUN --network=host echo %[1]s; wget -q -O /dev/null http://%[2]s/flaky && echo fine\n"
}
target "other" {
  dockerfile-inline = "FROM busybox\nRUN head -c 9 /dev/urandom > /r\nRUN echo other\n"
}
target "broken" {
  entitlements = ["network.host"]
  dockerfile-inline = "FROM busybox\nRUN --network=host echo %[1]s; wget -q -O /dev/null http://%[2]s/broken\n"
}
`

// judge is a server that steps ask whether they are to fail.
type judge struct {
	addr string

	mu       sync.Mutex
	asked    int
	failures int // how many of the next executions fail; guarded by mu, as asked is
}

func newJudge(t *testing.T) *judge {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	j := &judge{addr: l.Addr().String()}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.asked++
		if j.failures > 0 || r.URL.Path == "/broken" {
			j.failures--
			http.Error(w, "no", http.StatusTeapot)
		}
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // until it is closed
	}()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		<-done
	})
	return j
}

// fail has the next executions fail, and returns a function that says how many there were.
func (j *judge) fail(n int) (executions func() int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked, j.failures = 0, n
	return func() int {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.asked
	}
}

// A step that fails is executed again: on another node, on the only one, in each mode, and
// while other targets of the node have built and keep their results. The summary, the log
// of the target and the log of the build say what it is; a broken step is executed once
// more than on two nodes, and a hint names the option once the history knows.
func TestRetrySteps(t *testing.T) {
	w := newWorld(t, 2)
	j := newJudge(t)
	build := 0
	run := func(nodes, failures int, target string, more ...string) (out string, summary string, executions int, err error) {
		build++
		dir := bakeDir(t, fmt.Sprintf(trialsFile, fmt.Sprintf("build%d", build), j.addr))
		asked := j.fail(failures)
		file := filepath.Join(dir, "summary.json")
		args := append([]string{"build", target, "--progress", "plain", "--state-dir", w.state, "--summary-json", file, "--strategy", "single", "--allow", "network.host"}, w.on(nodes)...)
		cmd := w.command(dir, append(args, more...)...)
		said, err := cmd.CombinedOutput()
		dt, _ := os.ReadFile(file) // the checks miss what is not there
		return string(said), string(dt), asked(), err
	}
	verdicts := func(summary string) map[string]string {
		var s struct {
			FailedSteps []struct{ Step, Verdict, PassedOn string }
		}
		require.NoError(t, json.Unmarshal([]byte(summary), &s), summary)
		list := map[string]string{}
		for _, x := range s.FailedSteps {
			list[x.Step] = x.Verdict
		}
		return list
	}
	only := func(list map[string]string) string {
		require.Len(t, list, 1)
		for _, v := range list {
			return v
		}
		return ""
	}
	for _, mode := range []string{"fail-fast", "defer-output", "defer-error"} {
		for nodes := 1; nodes <= 2; nodes++ {
			out, summary, executions, err := run(nodes, 2, "default", "--retry-steps", "2", "--jobs", mode)
			require.NoError(t, err, "%s, %d nodes: %s", mode, nodes, out)
			require.Equal(t, 3, executions, out)
			require.Equal(t, "flaky", only(verdicts(summary)))
			require.Contains(t, out, "attempt 1 of 3 failed with exit code 1")
			require.Contains(t, out, "attempt 2 of 3 failed with exit code 1")
			require.Contains(t, out, "\nflaky: ")
		}
	}
	out, _, executions, err := run(1, 1, "default", "--retry-steps", "1", "--cache-registry", w.registry+"/trials/cache")
	require.NoError(t, err, out) // results of the other target are held until the end
	require.Equal(t, 2, executions)

	said, err := w.command(t.TempDir(), "log", "what-failed").CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Contains(t, string(said), "flaky: ")

	out, summary, executions, err := run(2, 0, "broken", "--retry-steps", "5")
	require.Error(t, err)
	require.Equal(t, 3, executions, "once more than on two nodes: %s", out)
	require.Equal(t, "fails-everywhere", only(verdicts(summary)))
	require.Contains(t, out, "fails everywhere")

	out, summary, executions, err = run(2, 1, "flaky")
	require.Error(t, err)
	require.Equal(t, 1, executions)
	require.Equal(t, "failed", only(verdicts(summary)))
	require.NotContains(t, out, "--retry-steps")
}

// What was copied from a directory is in the cache also if it was copied for an execution
// after the first, for which the node has begun another build.
func TestRetryStepsKeepCache(t *testing.T) {
	w := newWorld(t, 1)
	j := newJudge(t)
	dir := bakeDir(t, fmt.Sprintf(`
target "default" {
  entitlements = ["network.host"]
  dockerfile-inline = "FROM busybox\nCOPY file /file\nRUN --network=host wget -q -O /dev/null http://%s/ && head -c 9 /dev/urandom > /r\nRUN echo more\n"
}
`, j.addr))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644))
	build := func(failures int) (executions int) {
		asked := j.fail(failures)
		args := append([]string{"build", "--progress", "plain", "--state-dir", w.state, "--allow", "network.host", "--retry-steps", "2", "--cache-registry", w.registry + "/trials/cache"}, w.on(1)...)
		out, err := w.command(dir, args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return asked()
	}
	require.Equal(t, 2, build(1))
	w.renew(1)
	require.Zero(t, build(0), "the cache has it")
}

// A step that failed and then succeeded is known to be flaky: when it fails for good, a
// hint names the option.
func TestRetryStepsHint(t *testing.T) {
	w := newWorld(t, 1)
	j := newJudge(t)
	dir := bakeDir(t, fmt.Sprintf(trialsFile, "hint", j.addr))
	build := func(failures int, more ...string) (said string, executions int, err error) {
		asked := j.fail(failures)
		args := append([]string{"build", "flaky", "--progress", "plain", "--state-dir", w.state, "--allow", "network.host", "--no-cache"}, w.on(1)...)
		out, err := w.command(dir, append(args, more...)...).CombinedOutput()
		return string(out), asked(), err
	}
	said, executions, err := build(1)
	require.Error(t, err)
	require.Equal(t, 1, executions)
	require.NotContains(t, said, "--retry-steps", "nothing is known of it")
	said, executions, err = build(1, "--retry-steps", "1")
	require.NoError(t, err, said)
	require.Equal(t, 2, executions)
	said, executions, err = build(1)
	require.Error(t, err)
	require.Equal(t, 1, executions)
	require.Regexp(t, `flaky.* failed [0-9] of [0-9] times before this build with the same inputs: --retry-steps 2`, said)
}
