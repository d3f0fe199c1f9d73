//go:build integration

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hung bounds what must never last: a test that takes this long has shown a hang.
const hung = 90 * time.Second

// stop has the daemon of a node stand still, so that it says nothing and its kernel
// answers for it, until the function that it returns or the test ends.
func (w *world) stop(node string) (resume func()) {
	w.t.Helper()
	pid := processOf(w.t, filepath.Join(w.state, "nodes", node))
	require.NoError(w.t, syscall.Kill(pid, syscall.SIGSTOP))
	resume = func() { require.NoError(w.t, syscall.Kill(pid, syscall.SIGCONT)) }
	w.t.Cleanup(resume)
	return resume
}

// begin starts a build on n nodes, given by their addresses, and returns what it
// prints. It is killed when it hangs.
func (w *world) begin(dir string, n int, args ...string) (stderr io.Reader, interrupt func(), status func() int) {
	w.t.Helper()
	args = append([]string{"build", "--progress", "plain", "--reuse", "never", "--var", "DBAKE_REGISTRY=" + w.registry}, args...)
	for i, addr := range w.addrs[:n] {
		args = append(args, "--nodes", fmt.Sprintf("n%d=%s", i+1, addr))
	}
	cmd := w.command(dir, args...)
	stderr, status = start(w.t, cmd)
	kill := time.AfterFunc(hung, func() { _ = cmd.Process.Kill() }) // it may have ended
	w.t.Cleanup(func() { kill.Stop() })
	return stderr, func() { require.NoError(w.t, cmd.Process.Signal(os.Interrupt)) }, status
}

// awaitText reads r until text has come.
func awaitText(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var seen []byte
	buf := make([]byte, 4096)
	for !strings.Contains(string(seen), text) {
		n, err := r.Read(buf)
		seen = append(seen, buf[:n]...)
		require.NoError(t, err, "%s", seen)
	}
}

// TestNodeStandsStill has a node say nothing from the middle of a step on: it is
// noticed, shown, and its work done by the others.
func TestNodeStandsStill(t *testing.T) {
	w := newWorld(t, 3)
	stderr, _, status := w.begin(project(t, slow), 3, "--node-timeout", "4s")
	shown := awaitNode(t, stderr, "n2")
	w.stop("n2")
	rest := readAll(t, stderr)
	require.Zero(t, status(), "%s%s", shown, rest)
	require.Contains(t, rest, "n2 has not answered for 3s")
	require.Contains(t, rest, "n2 lost: no answer within 4s")
	require.Contains(t, rest, "8 of 8 targets built")
}

// TestOnlyNodeStandsStill has the only node say nothing: the build fails and says so.
func TestOnlyNodeStandsStill(t *testing.T) {
	w := newWorld(t, 1)
	stderr, _, status := w.begin(project(t, slow), 1, "--node-timeout", "3s")
	awaitLine(t, stderr, "started")
	w.stop("n1")
	rest := readAll(t, stderr)
	require.Equal(t, 1, status(), rest)
	require.Regexp(t, `ERROR: .*no answer within 3s`, rest)
}

// TestNodeJoinsLate starts a build while one of its nodes stands still, and lets it
// go on when the build has begun.
func TestNodeJoinsLate(t *testing.T) {
	w := newWorld(t, 3)
	resume := w.stop("n3")
	var shown strings.Builder
	out, _, status := w.begin(project(t, slow), 3, "--node-timeout", "4s")
	stderr := io.TeeReader(out, &shown)
	awaitText(t, stderr, "the build starts without it")
	awaitLine(t, stderr, "started")
	resume()
	readAll(t, stderr)
	require.Zero(t, status(), shown.String())
	require.Contains(t, shown.String(), "WARNING: node n3 (")
	require.Contains(t, shown.String(), "cannot be reached: it has not answered yet; the build starts without it")
	require.Contains(t, shown.String(), "n3 answers again")
	require.Contains(t, shown.String(), "8 of 8 targets built")
}

