//go:build integration

package frontend

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/solver/pb"
	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil"

	"github.com/dbake/dbake/compiler/ir"
)

// daemon is a buildkitd of the test's own whose images all come from a stub
// registry.
type daemon struct {
	*client.Client
	registry *stubRegistry
	hosts    []string // registries that the stub stands for
	git      bool     // git repositories are there; otherwise their commits are made up
}

// noGit is a node that cannot reach the repositories which the Dockerfiles name.
type noGit struct{ gateway.Client }

func (c noGit) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	if !strings.HasPrefix(op.Identifier, "git://") {
		return c.Client.ResolveSourceMetadata(ctx, op, opt)
	}
	return &sourceresolver.MetaResponse{Op: op, Git: &sourceresolver.ResolveGitResponse{Ref: "refs/heads/main", Checksum: strings.Repeat("1", 40)}}, nil
}

// startDaemon starts a buildkitd that finds the images of hosts in a stub
// registry.
func startDaemon(t *testing.T, hosts []string) *daemon {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("starting a buildkitd takes root on Linux")
	}
	program := os.Getenv("DBAKE_BUILDKITD")
	if program == "" {
		p, err := exec.LookPath("buildkitd")
		require.NoError(t, err, "buildkitd must be on PATH, or DBAKE_BUILDKITD be its path")
		program = p
	}
	d := &daemon{registry: newStubRegistry(t), hosts: hosts}
	parent := ""
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		parent = "/dev/shm" // its database waits for every fsync
	}
	root, err := os.MkdirTemp(parent, "dbake-frontend-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })

	var config strings.Builder
	for _, h := range hosts {
		fmt.Fprintf(&config, "[registry.%q]\n  mirrors = [%q]\n", h, d.registry.host())
	}
	fmt.Fprintf(&config, "[registry.%q]\n  http = true\n", d.registry.host())
	require.NoError(t, os.WriteFile(filepath.Join(root, "buildkitd.toml"), []byte(config.String()), 0o600))

	addr := "unix://" + filepath.Join(root, "s")
	var log bytes.Buffer
	cmd := exec.Command(program, "--config", filepath.Join(root, "buildkitd.toml"), "--root", filepath.Join(root, "root"),
		"--addr", addr, "--oci-worker-snapshotter=overlayfs", "--oci-worker-no-process-sandbox=false", "--containerd-worker=false")
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	d.Client, err = client.New(t.Context(), addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Client.Close() })
	require.NoError(t, d.Wait(t.Context()))
	return d
}

func (d *daemon) resolver(t *testing.T) Resolver {
	return NewRegistryResolver(RegistryOptions{Client: d.registry.client(t, t.TempDir(), d.hosts...)})
}

// Build implements Gateway with the daemon as the only node.
func (d *daemon) Build(ctx context.Context, s Session, fn func(context.Context, gateway.Client) error) error {
	so := client.SolveOpt{LocalMounts: map[string]fsutil.FS{}, Session: []session.Attachable{secretsprovider.FromMap(nil)}}
	for name, dir := range s.Locals {
		mount, err := fsutil.NewFS(dir)
		if err != nil {
			return err
		}
		so.LocalMounts[name] = mount
	}
	_, err := d.Client.Build(ctx, so, "", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		if !d.git {
			c = noGit{c}
		}
		return gateway.NewResult(), fn(ctx, c)
	}, nil)
	return err
}

// theirs has the daemon's own frontend compile a unit, with the options of in.
func theirs(t *testing.T, d *daemon, c *compilation, in *inputs) (*Unit, error) {
	var unit *Unit
	err := in.withSession(c.ids, func(s Session) error {
		return d.Build(t.Context(), s, func(ctx context.Context, gc gateway.Client) error {
			attrs := maps.Clone(in.attrs)
			// Keeps the daemon from running the image of the syntax line, which
			// is what is compared against.
			attrs["cmdline"] = "docker/dockerfile:1"
			defs := maps.Clone(in.defs)
			for name, u := range in.linked {
				def, err := rewrite(ctx, u.Definition, c.ids.mark, &c.caps)
				if err != nil {
					return err
				}
				defs[name] = def
			}
			res, err := gc.Solve(ctx, gateway.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: attrs, FrontendInputs: defs})
			if err != nil {
				return err
			}
			rec, err := newRecorder(ctx, c, in, gc)
			if err != nil {
				return err
			}
			unit, _, err = c.unit(ctx, in, rec, res)
			return err
		})
	})
	return unit, err
}

