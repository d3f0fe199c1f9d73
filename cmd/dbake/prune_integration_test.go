//go:build integration

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/registry"
)

// release is a project whose versions have one step each of their own.
const release = `
group "default" { targets = ["api", "web"] }
target "api" {
  target = "api"
  output = ["type=cacheonly"]
}
target "web" {
  target = "web"
  output = ["type=cacheonly"]
}
# The same as api, but for what takes a while before it is put together.
target "reader" {
  target     = "reader"
  cache-from = ["type=registry,ref=REF"]
  output     = ["type=tar,dest=reader.tar"]
}
`

const releaseDockerfile = `
FROM busybox:1 AS common
RUN head -c 10000 /dev/urandom >/common
FROM common AS deps
COPY version /version
RUN head -c 20000 /dev/urandom >/deps
FROM deps AS api
RUN echo api >/name
FROM deps AS web
RUN echo web >/name
FROM busybox:1 AS slow
RUN echo it begins && while ! wget -q -O /dev/null GATE; do sleep 0.2; done && echo slow >/slow
FROM api AS reader
COPY --link --from=slow /slow /slow
`

// TestPruneThirtyRuns builds thirty versions of a project, each with a cache of its own,
// and prunes to the last five: those are built anew without a step, also after the
// registry's own garbage collection, which frees what only the others needed. A build that
// reads one of the others meanwhile is not disturbed.
func TestPruneThirtyRuns(t *testing.T) {
	const runs, kept, read = 30, 5, 3
	w := newWorld(t, 1)
	repo := w.registry + "/release/cache"
	dir := t.TempDir()
	gate := newGates(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(strings.Replace(releaseDockerfile, "GATE", gate.URL+"/reader", 1)), 0o644))
	write(t, dir, release)
	build := func(run int) {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "version"), fmt.Appendf(nil, "%d", run), 0o644))
		r := w.build(dir, 1, "--cache-registry", fmt.Sprintf("%s:run-%02d", repo, run))
		require.Zero(t, r.status, r.stderr)
		require.NotContains(t, r.stderr, "WARNING")
	}
	for run := 1; run <= runs; run++ {
		build(run)
	}
	c := registry.New(registry.Options{})
	defer c.Close()
	blobs, layers := map[int]map[string]bool{}, map[string]string{} // by run; by tag
	manifests := map[int]string{}
	for _, tag := range tagsOf(t, repo) {
		var run int
		_, err := fmt.Sscanf(tag, "run-%d-", &run)
		require.NoError(t, err, tag)
		data, desc, err := c.Manifest(t.Context(), repo+":"+tag)
		require.NoError(t, err)
		var m ocispecs.Manifest
		require.NoError(t, json.Unmarshal(data, &m))
		if blobs[run] == nil {
			blobs[run] = map[string]bool{}
		}
		for _, l := range m.Layers {
			blobs[run][l.Digest.Encoded()] = true
		}
		layers[tag], manifests[run] = desc.Digest.String(), tag
	}
	require.Len(t, blobs, runs)

	// A build on a node that holds nothing reads an old cache while it is pruned.
	w.renew(1)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "version"), fmt.Appendf(nil, "%d", read), 0o644))
	write(t, dir, strings.Replace(release, "REF", repo+":"+manifests[read], 1))
	reader := w.command(dir, append(append([]string{"build", "--progress", "plain", "--reuse", "never"}, w.on(1)...), "--allow", "fs.write=.", "reader")...)
	var said strings.Builder
	reader.Stdout, reader.Stderr = &said, &said
	require.NoError(t, reader.Start())
	t.Cleanup(func() { _ = reader.Process.Kill() }) // of one that has ended it is an error
	done := make(chan error, 1)
	go func() { done <- reader.Wait() }()
	select {
	case <-gate.asked:
	case err := <-done:
		require.NoError(t, err, &said)
		require.Fail(t, "the build did not wait")
	}

	prune := func(args ...string) (rep struct {
		Kept, Marked, Waiting, Deleted []struct{ Tag string }
		Freed                          int64
	}) {
		t.Helper()
		r := w.run(dir, append([]string{"cache", "prune", repo, "--format", "json"}, args...)...)
		require.Zero(t, r.status, r.stderr)
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &rep))
		return rep
	}
	rep := prune("--keep-last", fmt.Sprint(kept), "--grace", "1h")
	require.Len(t, rep.Marked, len(layers)*(runs-kept)/runs)
	require.Empty(t, rep.Deleted)
	require.NotContains(t, tagsOf(t, repo), manifests[read])
	collect(t, filepath.Join(w.state, "registry"))

	gate.let("reader")
	require.NoError(t, <-done, &said)
	require.FileExists(t, filepath.Join(dir, "reader.tar"))
	require.Equal(t, 1, runSteps(t, w.addrs, "RUN"), "only what takes a while:\n%s", &said)

	// The second phase, and the registry's own part.
	rep = prune("--grace", "0s")
	require.Len(t, rep.Deleted, len(layers)*(runs-kept)/runs)
	before := listBlobs(t, filepath.Join(w.state, "registry"))
	collect(t, filepath.Join(w.state, "registry"))
	after := listBlobs(t, filepath.Join(w.state, "registry"))
	wanted := map[string]bool{}
	for run := runs - kept + 1; run <= runs; run++ {
		for b := range blobs[run] {
			wanted[b] = true
			require.Contains(t, after, b, "run %d", run)
		}
	}
	var freed int64
	for run := 1; run <= runs-kept; run++ {
		for b := range blobs[run] {
			if wanted[b] {
				continue
			}
			require.NotContains(t, after, b, "run %d is gone", run)
			freed += before[b]
			delete(before, b) // counted
		}
	}
	require.Equal(t, freed, rep.Freed)

	// Versions have the same operations, so each gets a node that knows none of the others.
	write(t, dir, release)
	for run := runs - kept; run <= runs; run++ {
		w.renew(1)
		build(run)
		if run == runs-kept {
			require.Equal(t, 4, runSteps(t, w.addrs, "RUN"), "its cache is gone")
			continue
		}
		require.Zero(t, runSteps(t, w.addrs, "RUN"), "run %d", run)
	}
}

// collect is the garbage collection of the registry whose content is in dir, with what
// "registry garbage-collect" does by default.
func collect(t *testing.T, dir string) {
	t.Helper()
	logrus.SetOutput(io.Discard)
	driver := filesystem.New(filesystem.DriverParameters{RootDirectory: dir, MaxThreads: 25})
	reg, err := storage.NewRegistry(context.Background(), driver, storage.EnableDelete)
	require.NoError(t, err)
	require.NoError(t, storage.MarkAndSweep(t.Context(), driver, reg, storage.GCOpts{Quiet: true}))
}

// listBlobs are the blobs in a registry's directory, with their sizes.
func listBlobs(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "docker", "registry", "v2", "blobs", "sha256", "*", "*", "data"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	list := map[string]int64{}
	for _, f := range files {
		info, err := os.Stat(f)
		require.NoError(t, err)
		list[filepath.Base(filepath.Dir(f))] = info.Size()
	}
	return list
}
