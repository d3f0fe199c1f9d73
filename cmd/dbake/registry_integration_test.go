//go:build integration

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/local/localtest"
)

// front is a registry over plain HTTP on an address that nobody takes for this
// machine's own, so that its plainness has to be allowed. It is the world's local
// registry behind a proxy that can misbehave.
type front struct {
	addr string

	mu    sync.Mutex
	fault func(w http.ResponseWriter, r *http.Request) bool // whether it answered; guarded by mu
	seen  []string                                          // guarded by mu
}

func newFront(t *testing.T, registry string) *front {
	t.Helper()
	target, err := url.Parse("http://" + registry)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	f := &front{}
	l, err := net.Listen("tcp", net.JoinHostPort(ownAddress(t), "0"))
	require.NoError(t, err)
	f.addr = l.Addr().String()
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		fault := f.fault
		f.seen = append(f.seen, r.Method+" "+r.URL.Path)
		f.mu.Unlock()
		if fault == nil || !fault(w, r) {
			proxy.ServeHTTP(w, r)
		}
	})}}
	s.Start()
	t.Cleanup(s.Close)
	return f
}

// ownAddress is an address of this machine that is not a loopback one.
func ownAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return n.IP.String()
		}
	}
	require.Fail(t, "the machine has only loopback addresses")
	return ""
}