// requireSame compiles p here and on the daemon and compares. It returns how many
// units both sides accepted.
func requireSame(t *testing.T, d *daemon, p *ir.Project) int {
	t.Helper()
	o := Options{Resolver: d.resolver(t), NodePlatform: amd64, Gateway: d}
	ours, ourErr := Compile(t.Context(), p, o)
	byID := map[ir.UnitID]*Unit{}
	byTarget := map[string][]*Unit{}
	for _, u := range ours {
		byID[u.ID] = u
		byTarget[u.Target.Name] = append(byTarget[u.Target.Name], u)
	}
	c, err := newCompilation(p, o)
	require.NoError(t, err)
	n := 0
	for _, u := range p.Units() {
		links := map[string][]*Unit{}
		for _, name := range u.Target.Links() {
			links[name] = byTarget[name]
		}
		in, err := c.prepare(t.Context(), u, links)
		if err != nil {
			require.Nil(t, byID[u.ID])
			t.Logf("refused here: %s: %v", u.ID, err)
			continue
		}
		want, err := theirs(t, d, c, in)
		got := byID[u.ID]
		if err != nil {
			require.Nil(t, got, "the daemon says: %v", err)
			t.Logf("neither accepts %s: %v", u.ID, err)
			continue
		}
		require.NotNil(t, got, "%s: %v", u.ID, ourErr)
		require.Equal(t, text(t, want.Definition), text(t, got.Definition), u.ID)
		// A definition without steps is nil once it has been sent.
		require.True(t, slices.EqualFunc(want.Definition.Def, got.Definition.Def, bytes.Equal), u.ID)
		require.Equal(t, names(want.Definition), names(got.Definition), u.ID)
		require.Equal(t, string(want.Config), string(got.Config), u.ID)
		require.Equal(t, want.Metadata, got.Metadata, u.ID)
		require.Equal(t, want.Locals, got.Locals, u.ID)
		require.Equal(t, want.Secrets, got.Secrets, u.ID)
		require.Equal(t, want.Entitlements, got.Entitlements, u.ID)
		require.Equal(t, want.MultiPlatform, got.MultiPlatform, u.ID)
		require.Equal(t, len(want.Attestations), len(got.Attestations), u.ID)
		for i, a := range want.Attestations {
			require.Equal(t, text(t, a.Ref), text(t, got.Attestations[i].Ref))
			require.Equal(t, a.Metadata, got.Attestations[i].Metadata)
		}
		n++
	}
	return n
}

// names returns the metadata of a definition's ops, without what describes the
// session.
func names(def *pb.Definition) map[string]string {
	m := map[string]string{}
	for dgst, md := range def.Metadata {
		m[dgst] = fmt.Sprint(md.Description, md.IgnoreCache, md.LinuxResources, md.ExportCache)
	}
	return m
}

