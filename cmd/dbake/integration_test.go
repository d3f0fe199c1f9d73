//go:build integration

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/platforms"
	controlapi "github.com/moby/buildkit/api/services/control"
	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/local/localtest"
	"github.com/dbake/dbake/runtime/registry"
)

// world is a place to run the real executable in: a state directory, a home and
// the cluster that is up there.
type world struct {
	t         *testing.T
	dbake     string
	buildkitd string
	state     string
	home      string
	tmp       string // where commands make temporary files
	registry  string
	addrs     []string // of the nodes that are up
}

// newWorld builds dbake and starts a cluster of n nodes, with the base images in
// its registry.
func newWorld(t *testing.T, n int) *world {
	t.Helper()
	w := newEmptyWorld(t)
	w.up(n)
	t.Cleanup(w.down)
	buildBases(t, w.dbake, w.env(), w.on(n)...)
	return w
}

// newEmptyWorld builds dbake, for those who start what they need themselves.
func newEmptyWorld(t *testing.T) *world {
	t.Helper()
	localtest.Need(t)
	return &world{t: t, dbake: executable(t), buildkitd: localtest.Buildkitd(t), state: localtest.Dir(t), home: t.TempDir(), tmp: t.TempDir()}
}

// executable builds dbake.
func executable(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "dbake")
	out, err := exec.Command("go", "build", "-trimpath", "-o", name, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return name
}

// buildBases builds base images with dbake in an environment. args name nodes, and images
// where not all are wanted.
func buildBases(t *testing.T, dbake string, env []string, args ...string) {
	t.Helper()
	script := exec.Command(filepath.Join(root(t), "testdata", "bases", "build.sh"), args...)
	script.Env = append(env, "DBAKE="+dbake)
	out, err := script.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// root is the repository.
func root(t *testing.T) string {
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	return dir
}

// env is the environment of commands: of the user's only what finds programs.
func (w *world) env() []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.home, "TMPDIR=" + w.tmp}, goEnv(w.t)...)
}

