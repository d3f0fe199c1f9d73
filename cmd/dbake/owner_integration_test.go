//go:build integration

package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// chained links three targets; each uses another token: a secret in a
// file, one in the environment, an agent, the git repository and the file that are
// fetched. The last declares nothing, and the middle one other sources for the
// same ids.
const chained = `
-- docker-bake.hcl --
target "low" {
  secret = ["id=token,env=LOW", "id=GIT_AUTH_TOKEN,env=GIT_ONE", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=LOW"]
  ssh    = ["default"]
  output = ["type=cacheonly"]
  dockerfile-inline = <<EOT
FROM busybox:1
RUN --mount=type=secret,id=token [ "$(cat /run/secrets/token)" = low-value ]
RUN --mount=type=secret,id=token,env=T [ "$T" = low-value ]
RUN --mount=type=ssh,required=true test -S "$SSH_AUTH_SOCK"
ADD %[1]s /one
ADD %[3]s/low /file
EOT
}
target "mid" {
  contexts = { low = "target:low" }
  secret   = ["id=token,env=MID", "id=GIT_AUTH_TOKEN,env=GIT_TWO", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=MID"]
  output   = ["type=cacheonly"]
  dockerfile-inline = <<EOT
FROM low
RUN --mount=type=secret,id=token [ "$(cat /run/secrets/token)" = mid-value ]
RUN --mount=type=ssh test ! -S "$SSH_AUTH_SOCK"
ADD %[2]s /two
ADD %[3]s/mid /file-of-mid
EOT
}
target "top" {
  contexts = { mid = "target:mid" }
  output   = ["type=cacheonly"]
  dockerfile-inline = <<EOT
FROM mid
RUN --mount=type=secret,id=token test ! -e /run/secrets/token && cat /one/f /two/f /file /file-of-mid
ADD %[3]s/open /open
EOT
}
`

// TestLinkedTargetsKeepTheirs builds targets that are only linked, on one node and
// on two: their steps get what their own target declares.
func TestLinkedTargetsKeepTheirs(t *testing.T) {
	w := newWorld(t, 2)
	one := gitServer(t, gitRepository(t, map[string]string{"f": "one"}), "tok-one")
	two := gitServer(t, gitRepository(t, map[string]string{"f": "two"}), "tok-two")
	files := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		want := map[string]string{"/low": "Bearer low-value", "/mid": "Bearer mid-value", "/open": ""}
		if got, ok := want[r.URL.Path]; !ok || got != r.Header.Get("Authorization") {
			rw.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprintln(rw, r.URL.Path)
	}))
	t.Cleanup(files.Close)
	dir := project(t, fmt.Sprintf(chained, one, two, files.URL))
	key, _ := newKey(t)
	env := []string{"LOW=low-value", "MID=mid-value", "GIT_ONE=tok-one", "GIT_TWO=tok-two", "SSH_AUTH_SOCK=" + startAgent(t, key)}
	for nodes := 1; nodes <= 2; nodes++ {
		for _, targets := range [][]string{{"top"}, {"low", "mid", "top"}} {
			args := append([]string{"build", "--progress", "plain", "--no-cache", "--allow", "ssh"}, w.on(nodes)...)
			r := remoteRun(t, w, dir, env, append(args, targets...)...)
			require.Zero(t, r.status, "%v on %d\n%s", targets, nodes, r.stderr)
		}
	}
}

// TestURLsKeepSecrets builds with a password in a URL and looks for it in all that is
// printed and kept on this machine. What a node remembers of a build is its own.
func TestURLsKeepSecrets(t *testing.T) {
	w := newWorld(t, 1)
	home := t.TempDir()
	w.home = home
	files := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "pa55w0rd" {
			rw.WriteHeader(http.StatusForbidden)
		}
	}))
	t.Cleanup(files.Close)
	repository := gitServer(t, gitRepository(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}), "pa55w0rd")
	with := func(url string) string { return strings.Replace(url, "http://", "http://user:pa55w0rd@", 1) }
	dir := project(t, fmt.Sprintf(`
-- docker-bake.hcl --
group "default" { targets = ["add", "git"] }
target "add" {
  dockerfile-inline = "FROM busybox:1\nADD %s/file /file\nRUN true\n"
  output            = ["type=cacheonly"]
}
target "git" {
  context = "%s"
  output  = ["type=oci,dest=git.tar"]
}
target "gone" {
  dockerfile-inline = "FROM busybox:1\nADD %s/x.git /file\nRUN true\n"
  output            = ["type=cacheonly"]
}
`, with(files.URL), with(repository), with(repository+"/none")))
	for _, args := range [][]string{
		{"build", "--progress", "plain", "--metadata-file", filepath.Join(home, "md.json")},
		{"build", "--progress", "rawjson", "--no-cache"},
		{"--debug", "build", "--progress", "plain", "gone"},
		{"plan", "--format", "json", "-o", filepath.Join(home, "plan.json"), "add"},
		{"plan", "--explain", "add", "add"},
	} {
		r := w.run(dir, append(args, w.on(1)...)...)
		require.Equal(t, args[len(args)-1] == "gone", r.status != 0, "%v\n%s", args, r.stderr)
		require.NotContains(t, r.stdout+r.stderr, "pa55w0rd", args)
	}
	require.NoError(t, filepath.WalkDir(home, func(name string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		if !entry.Type().IsRegular() {
			return nil
		}
		dt, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NotContains(t, string(dt), "pa55w0rd", name)
		return nil
	}))
}

