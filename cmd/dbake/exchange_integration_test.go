//go:build integration

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/registry"
)

// Two targets on one parent, whose steps never give the same result twice: what one
// node built is in the image of the other only if it was handed over.
func TestHandOver(t *testing.T) {
	w := newWorld(t, 2)
	t.Run("through the client", func(t *testing.T) {
		p := newParent(t, w, "client")
		p.build(64)
	})
	t.Run("through the registry", func(t *testing.T) {
		p := newParent(t, w, "registry", "--cache-registry", w.registry+"/handed/cache")
		p.build(64)
		// What the registry had before of the steps below makes no difference.
		w.renew(2)
		p.build(65)
	})
}

// parent is a project of two targets on one parent.
type parent struct {
	*world
	t     *testing.T
	dir   string
	name  string
	flags []string
}

func newParent(t *testing.T, w *world, name string, flags ...string) *parent {
	p := &parent{world: w, t: t, dir: t.TempDir(), name: name, flags: flags}
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "file"), []byte(name), 0o644))
	return p
}

// build builds near on the first node and far on the second, with a parent whose
// last step writes n bytes.
func (p *parent) build(n int) {
	t := p.t
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "docker-bake.hcl"), []byte(fmt.Sprintf(`
variable "DBAKE_REGISTRY" { default = "" }
group "default" { targets = ["near", "far"] }
target "parent" {
  dockerfile-inline = <<EOT
FROM busybox
RUN head -c 32 /dev/urandom > /first # %[1]s
COPY file /file
RUN cat /first /file /dev/urandom | head -c %[2]d > /second
EOT
}
target "near" {
  contexts = { parent = "target:parent" }
  dockerfile-inline = "FROM parent\nRUN echo near > /own\n"
  tags = ["${DBAKE_REGISTRY}/%[1]s/near:1"]
  output = ["type=registry"]
}
target "far" {
  contexts = { parent = "target:parent" }
  dockerfile-inline = "FROM parent\nRUN test -s /second && echo far > /own\n"
  tags = ["${DBAKE_REGISTRY}/%[1]s/far:1"]
  output = ["type=registry"]
}
`, p.name, n)), 0o644))
	r := p.run(p.dir, append(append([]string{"plan", "--strategy", "round-robin", "--format", "json", "-o", "plan.json"}, p.on(2)...), p.flags...)...)
	require.Zero(t, r.status, r.stderr)
	saved := readPlan(t, filepath.Join(p.dir, "plan.json"))
	handOver(t, saved)
	var b bytes.Buffer
	require.NoError(t, saved.Write(&b))
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "plan.json"), b.Bytes(), 0o644))

	r = p.run(p.dir, "build", "--no-steal", "--progress", "plain", "plan.json")
	require.Zero(t, r.status, r.stderr)
	require.Regexp(t, `(?m)^near +n1 +built`, r.stderr)
	require.Regexp(t, `(?m)^far +n2 +built`, r.stderr)
	require.Regexp(t, `(?m)^ +n2 +1 +1 +3 `, r.stderr, "one step run, three cached")
	require.NotContains(t, r.stderr, "could not be handed over")
	near, far := layersOf(t, p.registry+"/"+p.name+"/near:1"), layersOf(t, p.registry+"/"+p.name+"/far:1")
	last := len(near) - 1
	require.Len(t, far, last+1)
	require.Equal(t, near[:last], far[:last])
	require.NotEqual(t, near[last], far[last])

	// What was handed over is the node's own from then on.
	before := runSteps(t, p.addrs, "RUN")
	r = p.run(p.dir, "build", "--no-steal", "--progress", "plain", "plan.json")
	require.Zero(t, r.status, r.stderr)
	require.Zero(t, runSteps(t, p.addrs, "RUN")-before, r.stderr)

	left, err := filepath.Glob(filepath.Join(os.TempDir(), "dbake-exchange-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// handOver edits a plan: near is built on the first node and far on the second, which
// takes all steps that both need from the first.
func handOver(t *testing.T, f *plan.File) {
	t.Helper()
	require.Len(t, f.Nodes, 2)
	first, second := &f.Nodes[0], &f.Nodes[1]
	first.Partitions, second.Partitions = [][]string{{"parent", "near"}}, [][]string{{"far"}}
	for i, s := range f.Steps {
		users := map[string]bool{}
		for _, j := range s.Targets {
			users[f.Targets[j].Name] = true
		}
		if users["near"] && users["far"] && (s.Kind == "exec" || s.Kind == "file") {
			second.Fetch = append(second.Fetch, plan.FileFetch{Step: i, From: first.Name})
		}
	}
	require.Len(t, second.Fetch, 3)
}

// layersOf returns the digests of the layers of an image.
func layersOf(t *testing.T, ref string) []string {
	t.Helper()
	c := registry.New(registry.Options{})
	defer c.Close()
	dt, desc, err := c.Manifest(t.Context(), ref)
	require.NoError(t, err)
	if desc.MediaType == ocispecs.MediaTypeImageIndex {
		var index ocispecs.Index
		require.NoError(t, json.Unmarshal(dt, &index))
		name, _, _ := strings.Cut(ref, ":1")
		return layersOf(t, name+"@"+index.Manifests[0].Digest.String())
	}
	var m ocispecs.Manifest
	require.NoError(t, json.Unmarshal(dt, &m))
	var list []string
	for _, l := range m.Layers {
		list = append(list, l.Digest.String())
	}
	return list
}
