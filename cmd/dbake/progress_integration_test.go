//go:build integration

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bkclient "github.com/moby/buildkit/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/registry"
)

// services is a project in which the step of a linked target can fail, one that is
// printed by a hostile step, and one of two platforms.
const services = `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" {}
variable "CODE" { default = "3" }
group "default" { targets = ["api", "web", "other"] }
target "auth" {
  context = "services/auth"
  args = { CODE = CODE }
}
target "api" {
  contexts = { auth = "target:auth" }
  dockerfile-inline = "FROM auth\nRUN echo api"
}
target "web" {
  contexts = { auth = "target:auth" }
  dockerfile-inline = "FROM auth\nRUN echo web"
}
target "other" {
  dockerfile-inline = "FROM busybox:1\nRUN echo other"
}
target "hostile" {
  dockerfile-inline = <<EOT
FROM busybox:1
RUN printf 'a\033[2Jb\n::error file=x::forged\r::error::again\n\000\377end\n'
EOT
}
target "inline" {
  dockerfile-inline = "FROM busybox:1\nRUN exit 4"
}
target "many" {
  platforms = ["linux/amd64", "linux/386"]
  dockerfile-inline = "FROM busybox:1\nARG TARGETARCH\nRUN sleep 2 && echo $TARGETARCH"
  tags = ["${DBAKE_REGISTRY}/progress/many:1"]
  annotations = ["index:org.example.key=value"]
  output = ["type=registry"]
}
-- services/auth/Dockerfile --
FROM busybox:1
ARG CODE
RUN echo auth && exit $CODE
`

// said is a line of --progress rawjson.
type said struct {
	Node    *string
	Targets []string
	bkclient.SolveStatus
	Event   string
	Message string
	Source  struct {
		File string
		Line int
	}
	Summary *struct {
		Targets []struct {
			Name, State, Reason string
			Nodes               []string
		}
		Nodes []struct {
			Name                  string
			StepsRun, StepsCached int
		}
		Built, Pushed int
	}
}

// lines decodes what rawjson has printed: every line is an object.
func lines(t *testing.T, stderr string) []said {
	t.Helper()
	var list []said
	for line := range strings.Lines(stderr) {
		var s said
		require.NoError(t, json.Unmarshal([]byte(line), &s), line)
		require.NotNil(t, s.Node, line)
		require.NotNil(t, s.Targets, line)
		list = append(list, s)
	}
	return list
}

func summaryOf(t *testing.T, list []said) said {
	t.Helper()
	i := slices.IndexFunc(list, func(s said) bool { return s.Summary != nil })
	require.GreaterOrEqual(t, i, 0)
	return list[i]
}

