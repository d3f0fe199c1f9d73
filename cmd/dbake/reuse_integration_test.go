//go:build integration

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
	withoutRegistry  bool     // the environment names none
	more             []string // of the environment
	off              func()   // switches them off
}

// newYard starts n nodes for the project in dir, and builds the base images of these
// names; all without any.
func newYard(t *testing.T, dir string, n int, bases ...string) *yard {
	t.Helper()
	localtest.Need(t)
	y := &yard{depot: newDepot(t), t: t, dbake: executable(t), home: t.TempDir(), dir: dir, off: func() {}}
	y.on(n)
	buildBases(t, y.dbake, y.env(), slices.Concat(y.flags, bases)...)
	return y
}

// on starts n nodes that hold nothing.
func (y *yard) on(n int) {
	y.t.Helper()
	y.off()
	var stops []func()
	y.flags = nil
	for i := range n {
		addr, stop := startNode(y.t, fmt.Sprintf("[registry.%q]\n  http = true\n[registry.\"docker.io\"]\n  mirrors = [%q]\n[registry.\"inside.test\"]\n  mirrors = [%q]\n", y.addr, y.addr, y.addr))
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
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + y.home}
	env = append(env, y.more...)
	if !y.withoutRegistry {
		env = append(env, "DBAKE_REGISTRY="+y.addr)
	}
	return append(env, goEnv(y.t)...)
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
	written string            // to the metadata file
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
	b.written = string(data)
	var metadata map[string]json.RawMessage
	require.NoError(y.t, json.Unmarshal(data, &metadata))
	for name, told := range metadata {
		var m struct {
			Digest string `json:"containerimage.digest"`
			Name   string `json:"image.name"`
		}
		if strings.HasPrefix(name, "buildx.") {
			continue
		}
		require.NoError(y.t, json.Unmarshal(told, &m))
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
	require.Equal(t, 1, strings.Count(again.stderr, "cannot find out whether"), again.stderr)
	y.misbehave(nil)
	third := y.build()
	require.Len(t, third.only("unchanged"), 2)
	require.NotEmpty(t, first.digests)
	never := y.build("--reuse", "never")
	require.Len(t, never.only("done"), 2)
}

// TestFreshMachineWithoutBases knows nothing but the cache registry of a project with base
// images that only nodes could reach.
func TestFreshMachineWithoutBases(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(root(t), "testdata", "bakefiles", "storefront"))))
	y := newYard(t, dir, 1)
	cache := "--cache-registry=" + y.addr + "/cache"
	shop := y.build(cache)
	y.off()
	y.home = t.TempDir()
	noop(t, shop, y.build(cache), len(shop.digests))
}

// TestFreshMachine knows nothing but the cache registry.
func TestFreshMachine(t *testing.T) {
	dir := t.TempDir()
	images(t, dir, 6)
	y := newYard(t, dir, 1, "busybox")
	cache := "--cache-registry=" + y.addr + "/cache"
	first := y.build(cache)
	require.Len(t, first.only("done"), 6)
	y.off()
	y.home = t.TempDir()
	elsewhere := t.TempDir()
	images(t, elsewhere, 6)
	y.dir = elsewhere
	again := y.build(cache)
	noop(t, first, again, 6)
	require.Contains(t, again.asked, "HEAD /v2/library/busybox/manifests/1", "the base image may have moved")
	// From now on it knows by itself.
	noop(t, first, y.build(), 6)

	// What somebody else has put there is not believed.
	y.home = t.TempDir()
	y.on(1)
	r := y.run("explain", "--key", "svc-00", "--format", "json")
	require.Zero(t, r.status, r.stderr)
	y.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/cache/manifests/dbake.images") {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = w.Write([]byte(`{"schemaVersion":2,"artifactType":"application/vnd.dbake.images.v1+gzip","layers":[{"mediaType":"application/vnd.dbake.images.v1+gzip","digest":"sha256:00","size":1,"data":"AAAA"}]}`))
			return true
		}
		return false
	})
	third := y.build(cache)
	require.Len(t, third.only("done"), 6)
	require.Contains(t, third.stderr, "cannot find out which images were pushed")
}

