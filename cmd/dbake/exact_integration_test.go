//go:build integration

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/platforms"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/registry"
)

// printed is what --print shows of a target, as far as the tests use it.
type printed struct {
	Context    string
	Contexts   map[string]string
	Dockerfile string
	Args       map[string]string
	Labels     map[string]string
	Target     string
}

// describe returns the resolved targets of a project.
func (w *world) describe(dir string, n int) map[string]printed {
	w.t.Helper()
	r := w.run(dir, append([]string{"build", "--print"}, w.on(n)...)...)
	require.Zero(w.t, r.status, r.stderr)
	var p struct{ Target map[string]printed }
	require.NoError(w.t, json.Unmarshal([]byte(r.stdout), &p))
	return p.Target
}

// plainBuild builds one target as buildctl does: by the node's own Dockerfile
// frontend, in a build of its own, inside those of the targets that it links to.
func plainBuild(t *testing.T, addr, dir string, targets map[string]printed, name string) (digest string) {
	t.Helper()
	c, err := bkclient.New(t.Context(), addr)
	require.NoError(t, err)
	defer c.Close()
	b := plainBuilder{t: t, client: c, dir: dir, targets: targets}
	export := bkclient.ExportEntry{Type: bkclient.ExporterImage, Attrs: map[string]string{"rewrite-timestamp": "true"}}
	resp, err := b.build(t.Context(), name, func(context.Context, *gateway.Result) error { return nil }, export)
	require.NoError(t, err, name)
	return resp[exptypes.ExporterImageDigestKey]
}

type plainBuilder struct {
	t       *testing.T
	client  *bkclient.Client
	dir     string
	targets map[string]printed
}

// build calls use with the result of a target while its build lasts.
func (b *plainBuilder) build(ctx context.Context, name string, use func(context.Context, *gateway.Result) error, exports ...bkclient.ExportEntry) (resp map[string]string, err error) {
	target := b.targets[name]
	req := gateway.SolveRequest{Frontend: "dockerfile.v0", FrontendInputs: map[string]*pb.Definition{}}
	mounts := map[string]fsutil.FS{}
	mount := func(name, path string) {
		m, err := fsutil.NewFS(path)
		require.NoError(b.t, err)
		mounts[name] = m
	}
	local := filepath.Join(b.dir, target.Context)
	dockerfile := filepath.Join(local, target.Dockerfile)
	mount("context", local)
	mount("dockerfile", filepath.Dir(dockerfile))
	req.FrontendOpt = map[string]string{
		"filename": filepath.Base(dockerfile),
		"cmdline":  "", // a "# syntax=" line is not followed: the node has its own frontend
	}
	if target.Target != "" {
		req.FrontendOpt["target"] = target.Target
	}
	for k, v := range target.Args {
		req.FrontendOpt["build-arg:"+k] = v
	}
	for k, v := range target.Labels {
		req.FrontendOpt["label:"+k] = v
	}
	var links []string
	for _, k := range ir.SortedKeys(target.Contexts) {
		switch v := target.Contexts[k]; {
		case strings.HasPrefix(v, "target:"):
			links = append(links, k)
			req.FrontendOpt["context:"+k] = "input:" + k
		case strings.Contains(v, "://"):
			req.FrontendOpt["context:"+k] = v
		default:
			mount(k, filepath.Join(b.dir, v))
			req.FrontendOpt["context:"+k] = "local:" + k
		}
	}
	opt := bkclient.SolveOpt{LocalMounts: mounts, Exports: exports, FrontendAttrs: req.FrontendOpt}
	inner := func(ctx context.Context) error {
		out, err := b.client.Build(ctx, opt, "", func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
			res, err := gw.Solve(ctx, req)
			if err != nil {
				return nil, err
			}
			return res, use(ctx, res)
		}, nil)
		if err == nil {
			resp = out.ExporterResponse
		}
		return err
	}
	for _, k := range links {
		then := inner
		inner = func(ctx context.Context) error {
			_, err := b.build(ctx, strings.TrimPrefix(target.Contexts[k], "target:"), func(ctx context.Context, res *gateway.Result) error {
				st, err := res.Ref.ToState()
				if err != nil {
					return err
				}
				def, err := st.Marshal(ctx)
				if err != nil {
					return err
				}
				req.FrontendInputs[k] = def.ToPB()
				metadata, err := json.Marshal(map[string][]byte{exptypes.ExporterImageConfigKey: res.Metadata[exptypes.ExporterImageConfigKey]})
				if err != nil {
					return err
				}
				req.FrontendOpt["input-metadata:"+k] = string(metadata)
				return then(ctx)
			})
			return err
		}
	}
	err = inner(ctx)
	return resp, err
}

