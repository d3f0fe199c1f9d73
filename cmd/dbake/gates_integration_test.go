//go:build integration

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const guarded = `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" { default = "" }
variable "CHECK" { default = "true" }
variable "VERSION" { default = "1" }
group "default" { targets = ["app", "free"] }
target "app" {
  target = "app"
  args   = { VERSION = VERSION }
  gates  = ["app-test"]
  tags   = ["${DBAKE_REGISTRY}/guarded/app:1"]
  output = ["type=registry", "type=local,dest=out"]
}
target "app-test" {
  target = "test"
  args   = { VERSION = VERSION, CHECK = CHECK }
}
target "free" {
  contexts          = { app = "target:app" }
  dockerfile-inline = "FROM app\nRUN echo free > /free\n"
  tags              = ["${DBAKE_REGISTRY}/guarded/free:1"]
  output            = ["type=registry"]
}
-- Dockerfile --
FROM busybox:1 AS app
ARG VERSION
RUN echo version $VERSION > /version

FROM app AS test
ARG CHECK
RUN sleep 3 && $CHECK
`

// TestGates has a target published only if its test succeeds, which shares its stage, on
// whatever node and in every mode; what reads the target is not held up.
func TestGates(t *testing.T) {
	w := newWorld(t, 2)
	dir := project(t, guarded)
	published := func() map[string]string { return w.tags("guarded", "app", "free") }

	r := w.build(dir, 2, "--execution", "defer-error", "--var", "CHECK=false")
	require.Equal(t, 1, r.status, r.stderr)
	require.Contains(t, r.stderr, "app is built but not published: test app-test failed")
	require.Regexp(t, `(?m)^app +n\d +not published: test app-test failed`, r.stderr)
	require.NotContains(t, published(), "app:1")
	require.Contains(t, published(), "free:1", "what reads it is not guarded: %s", r.stderr)
	require.NoDirExists(t, filepath.Join(dir, "out"))

	r = w.build(dir, 2, "--var", "CHECK=false")
	require.Equal(t, 1, r.status, r.stderr)
	require.NotContains(t, published(), "app:1")

	r = w.build(dir, 2)
	require.Zero(t, r.status, r.stderr)
	first := published()
	require.Len(t, first, 2, r.stderr)
	require.FileExists(t, filepath.Join(dir, "out", "version"))

	for _, mode := range []string{"fail-fast", "defer-output", "atomic", "defer-error"} {
		args := []string{"--execution", mode, "--var", "CHECK=false", "--var", "VERSION=2"}
		if mode == "atomic" {
			args = append(args, "--set", "*.output=type=registry")
		}
		r = w.build(dir, 2, args...)
		require.Equal(t, 1, r.status, r.stderr)
		require.Equal(t, first["app:1"], published()["app:1"], "%s: %s", mode, r.stderr)
		version, err := os.ReadFile(filepath.Join(dir, "out", "version"))
		require.NoError(t, err)
		require.Equal(t, "version 1\n", string(version), mode)
	}

	r = w.build(dir, 1, "-j", "1", "--execution", "atomic", "--var", "VERSION=3")
	require.Zero(t, r.status, r.stderr)
	require.NotEqual(t, first["app:1"], published()["app:1"])

	// A test that cannot even be prepared keeps its gate closed.
	before := published()
	r = w.build(dir, 2, "-k", "--var", "VERSION=4", "--set", "app-test.target=nothing")
	require.Equal(t, 1, r.status, r.stderr)
	require.Contains(t, r.stderr, "app is built but not published: test app-test failed")
	require.Equal(t, before["app:1"], published()["app:1"])
}

// TestGatesOfUnchanged has a gate decide also when an image that was pushed gets another
// name.
func TestGatesOfUnchanged(t *testing.T) {
	dir := project(t, `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" { default = "" }
variable "CHECK" { default = "true" }
variable "TAG" { default = "1" }
target "default" {
  dockerfile-inline = "FROM busybox:1\nRUN echo app > /app"
  gates             = ["test"]
  tags              = ["${DBAKE_REGISTRY}/guarded/again:${TAG}"]
}
target "test" { dockerfile-inline = "FROM busybox:1\nRUN ${CHECK}" }
`)
	y := newYard(t, dir, 1, "busybox")
	build := func(args ...string) result {
		return y.run(append(append([]string{"build", "--push", "--progress", "plain"}, y.flags...), args...)...)
	}
	r := build("--execution", "atomic", "--var", "CHECK=false")
	require.Equal(t, 1, r.status, r.stderr)
	r = build()
	require.Zero(t, r.status, r.stderr)
	r = build("--var", "CHECK=false")
	require.Zero(t, r.status, "what is published needs no test: %s", r.stderr)
	require.Contains(t, r.stderr, "1 unchanged")
	r = build("--var", "CHECK=false", "--var", "TAG=2")
	require.Equal(t, 1, r.status, r.stderr)
	_, err := registryClient(t).Resolve(t.Context(), y.addr+"/guarded/again:2")
	require.Error(t, err)
	r = build("--var", "TAG=2")
	require.Zero(t, r.status, r.stderr)
	_, err = registryClient(t).Resolve(t.Context(), y.addr+"/guarded/again:2")
	require.NoError(t, err)
}