// TestMetadataOfUnchanged reads of unchanged targets what was said when they were built, on
// the machine that did and on others, by whatever means these know.
func TestMetadataOfUnchanged(t *testing.T) {
	dir := t.TempDir()
	images(t, dir, 2)
	y := newYard(t, dir, 1, "busybox")
	cache := "--cache-registry=" + y.addr + "/cache"
	y.more = []string{"BUILDX_METADATA_WARNINGS=1"}
	args := []string{cache, "--set", "*.labels.a=b", "--set", "*.args.TOKEN=hunter2", "--set", "svc-01.args.BUILDKIT_MULTI_PLATFORM=1"}
	first := y.build(args...)
	for _, want := range []string{"buildx.build.ref", `"buildx.build.provenance"`, `"buildx.build.provenance/linux/amd64"`, "containerimage.descriptor", "buildx.build.warnings", `"build-arg:TOKEN": "hunter2"`} {
		require.Contains(t, first.written, want)
	}
	y.off()
	again := y.build(args...)
	noop(t, first, again, 2)
	require.JSONEq(t, first.written, again.written)
	y.home = t.TempDir()
	again = y.build(args...)
	noop(t, first, again, 2)
	require.JSONEq(t, first.written, again.written)
	require.NoError(t, filepath.WalkDir(y.home, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		require.NotContains(t, string(data), "hunter2", path)
		return err
	}))

	// A build for which nobody wanted metadata: the image says the same.
	y.on(1)
	y.home = t.TempDir()
	r := y.run(slices.Concat([]string{"build", "--push", "--reuse", "never"}, y.flags, args)...)
	require.Zero(t, r.status, r.stderr)
	y.off()
	again = y.build(args...)
	require.Len(t, again.only("unchanged"), 2, again.stderr)
	for _, want := range []string{"buildx.build.ref", `"buildx.build.provenance"`, `"buildx.build.provenance/linux/amd64"`, `"build-arg:TOKEN": "hunter2"`} {
		require.Contains(t, again.written, want)
	}
	provenance := func(b built) (list []any) {
		t.Helper()
		var doc map[string]map[string]any
		require.NoError(t, json.Unmarshal([]byte(b.written), &map[string]any{}))
		_ = json.Unmarshal([]byte(b.written), &doc) // the list of warnings is no object
		for _, name := range slices.Sorted(maps.Keys(doc)) {
			for _, key := range slices.Sorted(maps.Keys(doc[name])) {
				if strings.HasPrefix(key, "buildx.build.provenance") {
					// Which inputs of a request a node notes differs from build to build.
					told := doc[name][key].(map[string]any)
					delete(told["invocation"].(map[string]any)["parameters"].(map[string]any), "inputs")
					list = append(list, doc[name][key])
				}
			}
		}
		return list
	}
	require.Len(t, provenance(first), 2)
	require.Equal(t, provenance(first), provenance(again))

	// Where nobody can say it, the target is built, and then it is known.
	y.on(1)
	y.home = t.TempDir()
	plain := []string{"--provenance=false"}
	r = y.run(slices.Concat([]string{"build", "--push"}, y.flags, plain)...)
	require.Zero(t, r.status, r.stderr)
	require.Len(t, y.build(plain...).only("done"), 2)
	y.off()
	again = y.build(plain...)
	require.Len(t, again.only("unchanged"), 2, again.stderr)
	require.Contains(t, again.written, "buildx.build.provenance")
}

