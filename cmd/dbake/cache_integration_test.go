//go:build integration

package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/registry"
)

const slowSteps = `
group "default" {
  targets = ["one", "two"]
}
target "one" {
  dockerfile-inline = "FROM busybox:1 AS deps\nRUN sleep 3 && echo deps >/deps\nFROM deps\nRUN sleep 3 && echo one >/one"
}
target "two" {
  dockerfile-inline = "FROM busybox:1 AS deps\nRUN sleep 3 && echo deps >/deps\nFROM deps\nRUN sleep 3 && echo two >/two"
}
`

// TestPlansKnowWhatTheRegistryHolds builds with a cache registry, and plans for nodes
// that hold nothing.
func TestPlansKnowWhatTheRegistryHolds(t *testing.T) {
	w := newWorld(t, 2)
	dir := bakeDir(t, slowSteps)
	cache := "--cache-registry=" + w.registry + "/cache"
	r := w.build(dir, 2, cache)
	require.Zero(t, r.status, r.stderr)
	w.renew(2)
	plan := func(args ...string) string { return w.plan(dir, 2, args...) }
	const fetched = `(?m)^.* one .* all fetched from the registry$`
	require.Regexp(t, fetched, plan(cache))
	require.Regexp(t, `"in_registry": true`, plan(cache, "--format", "json"))
	require.NotContains(t, plan(cache, "--offline"), "registry", "nobody is asked")
	require.NotContains(t, plan(), "registry", "the nodes will not read it")

	// The run does what the plan says.
	r = w.build(dir, 2, cache)
	require.Zero(t, r.status, r.stderr)
	require.Zero(t, runSteps(t, w.addrs, "RUN"))

	// A cache that somebody else has replaced is another one.
	w.renew(2)
	c := registry.New(registry.Options{})
	defer c.Close()
	tags, err := c.Tags(t.Context(), w.registry+"/cache")
	require.NoError(t, err)
	require.NotEmpty(t, tags)
	busybox := w.registry + "/library/busybox:1"
	manifest, desc, err := c.Manifest(t.Context(), busybox)
	require.NoError(t, err)
	for _, tag := range tags {
		require.NoError(t, c.Copy(t.Context(), busybox, w.registry+"/cache", desc))
		require.NoError(t, c.Push(t.Context(), w.registry+"/cache:"+tag, desc, manifest))
	}
	require.NotContains(t, plan(cache), "the registry")
}

// Targets that are not built because they are unchanged stay in the cache of their
// cluster when another target of it is.
func TestUnchangedTargetsStayInTheCache(t *testing.T) {
	w := newWorld(t, 1)
	dir := t.TempDir()
	write := func(two string) {
		text := "group \"default\" {\n  targets = [\"one\", \"two\"]\n}\n"
		for name, run := range map[string]string{"one": "echo one", "two": two} {
			text += fmt.Sprintf("target %q {\n  dockerfile-inline = \"FROM busybox:1 AS deps\\nRUN echo deps >/deps\\nFROM deps\\nRUN %s >/%s\"\n  tags = [\"%s/%s:1\"]\n  output = [\"type=registry\"]\n  attest = [\"type=provenance,disabled=true\"]\n}\n", name, run, name, w.registry, name)
		}
		write(t, dir, text)
	}
	cache := "--cache-registry=" + w.registry + "/cache"
	build := func(args ...string) string {
		r := w.build(dir, 1, append([]string{cache}, args...)...)
		require.Zero(t, r.status, r.stderr)
		require.NotContains(t, r.stderr, "WARNING")
		return r.stderr
	}
	write("echo two")
	build()
	write("echo other")
	require.Regexp(t, `(?m)^one .*unchanged`, build("--reuse=always"))

	w.renew(1)
	build("--reuse=never")
	require.Zero(t, runSteps(t, w.addrs, "RUN"))
}