// goEnv returns the environment in which commands find what they need to build Go programs.
func goEnv(t *testing.T) (env []string) {
	for _, name := range []string{"GOPATH", "GOCACHE", "GOMODCACHE", "GOROOT", "GOFLAGS", "GOPROXY"} {
		out, err := exec.Command("go", "env", name).Output()
		require.NoError(t, err)
		if v := strings.TrimSpace(string(out)); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// on are the flags that name the cluster.
func (w *world) on(n int) []string {
	return []string{"--nodes", fmt.Sprintf("local:%d", n), "--state-dir", w.state, "--buildkitd", w.buildkitd}
}

func (w *world) up(n int) {
	w.t.Helper()
	r := w.run(w.t.TempDir(), "cluster", "up", "--nodes", fmt.Sprint(n), "--state-dir", w.state, "--buildkitd", w.buildkitd, "--format", "json")
	require.Zero(w.t, r.status, r.stderr)
	var st struct {
		Registry struct{ Addr string }
		Nodes    []struct{ Addr string }
	}
	require.NoError(w.t, json.Unmarshal([]byte(r.stdout), &st), r.stdout)
	w.registry, w.addrs = st.Registry.Addr, nil
	for _, node := range st.Nodes {
		w.addrs = append(w.addrs, node.Addr)
	}
}

func (w *world) down() {
	w.t.Helper()
	r := w.run(w.t.TempDir(), "cluster", "down", "--state-dir", w.state)
	require.Zero(w.t, r.status, r.stderr)
}

// renew replaces the nodes by n that hold nothing; the registry stays as it is.
func (w *world) renew(n int) {
	w.t.Helper()
	w.down()
	require.NoError(w.t, os.RemoveAll(filepath.Join(w.state, "nodes")))
	w.up(n)
}

type result struct {
	status         int
	stdout, stderr string
}

func (w *world) command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(w.dbake, args...)
	cmd.Dir, cmd.Env = dir, w.env()
	return cmd
}

func (w *world) run(dir string, args ...string) result {
	w.t.Helper()
	cmd := w.command(dir, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(w.t, err)
	}
	r := result{status: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	require.NoError(w.t, checkDocuments(dir, args, began, r.status, r.stdout, r.stderr))
	return r
}

// build runs dbake build on n nodes.
func (w *world) build(dir string, n int, args ...string) result {
	w.t.Helper()
	return w.run(dir, append(append([]string{"build", "--progress", "plain", "--reuse", "never"}, w.on(n)...), args...)...)
}

// plan runs dbake plan on n nodes, which has to succeed without a warning, and returns what it
// prints.
func (w *world) plan(dir string, n int, args ...string) string {
	w.t.Helper()
	r := w.run(dir, append(append([]string{"plan"}, w.on(n)...), args...)...)
	require.Zero(w.t, r.status, r.stderr)
	require.NotContains(w.t, r.stderr, "WARNING")
	return r.stdout
}

// start starts a command and returns what it prints on standard error. status waits for its
// end.
func start(t *testing.T, cmd *exec.Cmd) (stderr io.Reader, status func() int) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return stderr, func() int {
		_ = cmd.Wait() // the status is what counts
		return cmd.ProcessState.ExitCode()
	}
}

// executions reads from the records of a node which steps it ran, with the times at
// which each began, and how often it was sent each local directory, since it was
// started.
//
// A step whose result came from a cache is reported as completed once more when its
// layers are fetched or unpacked; that is no execution.
func executions(t *testing.T, addr string) (steps map[string][]string, transfers map[string]int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := bkclient.New(ctx, addr)
	require.NoError(t, err)
	defer c.Close()
	history, err := c.ControlClient().ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{EarlyExit: true})
	require.NoError(t, err)
	transfers = map[string]int{}
	completed := map[string]*controlapi.Vertex{} // by digest and start
	layers := map[string][]time.Time{}           // by digest
	for {
		ev, err := history.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		status, err := c.ControlClient().Status(ctx, &controlapi.StatusRequest{Ref: ev.Record.Ref})
		require.NoError(t, err)
		for {
			resp, err := status.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			for _, v := range resp.Vertexes {
				if v.Started != nil && v.Completed != nil && v.Error == "" && isStep(v.Name) {
					completed[v.Digest+v.Started.AsTime().String()] = v
				}
			}
			for _, s := range resp.Statuses {
				switch {
				case strings.HasPrefix(s.ID, "sha256:"), strings.HasPrefix(s.ID, "extracting "):
					layers[s.Vertex] = append(layers[s.Vertex], s.Timestamp.AsTime())
				case strings.HasPrefix(s.ID, "transferring ") && s.Completed != nil:
					transfers[s.ID+s.Started.AsTime().String()]++
				}
			}
		}
	}
	steps = map[string][]string{}
	fromCache := map[string]bool{}
	for _, v := range slices.SortedFunc(maps.Values(completed), func(a, b *controlapi.Vertex) int {
		return a.Started.AsTime().Compare(b.Started.AsTime())
	}) {
		began, ended := v.Started.AsTime(), v.Completed.AsTime()
		fetched := slices.ContainsFunc(layers[v.Digest], func(at time.Time) bool { return !at.Before(began) && !at.After(ended) })
		switch {
		case v.Cached && len(steps[v.Digest+"\n"+v.Name]) == 0:
			fromCache[v.Digest] = true
		case !v.Cached && !fetched && !fromCache[v.Digest]:
			steps[v.Digest+"\n"+v.Name] = append(steps[v.Digest+"\n"+v.Name], began.String())
		}
	}
	sent := map[string]int{} // by what is transferred
	for id := range transfers {
		name, _, _ := strings.Cut(strings.TrimPrefix(id, "transferring "), ":")
		sent[name]++
	}
	return steps, sent
}

var stepName = regexp.MustCompile(`^\[[^\]]*\d+/\d+\] (RUN|COPY|ADD|WORKDIR)\b`)

func isStep(name string) bool { return stepName.MatchString(name) }

// runSteps counts the steps of a kind that ran on all nodes.
func runSteps(t *testing.T, addrs []string, kind string) int {
	t.Helper()
	n := 0
	for _, addr := range addrs {
		steps, _ := executions(t, addr)
		for step, times := range steps {
			if strings.Contains(step, "] "+kind) {
				n += len(times)
			}
		}
	}
	return n
}