// What is compiled here is what the daemon's own frontend compiles.
func TestSameAsDaemon(t *testing.T) {
	d := startDaemon(t, []string{"docker.io", "example.com"})
	for _, tc := range []struct {
		name, files string
		targets     []*ir.Target
	}{
		{"local", webFiles, []*ir.Target{
			{Name: "web", Context: ir.ParseContext("web", nil), Args: map[string]string{"VERSION": "2"}, Labels: map[string]string{"a": "b"}},
			{Name: "api", Context: ir.ParseContext("api", nil), Contexts: map[string]ir.Source{"shared": ir.ParseNamedContext("shared")}},
			{Name: "pinned", Context: ir.ParseContext("web", nil), Contexts: map[string]ir.Source{"alpine": ir.ParseNamedContext("docker-image://example.com/other:1")}},
			{Name: "stage", Context: ir.ParseContext("web", nil), Stage: "base", NoCacheFilter: []string{"base"}},
		}},
		{"options", webFiles, []*ir.Target{{
			Name: "web", Context: ir.ParseContext("web", nil), NoCache: ptr(true), Pull: ptr(true), Network: ptr("none"), ShmSize: ptr("1m"),
			Ulimits: []string{"nofile=1:2", "core=1"}, ExtraHosts: map[string]string{"h": "1.2.3.4,[::1]"},
			Resources: &ir.Resources{Memory: ptr("1g"), CPUShares: ptr(int64(2)), CpusetCPUs: ptr("0")},
			Args:      map[string]string{"HTTP_PROXY": "p", "SOURCE_DATE_EPOCH": "1", "BUILDKIT_CACHE_MOUNT_NS": "ns", "BUILDKIT_SANDBOX_HOSTNAME": "box"},
			Attest:    []ir.Attest{{Type: "provenance", Attrs: map[string]string{"mode": "max"}}, {Type: "sbom", Attrs: map[string]string{"generator": "example.com/scanner"}}},
		}}},
		{"platforms", webFiles, []*ir.Target{
			{Name: "web", Context: ir.ParseContext("web", nil), Platforms: []string{"linux/amd64", "linux/arm64"}},
			{Name: "index", Context: ir.ParseContext("web", nil), Platforms: []string{"linux/arm64"}, Args: map[string]string{"BUILDKIT_MULTI_PLATFORM": "true"}},
			{Name: "cross", DockerfileInline: ptr("FROM --platform=$BUILDPLATFORM alpine AS b\nARG TARGETARCH\nRUN cross $TARGETARCH\nFROM alpine\nCOPY --from=b /x /x\n"), Platforms: []string{"linux/amd64", "linux/arm64"}},
		}},
		{"links", webFiles + "-- child/Dockerfile --\nFROM base\nCOPY --from=base /src /src\nRUN --mount=from=tools,target=/t child\n", []*ir.Target{
			{Name: "web", Context: ir.ParseContext("web", nil), Platforms: []string{"linux/amd64", "linux/arm64"}},
			{Name: "tools", Context: ir.ParseContext("web", nil), Stage: "base"},
			{Name: "child", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:web"), "tools": ir.ParseNamedContext("target:tools")}, Platforms: []string{"linux/arm64"}},
			{Name: "native", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:web"), "tools": ir.ParseNamedContext("target:tools")}},
			{Name: "grandchild", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:child"), "tools": ir.ParseNamedContext("api")}},
		}},
		{"paths", webFiles + "-- docker/Custom --\nFROM alpine\nCOPY . /\n-- docker/Custom.dockerignore --\n*.log\n-- lower/dockerfile --\nFROM alpine\n", []*ir.Target{
			{Name: "a", Dockerfile: "docker/Custom"},
			{Name: "b", Context: ir.ParseContext("web", nil), Dockerfile: "../docker/Custom"},
			{Name: "c", Context: ir.ParseContext("lower", nil)},
			{Name: "d", Context: ir.ParseContext("web", nil), DockerfileInline: ptr("FROM alpine\nCOPY src /src\n")},
		}},
		{"instructions", "-- x --\n-- Dockerfile --\n" + everyInstruction, []*ir.Target{
			{Name: "t", Secrets: []ir.Secret{{ID: "s", Env: "S"}}, SSH: []ir.SSH{{ID: "default"}}},
		}},
		{"failures", "-- syntax/Dockerfile --\nRUM\n-- image/Dockerfile --\nFROM missing\n-- empty/Dockerfile --\n-- nothing/x --\n", []*ir.Target{
			{Name: "syntax", Context: ir.ParseContext("syntax", nil)}, {Name: "image", Context: ir.ParseContext("image", nil)}, {Name: "empty", Context: ir.ParseContext("empty", nil)},
			{Name: "nothing", Context: ir.ParseContext("nothing", nil)}, {Name: "stage", Context: ir.ParseContext("image", nil), Stage: "none"},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := requireSame(t, d, project(t, tc.files, tc.targets...))
			if tc.name == "failures" {
				require.Zero(t, n)
			} else {
				require.GreaterOrEqual(t, n, len(tc.targets))
			}
		})
	}

	t.Run("remote", func(t *testing.T) {
		d.git = true
		git := gitProject(t, "-- sub/Dockerfile --\nFROM alpine\nCOPY . /\n-- bad/Dockerfile --\nFROM alpine\nRUM\n-- policy/Dockerfile --\nFROM alpine\n-- policy/Dockerfile.rego --\n")
		files := t.TempDir()
		writeFiles(t, files, "-- Dockerfile --\nFROM alpine\nRUN fetched\n")
		out, err := exec.Command("tar", "-C", files, "-czf", filepath.Join(files, "ctx.tgz"), "Dockerfile").CombinedOutput()
		require.NoError(t, err, "%s", out)
		http := serveDir(t, files)
		p := project(t, "-- Dockerfile --\nFROM alpine\nCOPY x /\n",
			&ir.Target{Name: "git", Context: ir.ParseContext(git+"#main:sub", nil)},
			&ir.Target{Name: "local-dockerfile", Context: ir.ParseContext(git+"#main:sub", nil), Dockerfile: "cwd://Dockerfile"},
			&ir.Target{Name: "tar", Context: ir.ParseContext(http+"/ctx.tgz", nil)},
			&ir.Target{Name: "file", Context: ir.ParseContext(http+"/Dockerfile", nil)},
			&ir.Target{Name: "named", DockerfileInline: ptr("FROM alpine\nCOPY --from=git . /\n"), Contexts: map[string]ir.Source{"git": ir.ParseNamedContext(git + "#main")}},
		)
		require.Equal(t, 5, requireSame(t, d, p))
		out, err = exec.Command("git", "ls-remote", git, "main").Output()
		require.NoError(t, err)
		sha, _, _ := strings.Cut(string(out), "\t")
		units, err := Compile(t.Context(), p, Options{Resolver: d.resolver(t), NodePlatform: amd64, Gateway: d})
		require.NoError(t, err)
		require.Contains(t, text(t, units[0].Definition), "git.checksum="+sha)

		p = project(t, "-- x --\n", &ir.Target{Name: "url", Dockerfile: http + "/Dockerfile"})
		units, err = Compile(t.Context(), p, Options{Resolver: d.resolver(t), NodePlatform: amd64, Gateway: d})
		require.NoError(t, err)
		require.Contains(t, text(t, units[0].Definition), "fetched")

		for _, tc := range []struct{ context, want string }{
			{git + "#main:bad", "Dockerfile:2,1-4: dockerfile parse error on line 2: unknown instruction: RUM (did you mean RUN?)"},
			{git + "#main:policy", "bake.hcl:1,1-9: source policy Dockerfile.rego of target t cannot be enforced"},
			{git + "#main", "bake.hcl:1,1-9: failed to read dockerfile: open Dockerfile: no such file or directory"},
		} {
			p := project(t, "", &ir.Target{Name: "t", Context: ir.ParseContext(tc.context, nil)})
			_, err := Compile(t.Context(), p, Options{Resolver: d.resolver(t), NodePlatform: amd64, Gateway: d})
			require.ErrorContains(t, err, tc.want)
		}
	})
}

// The image of a syntax line compiles on the daemon to what is compiled here.
func TestForeignOnDaemon(t *testing.T) {
	d := startDaemon(t, []string{"docker.io", "example.com"})
	program := filepath.Join(t.TempDir(), "frontend")
	build := exec.Command("go", "build", "-o", program, "github.com/moby/buildkit/frontend/dockerfile/cmd/dockerfile-frontend")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	data, err := os.ReadFile(program)
	require.NoError(t, err)
	d.registry.addProgram(t, "foreign:1", data)
	d.registry.addProgram(t, "docker/dockerfile:1", data)

	compileWith := func(syntax, mode string) []*Unit {
		p := project(t, webFiles+"-- child/Dockerfile --\n"+syntax+"FROM base\nCOPY --from=extra . /\nCOPY . /\nRUN --mount=type=secret,id=s true\n-- child/.dockerignore --\nignored\n",
			&ir.Target{Name: "web", Context: ir.ParseContext("web", nil), Platforms: []string{"linux/amd64", "linux/arm64"}},
			&ir.Target{Name: "child", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:web"), "extra": ir.ParseNamedContext("shared")},
				Platforms: []string{"linux/arm64"}, Args: map[string]string{"SOURCE_DATE_EPOCH": "1"}, Secrets: []ir.Secret{{ID: "s", Env: "S"}}},
			&ir.Target{Name: "inline", DockerfileInline: ptr(syntax + "FROM alpine\nCOPY --from=busybox / /\n")},
		)
		units, err := Compile(t.Context(), p, Options{Resolver: d.resolver(t), NodePlatform: amd64, Gateway: d, Syntax: mode})
		require.NoError(t, err)
		require.Len(t, units, 4)
		return units
	}
	want := compileWith("", "")
	for name, got := range map[string][]*Unit{
		"foreign": compileWith("# syntax=example.com/foreign:1\n", ""),
		"remote":  compileWith("# syntax=docker/dockerfile:1\n", SyntaxRemote),
	} {
		for i, u := range want {
			require.Equal(t, text(t, u.Definition), text(t, got[i].Definition), name)
			require.Equal(t, u.Definition.Def, got[i].Definition.Def, name)
			require.Equal(t, string(u.Config), string(got[i].Config), name)
			require.Equal(t, u.Metadata, got[i].Metadata, name)
			require.Equal(t, ir.SortedKeys(u.Locals), ir.SortedKeys(got[i].Locals), name)
			require.Equal(t, u.Secrets, got[i].Secrets, name)
		}
	}

	// Its errors point at the user's file as well.
	p := project(t, "-- svc/Dockerfile --\n# syntax=example.com/foreign:1\nFROM alpine\nRUM\n", &ir.Target{Name: "t", Context: ir.ParseContext("svc", nil)})
	_, err = Compile(t.Context(), p, Options{Resolver: d.resolver(t), NodePlatform: amd64, Gateway: d})
	require.ErrorContains(t, err, "svc/Dockerfile:3,1-4: ")
	require.ErrorContains(t, err, "unknown instruction: RUM (did you mean RUN?)")
	require.Contains(t, sourceErr(t, err).Excerpt, "   3 | >>> RUM")
}

const everyInstruction = `# syntax=docker/dockerfile:1
# check=skip=all
ARG BASE=alpine
FROM ${BASE} AS one
ARG A=1
ENV B=$A C="x y"
LABEL l=$B
USER 1000:1000
WORKDIR /w
SHELL ["/bin/bash", "-c"]
RUN --mount=type=cache,target=/c,sharing=locked,id=c --mount=type=tmpfs,target=/tmp --mount=type=secret,id=s,env=S --mount=type=ssh make
RUN <<EOF
one
two
EOF
COPY --chmod=755 --chown=1:2 x y /d/
COPY --link x /linked/
ADD https://example.com/file.tgz /f/
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://example.com/g /g
ADD https://github.com/moby/buildkit.git#v0.10.1 /git
COPY <<inline /inline
text $B
inline
FROM one
COPY --from=one --parents /w/./x /p/
RUN --network=none --security=sandbox true
EXPOSE 80
VOLUME /v
STOPSIGNAL 9
HEALTHCHECK CMD true
ONBUILD RUN later
ENTRYPOINT ["/e"]
CMD ["c"]
`

// gitProject serves a git repository with the given files and returns its URL.
func gitProject(t *testing.T, files string) string {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, files)
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "."},
		{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false", "commit", "-q", "-m", "m"},
		{"update-server-info"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return serveDir(t, filepath.Join(dir, ".git")) + "/repo.git"
}

// serveDir serves a directory over HTTP, also as repo.git, and returns the URL.
func serveDir(t *testing.T, dir string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/repo.git/", http.StripPrefix("/repo.git", http.FileServer(http.Dir(dir))))
	mux.Handle("/", http.FileServer(http.Dir(dir)))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// TestCorpus compares every Dockerfile below $DBAKE_CORPUS, or of the sample
// projects, that the daemon's frontend accepts.
func TestCorpus(t *testing.T) {
	root := cmp.Or(os.Getenv("DBAKE_CORPUS"), filepath.Join("..", "testdata", "bakefiles"))
	var dockerfiles []string
	require.NoError(t, filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		name := strings.ToLower(filepath.Base(p))
		if err == nil && e.Type().IsRegular() && strings.Contains(name, "dockerfile") && !strings.HasSuffix(name, "ignore") && !strings.HasPrefix(name, "golden.") {
			dockerfiles = append(dockerfiles, p)
		}
		return err
	}))
	require.NotEmpty(t, dockerfiles)

	// The daemon must know beforehand which registries to look for in the stub.
	asked := &stubImages{}
	for _, p := range dockerfiles {
		_, err := Compile(t.Context(), corpusProject(t, p), Options{Resolver: asked, NodePlatform: amd64})
		require.False(t, errors.Is(err, context.Canceled))
	}
	hosts := []string{"docker.io"}
	for _, image := range asked.asked {
		named, err := reference.ParseNormalizedNamed(image)
		require.NoError(t, err)
		hosts = append(hosts, reference.Domain(named))
	}
	slices.Sort(hosts)
	d := startDaemon(t, slices.Compact(hosts))
	accepted := 0
	for _, p := range dockerfiles {
		rel, err := filepath.Rel(root, p)
		require.NoError(t, err)
		t.Run(filepath.ToSlash(rel), func(t *testing.T) { accepted += requireSame(t, d, corpusProject(t, p)) })
	}
	t.Logf("%d of %d Dockerfiles accepted by both", accepted, len(dockerfiles))
	require.Positive(t, accepted)
}

// pinned is the digest of an image whose content a stub cannot have.
var pinned = regexp.MustCompile(`@sha256:[0-9a-f]{64}`)

// corpusProject returns a project that builds a copy of a Dockerfile, its images
// unpinned.
func corpusProject(t *testing.T, dockerfile string) *ir.Project {
	t.Helper()
	p := project(t, "", &ir.Target{Name: "t", Dockerfile: filepath.Base(dockerfile)})
	dir, name := filepath.Split(dockerfile)
	for _, file := range []string{name, name + ".dockerignore", ".dockerignore"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		if file == name {
			data = pinned.ReplaceAll(data, nil)
		}
		require.NoError(t, os.WriteFile(filepath.Join(p.Dir, file), data, 0o644))
	}
	return p
}