// misbehave has f answer the requests for which fault returns true by fault itself,
// until it is called again.
func (f *front) misbehave(fault func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// node starts a daemon with a configuration of its own and returns its address.
func node(t *testing.T, config string) string {
	t.Helper()
	addr, _ := startNode(t, config)
	return addr
}

// startNode is node for one that ends before the test.
func startNode(t *testing.T, config string) (addr string, stop func()) {
	t.Helper()
	dir := localtest.Dir(t)
	toml := filepath.Join(dir, "buildkitd.toml")
	require.NoError(t, os.WriteFile(toml, []byte(config), 0o600))
	addr = "unix://" + filepath.Join(dir, "s")
	var log bytes.Buffer
	cmd := exec.Command(localtest.Buildkitd(t), "--config", toml, "--root", filepath.Join(dir, "root"), "--addr", addr,
		"--otel-socket-path", filepath.Join(dir, "o"), "--oci-worker-snapshotter=overlayfs", "--containerd-worker=false")
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	t.Cleanup(stop)
	c, err := client.New(t.Context(), addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Wait(t.Context()))
	return addr, stop
}

// nodeConfig is the configuration by which a node reaches f, and two names that only it knows
// through f.
func (f *front) nodeConfig() string {
	return fmt.Sprintf("[registry.%q]\n  http = true\n[registry.\"docker.io\"]\n  mirrors = [%q]\n[registry.\"inside.test\"]\n  mirrors = [%q]\n", f.addr, f.addr, f.addr)
}

// runUntil runs a command until ctx ends, which interrupts it. It has to end soon then.
func (w *world) runUntil(ctx context.Context, dir string, args ...string) {
	w.t.Helper()
	cmd := exec.CommandContext(ctx, w.dbake, args...)
	cmd.Dir, cmd.Env = dir, w.env()
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 8 * time.Second
	out, err := cmd.CombinedOutput()
	require.Error(w.t, err)
	require.NotErrorIs(w.t, err, exec.ErrWaitDelay)
	require.Equal(w.t, 130, cmd.ProcessState.ExitCode(), "%s", out)
}

// pushed is a bake file whose image is based on one of a registry and pushed there.
const pushed = `
target "default" {
  dockerfile-inline = "FROM %[1]s/library/busybox:1\nRUN echo hi >/x"
  output = ["type=image,name=%[1]s/app:1,push=true"]
}
`

// newFronted starts a registry behind a front, and a node at addr that reaches it through
// the front.
func newFronted(t *testing.T) (w *world, f *front, addr string) {
	t.Helper()
	w = newWorld(t, 1)
	f = newFront(t, w.registry)
	return w, f, node(t, f.nodeConfig())
}

// TestNodesReachWhatTheClientDoesNot builds from images of registries that stand in
// the nodes' configuration only.
func TestNodesReachWhatTheClientDoesNot(t *testing.T) {
	w, f, addr := newFronted(t)
	dir := bakeDir(t, fmt.Sprintf(`
group "default" {
  targets = ["inside", "hub", "plain"]
}
target "inside" {
  dockerfile-inline = "FROM inside.test/library/busybox:1\nRUN echo hi >/x"
}
target "hub" {
  dockerfile-inline = "FROM busybox:1\nRUN echo hi >/y"
}
target "plain" {
  dockerfile-inline = "FROM %s/library/busybox:1\nRUN echo hi >/z"
}
`, f.addr))
	for _, args := range [][]string{{"plan"}, {"build"}} {
		r := w.run(dir, append(args, "--nodes", addr)...)
		require.Zero(t, r.status, r.stderr)
		require.NotContains(t, r.stderr, "trying again")
	}
	// What neither has is an error that names both.
	write(t, dir, `
target "default" {
  dockerfile-inline = "FROM inside.test/library/nothing:1"
}
`)
	r := w.run(dir, "build", "--reuse", "never", "--nodes", addr)
	require.NotZero(t, r.status)
	require.Contains(t, r.stderr, "inside.test/library/nothing:1: not found; asked from here: ")
}

// TestCacheRegistryOverPlainHTTP shares results through a registry over plain HTTP,
// which the node's configuration or the command line allows.
func TestCacheRegistryOverPlainHTTP(t *testing.T) {
	w := newWorld(t, 1)
	f := newFront(t, w.registry)
	dir := bakeDir(t, fmt.Sprintf(`
group "default" {
  targets = ["one", "two"]
}
target "one" {
  dockerfile-inline = "FROM %[1]s/library/busybox:1 AS deps\nRUN echo deps >/deps\nFROM deps\nRUN echo one >/one"
  output = ["type=cacheonly"]
}
target "two" {
  dockerfile-inline = "FROM %[1]s/library/busybox:1 AS deps\nRUN echo deps >/deps\nFROM deps\nRUN echo two >/two"
  output = ["type=cacheonly"]
}
`, f.addr))
	for name, tc := range map[string]struct{ config, attrs string }{
		"as the node says": {config: f.nodeConfig()},
		"as the user says": {config: f.nodeConfig(), attrs: ",insecure=true,compression=zstd"},
	} {
		t.Run(name, func(t *testing.T) {
			cache := "--cache-registry=" + f.addr + "/" + strings.ReplaceAll(name, " ", "-") + tc.attrs
			var nodes []string
			for range 2 { // nodes that hold nothing
				nodes = []string{node(t, tc.config), node(t, tc.config)}
				r := w.run(dir, "build", "--nodes", nodes[0], "--nodes", nodes[1], "--strategy", "round-robin", cache)
				require.Zero(t, r.status, r.stderr)
				require.NotContains(t, r.stderr, "WARNING", "tags are listed, and parts are joined")
			}
			require.Zero(t, runSteps(t, nodes, "RUN"))
		})
	}
}

// TestCacheRegistryThatWantsLogin shares results through a registry over plain HTTP
// that wants tokens, of a user or of anybody, or a password.
func TestCacheRegistryThatWantsLogin(t *testing.T) {
	w := newWorld(t, 1)
	f := newFront(t, w.registry)
	nodes := []string{node(t, f.nodeConfig()), node(t, f.nodeConfig())}
	dir := bakeDir(t, `
target "default" {
  name   = x
  matrix = { x = ["a", "b"] }
  dockerfile-inline = "FROM scratch\nCOPY docker-bake.hcl /${x}\n"
  tags   = ["`+f.addr+`/asks/${x}:1"]
  output = ["type=image,push=true"]
}
`)
	user := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, f.addr, base64.StdEncoding.EncodeToString([]byte("u:p")))
	for _, attrs := range []string{"", ",insecure=true"} {
		for name, tt := range map[string]struct {
			ask    func(t *testing.T)
			config string
		}{
			"tokens":           {func(*testing.T) { f.withTokens() }, user},
			"anonymous tokens": {func(*testing.T) { f.withTokensOf(true) }, `{}`},
			"password":         {func(*testing.T) { f.withPassword() }, user},
		} {
			t.Run(name+attrs, func(t *testing.T) {
				tt.ask(t)
				config := t.TempDir()
				require.NoError(t, os.WriteFile(filepath.Join(config, "config.json"), []byte(tt.config), 0o600))
				cache := f.addr + "/" + strings.ReplaceAll(name, " ", "-") + strconv.Itoa(len(attrs)) + attrs
				r := remoteRun(t, w, dir, []string{"DOCKER_CONFIG=" + config}, "build", "--reuse", "never", "--nodes", nodes[0], "--nodes", nodes[1], "--strategy", "round-robin", "--cache-registry", cache)
				require.Zero(t, r.status, r.stderr)
				require.NotContains(t, r.stderr, "WARNING")

				// What was pushed is known to those who never built it.
				env := []string{"DOCKER_CONFIG=" + config, "XDG_CACHE_HOME=" + t.TempDir()}
				r = remoteRun(t, w, dir, env, "build", "--nodes", nodes[0], "--nodes", nodes[1], "--cache-registry", cache)
				require.Zero(t, r.status, r.stderr)
				require.NotContains(t, r.stderr, "WARNING")
				require.Contains(t, r.stderr, "2 unchanged")
			})
		}
	}
}