// TestNodeIsExpected has a node come that the plan has work for, and that builds it. The
// next run expects it by itself.
func TestNodeIsExpected(t *testing.T) {
	w := newWorld(t, 2)
	dir := project(t, slow)
	for _, flags := range [][]string{{"--expect", "1@4s"}, nil} {
		resume := w.stop("n2")
		var shown strings.Builder
		out, _, status := w.begin(dir, 2, append(flags, "--no-steal", "--strategy", "round-robin")...)
		stderr := io.TeeReader(out, &shown)
		awaitText(t, stderr, "node n2 is expected")
		awaitText(t, stderr, "n2 has not answered for 3s")
		resume()
		readAll(t, stderr)
		require.Zero(t, status(), shown.String())
		require.NotContains(t, shown.String(), "starts without it")
		require.NotContains(t, shown.String(), "lost")
		require.Regexp(t, `(?m)^ *n2 +[1-9]`, shown.String(), "it got a part")
	}
}

// TestDrainNode drains one of two nodes when it has begun: it ends that, gets nothing more,
// and all is built, each step once.
func TestDrainNode(t *testing.T) {
	w := newWorld(t, 2)
	dir := project(t, slow)
	stderr, _, status := w.begin(dir, 2, "--strategy", "round-robin", "--jobs", "2")
	shown := awaitNode(t, stderr, "n2")
	args := []string{"nodes", "drain", "n2"}
	for i, addr := range w.addrs[:2] {
		args = append(args, "--nodes", fmt.Sprintf("n%d=%s", i+1, addr))
	}
	out, err := w.command(dir, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	rest := readAll(t, stderr)
	require.Zero(t, status(), "%s%s", shown, rest)
	require.Contains(t, rest, "n2 dbake nodes drain: it is drained, ends what it has begun, and gets nothing new")
	require.Contains(t, rest, "8 of 8 targets built")
	ran := 0
	for _, row := range regexp.MustCompile(`(?m)^ *n[12] +\d+ +(\d+) `).FindAllStringSubmatch(rest, -1) {
		n, err := strconv.Atoi(row[1])
		require.NoError(t, err)
		ran += n
	}
	require.Equal(t, 16, ran, "two steps of each target, on both nodes")
}

// TestInterruptBesideSilence interrupts a build while a node says nothing, before
// that has been noticed, in the run and while nodes are dialled.
func TestInterruptBesideSilence(t *testing.T) {
	w := newWorld(t, 2)
	dir := project(t, slow)
	t.Run("run", func(t *testing.T) {
		stderr, interrupt, status := w.begin(dir, 2, "--node-timeout", "10m")
		shown := awaitNode(t, stderr, "n2")
		resume := w.stop("n2")
		interrupt()
		rest := readAll(t, stderr)
		require.Equal(t, 130, status(), "%s%s", shown, rest)
		resume()
	})
	t.Run("dial", func(t *testing.T) {
		defer w.stop("n1")() // the first answer would do
		resume := w.stop("n2")
		stderr, interrupt, status := w.begin(dir, 2, "--node-timeout", "10m")
		awaitText(t, stderr, "node n2 has not answered for 3s")
		interrupt()
		rest := readAll(t, stderr)
		require.Equal(t, 130, status(), rest)
		resume()
	})
}

const large = `
-- docker-bake.hcl --
target "default" {
  name       = "t${i}"
  matrix     = { i = [0, 1, 2, 3, 4, 5] }
  args       = { I = "${i}" }
  output     = ["type=cacheonly"]
}
-- Dockerfile --
FROM busybox:1
ARG I
RUN dd if=/dev/zero of=/large bs=1M count=25 && echo $I > /i
`

// TestFullNode has a node whose disk is full soon: what does not fit there is built on
// the other one.
func TestFullNode(t *testing.T) {
	w := newWorld(t, 1)
	w.down()
	dir := filepath.Join(w.state, "nodes", "n2")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=40m"))
	t.Cleanup(func() {
		w.down()
		require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH))
	})
	w.up(2)
	stderr, _, status := w.begin(project(t, large), 2)
	shown := readAll(t, stderr)
	require.Zero(t, status(), shown)
	require.Contains(t, shown, "6 of 6 targets built")
	require.Regexp(t, `(?m)^n2 could not build t\d.*: no space left$`, shown)
}
