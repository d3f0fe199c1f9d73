//go:build integration

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const occupying = `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" { default = "" }
target "default" { output = ["type=cacheonly"] }
-- Dockerfile --
FROM busybox:1
RUN echo it has begun; sleep 600
`

const beside = `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" { default = "" }
target "default" {
  name   = "t${i}"
  matrix = { i = [0, 1] }
  args   = { I = "${i}" }
  output = ["type=cacheonly"]
}
-- Dockerfile --
FROM busybox:1
ARG I
RUN echo beside $I; sleep 1
`

// TestSharedNode has a process begin a build beside that of another one on the same node.
func TestSharedNode(t *testing.T) {
	w := newWorld(t, 2)
	stderr, interrupt, status := w.begin(project(t, occupying), 1)
	awaitText(t, stderr, "it has begun")
	dir := project(t, beside)
	nodes := []string{"--nodes", "n1=" + w.addrs[0], "--nodes", "n2=" + w.addrs[1], "--var", "DBAKE_REGISTRY=" + w.registry}
	list := w.run(dir, append([]string{"nodes"}, nodes...)...)
	require.Contains(t, list.stdout, "n1: 1 other build on it\n")
	require.NotContains(t, list.stdout, "n2: ")
	const shared = "1 other build runs on n1: steps count as taking twice as long there"
	planned := w.run(dir, append([]string{"plan", "--explain", "t0"}, nodes...)...)
	require.Contains(t, planned.stdout, "t0 is built on n2")
	require.Contains(t, planned.stdout, shared)
	built := w.run(dir, append([]string{"build", "--progress", "plain", "--no-steal"}, nodes...)...)
	require.Zero(t, built.status, built.stderr)
	require.Contains(t, built.stderr, shared)
	require.Regexp(t, `(?m)^ *n1 +0 `, built.stderr)
	require.Regexp(t, `(?m)^ *n2 +2 `, built.stderr)
	interrupt()
	rest := readAll(t, stderr)
	require.Equal(t, 130, status(), rest)
}