// TestCacheThatCannotBeWritten is a warning, unless the user wants an error.
func TestCacheThatCannotBeWritten(t *testing.T) {
	w, f, addr := newFronted(t)
	dir := bakeDir(t, fmt.Sprintf("target \"default\" {\n  dockerfile-inline = \"FROM %s/library/busybox:1\\nRUN echo hi >/x\"\n  output = [\"type=cacheonly\"]\n}\n", f.addr))
	f.misbehave(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/v2/denied/") || r.Method == http.MethodGet || r.Method == http.MethodHead {
			return false
		}
		rw.WriteHeader(http.StatusForbidden)
		return true
	})
	cache := "--cache-registry=" + f.addr + "/denied/cache"
	r := w.run(dir, "build", "--reuse", "never", "--nodes", addr, cache)
	require.Zero(t, r.status, r.stderr)
	require.Equal(t, 1, strings.Count(r.stderr, "WARNING: "), r.stderr)
	require.Regexp(t, `WARNING: node .*: write cache .*/denied/cache:.*403 Forbidden`, r.stderr)

	r = w.run(dir, "build", "--reuse", "never", "--nodes", addr, cache+",ignore-error=false")
	require.NotZero(t, r.status)
	require.Regexp(t, `ERROR: node .*: write cache .*/denied/cache:.*403 Forbidden`, r.stderr)
}

// TestRegistryThatMisbehaves has the registry refuse, or be away, in the middle of a
// run; that costs time and not the run.
func TestRegistryThatMisbehaves(t *testing.T) {
	w := newWorld(t, 1)
	f := newFront(t, w.registry)
	dir := bakeDir(t, fmt.Sprintf(pushed, f.addr))
	var mu sync.Mutex // guards left
	for _, tc := range []struct {
		name   string
		status int
		count  int
		of     func(r *http.Request) bool
	}{
		{"the base image", http.StatusServiceUnavailable, 1, func(r *http.Request) bool {
			return strings.HasPrefix(r.URL.Path, "/v2/library/busybox/manifests/")
		}},
		{"a layer", http.StatusInternalServerError, 12, func(r *http.Request) bool {
			return r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v2/library/busybox/blobs/")
		}},
		{"the push", http.StatusTooManyRequests, 12, func(r *http.Request) bool {
			return r.Method != http.MethodGet && strings.HasPrefix(r.URL.Path, "/v2/app/")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.misbehave(nil)
			addr := node(t, f.nodeConfig()) // that holds nothing
			left := tc.count
			f.misbehave(func(rw http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if left == 0 || !tc.of(r) {
					return false
				}
				left--
				rw.WriteHeader(tc.status)
				return true
			})
			r := w.run(dir, "build", "--reuse", "never", "--nodes", addr)
			require.Zero(t, r.status, r.stderr)
			require.Zero(t, left)
		})
	}
}

