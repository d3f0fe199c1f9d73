package cachestore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/moby/buildkit/cache/remotecache/v1/types"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/registry"
)

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard) // the registry's own log
	os.Exit(m.Run())
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a real registry in memory and a client of it.
type world struct {
	*registry.Client
	repo string
}

func newWorld(t *testing.T, deletes bool) *world {
	t.Helper()
	conf := &configuration.Configuration{Storage: configuration.Storage{
		"inmemory":    {},
		"delete":      {"enabled": deletes},
		"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	conf.HTTP.Secret = rand.Text()
	conf.Catalog.MaxEntries = 1000
	srv := httptest.NewServer(handlers.NewApp(t.Context(), conf))
	t.Cleanup(srv.Close)
	c := registry.New(registry.Options{})
	t.Cleanup(c.Close)
	return &world{Client: c, repo: strings.TrimPrefix(srv.URL, "http://") + "/team/cache"}
}

// put writes a cache whose steps are named by their layers and made so many hours ago.
func (w *world) put(t *testing.T, repo, tag string, hours int, layers ...string) digest.Digest {
	t.Helper()
	config := cacheimporttypes.CacheConfig{}
	m := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest}
	made := now.Add(-time.Duration(hours) * time.Hour)
	for i, l := range layers {
		data := []byte(strings.Repeat(l, 100))
		desc := ocispecs.Descriptor{
			MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data)),
			Annotations: map[string]string{"containerd.io/uncompressed": digest.FromBytes(data).String()},
		}
		require.NoError(t, w.Push(t.Context(), repo, desc, data))
		m.Layers = append(m.Layers, desc)
		config.Layers = append(config.Layers, cacheimporttypes.CacheLayer{Blob: desc.Digest, ParentIndex: -1, Annotations: &cacheimporttypes.LayerAnnotations{
			MediaType: desc.MediaType, DiffID: desc.Digest, Size: desc.Size, CreatedAt: made,
		}})
		config.Records = append(config.Records, cacheimporttypes.CacheRecord{
			Digest: digest.FromString(l), Results: []cacheimporttypes.CacheResult{{LayerIndex: i, CreatedAt: made}},
		})
	}
	data := mustJSON(t, config)
	m.Config = ocispecs.Descriptor{MediaType: cacheimporttypes.CacheConfigMediaTypeV0, Digest: digest.FromBytes(data), Size: int64(len(data))}
	require.NoError(t, w.Push(t.Context(), repo, m.Config, data))
	data = mustJSON(t, m)
	desc := ocispecs.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	require.NoError(t, w.Push(t.Context(), repo+":"+tag, desc, data))
	return desc.Digest
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return data
}

func (w *world) tags(t *testing.T) []string {
	t.Helper()
	tags, err := w.Tags(t.Context(), w.repo)
	require.NoError(t, err)
	return tags
}

// exists reports whether a manifest can be read by its digest.
func (w *world) exists(t *testing.T, d digest.Digest) bool {
	t.Helper()
	_, _, err := w.Manifest(t.Context(), w.repo+"@"+d.String())
	if err != nil {
		require.ErrorIs(t, err, registry.ErrNotFound)
	}
	return err == nil
}

func names(entries []Entry) (list []string) {
	for _, e := range entries {
		list = append(list, e.Tag)
	}
	return list
}

func TestParseTag(t *testing.T) {
	for _, tt := range []struct {
		tag, prefix string
		want        Entry
	}{
		{"dbake-api-0123abcd", "", Entry{Kind: Cluster, Prefix: "dbake", Target: "api", group: "dbake-api-0123abcd"}},
		{"dbake-api-0123abcd-1", "", Entry{Kind: Cluster, Prefix: "dbake", Target: "api", group: "dbake-api-0123abcd"}},
		{"my-branch-api-0123abcd", "my-branch", Entry{Kind: Cluster, Prefix: "my-branch", Target: "api", group: "my-branch-api-0123abcd"}},
		{"dbake.step-0123456789abcdef", "", Entry{Kind: Step, Prefix: "dbake", group: "dbake.step-0123456789abcdef"}},
		{"dbake.pruned-1700000000-0123456789ab", "", Entry{Kind: Marked, Prefix: "dbake", Since: time.Unix(1700000000, 0).UTC(), group: "dbake.pruned-1700000000-0123456789ab"}},
		{"latest", "", Entry{Kind: Other, group: "latest"}},
		{"v1-0123abcd", "", Entry{Kind: Other, group: "v1-0123abcd"}},
	} {
		tt.want.Tag = tt.tag
		require.Equal(t, tt.want, parseTag(tt.tag, tt.prefix))
	}
}

