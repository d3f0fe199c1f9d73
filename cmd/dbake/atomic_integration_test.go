//go:build integration

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/registry"
)

const together = `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" { default = "" }
variable "VERSION" { default = "1" }
variable "LAST" { default = "true" }
variable "PAUSE" { default = "1" }
group "default" { targets = ["app", "files", "last"] }
target "app" {
  name   = "t${i}"
  matrix = { i = [0, 1, 2, 3] }
  args   = { I = "${i}", VERSION = VERSION, PAUSE = PAUSE }
  tags   = ["${DBAKE_REGISTRY}/whole/t${i}:1", "${DBAKE_REGISTRY}/whole/also:t${i}"]
  output = ["type=registry"]
}
target "files" {
  args   = { I = "files", VERSION = VERSION, PAUSE = PAUSE }
  tags   = ["whole/files:1"]
  output = ["type=local,dest=out", "type=tar,dest=out.tar", "type=oci,dest=layout,tar=false"]
}
target "last" {
  args              = { LAST = LAST, VERSION = VERSION }
  dockerfile-inline = <<EOT
FROM busybox:1
ARG VERSION
RUN sleep 3 && echo last $VERSION
ARG LAST
RUN $LAST
EOT
  tags   = ["${DBAKE_REGISTRY}/whole/last:1"]
  output = ["type=image,push=true"]
}
-- Dockerfile --
FROM busybox:1
ARG I
ARG VERSION
ARG PAUSE
RUN echo started $I && sleep $PAUSE && echo $VERSION > /version && echo $I > /name-$VERSION
`

// tags returns what every tag below a path of the registry stands for.
func (w *world) tags(path string, repos ...string) map[string]string {
	w.t.Helper()
	c := registryClient(w.t)
	list := map[string]string{}
	for _, repo := range repos {
		ref := w.registry + "/" + path + "/" + repo
		tags, err := c.Tags(w.t.Context(), ref)
		if errors.Is(err, registry.ErrNotFound) {
			continue
		}
		require.NoError(w.t, err)
		for _, tag := range tags {
			desc, err := c.Resolve(w.t.Context(), ref+":"+tag)
			require.NoError(w.t, err)
			list[repo+":"+tag] = desc.Digest.String()
		}
	}
	return list
}

// TestAtomic publishes several images and files: all of them, or nothing, whatever happens.
func TestAtomic(t *testing.T) {
	w := newWorld(t, 2)
	dir := project(t, together)
	published := func() map[string]string { return w.tags("whole", "t0", "t1", "t2", "t3", "also", "last") }
	build := func(args ...string) result {
		return w.build(dir, 2, append([]string{"--execution", "atomic", "--metadata-file", "metadata.json"}, args...)...)
	}
	clean := func() {
		t.Helper()
		require.Empty(t, leftovers(t, dir))
		require.Empty(t, leftovers(t, w.tmp))
	}

	r := build("--var", "LAST=false")
	require.Equal(t, 1, r.status, r.stderr)
	require.Empty(t, published(), r.stderr)
	require.Regexp(t, `(?m)^t0 +n\d +not published: last failed`, r.stderr)
	for _, name := range []string{"out", "out.tar", "layout/index.json"} {
		require.NoFileExists(t, filepath.Join(dir, name))
		require.NoDirExists(t, filepath.Join(dir, name))
	}
	clean()

	r = build()
	require.Zero(t, r.status, r.stderr)
	first := published()
	require.Len(t, first, 9, r.stderr)
	require.Equal(t, first["t3:1"], first["also:t3"])
	require.Contains(t, r.stderr, "6 of 6 targets built, 9 images pushed")
	require.FileExists(t, filepath.Join(dir, "out", "version"))
	require.FileExists(t, filepath.Join(dir, "out.tar"))
	require.FileExists(t, filepath.Join(dir, "layout", "index.json"))
	metadata, err := os.ReadFile(filepath.Join(dir, "metadata.json"))
	require.NoError(t, err)
	require.Contains(t, string(metadata), fmt.Sprintf("%q", w.registry+"/whole/t0:1,"+w.registry+"/whole/also:t0"))
	clean()

	was, err := os.ReadFile(filepath.Join(dir, "out.tar"))
	require.NoError(t, err)
	unchanged := func(because string) {
		t.Helper()
		require.Equal(t, first, published(), because)
		require.NoFileExists(t, filepath.Join(dir, "out", "name-2"), because)
		is, err := os.ReadFile(filepath.Join(dir, "out.tar"))
		require.NoError(t, err)
		require.Equal(t, was, is, because)
		clean()
	}
	r = build("--var", "LAST=false", "--var", "VERSION=2")
	require.Equal(t, 1, r.status, r.stderr)
	require.Contains(t, r.stderr, "built and not published")
	unchanged(r.stderr)

	stderr, interrupt, status := w.begin(dir, 2, "--execution", "atomic", "--var", "VERSION=3")
	awaitText(t, stderr, "pushed "+w.registry+"/whole/t")
	interrupt()
	rest := readAll(t, stderr)
	require.Equal(t, 130, status(), rest)
	unchanged(rest)

	cmd := w.command(dir, append([]string{"build", "--progress", "plain", "--reuse", "never", "--execution", "atomic", "--var", "VERSION=4", "--var", "PAUSE=8"}, w.on(2)...)...)
	out, status := start(t, cmd)
	shown, node := awaitStep(t, out, func(string) bool { return true })
	require.NoError(t, syscall.Kill(processOf(t, filepath.Join(w.state, "nodes", node)), syscall.SIGKILL))
	rest = readAll(t, out)
	require.Zero(t, status(), "%s%s", shown, rest)
	fourth := published()
	require.Len(t, fourth, 9)
	for name, digest := range fourth {
		require.NotEqual(t, first[name], digest, name)
	}
	require.FileExists(t, filepath.Join(dir, "out", "name-4"))
	require.FileExists(t, filepath.Join(dir, "out", "name-1"), "files are added to a directory")
	clean()

	r = build("--set", "files.output=type=tar,dest=-")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "target files: an output cannot be held back until all targets are built: it goes to standard output")
}