// TestRegistryThatFallsSilent says nothing to a push: for a while, and for good.
func TestRegistryThatFallsSilent(t *testing.T) {
	w, f, addr := newFronted(t)
	dir := bakeDir(t, fmt.Sprintf(pushed, f.addr))
	silentUntil := func(hold <-chan struct{}) {
		f.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/v2/app/") {
				return false
			}
			select {
			case <-r.Context().Done():
				return true
			case <-hold:
				return false
			}
		})
	}
	hold := make(chan struct{})
	silentUntil(hold)
	again := time.AfterFunc(12*time.Second, func() { close(hold) })
	defer again.Stop()
	r := w.run(dir, "build", "--reuse", "never", "--nodes", addr)
	require.Zero(t, r.status, r.stderr)
	require.NotContains(t, r.stderr, "lost")

	silentUntil(nil)
	r = w.run(dir, "build", "--reuse", "never", "--nodes", addr)
	require.NotZero(t, r.status, r.stderr)
	require.Regexp(t, `(?s)registry `+regexp.QuoteMeta(f.addr)+` has not answered for .*ERROR: .*registry `+regexp.QuoteMeta(f.addr)+` has not answered for`, r.stderr)
	require.NotContains(t, r.stderr, "lost")
}

// TestCacheRegistryThatIsSilent takes connections and says nothing. The run goes on
// without it, and ends at once when it is interrupted meanwhile.
func TestCacheRegistryThatIsSilent(t *testing.T) {
	w, f, addr := newFronted(t)
	mute, asked := silentServer(t)
	dir := bakeDir(t, fmt.Sprintf(`
target "default" {
  dockerfile-inline = "FROM %s/library/busybox:1\nRUN echo hi >/x"
  cache-from = ["type=registry,ref=%s/cache:1"]
}
`, f.addr, mute))
	ctx, interrupt := context.WithCancel(t.Context())
	go func() {
		<-asked
		interrupt()
	}()
	w.runUntil(ctx, dir, "build", "--reuse", "never", "--nodes", addr)

	r := w.run(dir, "build", "--reuse", "never", "--nodes", addr)
	require.Zero(t, r.status, r.stderr)
	require.Equal(t, 1, strings.Count(r.stderr, "WARNING: registry "+mute+" did not answer within 10s: the caches in it are not used"), r.stderr)

	r = w.run(dir, "build", "--reuse", "never", "--nodes", addr, "--cache-registry", mute+"/cache", "--set", "*.cache-from=")
	require.Zero(t, r.status, r.stderr)
	require.Contains(t, r.stderr, "WARNING: node ", "it cannot be written")
}