func storefront(t *testing.T) string {
	return filepath.Join(root(t), "testdata", "bakefiles", "storefront")
}

// digests reads the image digest of each target from a metadata file.
func digests(t *testing.T, file string) map[string]string {
	t.Helper()
	dt, err := os.ReadFile(file)
	require.NoError(t, err)
	var md map[string]map[string]any
	require.NoError(t, json.Unmarshal(dt, &md))
	out := map[string]string{}
	for target, m := range md {
		if d, ok := m["containerimage.digest"].(string); ok {
			out[target] = d
		}
	}
	return out
}

// TestStorefront builds the sample project cold on three nodes, then warm, then on
// fresh nodes from the cache, then on one node alone.
func TestStorefront(t *testing.T) {
	w := newWorld(t, 3)
	dir := storefront(t)
	cache := w.registry + "/storefront/cache"
	metadata := filepath.Join(t.TempDir(), "three.json")
	w.renew(3) // the base images were built on these nodes

	r := w.build(dir, 3, "--cache-registry", cache, "--metadata-file", metadata)
	require.Zero(t, r.status, r.stderr)
	ran := 0
	for _, addr := range w.addrs {
		steps, transfers := executions(t, addr)
		for step, times := range steps {
			require.Len(t, times, 1, "%s on %s", step, addr)
			ran++
		}
		for name, n := range transfers {
			require.Equal(t, 1, n, "%s to %s", name, addr)
		}
	}
	require.Greater(t, ran, 40)

	three := digests(t, metadata)
	require.Len(t, three, 19)
	w.checkImages(three)
	w.checkBinary(dir)

	before := runSteps(t, w.addrs, "")
	r = w.build(dir, 3, "--cache-registry", cache)
	require.Zero(t, r.status, r.stderr)
	require.Equal(t, before, runSteps(t, w.addrs, ""), "a second build on the same nodes runs no step\n%s", r.stderr)

	w.renew(2)
	r = w.build(dir, 2, "--cache-registry", cache)
	require.Zero(t, r.status, r.stderr)
	require.Zero(t, runSteps(t, w.addrs, "RUN"), "a build on fresh nodes runs no RUN step\n%s", r.stderr)

	w.renew(1)
	metadata = filepath.Join(t.TempDir(), "one.json")
	r = w.build(dir, 1, "--metadata-file", metadata)
	require.Zero(t, r.status, r.stderr)
	require.Equal(t, three, digests(t, metadata), "one node makes the same images as three")
}

// checkImages compares what is in the registry with what the Dockerfiles say.
func (w *world) checkImages(digests map[string]string) {
	t := w.t
	t.Helper()
	c := registry.New(registry.Options{})
	defer c.Close()
	for target, digest := range digests {
		img, err := c.Config(t.Context(), fmt.Sprintf("%s/storefront/%s:1.4.0", w.registry, target), platforms.DefaultSpec())
		require.NoError(t, err, target)
		require.Equal(t, digest, img.Root.Digest.String(), target)
		require.Equal(t, "storefront "+target, img.Config.Config.Labels["org.opencontainers.image.title"])
	}
	img, err := c.Config(t.Context(), w.registry+"/storefront/cart:1.4.0", platforms.DefaultSpec())
	require.NoError(t, err)
	require.Equal(t, []string{"/bin/cart"}, img.Config.Config.Entrypoint)
	require.Contains(t, img.Config.Config.Env, "LISTEN=:8080")
	require.Contains(t, img.Config.Config.ExposedPorts, "8080/tcp")
	require.Equal(t, "service", img.Config.Config.Labels["com.example.storefront.part"])
	require.Equal(t, "memory", img.Config.Config.Labels["com.example.storefront.state"])
}

// checkBinary runs a program that was copied out of an image.
func (w *world) checkBinary(dir string) {
	t := w.t
	t.Helper()
	out := t.TempDir()
	r := w.build(dir, 3, "--allow", "fs.write="+out, "--set", "cart.output=type=local,dest="+out, "cart")
	require.Zero(t, r.status, r.stderr)
	version, err := exec.Command(filepath.Join(out, "bin", "cart"), "-version").CombinedOutput()
	require.NoError(t, err, "%s", version)
	require.Contains(t, string(version), "1.4.0")
}