// TestFaultsOfOne has targets that share a directory in which there is a file whose
// name is not UTF-8, and some that cannot be built: these hurt no other.
func TestFaultsOfOne(t *testing.T) {
	w := newWorld(t, 2)
	dir := project(t, `
-- docker-bake.hcl --
group "default" { targets = ["all", "one"] }
group "faulty" { targets = ["all", "one", "gone", "user", "git", "base", "ignore"] }
target "_" { output = ["type=cacheonly"] }
target "all" {
  inherits = ["_"]
  dockerfile-inline = "FROM busybox:1\nCOPY . /c/\nRUN ls -A /c | wc -l && grep -q odd /c/bad-*-name.txt\n"
}
target "one" {
  inherits = ["_"]
  dockerfile-inline = "FROM busybox:1\nCOPY ok.txt /\n"
}
target "gone" {
  inherits = ["_"]
  context  = "gone"
}
target "user" {
  inherits = ["_"]
  contexts = { gone = "target:gone" }
  dockerfile-inline = "FROM gone\n"
}
target "git" {
  inherits = ["_"]
  context  = "http://127.0.0.1:1/x.git"
}
target "base" {
  inherits = ["_"]
  dockerfile-inline = "FROM 127.0.0.1:1/nothing:1\n"
}
target "ignore" {
  inherits = ["_"]
  context  = "ignore"
}
target "token" {
  inherits = ["one"]
  secret   = ["id=token,src=none.txt"]
}
-- ok.txt --
-- ignore/Dockerfile --
FROM busybox:1
-- ignore/.dockerignore --
[
`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bad-\xff-name.txt"), []byte("odd"), 0o600))
	r := w.build(dir, 2)
	require.Zero(t, r.status, r.stderr)

	r = w.build(dir, 2, "--jobs=defer-error", "faulty", "token")
	require.NotZero(t, r.status)
	for target, text := range map[string]string{
		"all": "built", "one": "built", "gone": "failed: .*path \"gone\" not found", "user": "skipped: gone failed",
		"token": "failed: .*target token: failed to stat none.txt", "git": "failed: ", "base": "failed: ", "ignore": "failed: ignore/.dockerignore:1",
	} {
		require.Regexp(t, `(?m)^`+target+` +\S+ +`+text, r.stderr)
	}

	r = w.build(dir, 2, "faulty")
	require.NotZero(t, r.status)
	require.Contains(t, r.stderr, "target gone: ")
	require.NotContains(t, r.stderr, "built")
}

const told = `
-- docker-bake.hcl --
group "default" { targets = ["pub", "priv"] }
target "pub" {
  args   = { V = "public-value" }
  output = ["type=oci,dest=pub.tar"]
}
target "priv" {
  args   = { V = "PRIVATE-canary-77" }
  secret = ["id=tok,env=TOK"]
  output = ["type=oci,dest=priv.tar"]
}
-- Dockerfile --
FROM busybox:1
ARG V
MAINTAINER me
RUN --mount=type=secret,id=tok echo $V > /v
`

// TestToldOfBuilds looks at what the metadata file holds besides the outputs: where
// the build stands in the history of a node, its provenance, and warnings. Nothing in
// it is of another target, or a secret.
func TestToldOfBuilds(t *testing.T) {
	w := newWorld(t, 1)
	dir := project(t, told)
	for mode, steps := range map[string]bool{"min": false, "max": true, "disabled": false} {
		env := []string{"TOK=TOKCANARY", "BUILDX_METADATA_PROVENANCE=" + mode, "BUILDX_METADATA_WARNINGS=1"}
		file := filepath.Join(t.TempDir(), "md.json")
		r := remoteRun(t, w, dir, env, append([]string{"build", "--metadata-file", file}, w.on(1)...)...)
		require.Zero(t, r.status, r.stderr)
		dt, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NotContains(t, string(dt), "TOKCANARY")
		var md map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(dt, &md))
		require.Contains(t, string(md["buildx.build.warnings"]), `"url"`)
		require.NotContains(t, string(md["pub"]), "canary-77")
		for _, target := range []string{"pub", "priv"} {
			var m struct {
				Ref        string          `json:"buildx.build.ref"`
				Provenance json.RawMessage `json:"buildx.build.provenance"`
			}
			require.NoError(t, json.Unmarshal(md[target], &m))
			require.Regexp(t, `^dbake/n1/\w+$`, m.Ref)
			require.Equal(t, mode != "disabled", len(m.Provenance) > 0, mode)
			require.Equal(t, steps, strings.Contains(string(m.Provenance), "llbDefinition"), "%s\n%s", mode, m.Provenance)
		}
	}
}