// TestCacheRegistryThatFallsSilent answers when it is asked whether it is there, and says
// nothing when its cache is read. The node goes on without the cache, and is well after an
// interrupt.
func TestCacheRegistryThatFallsSilent(t *testing.T) {
	w, f, addr := newFronted(t)
	mute, _ := silentServer(t)
	dir := t.TempDir()
	bake := func(caches ...string) {
		for i, c := range caches {
			caches[i] = strconv.Quote(c)
		}
		write(t, dir, fmt.Sprintf("target \"default\" {\n  dockerfile-inline = \"FROM %s/library/busybox:1\\nRUN echo %d >/x\"\n  cache-from = [%s]\n}\n",
			f.addr, time.Now().UnixNano(), strings.Join(caches, ", ")))
	}
	read := make(chan struct{}, 100)
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) }) // or the node would wait for its reading to end
	asked := 0
	silence := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		asked = 0
		f.fault = func(_ http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/v2/cache/") {
				return false
			}
			f.mu.Lock()
			asked++
			n := asked
			f.mu.Unlock()
			if n == 1 {
				return false // whether it is there
			}
			select {
			case read <- struct{}{}:
			default:
			}
			select {
			case <-r.Context().Done():
			case <-hold:
			}
			return true
		}
	}
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	token := part(`{"alg":"none"}`) + "." + part(`{"ac":"[{\"Scope\":\"main\",\"Permission\":3}]","nbf":1,"exp":4102444800}`) + "." + part("x")
	bake("type=registry,ref="+f.addr+"/cache:1", "type=gha,url=http://"+mute+"/,version=1,token="+token)
	silence()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	go func() {
		select {
		case <-read:
		case <-ctx.Done():
		}
		interrupt()
	}()
	w.runUntil(ctx, dir, "build", "--nodes", addr)

	silence()
	r := w.run(dir, "build", "--nodes", addr)
	require.Zero(t, r.status, r.stderr)
	require.Equal(t, 1, strings.Count(r.stderr, "WARNING: registry "+f.addr+" did not answer within 10s: the caches in it are not used"), r.stderr)
	require.Equal(t, 1, strings.Count(r.stderr, "WARNING: the service for caches of type gha at "+mute+" did not answer within 10s: the caches in it are not used"), r.stderr)

	// The node holds up nobody meanwhile, and reads what answers.
	f.misbehave(nil)
	bake("type=registry,ref=" + f.addr + "/cache:1")
	r = w.run(dir, "build", "--nodes", addr)
	require.Zero(t, r.status, r.stderr)
	require.NotContains(t, r.stderr, "did not answer")
}

// silentServer takes connections and what is sent on them; asked has an element for
// each.
func silentServer(t *testing.T) (addr string, asked chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ownAddress(t), "0"))
	require.NoError(t, err)
	asked = make(chan struct{}, 1000)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			asked <- struct{}{}
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		for _, c := range conns {
			c.Close()
		}
	})
	return l.Addr().String(), asked
}

