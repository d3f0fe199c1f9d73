//go:build integration

package main

import (
	"os"
	"path/filepath"
	"testing"

	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"
)

// TestFilledMountsCount builds what is slow only where its cache mount is empty: once both times
// are known, a plan names the node that has filled the mount, until the mount is pruned.
func TestFilledMountsCount(t *testing.T) {
	w := newWorld(t, 2)
	dir := bakeDir(t, `target "default" { output = ["type=cacheonly"] }`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(`
FROM busybox:1
COPY source /
RUN --mount=type=cache,target=/c,id=compiler test -e /c/full || sleep 4; touch /c/full
`), 0o644))
	change := func(source string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "source"), []byte(source), 0o644))
	}
	history := "--history=" + filepath.Join(t.TempDir(), "history.db")
	for _, source := range []string{"one", "two"} {
		change(source)
		require.NotContains(t, w.plan(dir, 2, history, "--explain", "default"), "cache mount")
		r := w.build(dir, 2, history)
		require.Zero(t, r.status, r.stderr)
	}
	change("three")
	const filled = `finds the cache mount /c filled on (n[12]) by an earlier run: it takes 0\.\ds there, and [4-9]\.\ds`
	require.Regexp(t, filled, w.plan(dir, 2, history, "--explain", "default"))
	h := w.run(dir, "history", "export", history)
	require.Zero(t, h.status, h.stderr)
	require.Contains(t, h.stdout, `"mounts":"cold"`)
	require.Contains(t, h.stdout, `"mounts":"filled"`)

	for _, addr := range w.addrs {
		c, err := bkclient.New(t.Context(), addr)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Prune(t.Context(), nil, bkclient.PruneAll, bkclient.WithFilter([]string{"type==" + string(bkclient.UsageRecordTypeCacheMount)})))
	}
	require.NotContains(t, w.plan(dir, 2, history, "--explain", "default"), "cache mount")
}