// project writes the files of a txtar archive to a directory.
func project(t *testing.T, archive string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		name := filepath.Join(dir, f.Name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, f.Data, 0o644))
	}
	return dir
}

// bakeDir returns a new directory with a bake file.
func bakeDir(t *testing.T, bake string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, bake)
	return dir
}

// write writes the bake file of a directory.
func write(t *testing.T, dir, bake string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "docker-bake.hcl"), []byte(bake), 0o644))
}

const library = `
-- docker-bake.hcl --
variable "EPOCH" { default = "1700000000" }
group "default" { targets = ["reader", "writer", "shelf", "index", "tiny"] }
target "_common" {
  args   = { SOURCE_DATE_EPOCH = EPOCH, EDITION = "second \"revised\"", EMPTY = "" }
  attest = ["type=provenance,disabled=true"]
  output = ["type=image,rewrite-timestamp=true"]
  labels = { "org.example.title" = "it's \"quoted\" = odd", "org.example.empty" = "" }
}
target "reader" {
  inherits   = ["_common"]
  dockerfile = "docker/Dockerfile"
  target     = "reader"
}
target "writer" {
  inherits   = ["_common"]
  dockerfile = "docker/Dockerfile"
  target     = "writer"
  args       = { EDITION = "third" }
}
target "shelf" {
  inherits = ["_common"]
  context  = "shelf"
  contexts = { books = "books", reader = "target:reader", tools = "docker-image://busybox:1" }
}
target "index" {
  inherits = ["_common"]
  context  = "shelf"
  dockerfile = "Dockerfile.index"
  contexts = { shelf = "target:shelf", base = "target:writer" }
}
target "tiny" {
  inherits = ["_common"]
  context  = "books"
  dockerfile = "../docker/Dockerfile.tiny"
}
-- .dockerignore --
**/*.secret
notes
-- docker/Dockerfile --
# syntax=docker/dockerfile:1
ARG BASE=busybox
FROM ${BASE}:1 AS common
ARG EDITION=first
ARG UNUSED
ENV EDITION=${EDITION} \
    WHERE=/srv/${EDITION:+books}
LABEL edition="${EDITION}" org.example.title="replaced" multi="one \
two"
WORKDIR /srv
COPY . .
RUN <<EOT
set -e
find . -type f | sort > /list
echo "$EDITION" >> /list
EOT
FROM common AS reader
USER 1000:1000
EXPOSE 80/tcp 53/udp
ENTRYPOINT ["/bin/busybox", "cat"]
CMD ["/list"]
HEALTHCHECK --interval=5s CMD test -f /list
VOLUME /data
STOPSIGNAL SIGINT
FROM common AS build
COPY --chmod=0600 --chown=7:7 books/one.txt /out/one
ADD books/two.txt /out/
RUN --mount=type=bind,source=books,target=/b --mount=type=cache,target=/c cat /b/*.txt | tee /out/all > /c/all
FROM busybox:1 AS writer
ONBUILD RUN echo built on > /onbuild
SHELL ["/bin/busybox", "sh", "-c"]
COPY --from=build --link /out /out
RUN echo $((6 * 7)) > /answer
-- docker/Dockerfile.tiny --
FROM scratch
ARG SOURCE_DATE_EPOCH
COPY --exclude=two.txt *.txt /
-- books/one.txt --
one
-- books/two.txt --
two
-- books/hidden.secret --
hidden
-- notes --
not sent
-- shelf/Dockerfile --
FROM tools AS t
RUN --mount=from=books,target=/books cp /books/one.txt /one
FROM reader
USER root
COPY --from=t /one /srv/one
COPY --from=books two.txt /srv/
RUN id > /who; cat /list >> /who
-- shelf/Dockerfile.index --
FROM base
COPY --from=shelf /who /who
`