// TestOnlyWhatChanged builds what reads an edited file and nothing else, also on nodes
// that have never seen the project, and sets tags without any.
func TestOnlyWhatChanged(t *testing.T) {
	dir := t.TempDir()
	images(t, dir, 4)
	y := newYard(t, dir, 2)
	first := y.build()
	edit := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}

	edit("svc-01/main.txt", "edited\n")
	b := y.build()
	require.Equal(t, []string{"svc-01"}, b.only("done"), b.stderr)
	require.Equal(t, []string{"svc-00", "svc-02", "svc-03"}, b.only("unchanged"))
	require.NotEqual(t, first.digests["svc-01"], b.digests["svc-01"])
	require.Equal(t, first.digests["svc-02"], b.digests["svc-02"])

	y.on(1)
	edit("svc-02/main.txt", "edited\n")
	b = y.build()
	require.Equal(t, []string{"svc-02"}, b.only("done"))

	// On nodes that hold nothing, for a machine that knows nothing: of the steps only those
	// that read the file, when a cache has the others.
	cache := "--cache-registry=" + y.addr + "/cache"
	require.Len(t, y.build(cache, "--reuse", "never").only("done"), 4)
	y.on(2)
	home := y.home
	y.home = t.TempDir()
	edit("svc-00/main.txt", "edited\n")
	b = y.build(cache)
	require.Equal(t, []string{"svc-00"}, b.only("done"), b.stderr)
	require.Len(t, b.only("unchanged"), 3)
	ran := map[string][]string{}
	for i := 1; i < len(y.flags); i += 2 {
		_, addr, _ := strings.Cut(y.flags[i], "=")
		steps, _ := executions(t, addr)
		maps.Copy(ran, steps)
	}
	names := strings.Join(slices.Sorted(maps.Keys(ran)), "\n")
	require.Contains(t, names, "RUN cat /main.txt /common >/out-svc-00")
	require.NotContains(t, names, "RUN echo tools")
	require.NotContains(t, names, "/out-svc-01")
	y.home = home
	edit("svc-00/main.txt", "svc-00\n")
	edit("lib/common.txt", "edited\n")
	b = y.build()
	require.Len(t, b.only("done"), 4)

	// Tags are set where they are missing or point elsewhere, in other repositories too.
	y.off()
	retagged := y.build("--var", "TAG=2", "--set", "svc-00.tags+="+y.addr+"/other/name:3")
	require.Len(t, retagged.only("unchanged"), 4, retagged.stderr)
	require.Equal(t, b.digests, retagged.digests)
	tag := func(ref string) string {
		name, tag, _ := strings.Cut(ref, ":")
		req, err := http.NewRequest(http.MethodHead, "http://"+y.addr+"/v2/"+name+"/manifests/"+tag, nil)
		require.NoError(t, err)
		req.Header.Set("Accept", "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.Header.Get("Docker-Content-Digest")
	}
	require.Equal(t, b.digests["svc-01"], tag("many/svc-01:2"))
	require.Equal(t, b.digests["svc-00"], tag("other/name:3"))
	// The tag of the older image, which is gone back to.
	edit("lib/common.txt", "common\n")
	edit("svc-02/main.txt", "svc-02\n")
	back := y.build()
	require.Len(t, back.only("unchanged"), 4, back.stderr)
	require.Equal(t, first.digests["svc-02"], tag("many/svc-02:1"))

	// What was built without the cache is what later builds take.
	y.on(1)
	anew := y.build("--no-cache")
	require.Len(t, anew.only("done"), 4)
	require.NotEqual(t, back.digests["svc-02"], anew.digests["svc-02"])
	y.off()
	again := y.build()
	require.Len(t, again.only("unchanged"), 4, again.stderr)
	require.Equal(t, anew.digests, again.digests)

	// What attestations say that were asked for counts, unless it is not to.
	y.on(1)
	asked := y.build("--provenance", "mode=max")
	require.Len(t, asked.only("done"), 4)
	y.off()
	require.Len(t, y.build("--provenance", "mode=max", "--var", "TAG=1").only("unchanged"), 4)
	require.Len(t, y.build("--provenance", "mode=max", "--var", "TAG=5", "--reuse", "always").only("unchanged"), 4)
	r := y.run(append([]string{"build", "--push", "--provenance", "mode=max", "--var", "TAG=6"}, y.flags...)...)
	require.NotZero(t, r.status, "the names are in the attestations")

	// Only what has changed since a revision, whether it was pushed or not.
	y.on(1)
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=test", "-c", "user.email=test@example.com"}, args...)...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	git("init", "-q", "-b", "main")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	edit("svc-03/main.txt", "another edit\n")
	y.home = t.TempDir()
	b = y.build("--changed-since", "main")
	require.Equal(t, []string{"svc-03"}, b.only("done"), b.stderr)
	require.Len(t, b.only("unchanged"), 3)
	require.Contains(t, b.stderr, "svc-03 has changed since main: svc-03/main.txt (edited)")
	require.Len(t, b.digests, 1)
}

