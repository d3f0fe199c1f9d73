//go:build integration

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/runs"
	"github.com/dbake/dbake/runtime/registry"
)

const explainFile = `
variable "DBAKE_REGISTRY" { default = "" }
variable "VERSION" { default = "1" }
variable "MARK" { default = "a" }
target "base" {
  dockerfile-inline = "FROM busybox\nRUN echo ${MARK} > /mark\n"
  tags = ["${DBAKE_REGISTRY}/explain/base:1"]
  output = ["type=registry"]
}
target "app" {
  dockerfile-inline = <<EOT
ARG DBAKE_REGISTRY
FROM $${DBAKE_REGISTRY}/explain/base:1
COPY src /src
ARG VERSION
RUN cat /src/* > /all; echo $VERSION >> /all
RUN cat /all > /more
EOT
  args = { VERSION = VERSION, DBAKE_REGISTRY = DBAKE_REGISTRY }
}
`

// explain runs "dbake explain" for one target.
func (w *world) explain(dir string, args ...string) runs.Explanation {
	w.t.Helper()
	r := w.run(dir, append([]string{"explain", "app", "--format", "json"}, args...)...)
	require.Zero(w.t, r.status, r.stderr)
	var list []runs.Explanation
	require.NoError(w.t, json.Unmarshal([]byte(r.stdout), &list))
	require.Len(w.t, list, 1)
	return list[0]
}

// step returns the only step of an explanation whose name has a text.
func step(t *testing.T, e runs.Explanation, text string) runs.Reasons {
	t.Helper()
	var found []runs.Reasons
	for _, s := range e.Steps {
		if strings.Contains(s.Name, text) {
			found = append(found, s)
		}
	}
	require.Len(t, found, 1, "%s in %v", text, e.Steps)
	return found[0]
}

// After an edit of a file, of an argument, and of a base image, the explanation of the
// last build names just that; and then what was lost.
func TestExplainRun(t *testing.T) {
	w := newWorld(t, 1)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "src"), 0o755))
	for _, name := range []string{"one", "two"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "src", name), []byte("text of "+name), 0o644))
	}
	write(t, dir, explainFile)
	build := func(target string, args ...string) {
		r := w.build(dir, 1, append(args, target)...)
		require.Zero(t, r.status, r.stderr)
	}
	copied, first, second := "COPY src /src", "echo $VERSION", "RUN cat /all"
	build("base")
	build("app")
	e := w.explain(dir)
	require.Empty(t, e.Before)
	require.Equal(t, []runs.Cause{{Kind: runs.CauseFirst}}, step(t, e, copied).Causes)

	build("app")
	e = w.explain(dir)
	for _, s := range e.Steps {
		require.NotEqual(t, runs.Ran, s.Fate, s.Name)
		require.Empty(t, s.Causes, s.Name)
	}

	require.NoError(t, os.WriteFile(filepath.Join(dir, "src", "two"), []byte("other text"), 0o644))
	build("app")
	e = w.explain(dir)
	require.Equal(t, []runs.Cause{{Kind: runs.CauseFile, Name: "src/two", How: "edited"}}, step(t, e, copied).Causes)
	require.Equal(t, runs.Ran, step(t, e, copied).Fate)
	require.Equal(t, []runs.Cause{{Kind: runs.CauseAbove, Name: step(t, e, copied).Name}}, step(t, e, first).Causes)
	require.Equal(t, runs.Source, step(t, e, "FROM").Fate)
	require.Empty(t, step(t, e, "FROM").Causes)

	build("app", "--var", "VERSION=2-secret-2")
	e = w.explain(dir)
	require.Equal(t, runs.Cached, step(t, e, copied).Fate)
	require.Equal(t, []runs.Cause{{Kind: runs.CauseKind(runs.PartArg), Name: "VERSION", How: "edited"}}, step(t, e, first).Causes)
	data, err := os.ReadFile(filepath.Join(w.home, ".cache", "dbake", "runs", e.Run+".json"))
	require.NoError(t, err)
	require.NotContains(t, string(data), "2-secret-2", "names of steps hold no values of arguments")

	build("base", "--var", "MARK=b")
	build("app", "--var", "VERSION=2-secret-2")
	e = w.explain(dir)
	from := step(t, e, "FROM").Causes
	require.Len(t, from, 1)
	require.Equal(t, runs.CauseKind(runs.PartSource), from[0].Kind)
	c := registry.New(registry.Options{})
	defer c.Close()
	pushed, err := c.Resolve(t.Context(), w.registry+"/explain/base:1")
	require.NoError(t, err)
	require.Contains(t, from[0].Now, pushed.Digest.String())
	require.NotContains(t, from[0].Then, pushed.Digest.String())
	require.Equal(t, runs.CauseAbove, step(t, e, copied).Causes[0].Kind)

	build("app", "--var", "VERSION=2-secret-2", "--no-cache")
	e = w.explain(dir)
	require.Equal(t, []runs.Cause{{Kind: runs.CauseNoCache}}, step(t, e, second).Causes)

	// The nodes' own spans are there after a build that asked for them, and only then.
	spans := func() string {
		r := w.run(dir, "trace", "--format", "otlp")
		require.Zero(t, r.status, r.stderr)
		require.True(t, json.Valid([]byte(r.stdout)))
		require.NotContains(t, r.stdout, "2-secret-2")
		return r.stdout
	}
	plain := strings.Count(spans(), `"spanId"`)
	build("app", "--var", "VERSION=2-secret-2", "--no-cache", "--trace")
	require.Greater(t, strings.Count(spans(), `"spanId"`), plain)
	require.Contains(t, spans(), "LLBBridge/Solve")
	require.Contains(t, spans(), "echo $VERSION")

	w.renew(1)
	build("app", "--var", "VERSION=2-secret-2")
	e = w.explain(dir)
	require.Equal(t, []runs.Cause{{Kind: runs.CauseRenewed, Name: "n1"}}, step(t, e, copied).Causes)
	require.Equal(t, runs.CauseAgain, step(t, e, second).Causes[0].Kind)
}