// TestImagesAreThoseOfBuildKit compares the images that two nodes make together
// with those that the Dockerfile frontend of one fresh node makes of the same
// targets.
func TestImagesAreThoseOfBuildKit(t *testing.T) {
	w := newWorld(t, 2)
	dirs := map[string]string{"storefront": storefront(t), "library": project(t, library)}
	ours := map[string]map[string]string{}
	targets := map[string]map[string]printed{}
	for _, name := range ir.SortedKeys(dirs) {
		metadata := filepath.Join(t.TempDir(), "metadata.json")
		r := w.build(dirs[name], 2, "--metadata-file", metadata)
		require.Zero(t, r.status, r.stderr)
		ours[name] = digests(t, metadata)
		targets[name] = w.describe(dirs[name], 2)
	}
	require.Len(t, ours["storefront"], 19)
	require.Len(t, ours["library"], 5)
	w.renew(1)
	for _, name := range ir.SortedKeys(ours) {
		for _, target := range ir.SortedKeys(ours[name]) {
			require.Equal(t, plainBuild(t, w.addrs[0], dirs[name], targets[name], target), ours[name][target], "%s: %s", name, target)
		}
	}
}

const vault = `
-- docker-bake.hcl --
group "default" { targets = ["file", "env", "key", "without"] }
target "_" {
  args     = { NONCE = "1" }
  attest   = ["type=provenance,mode=max"]
  contexts = { tools = "tools" }
}
target "file" {
  inherits = ["_"]
  secret   = ["id=token,src=%[1]s"]
  ssh      = ["default=%[2]s"]
  output   = ["type=local,dest=out-file"]
}
target "env" {
  inherits = ["_"]
  secret   = ["id=token,env=CANARY"]
  ssh      = ["default"]
  output   = ["type=local,dest=out-env"]
}
target "key" {
  inherits = ["_"]
  ssh      = ["default=%[3]s"]
  output   = ["type=local,dest=out-key"]
}
target "without" {
  inherits = ["_"]
  output   = ["type=local,dest=out-without"]
}
-- Dockerfile --
FROM busybox:1 AS look
ARG NONCE
RUN --mount=type=secret,id=token --mount=type=ssh --mount=from=tools,target=/tools \
    mkdir /found; \
    if [ -f /run/secrets/token ]; then sha256sum < /run/secrets/token | cut -d' ' -f1 > /found/token; fi; \
    if [ -S "$SSH_AUTH_SOCK" ]; then /tools/agentkeys > /found/agent || exit 1; fi; \
    echo $NONCE > /found/nonce
FROM scratch
COPY --from=look /found /
`