// TestWarm builds what services share on each of two nodes and nothing else, and writes
// nothing.
func TestWarm(t *testing.T) {
	dir := t.TempDir()
	images(t, dir, 3)
	y := newYard(t, dir, 1)
	y.on(2)
	y.requests()
	summary, logs := filepath.Join(t.TempDir(), "summary.json"), t.TempDir()
	r := y.run(slices.Concat([]string{"warm", "--progress", "plain", "--summary-json", summary, "--log-dir", logs}, y.flags)...)
	require.Zero(t, r.status, r.stderr)
	data, err := os.ReadFile(summary)
	require.NoError(t, err)
	var outcome struct {
		State string
		Nodes []struct{ StepsRun int }
	}
	require.NoError(t, json.Unmarshal(data, &outcome))
	require.Equal(t, "done", outcome.State)
	require.Len(t, outcome.Nodes, 2)
	for _, n := range outcome.Nodes {
		require.NotZero(t, n.StepsRun, "%s", data)
	}
	written, err := filepath.Glob(filepath.Join(logs, "*.log"))
	require.NoError(t, err)
	require.NotEmpty(t, written)
	for _, request := range y.requests() {
		require.Regexp(t, "^(HEAD|GET) ", request)
	}
	var ran []string
	for i := 1; i < len(y.flags); i += 2 {
		_, addr, _ := strings.Cut(y.flags[i], "=")
		steps, _ := executions(t, addr)
		ran = append(ran, strings.Join(slices.Sorted(maps.Keys(steps)), "\n"))
	}
	require.Len(t, ran, 2)
	require.Equal(t, ran[0], ran[1])
	require.Contains(t, ran[0], "RUN cat /lib-src/common.txt >/common")
	require.NotContains(t, ran[0], "main.txt")

	b := y.build()
	require.Len(t, b.only("done"), 3)
	r = y.run(slices.Concat([]string{"warm", "svc-00"}, y.flags)...)
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "no two targets have a step in common; --all builds everything on every node")
	r = y.run(slices.Concat([]string{"warm", "--all", "svc-00"}, y.flags)...)
	require.Zero(t, r.status, r.stderr)
}

// TestNothingChangedBesideBuildx reports how long builds take in which nothing has changed
// and no node can be reached, beside docker buildx bake with everything cached on one. BUILDX
// is the binary; the times are only reported.
func TestNothingChangedBesideBuildx(t *testing.T) {
	buildx := os.Getenv("BUILDX")
	if buildx == "" {
		t.Skip("set BUILDX to the docker-buildx to compare with")
	}
	t.Run("many", func(t *testing.T) {
		dir := t.TempDir()
		images(t, dir, 30)
		besideBuildx(t, buildx, newYard(t, dir, 1, "busybox"))
	})
	t.Run("storefront", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(root(t), "testdata", "bakefiles", "storefront"))))
		besideBuildx(t, buildx, newYard(t, dir, 1))
	})
}

// bakePatience is how long one command of docker buildx may take: its first build of the
// sample project runs every step on one node.
const bakePatience = 10 * time.Minute

