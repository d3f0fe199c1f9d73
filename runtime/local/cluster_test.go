package local

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/stretchr/testify/require"
)

func TestOpenKeepsAddresses(t *testing.T) {
	dir := t.TempDir()
	first, err := Open(t.Context(), Options{StateDir: dir, Nodes: 2})
	require.NoError(t, err)
	require.Len(t, first.Nodes(), 2)
	require.Equal(t, "n1", first.Nodes()[0].Name)

	second, err := Open(t.Context(), Options{StateDir: dir, Nodes: 3})
	require.NoError(t, err)
	require.Equal(t, first.Registry(), second.Registry())
	require.Equal(t, first.Nodes(), second.Nodes()[:2])

	third, err := Open(t.Context(), Options{StateDir: dir})
	require.NoError(t, err)
	require.Equal(t, second.Nodes()[:1], third.Nodes())
}

func TestOpenReplacesATakenPort(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		dir := t.TempDir()
		first, err := Open(t.Context(), Options{StateDir: dir, Nodes: 2})
		require.NoError(t, err)
		registry := first.Registry()
		_, port, err := net.SplitHostPort(registry)
		require.NoError(t, err)
		l, err := net.Listen("tcp", net.JoinHostPort(host, port))
		require.NoError(t, err)
		defer l.Close()

		var notices []string
		second, err := Open(t.Context(), Options{
			StateDir: dir, Nodes: 2,
			Notify: func(line string) { notices = append(notices, line) },
		})
		require.NoError(t, err)
		require.NotEqual(t, registry, second.Registry())
		require.Equal(t, first.Nodes(), second.Nodes())
		require.Len(t, notices, 1)
		require.Contains(t, notices[0], registry)
	}
}

func TestStateDirIsClosedToOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	c, err := Open(t.Context(), Options{StateDir: dir})
	require.NoError(t, err)
	for _, path := range []string{"nodes", "registry", "run"} {
		fi, err := os.Stat(filepath.Join(dir, path))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), fi.Mode().Perm(), path)
	}
	require.Equal(t, "unix://"+filepath.Join(dir, "run", "n1.sock"), c.Nodes()[0].Addr)

	// One of an older version is closed.
	require.NoError(t, os.Chmod(filepath.Join(dir, "nodes"), 0o755))
	_, err = Open(t.Context(), Options{StateDir: dir})
	require.NoError(t, err)
	fi, err := os.Stat(filepath.Join(dir, "nodes"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())

	require.NoError(t, os.Chmod(dir, 0o777))
	_, err = Open(t.Context(), Options{StateDir: dir})
	require.ErrorContains(t, err, "chmod go-w "+dir)
	require.NoError(t, os.Chmod(dir, 0o755))

	require.NoError(t, os.RemoveAll(filepath.Join(dir, "run")))
	require.NoError(t, os.Symlink(t.TempDir(), filepath.Join(dir, "run")))
	_, err = Open(t.Context(), Options{StateDir: dir})
	require.ErrorContains(t, err, "not a directory of yours")
}

func TestOpenRejects(t *testing.T) {
	_, err := Open(t.Context(), Options{StateDir: t.TempDir(), Nodes: -1})
	require.ErrorContains(t, err, "-1 nodes")

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	_, err = Open(t.Context(), Options{StateDir: filepath.Join(file, "state")})
	require.ErrorContains(t, err, "create state directory")
}

func TestDefaultStateDir(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	dir, err := DefaultStateDir()
	require.NoError(t, err)
	require.Equal(t, "/data/dbake", dir)

	t.Setenv("XDG_DATA_HOME", "")
	t.Setenv("HOME", "/home/ada")
	dir, err = DefaultStateDir()
	require.NoError(t, err)
	require.Equal(t, "/home/ada/.local/share/dbake", dir)
}

func TestStatusAndDownWithoutCluster(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	s, err := ReadStatus(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, &Status{StateDir: dir, Nodes: []NodeStatus{}}, s)
	require.ErrorIs(t, Down(t.Context(), dir), ErrNotRunning)
	require.NoDirExists(t, dir)

	_, err = Open(t.Context(), Options{StateDir: dir, Nodes: 2})
	require.NoError(t, err)
	s, err = ReadStatus(t.Context(), dir)
	require.NoError(t, err)
	require.False(t, s.Running)
	require.NotEmpty(t, s.Registry.Addr)
	require.ErrorIs(t, Down(t.Context(), dir), ErrNotRunning)
}

func TestFindBuildkitd(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	_, err := findBuildkitd("")
	require.ErrorContains(t, err, "make buildkitd")
	require.ErrorContains(t, err, "--buildkitd")
	_, err = findBuildkitd(filepath.Join(dir, "missing"))
	require.ErrorContains(t, err, "make buildkitd")

	path := filepath.Join(dir, "buildkitd")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755))
	found, err := findBuildkitd("")
	require.NoError(t, err)
	require.Equal(t, path, found)
}

func TestDaemonConfigIsWhatBuildkitReads(t *testing.T) {
	text, err := daemonConfig{registry: "127.0.0.1:5000", nodes: 3, parallelism: 4, entitlements: []string{"network.host"}}.toml(t.TempDir())
	require.NoError(t, err)
	conf, err := config.Load(strings.NewReader(text))
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.1:5000"}, conf.Registries["docker.io"].Mirrors)
	for _, host := range []string{"127.0.0.1:5000", "localhost:5000"} {
		require.True(t, *conf.Registries[host].PlainHTTP, host)
	}
	require.Equal(t, 4, conf.Workers.OCI.MaxParallelism)
	require.Positive(t, conf.Workers.OCI.GCMaxUsedSpace.Bytes)
	require.Greater(t, conf.Workers.OCI.GCMaxUsedSpace.Bytes, conf.Workers.OCI.GCReservedSpace.Bytes)
	require.False(t, *conf.Workers.Containerd.Enabled)
	require.Equal(t, []string{"network.host"}, conf.Entitlements)

	text, err = daemonConfig{registry: "127.0.0.1:5000"}.toml(t.TempDir())
	require.NoError(t, err)
	conf, err = config.Load(strings.NewReader(text))
	require.NoError(t, err)
	require.Empty(t, conf.Entitlements)
}

func TestDaemonEnv(t *testing.T) {
	got := daemonEnv([]string{"PATH=/bin", "NOTIFY_SOCKET=/run/x", "OTEL_TRACES_EXPORTER=otlp", "TMPDIR=/elsewhere"}, "/state/n1")
	require.Equal(t, []string{"PATH=/bin", "TMPDIR=/state/n1/tmp"}, got)
}

func TestSocketsFitIntoAnAddress(t *testing.T) {
	require.Equal(t, "/state/run/n1-trace.sock", traceSocket("/state", "n1"))
	long := "/" + strings.Repeat("deep/", 40)
	require.Less(t, len(traceSocket(long, "n999")), 108)
	require.NotEqual(t, socketDir(long), socketDir(long+"x"))
}

func TestLogTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	require.Empty(t, logTail(path))
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	tail := strings.Split(logTail(path), "\n")
	require.Len(t, tail, 12)
	require.Equal(t, "  line 999", tail[11])
	require.Equal(t, "  line 990", tail[2])
}
