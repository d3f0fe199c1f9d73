//go:build integration

package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const unequal = `
group "default" {
  targets = ["quick", "slow"]
}
target "quick" {
  dockerfile-inline = "FROM busybox:1\nRUN echo quick >/quick"
  tags = ["REGISTRY/quick:1"]
  output = ["type=registry"]
}
target "slow" {
  dockerfile-inline = "FROM busybox:1\nRUN sleep 3 && echo slow >/slow"
  tags = ["REGISTRY/slow:1"]
  output = ["type=registry"]
}
`

// TestCapacityIsLearned builds once on nodes that nobody described:
// the next plan knows what machine they run on, and that they share it.
func TestCapacityIsLearned(t *testing.T) {
	w := newWorld(t, 2)
	dir := t.TempDir()
	text := []byte(strings.ReplaceAll(unequal, "REGISTRY", w.registry))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "docker-bake.hcl"), text, 0o644))
	// The base images were built before, and their usage showed the machine.
	history := "--history=" + filepath.Join(t.TempDir(), "history.db")
	explain := func() string {
		r := w.run(dir, append(append([]string{"plan"}, w.on(1)...), history, "--explain", "slow")...)
		require.Zero(t, r.status, r.stderr)
		return r.stdout
	}
	require.Contains(t, explain(), "at once: nothing is known of its machine yet")
	r := w.build(dir, 1, "--timings", history)
	require.Zero(t, r.status, r.stderr)
	require.Regexp(t, `(?m)^run steps +[0-9.]+s`, r.stderr)
	require.Contains(t, explain(), "it has "+strconv.Itoa(runtime.NumCPU())+" processor")

	h := w.run(dir, "history", "export", history)
	require.Zero(t, h.status, h.stderr)
	require.Regexp(t, `(?m)^\{"node":".*","machine":\{"cores":`+strconv.Itoa(runtime.NumCPU())+`,"memory":[1-9]`, h.stdout)
	require.Regexp(t, `"cpuNs":[1-9]`, h.stdout, "what steps use is told, or estimated")
}