// besideBuildx reports the times of both for one project, with and without provenance.
func besideBuildx(t *testing.T, buildx string, y *yard) {
	on, off := y.flags, []string{"--nodes", "unix://" + filepath.Join(t.TempDir(), "off")}
	_, addr, _ := strings.Cut(on[1], "=")
	bake := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeoutCause(t.Context(), bakePatience, fmt.Errorf("docker buildx has not ended within %s", bakePatience))
		defer cancel()
		cmd := exec.CommandContext(ctx, buildx, args...)
		cmd.WaitDelay = 10 * time.Second
		cmd.Dir, cmd.Env = y.dir, append(y.env(), "BUILDX_CONFIG="+filepath.Join(y.home, "buildx"))
		out, err := cmd.CombinedOutput()
		require.NoError(t, errors.Join(err, context.Cause(ctx)), "%s", out)
	}
	bake("create", "--name", "beside", "--driver", "remote", addr)
	for _, args := range [][]string{{"--provenance=false"}, nil} {
		y.flags = on
		theirsArgs := slices.Concat([]string{"bake", "--builder", "beside", "--push"}, args)
		bake(theirsArgs...)
		n := len(y.build(args...).digests) // of images: targets that others are made from have none
		require.NotZero(t, n)
		var ours, theirs []time.Duration
		for range 5 {
			y.flags = off
			b := y.build(args...)
			require.Len(t, b.only("unchanged"), n, b.stderr)
			require.NotContains(t, b.stderr, `"vertexes"`)
			ours = append(ours, b.took)
			start := time.Now()
			bake(theirsArgs...)
			theirs = append(theirs, time.Since(start))
			// What bake has pushed may be another image of the same.
			y.flags = on
			y.build(args...)
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		t.Logf("nothing changed in %d targets, %q, medians of 5: dbake without a node %s, docker buildx bake %s, ratio %.3f",
			n, args, ours[2], theirs[2], float64(ours[2])/float64(theirs[2]))
	}
}

// TestNothingIsStarted finds that nothing has changed without a node: neither those of this
// machine are started for it, whose registry is read all the same, nor is the engine asked
// for the container of a builder.
func TestNothingIsStarted(t *testing.T) {
	dir := t.TempDir()
	images(t, dir, 2)
	y := newYard(t, dir, 1, "busybox")
	cache := "--cache-registry=" + y.addr + "/cache"
	first := y.build(cache)
	require.Len(t, first.only("done"), 2)
	// Its base image is in a registry that only nodes reach.
	inside := []string{"--cache-registry=" + y.addr + "/cache:inside", "--set", "*.args.REGISTRY=inside.test", "--var", "TAG=inside"}
	hidden := y.build(inside...)
	require.Len(t, hidden.only("done"), 2)
	y.off()

	// A daemon that leaves a trace.
	trace := filepath.Join(t.TempDir(), "started")
	daemon := filepath.Join(t.TempDir(), "buildkitd")
	require.NoError(t, os.WriteFile(daemon, fmt.Appendf(nil, "#!/bin/sh\necho >>%q\nexec %q \"$@\"\n", trace, localtest.Buildkitd(t)), 0o755))
	state := localtest.Dir(t)
	y.home = t.TempDir()
	y.flags = []string{"--state-dir", state, "--buildkitd", daemon}
	noop(t, first, y.build(cache), 2)
	require.NoFileExists(t, trace)

	var mu sync.Mutex
	var asked []string // of the engine, guarded by mu
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Method+" "+r.URL.Path)
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(engine.Close)
	y.home = t.TempDir()
	instances := filepath.Join(y.home, ".docker", "buildx", "instances")
	require.NoError(t, os.MkdirAll(instances, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(instances, "box"), fmt.Appendf(nil,
		`{"Name":"box","Driver":"docker-container","Nodes":[{"Name":"box0","Endpoint":"tcp://%s"}]}`, strings.TrimPrefix(engine.URL, "http://")), 0o644))
	y.flags = []string{"--builder", "box"}
	noop(t, first, y.build(cache), 2)
	require.Empty(t, asked)
	// Whether the container runs is asked for that base image; it is not started.
	noop(t, hidden, y.build(inside...), 2)
	for _, request := range asked {
		require.NotContains(t, request, "/containers/create")
		require.NotRegexp(t, "^POST .*/containers/[^/]*/start$", request)
	}
	// What nobody knows needs a node.
	r := y.run(slices.Concat([]string{"build", "--push", "--set", "*.args.REGISTRY=other.test"}, y.flags, inside[:1])...)
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "box0")

	// Images in the registry of local nodes, which ends with them.
	y.dir = t.TempDir()
	write(t, y.dir, `
variable "DBAKE_REGISTRY" {}
variable "TAG" { default = "1" }
target "default" {
  dockerfile-inline = <<EOT
FROM scratch
COPY f /
EOT
  tags = ["${DBAKE_REGISTRY}/own/image:${TAG}"]
}
`)
	require.NoError(t, os.WriteFile(filepath.Join(y.dir, "f"), []byte("1\n"), 0o644))
	own := func(args ...string) built {
		t.Helper()
		y.withoutRegistry = true
		y.flags = []string{"--nodes", "local:1", "--state-dir", state, "--buildkitd", daemon}
		return y.build(args...)
	}
	starts := func() int {
		t.Helper()
		data, err := os.ReadFile(trace)
		require.NoError(t, err)
		return len(data)
	}
	first = own()
	require.Equal(t, []string{"default"}, first.only("done"), first.stderr)
	require.Equal(t, 1, starts())
	noop(t, first, own(), 1)
	noop(t, first, own("--var", "TAG=2"), 1)
	require.Equal(t, 1, starts())
	// The tag was set in the registry that is started now.
	require.NoError(t, os.WriteFile(filepath.Join(y.dir, "f"), []byte("2\n"), 0o644))
	require.Equal(t, []string{"default"}, own().only("done"))
	require.Equal(t, 2, starts())
	require.NoError(t, os.WriteFile(filepath.Join(y.dir, "f"), []byte("1\n"), 0o644))
	noop(t, first, own("--var", "TAG=2"), 1)
	require.Equal(t, 2, starts())
}

