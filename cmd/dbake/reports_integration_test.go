//go:build integration

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// TestReports builds, in small, what users have reported of bake and of BuildKit as
// broken or hard to understand, on two nodes.
func TestReports(t *testing.T) {
	w := newWorld(t, 2)
	build := func(t *testing.T, dir string, args ...string) result {
		t.Helper()
		return w.build(dir, 2, append(args, "--allow", "fs="+dir, "--var", "DBAKE_REGISTRY="+w.registry)...)
	}
	built := func(t *testing.T, dir string, args ...string) string {
		t.Helper()
		r := build(t, dir, args...)
		require.Zero(t, r.status, r.stderr)
		return r.stderr
	}

	t.Run("names of files", func(t *testing.T) {
		dir := project(t, `
-- compose.yaml --
services:
  eins:
    build: {context: ./服务, args: {WHO: eins}}
  zwei:
    build: {context: ./服务, args: {WHO: zwei}}
-- 服务/Dockerfile --
FROM busybox
ARG WHO
COPY ["new\nline.txt", "/a.txt"]
COPY . /all/
RUN [ "$(cat /a.txt)" = nl ] && [ "$(cat '/all/ü b.txt')" = ü ] && [ "$(cat "/all/$(printf 't\tab "q" \\b.txt')")" = tab ] && echo $WHO
`)
		for name, text := range map[string]string{"new\nline.txt": "nl", "ü b.txt": "ü", "t\tab \"q\" \\b.txt": "tab"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "服务", name), []byte(text), 0o644))
		}
		require.Contains(t, built(t, dir, "-f", "compose.yaml", "--set", "*.output=type=cacheonly"), "2 of 2 targets built")
	})

	t.Run("files that differ in content only", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
target "one" {
  contexts          = { ctx = "a" }
  dockerfile-inline = "FROM busybox AS s\nRUN --mount=from=ctx,target=/ctx cp /ctx/t.txt /t.txt\nFROM scratch\nCOPY --from=s /t.txt /\n"
  output            = ["type=local,dest=out/one"]
}
target "two" {
  inherits = ["one"]
  contexts = { ctx = "b" }
  output   = ["type=local,dest=out/two"]
}
target "three" {
  dockerfile = "a/Dockerfile"
  output     = ["type=local,dest=out/three"]
}
target "four" {
  dockerfile = "b/Dockerfile"
  output     = ["type=local,dest=out/four"]
}
-- a/Dockerfile --
FROM scratch
COPY . /a
-- a/Dockerfile.dockerignore --
b
-- a/t.txt --
a
-- b/Dockerfile --
FROM scratch
COPY . /b
-- b/t.txt --
b
`)
		moment := time.Unix(1700000000, 0)
		for _, name := range []string{"a/Dockerfile", "a/t.txt", "b/Dockerfile", "b/t.txt"} {
			require.NoError(t, os.Chtimes(filepath.Join(dir, name), moment, moment))
		}
		for _, targets := range [][]string{{"one"}, {"two"}, {"one", "two"}} {
			built(t, dir, targets...)
			for _, target := range targets {
				require.Equal(t, map[string]string{"one": "a\n", "two": "b\n"}[target], read(t, dir, "out", target, "t.txt"))
			}
		}
		built(t, dir, "three", "four")
		require.FileExists(t, filepath.Join(dir, "out", "three", "a", "a", "t.txt"))
		require.NoDirExists(t, filepath.Join(dir, "out", "three", "a", "b"), "it is ignored")
		require.FileExists(t, filepath.Join(dir, "out", "four", "b", "a", "t.txt"))
		require.FileExists(t, filepath.Join(dir, "out", "four", "b", "b", "t.txt"))
	})

	t.Run("secrets of one id", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
variable "SECRETS" { default = { a = ["id=tok,src=a.txt"], b = ["id=tok,src=b.txt"], c = [], d = ["id=tok,src=empty.txt"], e = ["id=tok,env=EMPTY"], f = ["id=tok,env=UNSET"] } }
target "default" {
  name   = x
  matrix = { x = keys(SECRETS) }
  secret = SECRETS[x]
  output = ["type=local,dest=out/${x}"]
}
-- Dockerfile --
FROM busybox
RUN --mount=type=secret,id=tok if [ -e /run/secrets/tok ]; then echo "got:$(cat /run/secrets/tok)" > /r; else echo none > /r; fi
FROM scratch
COPY --from=0 /r /r
-- a.txt --
AAA
-- b.txt --
BBB
-- empty.txt --
`)
		r := remoteRun(t, w, dir, []string{"EMPTY="}, append([]string{"build", "--no-cache", "--allow", "fs=" + dir}, w.on(2)...)...)
		require.Zero(t, r.status, r.stderr)
		for target, want := range map[string]string{"a": "got:AAA", "b": "got:BBB", "c": "none", "d": "got:", "e": "got:", "f": "none"} {
			require.Equal(t, want+"\n", read(t, dir, "out", target, "r"), target)
		}
	})

	t.Run("a compose secret from the environment", func(t *testing.T) {
		dir := project(t, `
-- compose.yaml --
secrets:
  FOO:
    environment: BAR
services:
  test:
    image: reports/test
    build:
      context: .
      secrets: [FOO]
      dockerfile_inline: |
        FROM busybox
        RUN --mount=type=secret,id=FOO,env=V echo "got:$$V" > /r
        FROM scratch
        COPY --from=0 /r /r
-- .env --
BAR=from-dotenv
`)
		args := append([]string{"build", "--no-cache", "-f", "compose.yaml", "--allow", "fs=" + dir, "--set", "*.output=type=local,dest=out"}, w.on(2)...)
		// The file .env is for what is interpolated; a secret is of the environment.
		for want, env := range map[string][]string{"got:": nil, "got:from-env": {"BAR=from-env"}} {
			r := remoteRun(t, w, dir, env, args...)
			require.Zero(t, r.status, r.stderr)
			require.NotContains(t, r.stderr, "from-")
			require.Equal(t, want+"\n", read(t, dir, "out", "r"))
		}
	})

	t.Run("one directory for several", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
target "cache" {
  name       = "cache${n}"
  matrix     = { n = ["1", "2", "3", "4"] }
  dockerfile-inline = "FROM busybox\nRUN head -c 100000 /dev/urandom > /f; echo ${n}\n"
  cache-from = ["type=local,src=cache"]
  cache-to   = ["type=local,dest=cache,mode=max"]
  output     = ["type=cacheonly"]
}
target "layout" {
  name   = "layout${n}"
  matrix = { n = ["1", "2", "3", "4"] }
  dockerfile-inline = "FROM busybox\nRUN echo ${n} > /n\n"
  tags   = ["several/t:${n}"]
  output = ["type=oci,tar=false,dest=layout"]
}
`)
		require.Contains(t, built(t, dir, "cache"), "the last to finish overwrites the others")
		built(t, dir, "layout")
		var index ocispecs.Index
		require.NoError(t, json.Unmarshal([]byte(read(t, dir, "layout", "index.json")), &index))
		var names []string
		for _, m := range index.Manifests {
			names = append(names, strings.TrimPrefix(m.Annotations["io.containerd.image.name"], "docker.io/"))
		}
		require.ElementsMatch(t, []string{"several/t:1", "several/t:2", "several/t:3", "several/t:4"}, names)
	})

	t.Run("an index that is none", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" {}
target "default" {
  dockerfile-inline = "FROM scratch\nCOPY docker-bake.hcl /f\n"
  attest      = ["type=provenance,disabled=true"]
  annotations = ["index:com.example.a=idx"]
  tags        = ["${DBAKE_REGISTRY}/reports/single:1"]
  output      = ["type=image,push=true"]
}
`)
		r := build(t, dir)
		require.NotZero(t, r.status)
		require.Contains(t, r.stderr, "index annotations not supported for single platform export")
		_, _, err := registryClient(t).Manifest(t.Context(), w.registry+"/reports/single:1")
		require.Error(t, err)
	})

	t.Run("contexts of a linked target", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
target "lib" {
  contexts          = { extra = "extra" }
  dockerfile-inline = "FROM busybox\nCOPY --from=extra x /x\n"
}
target "app" {
  contexts          = { lib = "target:lib" }
  dockerfile-inline = "FROM lib AS s\nRUN cat /x > /y\nFROM scratch\nCOPY --from=s /y /\n"
  output            = ["type=local,dest=out"]
}
-- extra/x --
extra
-- other/x --
other
`)
		built(t, dir, "app")
		require.Equal(t, "extra\n", read(t, dir, "out", "y"))
		built(t, dir, "app", "--set", "lib.contexts.extra=other")
		require.Equal(t, "other\n", read(t, dir, "out", "y"))
	})

	t.Run("pushing what is linked", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" {}
target "mid" {
  dockerfile-inline = "FROM busybox\nRUN echo mid > /m\n"
}
target "app" {
  name     = "app${n}"
  matrix   = { n = ["1", "2"] }
  contexts = { mid = "target:mid" }
  dockerfile-inline = "FROM mid\nRUN echo app${n} > /a\n"
  tags     = ["${DBAKE_REGISTRY}/reports/app${n}:1"]
}
`)
		require.Contains(t, built(t, dir, "--push", "app"), "2 images pushed")
		r := build(t, dir, "--push", "mid", "app", "--set", "*.args.X=2")
		require.NotZero(t, r.status)
		require.Contains(t, r.stderr, "target mid: tag is needed when pushing to registry")
		require.NotContains(t, r.stderr, "pushed")
	})

	t.Run("a saved plan that holds a time", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" {}
target "default" {
  dockerfile-inline = "FROM busybox\nRUN echo stamp > /d\n"
  tags   = ["${DBAKE_REGISTRY}/reports/stamp:${formatdate("YYYYMMDDhhmmss", timestamp())}-${uuidv4()}"]
  output = ["type=image,push=true"]
}
`)
		r := w.run(dir, append([]string{"plan", "--format", "json", "-o", "plan.json", "--var", "DBAKE_REGISTRY=" + w.registry}, w.on(2)...)...)
		require.Zero(t, r.status, r.stderr)
		r = w.run(dir, append([]string{"build", "plan.json"}, w.on(2)...)...)
		require.Zero(t, r.status, r.stderr)
		tags, err := registryClient(t).Tags(t.Context(), w.registry+"/reports/stamp")
		require.NoError(t, err)
		require.Len(t, tags, 1)
		var saved struct{ World struct{ Time time.Time } }
		require.NoError(t, json.Unmarshal([]byte(read(t, dir, "plan.json")), &saved))
		require.Regexp(t, "^"+saved.World.Time.UTC().Format("20060102150405")+"-", tags[0])
	})

	t.Run("archives on standard output", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
target "default" {
  dockerfile-inline = "FROM scratch\nCOPY docker-bake.hcl /hello\n"
}
`)
		for typ, file := range map[string]string{"oci": "oci-layout", "tar": "hello"} {
			r := build(t, dir, "--set", "default.output=type="+typ)
			require.Zero(t, r.status, r.stderr)
			names := exec.Command("tar", "tf", "-")
			names.Stdin = strings.NewReader(r.stdout)
			out, err := names.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, strings.Split(string(out), "\n"), file)
		}
	})

	t.Run("many large Dockerfiles in one graph", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
target "default" {
  name   = "t${n}"
  matrix = { n = [for i in range(120): "${i}"] }
  dockerfile-inline = "# ${join("", [for i in range(900): "filler ${n} ${i} `+strings.Repeat("x", 150)+`\n# "])}\nFROM scratch\nLABEL n=${n}\nCOPY docker-bake.hcl /x${n}\n"
  output = ["type=cacheonly"]
}
`)
		require.Contains(t, built(t, dir, "--strategy", "single", "--no-steal"), "120 of 120 targets built")
	})

	t.Run("much output before the error", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
target "default" {
  dockerfile-inline = <<EOT
FROM busybox
RUN yes "a line of seventy characters, which says nothing at all that would help" | head -n 40000; echo "THE REAL ERROR: missing foo.h" >&2; exit 3
EOT
  output = ["type=cacheonly"]
}
`)
		r := build(t, dir)
		require.NotZero(t, r.status)
		_, said, found := strings.Cut(r.stderr, "\nERROR: ")
		require.True(t, found)
		require.Contains(t, said, "  THE REAL ERROR: missing foo.h\n")
	})

	t.Run("files that change meanwhile", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
target "default" {
  context = "ctx"
  dockerfile-inline = "FROM busybox AS s\nRUN echo started && sleep 2\nCOPY . /c\nRUN cat /c/f > /out\nFROM scratch\nCOPY --from=s /out /out\n"
  output = ["type=local,dest=out"]
}
-- ctx/f --
before
`)
		for i := range 400 {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "ctx", fmt.Sprint("f", i)), bytes.Repeat([]byte("x"), 1000), 0o644))
		}
		stderr, _, status := w.begin(dir, 2, "--allow", "fs="+dir)
		var shown strings.Builder
		awaitLine(t, io.TeeReader(stderr, &shown), "started")
		for name, change := range map[string]func(path string) error{
			"f":  func(path string) error { return os.WriteFile(path, []byte("after\n"), 0o644) },
			"f1": os.Remove,
			"f2": func(path string) error { return os.Truncate(path, 0) },
			"f3": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("y"), 100000), 0o644) },
		} {
			require.NoError(t, change(filepath.Join(dir, "ctx", name)))
		}
		rest := readAll(t, stderr)
		if status() == 0 {
			require.Contains(t, []string{"before\n", "after\n"}, read(t, dir, "out", "out"))
		} else {
			require.Regexp(t, `ERROR: .*\bf\d*\b`, rest, shown.String())
		}
		built(t, dir)
		require.Equal(t, "after\n", read(t, dir, "out", "out"))
	})

	t.Run("a step that ignores signals", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" {}
target "default" {
  dockerfile-inline = "FROM busybox\nRUN trap '' TERM INT; echo waiting; sleep 86397\n"
  tags   = ["${DBAKE_REGISTRY}/reports/deaf:1"]
  output = ["type=image,push=true"]
}
`)
		for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
			cmd := w.command(dir, append([]string{"build", "--progress", "plain", "-k", "--var", "DBAKE_REGISTRY=" + w.registry}, w.on(2)...)...)
			stderr, status := start(t, cmd)
			awaitLine(t, stderr, "waiting")
			require.NoError(t, cmd.Process.Signal(sig))
			rest := readAll(t, stderr)
			require.Equal(t, 130, status(), rest)
			require.Contains(t, rest, "0 images pushed")
			require.Eventually(t, func() bool { return len(processes(t, "sleep 86397")) == 0 }, time.Minute, 50*time.Millisecond)
		}
	})

	t.Run("a cache mount that is locked", func(t *testing.T) {
		// A mount holds what it held before, or nothing: that is up to the node.
		dir := project(t, `
-- docker-bake.hcl --
variable "STEP" { default = "RUN --mount=type=cache,id=shared,target=/c,sharing=locked [ ! -e /c/busy ] && touch /c/busy && sleep 0.4 && rm /c/busy" }
target "default" {
  name   = "t${n}"
  matrix = { n = ["1", "2", "3", "4", "5", "6"] }
  dockerfile-inline = "FROM busybox\n${STEP}; echo ${n} >> /c/log\n"
  output = ["type=cacheonly"]
}
target "chain" {
  contexts = { p = "target:t1" }
  dockerfile-inline = "FROM p\n${STEP}\n"
  output = ["type=cacheonly"]
}
`)
		args := append([]string{"build", "--progress", "plain", "--no-cache", "default", "chain"}, w.on(2)...)
		var both sync.WaitGroup
		var results [2]result
		for i := range results {
			both.Go(func() { results[i] = w.run(dir, args...) })
		}
		both.Wait()
		for _, r := range results {
			require.Zero(t, r.status, r.stderr)
			require.Contains(t, r.stderr, "7 of 7 targets built")
		}
	})

	t.Run("git contexts with tokens of their own", func(t *testing.T) {
		one := gitServer(t, gitRepository(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "one"}), "tok-one")
		two := gitServer(t, gitRepository(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "two"}), "tok-two")
		dir := project(t, fmt.Sprintf(`
-- docker-bake.hcl --
target "one" {
  context = "%s"
  secret  = ["id=GIT_AUTH_TOKEN,env=TOK1"]
  output  = ["type=local,dest=out/one"]
}
target "two" {
  context = "%s"
  secret  = ["id=GIT_AUTH_TOKEN,env=TOK2"]
  output  = ["type=local,dest=out/two"]
}
target "user" {
  contexts          = { one = "target:one" }
  dockerfile-inline = "FROM scratch\nCOPY --from=one /f /f\n"
  output            = ["type=local,dest=out/user"]
}
`, one, two))
		for _, targets := range [][]string{{"user"}, {"one", "two", "user"}} {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "out")))
			args := append([]string{"build", "--no-cache", "--allow", "fs=" + dir}, w.on(2)...)
			r := remoteRun(t, w, dir, []string{"TOK1=tok-one", "TOK2=tok-two"}, append(args, targets...)...)
			require.Zero(t, r.status, r.stderr)
			for _, target := range targets {
				require.Equal(t, map[string]string{"one": "one", "two": "two", "user": "one"}[target], read(t, dir, "out", target, "f"))
			}
		}
	})

	t.Run("a user who may not read all", func(t *testing.T) {
		addr := node(t, fmt.Sprintf("[registry.\"docker.io\"]\n  mirrors = [%q]\n[registry.%[1]q]\n  http = true\n", w.registry))
		socket := strings.TrimPrefix(addr, "unix://")
		require.NoError(t, os.Chmod(socket, 0o666))
		require.NoError(t, os.Chmod(filepath.Dir(socket), 0o711))
		top, err := os.MkdirTemp("", "reports")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, os.RemoveAll(top)) })
		require.NoError(t, os.Chmod(top, 0o777))
		require.NoError(t, os.CopyFS(top, os.DirFS(project(t, `
-- docker-bake.hcl --
target "default" {
  output = ["type=cacheonly"]
}
-- Dockerfile --
FROM busybox
WORKDIR /work
ADD ./ ./
RUN [ "$(find . -type f)" = ./file ]
-- .dockerignore --
*
!/file
-- file --
-- closed/file --
`))))
		require.NoError(t, os.Chmod(filepath.Join(top, "closed"), 0o700))
		program, err := os.ReadFile(w.dbake)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(top, "dbake"), program, 0o755))
		cmd := exec.Command(filepath.Join(top, "dbake"), "build", "--progress", "plain", "--nodes", addr)
		cmd.Dir, cmd.Env = top, []string{"HOME=" + filepath.Join(top, "home"), "PATH=" + os.Getenv("PATH"), "TMPDIR=" + top}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	})

	// It comes last, as it replaces the nodes.
	t.Run("caches in images", func(t *testing.T) {
		dir := project(t, `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" {}
target "default" {
  name   = "t${n}"
  matrix = { n = ["1", "2", "3"] }
  dockerfile-inline = "FROM busybox\nRUN echo shared > /s\nRUN echo ${n} > /n\nCOPY docker-bake.hcl /\n"
  tags       = ["${DBAKE_REGISTRY}/inline/t${n}:1"]
  cache-from = ["${DBAKE_REGISTRY}/inline/t${n}:1"]
  cache-to   = ["type=inline"]
  output     = ["type=image,push=true"]
}
`)
		built(t, dir, "--no-cache")
		w.renew(2)
		built(t, dir)
		require.Zero(t, runSteps(t, w.addrs, "RUN"))
		for n := 1; n <= 3; n++ {
			_, err := registryClient(t).Config(t.Context(), fmt.Sprintf("%s/inline/t%d:1", w.registry, n), platforms.DefaultSpec())
			require.NoError(t, err)
		}
	})
}