func TestList(t *testing.T) {
	w := newWorld(t, true)
	w.put(t, w.repo, "dbake-api-0123abcd", 3, "base", "api")
	w.put(t, w.repo, "dbake-web-0123abce", 2, "base", "web", "more")
	w.put(t, w.repo, "main-web-0123abce", 1, "other")
	empty := ocispecs.DescriptorEmptyJSON
	empty.MediaType = ocispecs.MediaTypeImageConfig
	require.NoError(t, w.Push(t.Context(), w.repo, empty, empty.Data))
	img := mustJSON(t, ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest, Config: empty, Layers: []ocispecs.Descriptor{}})
	require.NoError(t, w.Push(t.Context(), w.repo+":dbake-image-0123abcd", ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromBytes(img), Size: int64(len(img))}, img))

	all, err := List(t.Context(), w, w.repo, "")
	require.NoError(t, err)
	require.Equal(t, []string{"dbake-api-0123abcd", "dbake-image-0123abcd", "dbake-web-0123abce", "main-web-0123abce"}, names(all))
	require.Equal(t, Other, all[1].Kind)
	api := all[0]
	require.Equal(t, Cluster, api.Kind)
	require.Equal(t, 2, api.Steps)
	require.EqualValues(t, 700, api.Bytes)
	require.EqualValues(t, 300, api.Own)
	require.Equal(t, now.Add(-3*time.Hour), api.Newest)

	some, err := List(t.Context(), w, w.repo, "main")
	require.NoError(t, err)
	require.Equal(t, []string{"main-web-0123abce"}, names(some))
	none, err := List(t.Context(), w, w.repo+"/none", "")
	require.NoError(t, err)
	require.Empty(t, none)
}

// fill writes the caches of eight runs of two groups of targets.
func fill(t *testing.T, w *world) map[string]digest.Digest {
	t.Helper()
	digests := map[string]digest.Digest{}
	for i := range 8 {
		for _, target := range []string{"api", "web"} {
			tag := fmt.Sprintf("run%d-%s-0123abcd", i, target)
			digests[tag] = w.put(t, w.repo, tag, 10-i, "base", fmt.Sprint(target, i))
		}
	}
	return digests
}

func TestPruneKeepsTheLast(t *testing.T) {
	w := newWorld(t, true)
	digests := fill(t, w)
	req := Request{Repo: w.repo, Rules: Rules{KeepLast: 5}, Grace: time.Hour, Now: now}

	dry := req
	dry.DryRun, dry.Grace = true, 0
	rep, err := Prune(t.Context(), w, dry)
	require.NoError(t, err)
	require.Len(t, rep.Deleted, 6)
	require.EqualValues(t, 6*400, rep.Freed)
	require.Len(t, w.tags(t), 16)

	rep, err = Prune(t.Context(), w, req)
	require.NoError(t, err)
	gone := []string{"run0-api-0123abcd", "run0-web-0123abcd", "run1-api-0123abcd", "run1-web-0123abcd", "run2-api-0123abcd", "run2-web-0123abcd"}
	require.Equal(t, gone, names(rep.Marked))
	require.Len(t, rep.Waiting, 6)
	require.Empty(t, rep.Deleted)
	require.Equal(t, now.Add(time.Hour), rep.Due)
	for _, tag := range gone {
		require.NotContains(t, w.tags(t), tag)
		require.True(t, w.exists(t, digests[tag]), "a build that runs may read it")
	}

	// One is written again by a build meanwhile.
	again := w.put(t, w.repo, "run2-api-0123abcd", 8, "base", "api2")
	require.Equal(t, digests["run2-api-0123abcd"], again)
	req.Now = now.Add(30 * time.Minute)
	rep, err = Prune(t.Context(), w, Request{Repo: w.repo, Grace: time.Hour, Now: req.Now})
	require.NoError(t, err)
	require.Empty(t, rep.Deleted)
	rep, err = Prune(t.Context(), w, Request{Repo: w.repo, Grace: time.Hour, Now: now.Add(time.Hour)})
	require.NoError(t, err)
	require.Len(t, rep.Deleted, 5)
	for tag, d := range digests {
		kept := tag == "run2-api-0123abcd" || !strings.Contains(strings.Join(gone, " "), tag)
		require.Equal(t, kept, w.exists(t, d), tag)
	}
	require.Len(t, w.tags(t), 11)
}

// The prefix of a tag may hold a "-", as names of branches do.
func TestPruneKeepsTheLastOfBranches(t *testing.T) {
	w := newWorld(t, true)
	for i := range 4 {
		w.put(t, w.repo, fmt.Sprintf("run-%d-api-0123abcd", i), 10-i, fmt.Sprint("api", i))
		w.put(t, w.repo, fmt.Sprintf("run-%d-web-ui-0123abce", i), 10-i, fmt.Sprint("web", i))
	}
	w.put(t, w.repo, "feature-x-api-0123abcf", 1, "other targets share its steps")
	all, err := List(t.Context(), w, w.repo, "")
	require.NoError(t, err)
	for _, e := range all {
		require.Contains(t, []string{"api", "web-ui"}, e.Target, e.Tag)
		require.Equal(t, e.Tag, e.Prefix+"-"+e.Target+e.Tag[len(e.Tag)-9:])
	}
	rep, err := Prune(t.Context(), w, Request{Repo: w.repo, Rules: Rules{KeepLast: 1}, Now: now})
	require.NoError(t, err)
	require.Equal(t, []string{"feature-x-api-0123abcf", "run-3-web-ui-0123abce"}, names(rep.Kept))
	require.Len(t, rep.Deleted, 7)
}