// fetched is a project whose targets read a git repository and a URL.
const fetched = `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" { default = "" }
variable "GIT" { default = "" }
variable "URL" { default = "" }
target "service" {
  name = what
  matrix = { what = ["added", "context", "local", "url"] }
  context = what == "context" ? "${GIT}#main" : "."
  dockerfile-inline = {
    added = "FROM busybox:1\nADD ${GIT}#main /there\n"
    context = "FROM busybox:1\nCOPY file /there\n"
    local = "FROM busybox:1\nRUN echo >/there\n"
    url = "FROM busybox:1\nADD ${URL} /there\n"
  }[what]
  tags = ["${DBAKE_REGISTRY}/fetched/${what}:1"]
}
group "default" { targets = ["service"] }
`

// TestNodesAreAskedForCommits has a node say which commits branches stand for, and what is
// at URLs: images of the same are unchanged; once the branch is moved, its are built.
func TestNodesAreAskedForCommits(t *testing.T) {
	bare := gitRepository(t, map[string]string{"file": "first\n"})
	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "file") }))
	t.Cleanup(served.Close)
	y := newYard(t, project(t, fetched), 1, "busybox")
	vars := []string{"--var", "GIT=" + gitServer(t, bare, ""), "--var", "URL=" + served.URL + "/file"}
	first := y.build(vars...)
	require.Len(t, first.only("done"), 4, first.stderr)

	again := y.build(vars...)
	require.Equal(t, []string{"added", "context", "local", "url"}, again.only("unchanged"), again.stderr)
	require.Equal(t, first.digests["context"], again.digests["context"])

	work := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(work, "file"), []byte("second\n"), 0o600))
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"},
		{"add", "."},
		{"-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "-q", "-m", "second"},
		{"push", "-q", "-f", bare, "main"},
	} {
		out, err := exec.Command("git", append([]string{"-C", work}, args...)...).CombinedOutput()
		require.NoError(t, err, "git %s: %s", strings.Join(args, " "), out)
	}
	moved := y.build(vars...)
	require.Subset(t, moved.only("done"), []string{"added", "context"}, moved.stderr)
	require.Contains(t, moved.only("unchanged"), "local")
	require.NotEqual(t, first.digests["context"], moved.digests["context"])

	y.off()
	r := y.run(slices.Concat([]string{"build", "--push"}, y.flags, vars)...)
	require.NotZero(t, r.status)
	require.Contains(t, r.stderr, "target added: node n1")
	r = y.run(slices.Concat([]string{"build", "--push"}, y.flags, vars, []string{"local"})...)
	require.Zero(t, r.status, r.stderr)
}