// TestSecretsStayApart has targets that mean different things by one secret and by
// one agent, and one that declares nothing: each sees its own, and no value is
// found in anything that is printed or kept.
func TestSecretsStayApart(t *testing.T) {
	w := newWorld(t, 2)
	theirs, theirsPrint := newKey(t)
	ours, oursPrint := newKey(t)
	plain, plainPrint := newKey(t)
	block, err := ssh.MarshalPrivateKey(plain, "")
	require.NoError(t, err)
	fileValue, envValue := "canary-4f1c in a file", "canary-4f1c in the environment"
	outside := t.TempDir()
	secret, key := filepath.Join(outside, "token"), filepath.Join(outside, "key")
	require.NoError(t, os.WriteFile(secret, []byte(fileValue), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(block), 0o600))
	socket := startAgent(t, theirs)
	dir := project(t, fmt.Sprintf(vault, secret, socket, key))
	out, err := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "tools", "agentkeys"), "./testdata/agentkeys").CombinedOutput()
	require.NoError(t, err, "%s", out)
	env := []string{"CANARY=" + envValue, "SSH_AUTH_SOCK=" + startAgent(t, ours)}
	home := t.TempDir()
	w.home = home

	var printed []string
	for _, args := range [][]string{
		{"plan"},
		{"plan", "--format", "json"},
		{"plan", "--output", filepath.Join(home, "saved.json")},
		{"build", "--print"},
		{"--debug", "build", "--progress", "plain", "--metadata-file", filepath.Join(home, "metadata.json")},
		{"build", "--progress", "rawjson", "--set", "*.args.NONCE=2"},
	} {
		if slices.Contains(args, "build") {
			args = append(args, "--allow", "fs.write="+dir, "--allow", "fs.read="+outside, "--allow", "ssh", "--allow", "fs.read="+filepath.Dir(socket))
		}
		cmd := w.command(dir, append(args, w.on(2)...)...)
		cmd.Env = append(cmd.Env, env...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%v\n%s", args, out)
		printed = append(printed, string(out))
	}
	sum := func(s string) string {
		h := sha256.Sum256([]byte(s))
		return hex.EncodeToString(h[:])
	}
	for target, want := range map[string]map[string]string{
		"file":    {"token": sum(fileValue), "agent": theirsPrint},
		"env":     {"token": sum(envValue), "agent": oursPrint},
		"key":     {"agent": plainPrint},
		"without": {},
	} {
		require.FileExists(t, filepath.Join(dir, "out-"+target, "provenance.json"))
		for _, name := range []string{"token", "agent"} {
			got, err := os.ReadFile(filepath.Join(dir, "out-"+target, name))
			if want[name] == "" {
				require.ErrorIs(t, err, fs.ErrNotExist, "%s: %s", target, name)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, want[name]+"\n", string(got), "%s: %s", target, name)
		}
	}

	// The private key is recognized by a piece of its file.
	canaries := []string{"canary-4f1c", strings.Split(string(pem.EncodeToMemory(block)), "\n")[3]}
	for _, out := range printed {
		for _, canary := range canaries {
			require.NotContains(t, out, canary)
		}
	}
	for _, root := range []string{home, w.state, dir} {
		require.NoError(t, filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return nil // nodes are at work: files go
			}
			dt, err := os.ReadFile(name)
			for _, canary := range canaries {
				if err == nil && strings.Contains(string(dt), canary) {
					t.Errorf("a secret is in %s", name)
				}
			}
			return nil
		}))
	}
}

const described = `
-- docker-bake.hcl --
group "default" { targets = ["app", "user"] }
target "app" {
  dockerfile = "docker/Dockerfile"
  target     = "Final"
  platforms  = ["linux/amd64"]
  args       = { V = "1" }
  labels     = { "org.example.title" = "app" }
  attest     = ["type=provenance,mode=max"]
  output     = ["type=local,dest=app"]
}
target "user" {
  contexts          = { base = "target:app" }
  dockerfile-inline = "FROM base\nRUN echo user > /user\n"
  args              = { V = "2" }
  attest            = ["type=provenance,mode=min"]
  output            = ["type=local,dest=user"]
}
-- docker/Dockerfile --
FROM busybox:1 AS first
ARG V
RUN echo $V > /v
FROM first AS Final
COPY docker/Dockerfile /
`