func TestPruneAtOnceByAgeAndSize(t *testing.T) {
	w := newWorld(t, true)
	fill(t, w)
	w.put(t, w.repo, "dbake.step-0123456789abcdef", 48, "step")
	w.put(t, w.repo, "dbake.step-0123456789abcde0", 1, "step")
	w.put(t, w.repo, "handmade", 1000, "mine")
	rep, err := Prune(t.Context(), w, Request{Repo: w.repo, Rules: Rules{OlderThan: 8*time.Hour + time.Minute}, Now: now})
	require.NoError(t, err)
	require.Equal(t, []string{"dbake.step-0123456789abcdef", "run0-api-0123abcd", "run0-web-0123abcd", "run1-api-0123abcd", "run1-web-0123abcd"}, names(rep.Marked))
	require.Len(t, rep.Deleted, 5)
	require.Contains(t, w.tags(t), "handmade")

	rep, err = Prune(t.Context(), w, Request{Repo: w.repo, Prefix: "run7", Rules: Rules{MaxBytes: 1}, Now: now})
	require.NoError(t, err)
	require.Equal(t, []string{"run7-api-0123abcd", "run7-web-0123abcd"}, names(rep.Marked))
	require.Len(t, rep.Deleted, 2)
	require.EqualValues(t, 800, rep.Freed, "the others need the base")
}

// deletesNoTags is a registry that deletes manifests by digest only.
type deletesNoTags struct{ *registry.Client }

func (d deletesNoTags) Delete(ctx context.Context, ref string) error {
	if !strings.Contains(ref, "@") {
		return &registry.Error{Op: "delete", Ref: ref, Kind: registry.ErrKept, Err: registry.ErrKept}
	}
	return d.Client.Delete(ctx, ref)
}

func TestPruneWhereTagsAreNotDeleted(t *testing.T) {
	w := newWorld(t, true)
	digests := fill(t, w)
	reg := deletesNoTags{w.Client}
	req := Request{Repo: w.repo, Rules: Rules{KeepLast: 7}, Grace: time.Hour, Now: now}
	for range 2 { // the second call marks nothing anew
		rep, err := Prune(t.Context(), reg, req)
		require.NoError(t, err)
		require.Len(t, rep.Waiting, 2)
		require.Len(t, w.tags(t), 18)
		req.Now = req.Now.Add(time.Minute)
	}
	req.Now = now.Add(time.Hour)
	rep, err := Prune(t.Context(), reg, req)
	require.NoError(t, err)
	require.Len(t, rep.Deleted, 2)
	require.False(t, w.exists(t, digests["run0-api-0123abcd"]))
	require.Len(t, w.tags(t), 14)
}

func TestPruneWhereNothingIsDeleted(t *testing.T) {
	w := newWorld(t, false)
	fill(t, w)
	_, err := Prune(t.Context(), w, Request{Repo: w.repo, Rules: Rules{KeepLast: 7}, Now: now})
	require.ErrorIs(t, err, registry.ErrKept)
	require.ErrorContains(t, err, "its configuration must allow that")
}

func TestMerge(t *testing.T) {
	w := newWorld(t, true)
	other := strings.Replace(w.repo, "team/cache", "team/branch", 1)
	w.put(t, w.repo, "dbake-api-0123abcd", 3, "base", "api")
	w.put(t, other, "feature-api-0123abcd-0", 2, "base", "api-new")
	w.put(t, other, "feature-api-0123abcd-1", 2, "more")
	w.put(t, other, "feature-web-0123abce", 2, "web")
	done, err := Merge(t.Context(), w, Place{w.repo, "dbake"}, []Place{{other, "feature"}})
	require.NoError(t, err)
	require.Len(t, done, 2)
	require.True(t, done[0].Whole)
	require.Len(t, done[0].From, 3)

	all, err := List(t.Context(), w, w.repo, "dbake")
	require.NoError(t, err)
	require.Equal(t, []string{"dbake-api-0123abcd", "dbake-web-0123abce"}, names(all))
	require.Equal(t, 4, all[0].Steps)
	require.Equal(t, 1, all[1].Steps)

	_, err = Merge(t.Context(), w, Place{w.repo, "dbake"}, []Place{{other, "none"}})
	require.ErrorContains(t, err, "there are no caches at")
}