const failing = `
group "default" { targets = ["good", "bad", "after"] }
target "good" {
  dockerfile-inline = "FROM busybox\nRUN echo good > /good\n"
  output = ["type=cacheonly"]
}
target "bad" {
  dockerfile-inline = <<EOT
FROM busybox
RUN echo first
RUN echo told && echo why && exit 3
EOT
}
target "after" {
  contexts = { bad = "target:bad" }
  dockerfile-inline = "FROM bad\nRUN echo after\n"
}
target "hang" {
  dockerfile-inline = "FROM busybox\nRUN echo waiting && sleep 86399\n"
}
target "typo" {
  dockerfile = "Dockerfile.typo"
}
`

// TestFailures checks that each failure is reported once, where it is,
// and that the summary accounts for every target.
func TestFailures(t *testing.T) {
	w := newWorld(t, 2)
	dir := bakeDir(t, failing)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile.typo"), []byte("FROM busybox\nRUNN true\n"), 0o644))

	t.Run("step", func(t *testing.T) {
		r := w.build(dir, 2, "--keep-going")
		require.Equal(t, 1, r.status)
		require.Len(t, regexp.MustCompile(`(?m)^ERROR: `).FindAllString(r.stderr, -1), 1, r.stderr)
		require.Regexp(t, `ERROR: .*:3: targets? bad(, after)?: .*RUN echo told .* failed on node n\d: .*exit code: 3`, r.stderr)
		require.Contains(t, r.stderr, "\n  told\n  why\n")
		require.Contains(t, r.stderr, ">>> RUN echo told")
		require.Regexp(t, `(?m)^good +n\d +built$`, r.stderr)
		require.Regexp(t, `(?m)^bad +n\d +failed: `, r.stderr)
		require.Regexp(t, `(?m)^after +\S+ +(failed|skipped): `, r.stderr)
	})
	t.Run("fail fast", func(t *testing.T) {
		r := w.build(dir, 2, "bad", "hang")
		require.Equal(t, 1, r.status)
		require.Regexp(t, `(?m)^hang +\S+ +(cancelled|not started)`, r.stderr)
	})
	t.Run("dockerfile", func(t *testing.T) {
		r := w.build(dir, 2, "typo")
		require.Equal(t, 1, r.status)
		require.Contains(t, r.stderr, "Dockerfile.typo:2")
		require.Contains(t, r.stderr, "unknown instruction: RUNN")
	})
	t.Run("target", func(t *testing.T) {
		r := w.build(dir, 2, "nowhere")
		require.Equal(t, 1, r.status)
		require.Contains(t, r.stderr, "ERROR: failed to find target nowhere; There are ")
	})
	t.Run("node", func(t *testing.T) {
		r := w.run(dir, "build", "--nodes", "gone=tcp://127.0.0.1:1", "good")
		require.Equal(t, 1, r.status)
		require.Len(t, regexp.MustCompile(`(?m)^ERROR: `).FindAllString(r.stderr, -1), 1, r.stderr)
		require.Contains(t, r.stderr, "ERROR: node gone (tcp://127.0.0.1:1): cannot be reached: nothing listens on 127.0.0.1:1 (connection refused)")
	})
	t.Run("one of several nodes", func(t *testing.T) {
		r := w.build(dir, 2, "--nodes", "gone=tcp://127.0.0.1:1", "good")
		require.Zero(t, r.status, r.stderr)
		require.Contains(t, r.stderr, "WARNING: node gone (tcp://127.0.0.1:1): cannot be reached: nothing listens on 127.0.0.1:1 (connection refused); the build starts without it\n")
	})
	t.Run("interrupt", func(t *testing.T) {
		cmd := w.command(dir, append([]string{"build", "--progress", "plain", "hang"}, w.on(2)...)...)
		stderr, status := start(t, cmd)
		var shown strings.Builder
		awaitLine(t, io.TeeReader(stderr, &shown), "waiting")
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		rest := readAll(t, stderr)
		require.Equal(t, 130, status(), "%s%s", shown.String(), rest)
		require.Regexp(t, `(?m)^hang +n\d +cancelled`, rest)
		// The node, which goes on, ends the step that nobody wants any more.
		require.Eventually(t, func() bool { return len(processes(t, "sleep 86399")) == 0 }, time.Minute, 50*time.Millisecond)

		r := w.build(dir, 2, "good")
		require.Zero(t, r.status, r.stderr)
	})
}