// TestCacheServiceThatIsGone has the cache of GitHub Actions refuse connections, and take
// them and say nothing. That it cannot be read is a warning; that it cannot be written is
// an error soon, and a warning for who asked for that. It is the same when the node holds the
// results, so that writing begins before anything is known of the service.
func TestCacheServiceThatIsGone(t *testing.T) {
	w := newWorld(t, 1)
	mute, _ := silentServer(t)
	closed, err := net.Listen("tcp", net.JoinHostPort(ownAddress(t), "0"))
	require.NoError(t, err)
	dead := closed.Addr().String()
	require.NoError(t, closed.Close())
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	token := part(`{"alg":"none"}`) + "." + part(`{"ac":"[{\"Scope\":\"main\",\"Permission\":3}]","nbf":1,"exp":4102444800}`) + "." + part("x")
	const (
		unheard   = `the service for caches of type gha at \S+ did not answer within 10s: the caches in it are not used`
		unread    = `cache gha:\d+ cannot be read: .*refused`
		unwritten = "target default: the cache cannot be written to the cache of GitHub Actions: .*refused"
	)
	for name, tt := range map[string]struct {
		addr, ignore string
		// warnings are those of the first build, and held those of one that finds all results on
		// the node; regular expressions.
		warnings, held []string
		fails          string // a regular expression, "" when the builds succeed
	}{
		"outside":            {},
		"dead":               {addr: dead, warnings: []string{unread}, fails: regexp.QuoteMeta(dead) + `.*refused \(given up after \d+ tries in `},
		"dead, not required": {addr: dead, ignore: ",ignore-error=true", warnings: []string{unread, unwritten}, held: []string{unwritten}},
		"mute":               {addr: mute, warnings: []string{unheard}, held: []string{unheard}, fails: `the service for caches of type gha at \S+ (did not answer within 10s|has not answered for \d+s)`},
		"mute, not required": {addr: mute, ignore: ",ignore-error=true", warnings: []string{unheard}, held: []string{unheard}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := bakeDir(t, fmt.Sprintf(`
target "default" {
  dockerfile-inline = "FROM busybox\nRUN echo %s > /g\n"
  cache-from = ["type=gha,scope=x"]
  cache-to   = ["type=gha,scope=x,mode=max%s"]
  output     = ["type=cacheonly"]
}
`, name, tt.ignore))
			var env []string
			if tt.addr != "" {
				env = []string{"ACTIONS_CACHE_URL=http://" + tt.addr + "/", "ACTIONS_RUNTIME_TOKEN=" + token}
			}
			for _, warnings := range [][]string{tt.warnings, tt.held} {
				r := remoteRun(t, w, dir, env, append([]string{"build", "--reuse", "never"}, w.on(1)...)...)
				require.NotContains(t, r.stderr, token)
				require.Len(t, regexp.MustCompile(`(?m)^WARNING: `).FindAllString(r.stderr, -1), len(warnings), r.stderr)
				for _, text := range warnings {
					require.Regexp(t, `(?m)^WARNING: `+text, r.stderr)
				}
				if tt.fails == "" {
					require.Zero(t, r.status, r.stderr)
					require.Contains(t, r.stderr, "1 of 1 target built")
					continue
				}
				require.NotZero(t, r.status, r.stderr)
				require.Regexp(t, `(?m)^ERROR: target default: failed on node n1: .*`+tt.fails, r.stderr)
			}
		})
	}
}

// TestCacheServiceThatFallsSilent has registries and services of caches say nothing from
// the first upload on. What was asked for is built and pushed, and a cache that need not be
// written is a warning.
func TestCacheServiceThatFallsSilent(t *testing.T) {
	w := newWorld(t, 1)
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	token := part(`{"alg":"none"}`) + "." + part(`{"ac":"[{\"Scope\":\"main\",\"Permission\":3}]","nbf":1,"exp":4102444800}`) + "." + part("x")
	for name, tt := range map[string]struct {
		cache string // ADDR is that of the service
		flag  bool   // it is a --cache-registry
		kind  string
		fails bool
	}{
		"registry":           {cache: "type=registry,ref=ADDR/cache:1,mode=max,ignore-error=true", kind: "registry ADDR"},
		"registry, required": {cache: "type=registry,ref=ADDR/cache:1,mode=max", kind: "registry ADDR", fails: true},
		"cache registry":     {cache: "ADDR/cache", flag: true, kind: "registry ADDR"},
		"gha":                {cache: "type=gha,url=http://ADDR/,version=1,token=" + token + ",ignore-error=true", kind: "the service for caches of type gha at ADDR"},
		"s3":                 {cache: "type=s3,region=x,bucket=b,name=n,endpoint_url=http://ADDR,use_path_style=true,access_key_id=a,secret_access_key=b,ignore-error=true", kind: "the service for caches of type s3 at ADDR"},
		"azblob":             {cache: "type=azblob,account_url=http://ADDR/account,container=c,name=n,secret_access_key=" + base64.StdEncoding.EncodeToString([]byte("key")) + ",ignore-error=true", kind: "the service for caches of type azblob at ADDR"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := muteOnUpload(t, w.registry)
			at := func(s string) string { return strings.ReplaceAll(s, "ADDR", addr) }
			dir, image := t.TempDir(), w.registry+"/silent/"+strings.NewReplacer(" ", "-", ",", "").Replace(name)+":1"
			config := fmt.Sprintf("[registry.%q]\n  http = true\n[registry.%q]\n  http = true\n", addr, w.registry)
			args := []string{"build", "--reuse", "never", "--nodes", node(t, config)}
			to := strconv.Quote(at(tt.cache))
			if tt.flag {
				args, to = append(args, "--cache-registry", at(tt.cache)), ""
			}
			write(t, dir, fmt.Sprintf("target \"default\" {\n  dockerfile-inline = \"FROM %s/library/busybox:1\\nRUN echo %s > /x\"\n  tags = [%q]\n  output = [\"type=image,push=true\", \"type=local,dest=out\"]\n  cache-to = [%s]\n}\n", w.registry, name, image, to))
			r := w.run(dir, args...)
			if tt.fails {
				require.NotZero(t, r.status, r.stderr)
				require.Regexp(t, `(?m)^ERROR: .*`+regexp.QuoteMeta(at(tt.kind))+` has not answered for`, r.stderr)
				return
			}
			require.Zero(t, r.status, r.stderr)
			require.Regexp(t, `(?m)^WARNING: .*`+regexp.QuoteMeta(at(tt.kind))+` (has not answered for \d+s|did not answer within 10s)$`, r.stderr)
			require.Len(t, regexp.MustCompile(`(?m)^WARNING: `).FindAllString(r.stderr, -1), 1, r.stderr)
			require.Contains(t, r.stderr, "1 of 1 target built")
			require.FileExists(t, filepath.Join(dir, "out", "x"))
			_, _, err := registryClient(t).Manifest(t.Context(), image)
			require.NoError(t, err)
		})
	}
}