// TestProvenance looks for the request of each target in its provenance.
func TestProvenance(t *testing.T) {
	w := newWorld(t, 1)
	dir := project(t, described)
	for _, args := range [][]string{{"init", "-q"}, {"remote", "add", "origin", "https://example.com/described"}} {
		out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	r := w.build(dir, 1, "--allow", "fs.write="+dir)
	require.Zero(t, r.status, r.stderr)
	require.NotContains(t, r.stderr, "ERROR")
	for target, want := range map[string]struct {
		args map[string]string
		ops  bool
	}{
		"app":  {map[string]string{"target": "Final", "build-arg:V": "1", "label:org.example.title": "app"}, true},
		"user": {map[string]string{"context:base": "input:base"}, false},
	} {
		dt, err := os.ReadFile(filepath.Join(dir, target, "provenance.json"))
		require.NoError(t, err)
		var statement struct {
			Predicate struct {
				BuildDefinition struct {
					ExternalParameters struct {
						ConfigSource struct{ Path string }
						Request      struct {
							Frontend string
							Args     map[string]string
						}
					}
					InternalParameters struct {
						BuildConfig struct{ LLBDefinition []json.RawMessage }
					}
					ResolvedDependencies []struct{ URI string }
				}
				RunDetails struct {
					Metadata struct {
						BuildKit struct {
							VCS map[string]string `json:"vcs"`
						} `json:"buildkit_metadata"`
					}
				}
			}
		}
		require.NoError(t, json.Unmarshal(dt, &statement), target)
		def := statement.Predicate.BuildDefinition
		require.Equal(t, "dockerfile.v0", def.ExternalParameters.Request.Frontend, target)
		require.Equal(t, "Dockerfile", def.ExternalParameters.ConfigSource.Path, target)
		for k, v := range want.args {
			require.Equal(t, v, def.ExternalParameters.Request.Args[k], target)
		}
		if !want.ops {
			require.NotContains(t, def.ExternalParameters.Request.Args, "build-arg:V", "the least that is told")
		}
		require.Equal(t, want.ops, len(def.InternalParameters.BuildConfig.LLBDefinition) > 0, target)
		require.Len(t, def.ResolvedDependencies, 1, target)
		require.Contains(t, def.ResolvedDependencies[0].URI, "pkg:docker/busybox@1", target)
		require.Equal(t, "https://example.com/described", statement.Predicate.RunDetails.Metadata.BuildKit.VCS["source"], target)
	}
}

// newKey returns a private key and the fingerprint of its public half.
func newKey(t *testing.T) (ed25519.PrivateKey, string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	key, err := ssh.NewPublicKey(public)
	require.NoError(t, err)
	return private, ssh.FingerprintSHA256(key)
}

const slow = `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" { default = "" }
group "default" { targets = ["t"] }
target "t" {
  name       = "t${i}"
  matrix     = { i = [0, 1, 2, 3, 4, 5, 6, 7] }
  args       = { I = "${i}" }
  tags       = ["${DBAKE_REGISTRY}/slow/t${i}:1"]
  output     = ["type=image,push=true"]
}
-- Dockerfile --
FROM busybox:1
ARG I
RUN echo started $I && sleep 2 && echo $I > /i
RUN sleep 1 && echo again >> /i
`

// TestNodeKilled kills a node's daemon in the middle of a step.
func TestNodeKilled(t *testing.T) {
	w := newWorld(t, 3)
	dir := project(t, slow)
	cmd := w.command(dir, append([]string{"build", "--progress", "plain", "--reuse", "never"}, w.on(3)...)...)
	stderr, status := start(t, cmd)
	shown := awaitNode(t, stderr, "n2")
	require.NoError(t, syscall.Kill(processOf(t, filepath.Join(w.state, "nodes", "n2")), syscall.SIGKILL))
	rest := readAll(t, stderr)
	require.Zero(t, status(), "%s%s", shown, rest)
	// Its supervisor starts it again: what it was doing is done again, there or elsewhere.
	require.Regexp(t, `built here: (retried|rescued)`, rest)
	require.Contains(t, rest, "8 of 8 targets built")
	for i := range 8 {
		_, err := registryClient(t).Config(t.Context(), fmt.Sprintf("%s/slow/t%d:1", w.registry, i), platforms.DefaultSpec())
		require.NoError(t, err)
		require.Regexp(t, fmt.Sprintf(`(?m)^t%d +n[13] +built|^t%d +n2 +built`, i, i), rest)
	}
}

const several = `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" { default = "" }
group "default" { targets = ["a", "b"] }
target "a" {
  no-cache = true
  tags     = ["${DBAKE_REGISTRY}/several/a:1"]
  output   = ["type=image,push=true", "type=oci,dest=a.tar", "type=oci,tar=false,dest=layout", "type=local,dest=a"]
  cache-to = ["type=local,dest=cache,mode=max"]
}
target "b" {
  no-cache = true
  contexts = { base = "target:a" }
  dockerfile-inline = "FROM base\nRUN echo b > /b\n"
  output   = ["type=tar,dest=b.tar", "type=docker,dest=b-docker.tar"]
}
target "c" {
  contexts = { base = "oci-layout://layout:1" }
  dockerfile-inline = "FROM base\nRUN test -f /two && echo c > /c\n"
  output   = ["type=local,dest=c"]
}
target "d" {
  cache-from = ["type=local,src=cache", "type=local,src=nowhere"]
  output     = ["type=local,dest=d"]
}
-- Dockerfile --
FROM busybox:1
RUN echo one > /one
RUN echo two > /two
`

// TestOutputsAndStores writes several outputs of steps that ignore the cache, each
// of which runs once nevertheless, and reads layouts and caches in directories back.
func TestOutputsAndStores(t *testing.T) {
	w := newWorld(t, 1)
	dir := project(t, several)
	w.renew(1)
	for run := 1; run <= 2; run++ {
		r := w.build(dir, 1, "--allow", "fs.write="+dir)
		require.Zero(t, r.status, r.stderr)
		require.Equal(t, 3*run, runSteps(t, w.addrs, "RUN"), r.stderr)
	}
	for _, name := range []string{"a.tar", "a/two", "layout/index.json", "b.tar", "b-docker.tar", "cache/index.json"} {
		require.FileExists(t, filepath.Join(dir, name))
	}
	before := listing(t, filepath.Join(dir, "layout"), filepath.Join(dir, "cache"))

	w.renew(1)
	r := w.build(dir, 1, "--allow", "fs.write="+dir, "d")
	require.Zero(t, r.status, r.stderr)
	require.Zero(t, runSteps(t, w.addrs, "RUN"), r.stderr)
	require.FileExists(t, filepath.Join(dir, "d", "two"))
	require.Contains(t, r.stderr, "WARNING: cache in "+filepath.Join(dir, "nowhere")+" is not used: there is none")
	require.NoDirExists(t, filepath.Join(dir, "nowhere"))

	r = w.build(dir, 1, "--allow", "fs.write="+dir, "c")
	require.Zero(t, r.status, r.stderr)
	require.FileExists(t, filepath.Join(dir, "c", "c"))
	require.Equal(t, before, listing(t, filepath.Join(dir, "layout"), filepath.Join(dir, "cache")), "what is only read stays as it is")
}

const twice = `
-- docker-bake.hcl --
variable "REGISTRY" { default = "" }
variable "PUSH" { default = "" }
group "default" { targets = ["app", "after"] }
target "app" {
  platforms   = ["linux/arm64", "linux/amd64"]
  args        = { SOURCE_DATE_EPOCH = "1700000000", REGISTRY = REGISTRY }
  tags        = ["${REGISTRY}/twice/app:${PUSH}", "${REGISTRY}/twice/other:${PUSH}"]
  annotations = ["index:org.example.a=1", "manifest:org.example.b=2"]
  attest      = ["type=provenance,disabled=true"]
  output      = ["type=image,push=true,rewrite-timestamp=true"]
  cache-to    = ["type=local,dest=cache"]
}
target "after" {
  depends-on        = ["app"]
  dockerfile-inline = "FROM ${REGISTRY}/library/busybox:1\nRUN true\n"
  output            = ["type=cacheonly"]
}
-- Dockerfile --
ARG REGISTRY
FROM ${REGISTRY}/library/busybox:1
ARG TARGETARCH
RUN echo $TARGETARCH > /arch
`

// TestPlatformsOfSeveralNodes builds a target whose platforms no node offers alone:
// each node pushes its part, and the index is the one that a node makes which
// offers both. (The programs of the base are those of this machine throughout.)
func TestPlatformsOfSeveralNodes(t *testing.T) {
	w := newWorld(t, 2)
	dir := project(t, twice)
	build := func(push string, nodes ...string) result {
		args := []string{"build", "--progress", "plain", "--reuse", "never", "--var", "REGISTRY=" + w.registry, "--var", "PUSH=" + push,
			"--metadata-file", push + ".json", "--allow", "fs.write=" + dir}
		return w.run(dir, append(args, nodes...)...)
	}
	r := build("two", "--nodes", "x="+w.addrs[0]+",platforms=linux/amd64", "--nodes", "y="+w.addrs[1]+",platforms=linux/arm64")
	require.Zero(t, r.status, r.stderr)
	r = build("one", "--nodes", "x="+w.addrs[0]+",platforms=linux/amd64;linux/arm64")
	require.Zero(t, r.status, r.stderr)
	one, two := digests(t, filepath.Join(dir, "one.json")), digests(t, filepath.Join(dir, "two.json"))
	require.NotEmpty(t, two["app"])
	require.Equal(t, one["app"], two["app"])
	for _, name := range []string{"app", "other"} {
		_, desc, err := registryClient(t).Manifest(t.Context(), w.registry+"/twice/"+name+":two")
		require.NoError(t, err)
		require.Equal(t, two["app"], desc.Digest.String())
	}
	require.FileExists(t, filepath.Join(dir, "cache", "index.json"))

	r = build("none", "--nodes", "x="+w.addrs[0]+",platforms=linux/amd64", "--nodes", "y="+w.addrs[1]+",platforms=linux/arm64",
		"--set", "app.output=type=oci,dest=app.tar")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "target app: an output of type oci needs all platforms on one node")
}

