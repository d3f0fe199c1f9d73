//go:build integration

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/local/localtest"
)

// depot is a registry that outlives all nodes, and counts what it is asked.
type depot struct {
	addr string

	mu    sync.Mutex
	asked []string // guarded by mu
	fault func(http.ResponseWriter, *http.Request) bool
}

// newDepot serves an empty registry.
func newDepot(t *testing.T) *depot {
	t.Helper()
	r := localtest.StartRegistry(t)
	target, err := url.Parse("http://" + r.Addr)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	d := &depot{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.asked = append(d.asked, r.Method+" "+r.URL.Path)
		fault := d.fault
		d.mu.Unlock()
		if fault == nil || !fault(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	d.addr = strings.TrimPrefix(s.URL, "http://")
	return d
}

// requests returns what was asked since the last call.
func (d *depot) requests() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.asked
	d.asked = nil
	return list
}

// misbehave has d answer the requests for which fault returns true by fault itself.
func (d *depot) misbehave(fault func(http.ResponseWriter, *http.Request) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

// yard is a project, nodes that can be switched off, and a depot with base images.
type yard struct {
	*depot
	t                *testing.T
	dbake, home, dir string
	flags            []string // that name the nodes
	off              func()   // switches them off
}

// newYard starts n nodes for the project in dir.
func newYard(t *testing.T, dir string, n int) *yard {
	t.Helper()
	localtest.Need(t)
	y := &yard{depot: newDepot(t), t: t, home: t.TempDir(), dir: dir, off: func() {}}
	y.dbake = filepath.Join(t.TempDir(), "dbake")
	out, err := exec.Command("go", "build", "-trimpath", "-o", y.dbake, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	y.on(n)
	bases := exec.Command(filepath.Join(root(t), "testdata", "bases", "build.sh"), y.flags...)
	bases.Env = append(y.env(), "DBAKE="+y.dbake)
	out, err = bases.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return y
}

// on starts n nodes that hold nothing.
func (y *yard) on(n int) {
	y.t.Helper()
	y.off()
	var stops []func()
	y.flags = nil
	for i := range n {
		addr, stop := startNode(y.t, fmt.Sprintf("[registry.%q]\n  http = true\n[registry.\"docker.io\"]\n  mirrors = [%q]\n", y.addr, y.addr))
		y.flags = append(y.flags, "--nodes", fmt.Sprintf("n%d=%s", i+1, addr))
		stops = append(stops, stop)
	}
	y.off = func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// env is the environment of commands.
func (y *yard) env() []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + y.home, "DBAKE_REGISTRY=" + y.addr}
	for _, name := range []string{"GOPATH", "GOCACHE", "GOMODCACHE", "GOROOT", "GOFLAGS", "GOPROXY"} {
		out, err := exec.Command("go", "env", name).Output()
		require.NoError(y.t, err)
		if v := strings.TrimSpace(string(out)); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// run runs dbake in the project.
func (y *yard) run(args ...string) result {
	y.t.Helper()
	cmd := exec.Command(y.dbake, args...)
	cmd.Dir, cmd.Env = y.dir, y.env()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(y.t, err)
	}
	return result{status: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

// built is what a build led to.
type built struct {
	states  map[string]string // by target
	digests map[string]string // by target
	nodes   int               // that took part
	asked   []string          // of the depot
	stderr  string
	took    time.Duration
}

// only returns the targets that ended in a state, sorted.
func (b built) only(state string) []string {
	list := []string{}
	for name, s := range b.states {
		if s == state {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// build builds and pushes.
func (y *yard) build(args ...string) built {
	y.t.Helper()
	file := filepath.Join(y.t.TempDir(), "metadata.json")
	y.requests()
	start := time.Now()
	r := y.run(slices.Concat([]string{"build", "--push", "--progress", "rawjson", "--metadata-file", file}, y.flags, args)...)
	b := built{states: map[string]string{}, digests: map[string]string{}, stderr: r.stderr, asked: y.requests(), took: time.Since(start)}
	require.Zero(y.t, r.status, r.stderr)
	for line := range strings.Lines(r.stderr) {
		var e struct {
			Event   string
			Summary struct {
				Targets []struct{ Name, State string }
				Nodes   []json.RawMessage
			}
		}
		if json.Unmarshal([]byte(line), &e) == nil && e.Event == "summary" {
			for _, t := range e.Summary.Targets {
				b.states[t.Name] = t.State
			}
			b.nodes = len(e.Summary.Nodes)
		}
	}
	data, err := os.ReadFile(file)
	require.NoError(y.t, err)
	var metadata map[string]struct {
		Digest string `json:"containerimage.digest"`
		Name   string `json:"image.name"`
	}
	require.NoError(y.t, json.Unmarshal(data, &metadata))
	for name, m := range metadata {
		if m.Digest != "" {
			b.digests[name] = m.Digest
			require.NotEmpty(y.t, m.Name)
		}
	}
	return b
}

// images writes a project of n images that share two stages, on base images of a
// registry that its definition names.
func images(t *testing.T, dir string, n int) {
	t.Helper()
	files := map[string]string{
		"docker-bake.hcl": fmt.Sprintf(`
variable "DBAKE_REGISTRY" { default = "" }
variable "TAG" { default = "1" }
variable "N" { default = %d }
target "service" {
  name = "svc-${i}"
  matrix = { i = formatlist("%%02d", range(N)) }
  dockerfile = "svc-${i}/Dockerfile"
  args = { REGISTRY = DBAKE_REGISTRY }
  tags = ["${DBAKE_REGISTRY}/many/svc-${i}:${TAG}"]
}
group "default" { targets = ["service"] }
`, n),
		"lib/common.txt": "common\n",
	}
	for i := range n {
		name := fmt.Sprintf("svc-%02d", i)
		files[name+"/Dockerfile"] = fmt.Sprintf(`ARG REGISTRY
FROM ${REGISTRY}/library/busybox:1 AS base
RUN echo tools >/tools
FROM base AS lib
COPY lib /lib-src
RUN cat /lib-src/common.txt >/common
FROM lib
COPY %[1]s/main.txt /main.txt
RUN cat /main.txt /common >/out-%[1]s
`, name)
		files[name+"/main.txt"] = name + "\n"
	}
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
}

// noop checks that a build of n targets did nothing but ask for each of their images.
func noop(t *testing.T, first, again built, n int) {
	t.Helper()
	require.Len(t, again.only("unchanged"), n, again.stderr)
	require.Equal(t, first.digests, again.digests)
	require.Zero(t, again.nodes)
	require.NotContains(t, again.stderr, `"vertexes"`)
	require.LessOrEqual(t, len(again.asked), 2+n, "%q", again.asked)
	for _, request := range again.asked {
		require.Regexp(t, `^(HEAD|GET) `, request)
	}
	t.Logf("%d targets unchanged in %s, %d requests", n, again.took, len(again.asked))
}

// TestNothingChanged builds the sample project and one of 30 images, and again with the
// nodes switched off.
func TestNothingChanged(t *testing.T) {
	store := t.TempDir()
	require.NoError(t, os.CopyFS(store, os.DirFS(filepath.Join(root(t), "testdata", "bakefiles", "storefront"))))
	y := newYard(t, store, 2)
	shop := y.build()
	n := len(shop.digests)
	require.GreaterOrEqual(t, n, 18)
	many := t.TempDir()
	images(t, many, 30)
	y.dir = many
	thirty := y.build()
	require.Len(t, thirty.only("done"), 30)
	y.off()
	noop(t, thirty, y.build(), 30)
	y.dir = store
	noop(t, shop, y.build(), n)
}

// TestRegistryDoesNotSay builds with a warning when it cannot be known what is there.
func TestRegistryDoesNotSay(t *testing.T) {
	dir := t.TempDir()
	images(t, dir, 2)
	y := newYard(t, dir, 1)
	first := y.build()
	y.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/many/") && strings.HasSuffix(r.URL.Path, "/1") && r.UserAgent() == "dbake" {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	})
	again := y.build()
	require.Len(t, again.only("done"), 2)
	require.Equal(t, 1, strings.Count(again.stderr, "cannot be found out"), again.stderr)
	y.misbehave(nil)
	third := y.build()
	require.Len(t, third.only("unchanged"), 2)
	require.NotEmpty(t, first.digests)
	never := y.build("--reuse", "never")
	require.Len(t, never.only("done"), 2)
}