// TestOwnNodesEndWithTheCommand checks that a build that starts its own nodes
// leaves nothing of them behind, finished or interrupted.
func TestOwnNodesEndWithTheCommand(t *testing.T) {
	w := newWorld(t, 1)
	w.down() // the bases stay in the registry's directory
	dir := bakeDir(t, failing)
	own := []string{"build", "--progress", "plain", "--state-dir", w.state, "--buildkitd", w.buildkitd}

	r := w.run(dir, append(own, "good")...)
	require.Zero(t, r.status, r.stderr)
	require.Empty(t, processes(t, w.state))

	cmd := w.command(dir, append(own, "hang")...)
	stderr, status := start(t, cmd)
	awaitLine(t, stderr, "waiting")
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	readAll(t, stderr)
	require.Equal(t, 130, status())
	require.Empty(t, processes(t, w.state))
	require.Empty(t, processes(t, "sleep 86399"))
}

// awaitLine reads until a line of a step's output holds text.
func awaitLine(t *testing.T, r io.Reader, text string) {
	t.Helper()
	output := regexp.MustCompile(`(?m)^#\d+ [\d.]+ ` + regexp.QuoteMeta(text))
	var seen []byte
	buf := make([]byte, 4096)
	for !output.Match(seen) {
		n, err := r.Read(buf)
		seen = append(seen, buf[:n]...)
		require.NoError(t, err, "%s", seen)
	}
}

// processes returns the command lines that contain text, other than this one's.
func processes(t *testing.T, text string) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var found []string
	for _, f := range dirs {
		dt, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		line := strings.ReplaceAll(strings.TrimRight(string(dt), "\x00"), "\x00", " ")
		if strings.Contains(line, text) && f != fmt.Sprintf("/proc/%d/cmdline", os.Getpid()) {
			found = append(found, line)
		}
	}
	return found
}

// TestJobs checks what becomes of the outputs of one target when another one fails.
func TestJobs(t *testing.T) {
	w := newWorld(t, 2)
	const bake = `
group "default" { targets = ["good", "bad"] }
target "good" {
  dockerfile-inline = "FROM scratch\nCOPY docker-bake.hcl /"
  output            = ["type=local,dest=out"]
}
target "next" {
  dockerfile-inline = "FROM busybox\nCOPY --from=good / /\nRUN cat /docker-bake.hcl > /copy"
  contexts          = { good = "target:good" }
  depends_on        = ["good"]
  output            = ["type=tar,dest=next.tar"]
}
target "bad" {
  dockerfile-inline = "FROM busybox\nRUN sleep 1; false"
}
`
	for _, c := range []struct {
		args   []string
		status int
		wrote  bool
	}{
		{[]string{"--jobs=defer-error"}, 1, true},
		{[]string{"-k", "-j1"}, 1, true},
		{[]string{"--jobs=defer-output"}, 1, false},
		{[]string{"--jobs=defer-output,parallel=1"}, 1, false},
		{[]string{"--jobs=defer-output,parallel=1", "good", "next"}, 0, true},
		{[]string{"--jobs=defer-output", "good", "next"}, 0, true},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			dir := bakeDir(t, bake)
			r := w.build(dir, 2, c.args...)
			require.Equal(t, c.status, r.status, r.stderr)
			if c.wrote {
				require.FileExists(t, filepath.Join(dir, "out", "docker-bake.hcl"), r.stderr)
			} else {
				require.NoDirExists(t, filepath.Join(dir, "out"), r.stderr)
			}
			if c.status == 0 {
				require.FileExists(t, filepath.Join(dir, "next.tar"), r.stderr)
			}
		})
	}
}
