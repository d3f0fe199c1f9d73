//go:build integration

package main

import (
	"regexp"
	"slices"
	"testing"

	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"
)

const warmth = `
group "default" {
  targets = ["kept", "pruned"]
}
target "kept" {
  dockerfile-inline = "FROM busybox:1\nRUN echo kept >/kept"
}
target "pruned" {
  dockerfile-inline = "FROM busybox:1\nRUN echo pruned >/pruned\nRUN echo more >/more"
}
`

// TestPlansAskNodesWhatTheyHold prunes a node behind dbake's back.
func TestPlansAskNodesWhatTheyHold(t *testing.T) {
	w := newWorld(t, 1)
	dir := bakeDir(t, warmth)
	r := w.build(dir, 1)
	require.Zero(t, r.status, r.stderr)
	plan := func(args ...string) string { return w.plan(dir, 1, args...) }
	const held, gone = `(?m)^.* kept .* held by n1$`, `(?m)^.* pruned .* from step 2 of 2: no longer on the node$`
	require.Regexp(t, held, plan())
	require.NotRegexp(t, gone, plan())

	// The sizes of results are known as well.
	h := w.run(dir, "history", "export")
	require.Zero(t, h.status, h.stderr)
	require.Len(t, regexp.MustCompile(`(?m)^.*"slot":"\./Dockerfile.*"kind":"run".*"bytes":[1-9].*$`).FindAllString(h.stdout, -1), 3, h.stdout)

	c, err := bkclient.New(t.Context(), w.addrs[0])
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Prune(t.Context(), nil, bkclient.PruneAll, bkclient.WithFilter([]string{"description~=more"})))
	require.Regexp(t, held, plan())
	require.Regexp(t, gone, plan())
	require.NotRegexp(t, gone, plan("--offline"), "nobody is asked")

	// A node that is not running is not started for a plan.
	w.down()
	require.NotRegexp(t, gone, plan())
	require.Empty(t, processes(t, w.state))
	w.up(1)
	r = w.build(dir, 1)
	require.Zero(t, r.status, r.stderr)
	require.NotRegexp(t, gone, plan())

	require.NoError(t, c.Prune(t.Context(), nil, bkclient.PruneAll))
	require.Regexp(t, `(?m)^.* kept .* all 1: no longer on the node$`, plan())
}

// TestKeptResultsNeedNoCache reads no cache of targets whose results are all on their nodes, and
// that of the others.
func TestKeptResultsNeedNoCache(t *testing.T) {
	w := newWorld(t, 1)
	dir := bakeDir(t, warmth)
	read := regexp.MustCompile(`(?m)importing cache manifest from \S+/cache:dbake-([a-z]+)-`)
	ran := regexp.MustCompile(`(?m)^ +n1 +2 +(\d+) `)
	build := func() (steps string, caches []string) {
		r := w.build(dir, 1, "--reuse", "never", "--progress", "plain", "--cache-registry", w.registry+"/cache")
		require.Zero(t, r.status, r.stderr)
		for _, m := range read.FindAllStringSubmatch(r.stderr, -1) {
			if !slices.Contains(caches, m[1]) {
				caches = append(caches, m[1])
			}
		}
		m := ran.FindStringSubmatch(r.stderr)
		require.NotNil(t, m, r.stderr)
		return m[1], caches
	}
	steps, caches := build()
	require.Equal(t, "3", steps)
	require.Empty(t, caches, "there are none")
	steps, caches = build()
	require.Equal(t, "0", steps)
	require.Empty(t, caches)

	c, err := bkclient.New(t.Context(), w.addrs[0])
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Prune(t.Context(), nil, bkclient.PruneAll, bkclient.WithFilter([]string{"description~=more"})))
	steps, caches = build()
	require.Equal(t, "0", steps, "the cache has it")
	require.Equal(t, []string{"pruned"}, caches)
	steps, caches = build()
	require.Equal(t, "0", steps)
	require.Equal(t, []string{"pruned"}, caches, "the node does not say that it has what it took from a cache")
}