// muteOnUpload is a registry and a service for caches that holds nothing and says nothing
// once something is uploaded.
func muteOnUpload(t *testing.T, registry string) (addr string) {
	t.Helper()
	f := newFront(t, registry)
	var mute atomic.Bool
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	f.misbehave(func(rw http.ResponseWriter, r *http.Request) bool {
		upload := r.Method == http.MethodPut || r.Method == http.MethodPatch || r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/blobs/")
		if upload && !strings.Contains(r.URL.RawQuery, "restype=container") || mute.Load() {
			mute.Store(true)
			select {
			case <-r.Context().Done():
			case <-hold:
			}
			return true
		}
		switch {
		case strings.HasPrefix(r.URL.Path, "/v2/"):
			return false
		case strings.HasSuffix(r.URL.Path, "/caches"):
			rw.WriteHeader(http.StatusCreated)
			fmt.Fprint(rw, `{"cacheId":1}`)
		case strings.HasSuffix(r.URL.Path, "/cache"):
			rw.WriteHeader(http.StatusNoContent)
		case strings.Contains(r.URL.RawQuery, "restype=container"):
			rw.WriteHeader(http.StatusOK)
		default:
			rw.Header().Set("x-ms-error-code", "BlobNotFound")
			rw.WriteHeader(http.StatusNotFound)
		}
		return true
	})
	return f.addr
}

// withTokens has f ask for tokens of the user u with the password p. All that were given
// have expired each time that something new is pushed.
func (f *front) withTokens() (given func() int) { return f.withTokensOf(false) }

// withPassword has f ask for the password p of the user u.
func (f *front) withPassword() {
	f.misbehave(func(rw http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user == "u" && password == "p" {
			return false
		}
		rw.Header().Set("WWW-Authenticate", `Basic realm="front"`)
		rw.WriteHeader(http.StatusUnauthorized)
		return true
	})
}