// listing names all files below some directories.
func listing(t *testing.T, dirs ...string) []string {
	t.Helper()
	var list []string
	for _, dir := range dirs {
		require.NoError(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
			list = append(list, name)
			return err
		}))
	}
	return list
}

// processOf returns the process of the node whose directory is given.
func processOf(t *testing.T, dir string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, f := range files {
		dt, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		if args := strings.Split(string(dt), "\x00"); filepath.Base(args[0]) == "buildkitd" && strings.Contains(string(dt), dir+"/") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			require.NoError(t, err)
			return pid
		}
	}
	require.Fail(t, "no daemon runs in "+dir)
	return 0
}

var startedOn = regexp.MustCompile(`(?m)^#(\d+) (n\d+) \[[^\n]*RUN echo started`)

// awaitNode reads until a step that prints has begun on the node.
func awaitNode(t *testing.T, r io.Reader, node string) string {
	t.Helper()
	shown, _ := awaitStep(t, r, func(name string) bool { return name == node })
	return shown
}

// awaitStep reads until a step that prints has begun on a node that counts.
func awaitStep(t *testing.T, r io.Reader, counts func(node string) bool) (shown, node string) {
	t.Helper()
	var seen []byte
	buf := make([]byte, 4096)
	for {
		for _, m := range startedOn.FindAllSubmatch(seen, -1) {
			if counts(string(m[2])) && regexp.MustCompile(`(?m)^#`+string(m[1])+` [\d.]+ started`).Match(seen) {
				return string(seen), string(m[2])
			}
		}
		n, err := r.Read(buf)
		seen = append(seen, buf[:n]...)
		require.NoError(t, err, "%s", seen)
	}
}

// read returns the content of a file, whose path is given in pieces.
func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	return string(data)
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	dt, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(dt)
}

func registryClient(t *testing.T) *registry.Client {
	c := registry.New(registry.Options{})
	t.Cleanup(c.Close)
	return c
}

// startAgent serves an ssh agent that holds one key and returns its socket.
func startAgent(t *testing.T, key ed25519.PrivateKey) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // the name of a socket is short
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	keys := agent.NewKeyring()
	require.NoError(t, keys.Add(agent.AddedKey{PrivateKey: key}))
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() }) // ends the loop below
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = agent.ServeAgent(keys, conn) // ends with the connection
			}()
		}
	}()
	return filepath.Join(dir, "s")
}
