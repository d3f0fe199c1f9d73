//go:build integration

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/runtime/registry"
)

// Two targets on one parent, whose steps never give the same result twice: what one
// node built is in the image of the other only if it was transferred.
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

// Every kind of step can be the last that is transferred, among them those that have no
// platform.
func TestHandOverSteps(t *testing.T) {
	w := newWorld(t, 2)
	for name, last := range map[string]string{
		"copy":        "COPY file /file",
		"copy-chown":  "COPY --chown=1:1 --chmod=600 file /file",
		"add":         "ADD file /file",
		"workdir":     "WORKDIR /somewhere/else",
		"heredoc":     "COPY <<EOF /file\nsome text\nEOF",
		"copy-from":   "COPY --from=made /made /made",
		"copy-link":   "COPY --link file /file",
		"link-from":   "COPY --link --from=made /made /made",
		"several":     "COPY file /one\nWORKDIR /two\nCOPY --from=made /made three",
		"run-mounted": "RUN --mount=from=made,target=/mnt cp /mnt/made /made",
	} {
		t.Run(name, func(t *testing.T) {
			p := newParent(t, w, name)
			p.lines = "FROM busybox AS made\nRUN head -c 32 /dev/urandom > /made # " + name + "\nFROM busybox\nRUN head -c 32 /dev/urandom > /first # " + name + "\n" + last
			p.check = "true"
			p.build(0)
		})
	}
}

// parent is a project of two targets on one parent.
type parent struct {
	*world
	t     *testing.T
	dir   string
	name  string
	lines string // of its Dockerfile
	check string // that its result is there
	flags []string
}

func newParent(t *testing.T, w *world, name string, flags ...string) *parent {
	p := &parent{world: w, t: t, dir: t.TempDir(), name: name, check: "test -s /second", flags: flags}
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "file"), []byte(name), 0o644))
	return p
}

// build builds near on the first node and far on the second, with a parent whose
// last step writes n bytes.
func (p *parent) build(n int) {
	t := p.t
	t.Helper()
	lines := p.lines
	if lines == "" {
		lines = fmt.Sprintf("FROM busybox\nRUN head -c 32 /dev/urandom > /first # %s\nCOPY file /file\nRUN cat /first /file /dev/urandom | head -c %d > /second", p.name, n)
	}
	write(t, p.dir, fmt.Sprintf(`
variable "DBAKE_REGISTRY" { default = "" }
group "default" { targets = ["near", "far"] }
target "parent" {
  dockerfile-inline = <<EOT
%[2]s
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
  dockerfile-inline = "FROM parent\nRUN %[3]s && echo far > /own\n"
  tags = ["${DBAKE_REGISTRY}/%[1]s/far:1"]
  output = ["type=registry"]
}
`, p.name, lines, p.check))
	r := p.run(p.dir, append(append([]string{"plan", "--strategy", "round-robin", "--format", "json", "-o", "plan.json"}, p.on(2)...), p.flags...)...)
	require.Zero(t, r.status, r.stderr)
	saved := readPlan(t, filepath.Join(p.dir, "plan.json"))
	taken := transferShared(t, saved)
	var b bytes.Buffer
	require.NoError(t, saved.Write(&b))
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "plan.json"), b.Bytes(), 0o644))

	r = p.run(p.dir, "build", "--no-steal", "--progress", "plain", "--state-dir", p.state, "plan.json")
	require.Zero(t, r.status, r.stderr)
	require.Regexp(t, `(?m)^near +n1 +built`, r.stderr)
	require.Regexp(t, `(?m)^far +n2 +built`, r.stderr)
	// What a document says is not transferred: it is in the file.
	ran := 1 + strings.Count(lines, "<<EOF")
	require.Regexp(t, fmt.Sprintf(`(?m)^ +n2 +1 +%d +%d `, ran, taken+1-ran), r.stderr, "one step run, the others cached")
	require.NotContains(t, r.stderr, "could not be transferred")
	near, far := layersOf(t, p.registry+"/"+p.name+"/near:1"), layersOf(t, p.registry+"/"+p.name+"/far:1")
	last := len(near) - 1
	require.Len(t, far, last+1)
	require.Equal(t, near[:last], far[:last])
	require.NotEqual(t, near[last], far[last])

	explained := p.run(p.dir, append(append([]string{"plan", "--explain", "far"}, p.on(2)...), p.flags...)...)
	require.Zero(t, explained.status, explained.stderr)
	require.Regexp(t, `measured \d+×: results go from node to node through`, explained.stdout)

	// What was transferred is the node's own from then on.
	before := runSteps(t, p.addrs, "RUN")
	r = p.run(p.dir, "build", "--no-steal", "--progress", "plain", "--state-dir", p.state, "plan.json")
	require.Zero(t, r.status, r.stderr)
	require.Zero(t, runSteps(t, p.addrs, "RUN")-before, r.stderr)

	left, err := filepath.Glob(filepath.Join(p.tmp, "dbake-exchange-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	for i, flag := range p.flags {
		if flag != "--cache-registry" {
			continue
		}
		// The caches of the targets stay, those that were only on their way do not.
		tags := tagsOf(t, p.flags[i+1])
		require.NotEmpty(t, tags)
		require.NotContains(t, strings.Join(tags, " "), ".step-")
	}
}

// tagsOf lists the tags of a repository.
func tagsOf(t *testing.T, repo string) []string {
	t.Helper()
	c := registry.New(registry.Options{})
	defer c.Close()
	tags, err := c.Tags(t.Context(), repo)
	require.NoError(t, err)
	return tags
}

// transferShared edits a plan: near is built on the first node and far on the second, which
// takes all steps that both need from the first. It returns how many those are.
func transferShared(t *testing.T, f *report.File) int {
	t.Helper()
	require.Len(t, f.Nodes, 2)
	first, second := &f.Nodes[0], &f.Nodes[1]
	first.Partitions, second.Partitions = [][]string{{"parent", "near"}}, [][]string{{"far"}}
	for _, n := range []*report.FileNode{first, second} {
		n.Fetch, n.Build = nil, nil // what the plan had for other places
	}
	for i, s := range f.Steps {
		users := map[string]bool{}
		for _, j := range s.Targets {
			users[f.Targets[j].Name] = true
		}
		if users["near"] && users["far"] && slices.Contains([]string{"exec", "file", "merge", "diff"}, s.Kind) {
			second.Fetch = append(second.Fetch, report.FileFetch{Step: i, From: first.Name})
		}
	}
	require.NotEmpty(t, second.Fetch)
	return len(second.Fetch)
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