// withTokensOf is withTokens; anybody says that those without a user may write too.
func (f *front) withTokensOf(anybody bool) (given func() int) {
	var mu sync.Mutex
	live, met, n := map[string]bool{}, map[string]bool{}, 0
	f.misbehave(func(rw http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/token" {
			user, password, _ := r.BasicAuth()
			if user == "" {
				user, password = r.FormValue("username"), r.FormValue("password")
			}
			if user != "" && (user != "u" || password != "p") {
				rw.WriteHeader(http.StatusUnauthorized)
				return true
			}
			n++
			token := fmt.Sprint("token", n)
			live[token] = user != "" || anybody
			fmt.Fprintf(rw, `{"token":%q,"access_token":%[1]q,"expires_in":70}`, token)
			return true
		}
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && !met[r.URL.Path] {
			met[r.URL.Path] = true
			clear(live)
		}
		if live[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")] {
			return false
		}
		scope := ""
		if parts := regexp.MustCompile(`^/v2/(.+)/(?:manifests|blobs|tags)/`).FindStringSubmatch(r.URL.Path); parts != nil {
			scope = `,scope="repository:` + parts[1] + `:pull,push"`
		}
		rw.Header().Set("WWW-Authenticate", `Bearer realm="http://`+f.addr+`/token",service="front"`+scope+`,error="invalid_token"`)
		rw.WriteHeader(http.StatusUnauthorized)
		return true
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// TestTokensThatExpire has every token expire before it has served: base images are read,
// images and caches written all the same. It also asks credential helpers: seldom, and
// one that fails is named with its words and its registry, whoever needed it.
func TestTokensThatExpire(t *testing.T) {
	w := newWorld(t, 1)
	f := newFront(t, w.registry)
	nodes := []string{node(t, f.nodeConfig()), node(t, f.nodeConfig())}
	dir, bin := t.TempDir(), t.TempDir()
	write(t, dir, fmt.Sprintf(`
target "default" {
  name     = x
  matrix   = { x = ["a", "b"] }
  contexts = { bb = "docker-image://%[1]s/library/busybox:latest" }
  dockerfile-inline = "FROM bb\nRUN echo ${x} > /x\n"
  tags     = ["%[1]s/tokens/${x}:1", "%[1]s/tokens/${x}-too:1"]
  output   = ["type=image,push=true"]
}
target "push" {
  dockerfile-inline = "FROM scratch\nCOPY docker-bake.hcl /\n"
  tags   = ["%[1]s/tokens/push:1"]
  output = ["type=image,push=true"]
}
`, f.addr))
	asked := filepath.Join(bin, "asked")
	for name, script := range map[string]string{
		"good": `echo x >> ` + asked + `; echo '{"Username":"u","Secret":"p"}'`,
		"bad":  `echo "token has expired, run: acme login"; exit 1`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	build := func(helper string, args ...string) result {
		config := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(config, "config.json"), []byte(fmt.Sprintf(`{"credHelpers":{%q:%q}}`, f.addr, helper)), 0o600))
		env := []string{"DOCKER_CONFIG=" + config, "PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH")}
		return remoteRun(t, w, dir, env, append([]string{"build", "--reuse", "never", "--nodes", nodes[0], "--nodes", nodes[1], "--strategy", "round-robin"}, args...)...)
	}
	given := f.withTokens()
	r := build("good", "--cache-registry", f.addr+"/tokens/cache")
	require.Zero(t, r.status, r.stderr)
	require.NotContains(t, r.stderr, "WARNING")
	require.Contains(t, r.stderr, "4 images pushed")
	require.Greater(t, given(), 4, "they did expire")
	calls, err := os.ReadFile(asked)
	require.NoError(t, err)
	require.LessOrEqual(t, strings.Count(string(calls), "x"), 2*(1+len(nodes))+1, "the client asks, each node before and during the run, and one whether plain HTTP is right")
	for _, name := range []string{"a", "a-too", "b", "b-too"} {
		_, _, err := registryClient(t).Manifest(t.Context(), w.registry+"/tokens/"+name+":1")
		require.NoError(t, err)
	}

	for helper, words := range map[string]string{"bad": "token has expired, run: acme login", "nosuch": "not found"} {
		for _, target := range []string{"default", "push"} {
			r := build(helper, target)
			require.NotZero(t, r.status, r.stderr)
			require.Regexp(t, `(?m)^ERROR: .*credentials for `+regexp.QuoteMeta(f.addr)+`: credential helper docker-credential-`+helper+`: .*`+words, r.stderr)
		}
	}
}