// A saved plan is carried out as a whole, too: the mode is said when it is built.
func TestAtomicOfPlan(t *testing.T) {
	w := newWorld(t, 2)
	dir := project(t, together)
	published := func() map[string]string { return w.tags("whole", "t0", "t1", "t2", "t3", "also", "last") }
	build := func(last string) result {
		file := filepath.Join(t.TempDir(), "plan.json")
		args := append([]string{"plan", "--var", "PAUSE=0", "--var", "LAST=" + last, "--format", "json", "-o", file}, w.on(2)...)
		r := w.run(dir, args...)
		require.Zero(t, r.status, r.stderr)
		return w.run(dir, append([]string{"build", file, "--progress", "plain", "--execution", "atomic"}, w.on(2)...)...)
	}
	r := build("false")
	require.Equal(t, 1, r.status, r.stderr)
	require.Empty(t, published(), r.stderr)
	require.Empty(t, leftovers(t, dir))
	r = build("true")
	require.Zero(t, r.status, r.stderr)
	require.Len(t, published(), 9, r.stderr)
	require.FileExists(t, filepath.Join(dir, "out.tar"))
	require.Empty(t, leftovers(t, dir))
}

// leftovers are the files that wait beside their places.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	for _, name := range listing(t, dir) {
		if base := filepath.Base(name); strings.HasPrefix(base, ".dbake-") || strings.HasPrefix(base, "dbake-load-") {
			list = append(list, name)
		}
	}
	return list
}

// TestAtomicPlatforms does so with an image whose platforms several nodes build.
func TestAtomicPlatforms(t *testing.T) {
	w := newWorld(t, 2)
	dir := project(t, twice)
	nodes := []string{"--nodes", "x=" + w.addrs[0] + ",platforms=linux/amd64", "--nodes", "y=" + w.addrs[1] + ",platforms=linux/arm64"}
	build := func(push string, more ...string) result {
		args := []string{"build", "--progress", "plain", "--reuse", "never", "--var", "REGISTRY=" + w.registry, "--var", "PUSH=" + push,
			"--metadata-file", push + ".json", "--allow", "fs.write=" + dir}
		return w.run(dir, append(append(args, nodes...), more...)...)
	}
	r := build("usual")
	require.Zero(t, r.status, r.stderr)
	r = build("whole", "--execution", "atomic")
	require.Zero(t, r.status, r.stderr)
	usual, whole := digests(t, filepath.Join(dir, "usual.json")), digests(t, filepath.Join(dir, "whole.json"))
	require.NotEmpty(t, whole["app"])
	require.Equal(t, usual["app"], whole["app"])
	for _, name := range []string{"app", "other"} {
		desc, err := registryClient(t).Resolve(t.Context(), w.registry+"/twice/"+name+":whole")
		require.NoError(t, err)
		require.Equal(t, whole["app"], desc.Digest.String())
	}
}

// TestAtomicRegistryRefuses has a registry refuse one of several tags: those that were set
// are put back. Then unchanged images lack tags, which are set with the others.
func TestAtomicRegistryRefuses(t *testing.T) {
	dir := project(t, `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" { default = "" }
variable "TAG" { default = "1" }
variable "LAST" { default = "true" }
target "default" {
  name              = "t${i}"
  matrix            = { i = [0, 1, 2] }
  dockerfile-inline = "FROM busybox:1\nRUN echo ${i} > /i\nRUN ${i == 2 ? LAST : "true"}"
  tags              = ["${DBAKE_REGISTRY}/refused/t${i}:${TAG}"]
}
`)
	y := newYard(t, dir, 1, "busybox")
	build := func(args ...string) result {
		return y.run(append(append([]string{"build", "--push", "--progress", "plain", "--execution", "atomic"}, y.flags...), args...)...)
	}
	digest := func(ref string) string {
		desc, err := registryClient(t).Resolve(t.Context(), y.addr+"/refused/"+ref)
		if errors.Is(err, registry.ErrNotFound) {
			return ""
		}
		require.NoError(t, err)
		return desc.Digest.String()
	}
	refuse := func(name string) {
		y.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, name) {
				return false
			}
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusForbidden)
			return true
		})
	}

	refuse("/t1/manifests/1")
	r := build()
	require.Equal(t, 1, r.status, r.stderr)
	require.Contains(t, r.stderr, "nothing is published: target t1: set "+y.addr+"/refused/t1:1")
	for i := range 3 {
		require.Empty(t, digest(fmt.Sprintf("t%d:1", i)), r.stderr)
	}
	require.Regexp(t, `(?m)^t0 +n1 +not published: publishing failed`, r.stderr)

	y.misbehave(nil)
	r = build() // what is there is only named
	require.Zero(t, r.status, r.stderr)
	require.Contains(t, r.stderr, "3 unchanged", r.stderr)
	first := digest("t0:1")
	require.NotEmpty(t, first)

	r = build("--var", "TAG=2", "--var", "LAST=false")
	require.Equal(t, 1, r.status, r.stderr)
	require.Empty(t, digest("t0:2"), "an unchanged image got its name although something failed: %s", r.stderr)
	r = build("--var", "TAG=2")
	require.Zero(t, r.status, r.stderr)
	require.Equal(t, first, digest("t0:2"))
	require.NotEmpty(t, digest("t2:2"))
}
