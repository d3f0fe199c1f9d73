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

func TestOpenReplacesTakenPorts(t *testing.T) {
	dir := t.TempDir()
	first, err := Open(t.Context(), Options{StateDir: dir, Nodes: 2})
	require.NoError(t, err)
	registry, node := first.Registry(), first.Nodes()[1].Addr
	for _, addr := range []string{registry, strings.TrimPrefix(node, "tcp://")} {
		l, err := net.Listen("tcp", addr)
		require.NoError(t, err)
		defer l.Close()
	}

	var notices []string
	second, err := Open(t.Context(), Options{
		StateDir: dir, Nodes: 2,
		Notify: func(line string) { notices = append(notices, line) },
	})
	require.NoError(t, err)
	require.NotEqual(t, registry, second.Registry())
	require.Equal(t, first.Nodes()[0], second.Nodes()[0])
	require.NotEqual(t, node, second.Nodes()[1].Addr)
	require.Len(t, notices, 2)
	require.Contains(t, notices[0], registry)
	require.Contains(t, notices[1], "n2")
}

func TestOpenRejects(t *testing.T) {
	_, err := Open(t.Context(), Options{StateDir: t.TempDir(), Nodes: -1})
	require.ErrorContains(t, err, "-1 nodes")

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cluster.json"), []byte("{"), 0o644))
	_, err = Open(t.Context(), Options{StateDir: dir})
	require.ErrorContains(t, err, "cluster.json")

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

func TestStartRegistryAlone(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(t.Context(), Options{StateDir: dir})
	require.NoError(t, err)
	require.NoError(t, c.StartRegistry(t.Context()))
	require.NoError(t, c.StartRegistry(t.Context()))
	require.NoError(t, pingRegistry(t.Context(), c.Registry()))

	// A second user of the state finds the same registry, and may use it.
	other, err := Open(t.Context(), Options{StateDir: dir})
	require.NoError(t, err)
	require.False(t, other.Attached())
	require.Equal(t, c.Registry(), other.Registry())
	require.NoError(t, other.StartRegistry(t.Context()))
	require.NoError(t, other.Stop(t.Context()))
	require.NoError(t, pingRegistry(t.Context(), c.Registry()))

	require.NoError(t, c.Stop(t.Context()))
	require.Error(t, pingRegistry(t.Context(), c.Registry()))
	require.NoError(t, c.StartRegistry(t.Context()))
	require.NoError(t, c.Stop(t.Context()))
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
	require.Len(t, s.Nodes, 2)
	require.Equal(t, "not running", s.Nodes[0].Problem)
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
	text, err := daemonConfig{registry: "127.0.0.1:5000", nodes: 3, parallelism: 4}.toml(t.TempDir())
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
	require.Equal(t, []string{"network.host", "security.insecure"}, conf.Entitlements)
}

func TestDaemonEnv(t *testing.T) {
	got := daemonEnv([]string{"PATH=/bin", "NOTIFY_SOCKET=/run/x", "OTEL_TRACES_EXPORTER=otlp", "TMPDIR=/elsewhere"}, "/state/n1")
	require.Equal(t, []string{"PATH=/bin", "TMPDIR=/state/n1/tmp"}, got)
}

func TestTraceSocketFitsIntoAnAddress(t *testing.T) {
	require.Equal(t, "/state/n1/trace.sock", traceSocket("/state/n1"))
	long := "/" + strings.Repeat("deep/", 40)
	require.Less(t, len(traceSocket(long)), 108)
	require.NotEqual(t, traceSocket(long), traceSocket(long+"x"))
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
