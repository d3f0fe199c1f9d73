// Package localtest gives tests a cluster of real daemons and an embedded
// registry. It is for tests with the build tag integration.
package localtest

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/local"
)

// Need skips the test, in one line, where daemons cannot run at all: away from
// Linux or without root.
func Need(t testing.TB) {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("real daemons need Linux and root")
	}
}

// Start runs a cluster of n daemons for the duration of the test.
func Start(t testing.TB, n int) *local.Cluster {
	t.Helper()
	Need(t)
	c, err := local.Open(t.Context(), local.Options{StateDir: Dir(t), Nodes: n, Buildkitd: Buildkitd(t)})
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, c.Stop(context.Background())) })
	return c
}

// StartRegistry serves an empty registry for the duration of the test.
func StartRegistry(t testing.TB) *local.Registry {
	t.Helper()
	r, err := local.StartRegistry(t.Context(), Dir(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// Dir returns an empty directory that goes with the test, in memory where the
// system offers that: daemons flush their databases so often that a disk would set
// the pace.
func Dir(t testing.TB) string {
	t.Helper()
	parent := "/dev/shm"
	if fi, err := os.Stat(parent); err != nil || !fi.IsDir() {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "dbake-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// Buildkitd returns the daemon's executable: $DBAKE_BUILDKITD, else from PATH.
func Buildkitd(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("DBAKE_BUILDKITD"); path != "" {
		return path
	}
	path, err := exec.LookPath("buildkitd")
	require.NoError(t, err, "set DBAKE_BUILDKITD, or run `make test`")
	return path
}
