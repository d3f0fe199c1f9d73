//go:build integration

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// chained links three targets, of which each uses another token: a secret in a
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
