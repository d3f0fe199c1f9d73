//go:build integration

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/local/localtest"
)

// TestLocalNodesAreShared runs several dbake at once on one state directory: without
// a cluster that is kept, with one, and while somebody wants to stop it.
func TestLocalNodesAreShared(t *testing.T) {
	w, dir := newEmptyWorld(t), t.TempDir()
	busybox, err := exec.LookPath("busybox")
	require.NoError(t, err)
	binary, err := os.ReadFile(busybox)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "busybox"), binary, 0o755))
	write(t, dir, `
target "base" {
  dockerfile-inline = "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"true\"]\n"
  output = ["type=cacheonly"]
}
target "endless" {
  dockerfile-inline = "FROM base\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo waiting; exec /bin/busybox sleep 100000\"]\n"
  contexts = { base = "target:base" }
  output = ["type=cacheonly"]
}
target "insecure" {
  dockerfile-inline = "FROM base\nRUN --security=insecure [\"/bin/busybox\", \"true\"]\n"
  contexts = { base = "target:base" }
  entitlements = ["security.insecure"]
  output = ["type=cacheonly"]
}
`)
	on := []string{"--progress", "plain", "--state-dir", w.state, "--buildkitd", w.buildkitd}
	build := func(args ...string) result { return w.run(dir, append(append([]string{"build"}, on...), args...)...) }

	var wg sync.WaitGroup
	results := make([]result, 3)
	for i := range results {
		wg.Go(func() { results[i] = build("--nodes", fmt.Sprintf("local:%d", i+1), "base") })
	}
	wg.Wait()
	for _, r := range results {
		require.Zero(t, r.status, r.stderr)
	}
	require.Empty(t, processes(t, w.state), "the last one stops the nodes")

	w.up(3)
	require.Len(t, w.addrs, 3)
	r := build("base")
	require.Zero(t, r.status, r.stderr)
	require.Contains(t, r.stderr, "using the 3 local nodes that \"dbake cluster up\" keeps running\n")
	require.Contains(t, r.stderr, "n3")

	endless := w.command(dir, append(append([]string{"build"}, on...), "endless")...)
	stderr, status := start(t, endless)
	awaitLine(t, stderr, "waiting")
	r = w.run(dir, "cluster", "down", "--state-dir", w.state)
	require.Equal(t, 1, r.status)
	require.Equal(t, fmt.Sprintf("ERROR: the cluster is used by dbake build (process %d): wait for the end, or end it, and try again\n", endless.Process.Pid), r.stderr)
	require.Zero(t, build("base").status, "others go on meanwhile")
	require.NoError(t, endless.Process.Signal(syscall.SIGINT))
	readAll(t, stderr)
	require.Equal(t, 130, status())

	config := filepath.Join(w.state, "nodes", "n1", "buildkitd.toml")
	allowed := func() string {
		b, err := os.ReadFile(config)
		require.NoError(t, err)
		return strings.Split(string(b), "\n")[1]
	}
	require.Equal(t, "insecure-entitlements = []", allowed())
	require.NotZero(t, build("insecure").status)
	require.Equal(t, "insecure-entitlements = []", allowed(), "it was not granted")
	r = build("--allow", "security.insecure", "insecure")
	require.Zero(t, r.status, r.stderr)
	require.Zero(t, build("base").status)
	require.Equal(t, "insecure-entitlements = []", allowed())

	w.down()
	require.Empty(t, processes(t, w.state))
}

// TestFirstProcessReaps runs the first process of a process namespace, which inherits
// what others leave behind.
func TestFirstProcessReaps(t *testing.T) {
	localtest.Need(t)
	cmd := initCommand(`for i in 1 2 3; do (sh -c "exit 0" &); done; echo ready; read x`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid := cmd.Process.Pid
	require.Eventually(t, func() bool {
		children := 0
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		require.NoError(t, err)
		for _, f := range tasks {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			children += len(strings.Fields(string(b)))
		}
		return children == 1
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, stdin.Close())
	require.Error(t, cmd.Wait(), "read meets the end of its input")
}
