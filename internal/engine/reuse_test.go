package engine

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/imagekey"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/runtime/output"
)

// registryOf serves answers to HEAD requests, by path: a digest, or a status below 1000
// as text; others do not exist.
func registryOf(t *testing.T, answers map[string]string) (host string, asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		answer := answers[r.URL.Path]
		if answer == "" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if answer == "gone" {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = c.Close()
			}
			return
		}
		if answer == "denied" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Docker-Content-Digest", answer)
		w.Header().Set("Content-Type", ocispecs.MediaTypeImageIndex)
		w.Header().Set("Content-Length", "3")
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), asked
}

func sessionOf(t *testing.T) (*Session, *notes) {
	said := &notes{}
	e := New(Config{Dir: t.TempDir(), Env: map[string]string{"HOME": t.TempDir()}, Report: said})
	s := e.Open(Request{Nodes: Nodes{Late: true}})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s, said
}

// What becomes of an image depends on what its names stand for and on the registries that have it.
func TestLookUp(t *testing.T) {
	image, other := digest.FromString("image"), digest.FromString("other")
	at := func(repo, ref string) string { return "/v2/" + repo + "/manifests/" + ref }
	host, _ := registryOf(t, map[string]string{
		at("a", "same"): image.String(), at("a", "moved"): other.String(), at("a", image.String()): image.String(),
		at("b", image.String()): image.String(),
	})
	record := imagekey.Record{Image: ocispecs.Descriptor{Digest: image}, Repos: []string{"evil.invalid/x", host + "/a"}}
	for names, want := range map[string]*[]setName{
		"a:same":       {},
		"a:moved":      {{host + "/a:moved", host + "/a"}},
		"a:new,a:same": {{host + "/a:new", host + "/a"}},
		"b:new":        {{host + "/b:new", host + "/b"}},
		"c:new":        {{host + "/c:new", host + "/a"}},
		"a:same,c:new": {{host + "/c:new", host + "/a"}},
		"a@by-digest":  {},
		"c@by-digest":  {{host + "/c", host + "/a"}},
	} {
		s, said := sessionOf(t)
		e := output.Export{Pushed: true}
		for name := range strings.SplitSeq(names, ",") {
			name, byDigest := strings.CutSuffix(name, "@by-digest")
			e.ByDigest = byDigest
			e.Names = append(e.Names, host+"/"+name)
		}
		got := s.images.lookUp(t.Context(), "t", e, record)
		require.NotNil(t, got, names)
		require.Equal(t, *want, append([]setName{}, got.set...), names)
		require.Empty(t, said.warnings)
	}
	// Of several registries one does not answer, or wants another login: a build may do
	// better, as nodes have ways of their own.
	away, _ := registryOf(t, map[string]string{at("a", "1"): "gone"})
	closed, _ := registryOf(t, map[string]string{at("a", "1"): "denied"})
	for _, other := range []string{away, closed} {
		s, said := sessionOf(t)
		require.Nil(t, s.images.lookUp(t.Context(), "t", output.Export{Names: []string{host + "/a:same", other + "/a:1"}}, record))
		require.Len(t, said.warnings, 1)
		require.Contains(t, said.warnings[0], "cannot find out whether images in "+other+" have changed, so they are built")
	}
	// It is gone: no other registry is asked.
	s, said := sessionOf(t)
	record.Repos = []string{"evil.invalid/x"}
	require.Nil(t, s.images.lookUp(t.Context(), "t", output.Export{Names: []string{host + "/c:new"}}, record))
	require.Empty(t, said.warnings)
}

// A registry that does not answer is asked once, and warned of once.
func TestLookUpMute(t *testing.T) {
	answers := map[string]string{}
	for i := range 20 {
		answers[fmt.Sprintf("/v2/a/manifests/%d", i)] = "gone"
	}
	host, asked := registryOf(t, answers)
	s, said := sessionOf(t)
	for i := range 20 {
		e := output.Export{Names: []string{fmt.Sprintf("%s/a:%d", host, i)}}
		require.Nil(t, s.images.lookUp(t.Context(), "t", e, imagekey.Record{Image: ocispecs.Descriptor{Digest: digest.FromString("x")}}))
	}
	require.Len(t, said.warnings, 1)
	require.Less(t, asked.Load(), int64(10), "only the first name is asked for, over TLS and without, and again after a break")
}

// Of a saved plan what is left is carried out.
func TestLeftOf(t *testing.T) {
	images := &Images{kept: []kept{{target: "b"}}}
	build := &plan.Build{Jobs: []plan.Job{
		{Name: "a", Target: &ir.Target{Name: "a"}}, {Name: "c", Target: &ir.Target{Name: "c"}},
	}}
	f := &report.File{
		Targets: []report.FileJob{{Name: "a"}, {Name: "b"}, {Name: "c linux/amd64", Target: "c"}, {Name: "c linux/arm64", Target: "c"}},
		Nodes:   []report.FileNode{{Name: "n1", Partitions: [][]string{{"a", "b"}, {"b"}}}, {Name: "n2", Partitions: [][]string{{"c linux/amd64"}, {"b", "c linux/arm64"}}}},
	}
	left := images.leftOf(f, build)
	require.Equal(t, [][]string{{"a"}}, left.Nodes[0].Partitions)
	require.Equal(t, [][]string{{"c linux/amd64"}, {"c linux/arm64"}}, left.Nodes[1].Partitions)
	require.Len(t, left.Parts, 2)
	require.Equal(t, [][]string{{"a", "b"}, {"b"}}, f.Nodes[0].Partitions, "the file stays as it is")
}

// What writes anything but one pushed image is built.
func TestReusable(t *testing.T) {
	yes, image := true, ir.Output{Type: "image", Attrs: map[string]string{"push": "true"}}
	for name, c := range map[string]struct {
		target ir.Target
		want   bool
	}{
		"a pushed image":           {ir.Target{Tags: []string{"x:1"}, Outputs: []ir.Output{image}}, true},
		"type=registry":            {ir.Target{Tags: []string{"x:1"}, Outputs: []ir.Output{{Type: "registry"}}}, true},
		"its own registry cache":   {ir.Target{Tags: []string{"x:1"}, Outputs: []ir.Output{image}, CacheTo: []ir.CacheEntry{{Type: "registry"}}}, true},
		"an image on the node":     {ir.Target{Tags: []string{"x:1"}, Outputs: []ir.Output{{Type: "image"}}}, false},
		"files":                    {ir.Target{Outputs: []ir.Output{{Type: "local", Dest: "out"}}}, false},
		"the engine":               {ir.Target{Tags: []string{"x:1"}, Outputs: []ir.Output{{Type: "docker"}}}, false},
		"an image and files":       {ir.Target{Tags: []string{"x:1"}, Outputs: []ir.Output{image, {Type: "local", Dest: "out"}}}, false},
		"nothing":                  {ir.Target{}, false},
		"no cache":                 {ir.Target{Tags: []string{"x:1"}, Outputs: []ir.Output{image}, NoCache: &yes}, false},
		"its cache in a directory": {ir.Target{Tags: []string{"x:1"}, Outputs: []ir.Output{image}, CacheTo: []ir.CacheEntry{{Type: "local"}}}, false},
	} {
		s, _ := sessionOf(t)
		_, got := s.images.reusable(&c.target)
		require.Equal(t, c.want, got, name)
	}
}