// What is shown of a run on two nodes: whose step each is, who is to blame and where,
// and how much was run.
func TestProgressOnTwoNodes(t *testing.T) {
	w := newWorld(t, 2)
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(services)).Files {
		path := filepath.Join(dir, f.Name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, f.Data, 0o644))
	}
	raw := func(args ...string) (result, []said) {
		r := w.run(dir, append(append([]string{"build", "--progress", "rawjson"}, w.on(2)...), args...)...)
		return r, lines(t, r.stderr)
	}

	t.Run("a linked target fails", func(t *testing.T) {
		r, list := raw("-k")
		require.Equal(t, 1, r.status)
		s := summaryOf(t, list).Summary
		ends := map[string]string{}
		for _, target := range s.Targets {
			ends[target.Name] = target.State
		}
		require.Equal(t, map[string]string{"auth": "failed", "api": "skipped", "web": "skipped", "other": "done"}, ends)
		require.Equal(t, 1, s.Built)
		failures := slices.DeleteFunc(list, func(s said) bool { return s.Event != "error" })
		require.NotEmpty(t, failures)
		for _, f := range failures {
			require.Equal(t, []string{"auth"}, f.Targets)
			require.Equal(t, "services/auth/Dockerfile", f.Source.File)
			require.Equal(t, 3, f.Source.Line)
		}
		plain := w.build(dir, 2)
		require.Contains(t, plain.stderr, "ERROR: services/auth/Dockerfile:3: target auth: ")
		require.Regexp(t, `n[12] \[auth 2/2\] RUN echo auth`, plain.stderr)
		inline := w.build(dir, 2, "inline")
		require.Contains(t, inline.stderr, "ERROR: inline dockerfile-inline:2: target inline: ")
	})

	t.Run("a cached step is not run", func(t *testing.T) {
		r, list := raw("--var", "CODE=0")
		require.Zero(t, r.status, r.stderr)
		ran := 0
		for _, n := range summaryOf(t, list).Summary.Nodes {
			ran += n.StepsRun
		}
		require.Equal(t, 3, ran, "other is held")
		r, list = raw("--var", "CODE=0")
		require.Zero(t, r.status, r.stderr)
		steps := 0
		for _, s := range list {
			for _, v := range s.Vertexes {
				if v.Completed != nil && isStep(v.Name) {
					require.True(t, v.Cached, v.Name)
					require.NotEmpty(t, s.Targets)
					steps++
				}
			}
		}
		require.GreaterOrEqual(t, steps, 4)
		for _, n := range summaryOf(t, list).Summary.Nodes {
			require.Zero(t, n.StepsRun)
		}
	})

	t.Run("hostile output", func(t *testing.T) {
		r := w.build(dir, 2, "hostile")
		require.Zero(t, r.status, r.stderr)
		require.NotContains(t, r.stderr, "\x1b[2J")
		require.NotContains(t, r.stderr, "\x00")
		require.NotRegexp(t, `(?m)(^|\r)\s*::`, r.stderr)
		require.Contains(t, r.stderr, "::error file=x::forged", "what was printed is not hidden")
		_, list := raw("hostile", "--no-cache")
		require.NotEmpty(t, list)
	})

	t.Run("a divided target is one", func(t *testing.T) {
		on := []string{"--nodes", "local:2,slots=1", "--state-dir", w.state}
		shown := w.run(dir, append([]string{"plan", "many"}, on...)...)
		require.Zero(t, shown.status, shown.stderr)
		require.Contains(t, shown.stdout, "many is built in parts, by platform")
		r := w.run(dir, append([]string{"build", "--progress", "rawjson", "many"}, on...)...)
		require.Zero(t, r.status, r.stderr)
		s := summaryOf(t, lines(t, r.stderr)).Summary
		require.Len(t, s.Targets, 1)
		require.ElementsMatch(t, []string{"n1", "n2"}, s.Targets[0].Nodes)
		require.Equal(t, 1, s.Built)
		require.Equal(t, 1, s.Pushed)

		c := registry.New(registry.Options{})
		defer c.Close()
		dt, _, err := c.Manifest(t.Context(), w.registry+"/progress/many:1")
		require.NoError(t, err)
		var index ocispecs.Index
		require.NoError(t, json.Unmarshal(dt, &index))
		require.Equal(t, "value", index.Annotations["org.example.key"])
		var archs []string
		for _, m := range index.Manifests {
			archs = append(archs, m.Platform.Architecture)
		}
		require.Equal(t, []string{"amd64", "386"}, archs[:2])
	})

	t.Run("errors before the run", func(t *testing.T) {
		r, list := raw("nosuch")
		require.NotZero(t, r.status)
		require.Equal(t, "error", list[len(list)-1].Event)
		r, list = raw("--no-such-flag")
		require.Equal(t, 2, r.status)
		require.Len(t, list, 1)
		r = w.run(dir, "build", "--progress", "quiet", "--nodes", "local:2", "--state-dir", w.state, "other", "--set", "other.output=type=cacheonly")
		require.Zero(t, r.status)
		require.Empty(t, r.stderr)
	})
}
