package runtime

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/ociindex"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
)

// writeLayout writes an OCI layout with one blob under some tags.
func writeLayout(t *testing.T, dir, blob string, tags ...string) digest.Digest {
	t.Helper()
	d := digest.FromString(blob)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", d.Encoded()), []byte(blob), 0o644))
	var index ocispecs.Index
	for _, tag := range tags {
		index.Manifests = append(index.Manifests, ocispecs.Descriptor{Digest: d, Size: int64(len(blob)), Annotations: map[string]string{ocispecs.AnnotationRefName: tag}})
	}
	dt, err := json.Marshal(index)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "index.json"), dt, 0o644))
	return d
}

// tree lists the files below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	require.NoError(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		list = append(list, name)
		return err
	}))
	return list
}

func TestLayoutStore(t *testing.T) {
	dir := t.TempDir()
	d := writeLayout(t, dir, "hello", "latest")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", "stray"), nil, 0o644))
	before := tree(t, dir)
	stores, err := layoutStores(map[string]string{"id": dir})
	require.NoError(t, err)
	s := stores["id"]

	info, err := s.Info(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, int64(5), info.Size)
	dt, err := content.ReadBlob(t.Context(), s, ocispecs.Descriptor{Digest: d})
	require.NoError(t, err)
	require.Equal(t, "hello", string(dt))
	var walked []digest.Digest
	require.NoError(t, s.Walk(t.Context(), func(i content.Info) error {
		walked = append(walked, i.Digest)
		return nil
	}))
	require.Equal(t, []digest.Digest{d}, walked)

	_, err = s.Info(t.Context(), digest.FromString("other"))
	require.True(t, errdefs.IsNotFound(err), err)
	_, err = s.ReaderAt(t.Context(), ocispecs.Descriptor{Digest: digest.FromString("other")})
	require.True(t, errdefs.IsNotFound(err), err)
	for _, bad := range []digest.Digest{"", "sha256:../../index.json", "../x:y", "sha256:short"} {
		_, err = s.Info(t.Context(), bad)
		require.True(t, errdefs.IsInvalidArgument(err), "%q: %v", bad, err)
	}

	_, err = s.Writer(t.Context())
	require.True(t, errdefs.IsPermissionDenied(err), err)
	require.True(t, errdefs.IsPermissionDenied(s.Delete(t.Context(), d)))
	require.True(t, errdefs.IsPermissionDenied(s.Abort(t.Context(), "x")))
	_, err = s.Update(t.Context(), content.Info{Digest: d})
	require.True(t, errdefs.IsPermissionDenied(err), err)
	_, err = s.Status(t.Context(), "x")
	require.True(t, errdefs.IsNotFound(err), err)
	require.Equal(t, before, tree(t, dir), "nothing is written")

	_, err = layoutStores(map[string]string{"id": "relative"})
	require.ErrorContains(t, err, "is not absolute")
}

func TestLocalImports(t *testing.T) {
	dir := t.TempDir()
	d := writeLayout(t, filepath.Join(dir, "cache"), "manifest", "latest", "main")
	lost := writeLayout(t, filepath.Join(dir, "lost"), "manifest", "latest")
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "lost", "blobs")))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "broken"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "broken", "index.json"), []byte("{"), 0o644))
	before := tree(t, dir)
	type attrs = map[string]string
	entry := func(a attrs) ir.CacheEntry { return ir.CacheEntry{Type: "local", Attrs: a} }
	src := filepath.Join(dir, "cache")
	for _, tt := range []struct {
		name    string
		attrs   attrs
		want    attrs
		warning string
	}{
		{"relative", attrs{"src": "cache"}, attrs{"src": src, "digest": d.String()}, ""},
		{"tag", attrs{"src": src, "tag": "main"}, attrs{"src": src, "tag": "main", "digest": d.String()}, ""},
		{"digest", attrs{"src": src, "digest": d.String()}, attrs{"src": src, "digest": d.String()}, ""},
		{"other tag", attrs{"src": src, "tag": "v1"}, nil, `it has no tag "v1"`},
		{"other digest", attrs{"src": src, "digest": digest.FromString("x").String()}, nil, "is missing"},
		{"bad digest", attrs{"src": src, "digest": "x"}, nil, `digest "x"`},
		{"absent", attrs{"src": "nowhere"}, nil, "there is none"},
		{"lost", attrs{"src": "lost"}, nil, lost.String() + " is missing"},
		{"broken", attrs{"src": "broken"}, nil, "index.json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			registry := cachepolicy.Import{Entry: ir.CacheEntry{Type: "registry", Attrs: attrs{"ref": "x"}}}
			kept, stores, warnings, err := localImports([]cachepolicy.Import{registry, {Entry: entry(tt.attrs), Units: []ir.UnitID{"a"}}}, dir)
			require.NoError(t, err)
			require.Equal(t, registry, kept[0])
			if tt.warning != "" {
				require.Len(t, kept, 1)
				require.Empty(t, stores)
				require.Len(t, warnings, 1)
				require.Contains(t, warnings[0], tt.warning)
				return
			}
			require.Empty(t, warnings)
			require.Equal(t, cachepolicy.Import{Entry: entry(tt.want), Units: []ir.UnitID{"a"}}, kept[1])
			require.Equal(t, map[string]content.Store{"local:" + src: layoutStore(src)}, stores)
		})
	}
	require.Equal(t, before, tree(t, dir), "nothing is written")

	_, _, _, err := localImports([]cachepolicy.Import{{Entry: entry(nil)}}, dir)
	require.ErrorContains(t, err, "src is required")
	_, err = localExport(entry(nil), dir)
	require.ErrorContains(t, err, "dest is required")
	e, err := localExport(entry(attrs{"dest": "out", "mode": "max"}), dir)
	require.NoError(t, err)
	require.Equal(t, attrs{"dest": filepath.Join(dir, "out"), "mode": "max"}, e.Attrs)
}

// TestSessionServices registers what sessions of all kinds offer: gRPC ends the
// process when a service is registered twice.
func TestSessionServices(t *testing.T) {
	dir := t.TempDir()
	in := Inputs{
		Dirs: map[string]string{"context": dir}, Layouts: map[string]string{"base": dir},
		Secrets: map[string]SecretSource{"token": {Env: "TOKEN"}}, Env: map[string]string{"TOKEN": "x"},
	}
	var sent transfers
	offer, err := in.services(&sent)
	require.NoError(t, err)
	offer.stores["local:"+dir] = layoutStore(dir)
	for _, req := range []exportRequest{
		{},
		{entry: &bkclient.ExportEntry{Type: "local", OutputDir: dir}},
		{entry: &bkclient.ExportEntry{Type: "local", OutputDir: dir, Attrs: map[string]string{"mode": "delete"}}},
		{entry: &bkclient.ExportEntry{Type: "tar", Output: filesync.FileOutputFunc(nil)}},
		{entry: &bkclient.ExportEntry{Type: "oci", OutputDir: filepath.Join(dir, "layout")},
			cacheTo: []bkclient.CacheOptionsEntry{{Type: "local", Attrs: map[string]string{"dest": filepath.Join(dir, "cache")}}}},
	} {
		stores, targets, err := req.receiving(&faults{})
		require.NoError(t, err)
		s, err := session.NewSession(t.Context(), "")
		require.NoError(t, err)
		for _, a := range offer.attachables(stores, targets...) {
			s.Allow(a)
		}
		require.NoError(t, s.Close())
	}
	_, _, err = (&exportRequest{entry: &bkclient.ExportEntry{Type: "local", OutputDir: dir, Attrs: map[string]string{"mode": "x"}}}).receiving(&faults{})
	require.Error(t, err)
}

func TestEnter(t *testing.T) {
	dir := t.TempDir()
	desc, err := json.Marshal(ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString("m"), Size: 1})
	require.NoError(t, err)
	resp := map[string]string{"containerimage.descriptor": base64.StdEncoding.EncodeToString(desc)}
	require.NoError(t, enter(t.Context(), dir, resp))
	resp["image.name"] = "docker.io/library/a:1,docker.io/library/a:2"
	require.NoError(t, enter(t.Context(), dir, resp))
	dt, err := os.ReadFile(filepath.Join(dir, "index.json"))
	require.NoError(t, err)
	var index ocispecs.Index
	require.NoError(t, json.Unmarshal(dt, &index))
	var names []string
	for _, m := range index.Manifests {
		names = append(names, m.Annotations[ocispecs.AnnotationRefName])
	}
	require.ElementsMatch(t, []string{"latest", "1", "2"}, names)
	require.ErrorContains(t, enter(t.Context(), dir, nil), "did not describe")
}

func TestSecretStore(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("in a file"), 0o600))
	big := filepath.Join(dir, "big")
	require.NoError(t, os.WriteFile(big, make([]byte, 600*1024), 0o600))
	s := &secretStore{
		sources: map[string]SecretSource{"file": {File: file}, "env": {Env: "E"}, "unset": {Env: "U"}, "gone": {File: filepath.Join(dir, "gone")}, "big": {File: big}},
		env:     map[string]string{"E": "in the environment", "other": "x"},
	}
	for id, want := range map[string]string{"file": "in a file", "env": "in the environment"} {
		dt, err := s.GetSecret(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, want, string(dt))
	}
	for _, id := range []string{"unset", "gone", "big", "other", "token.undeclared", "E"} {
		_, err := s.GetSecret(t.Context(), id)
		require.Error(t, err, id)
	}
}

// Images that enter one layout at the same time are all there.
func TestEnterTogether(t *testing.T) {
	dir := t.TempDir()
	var locks dirLocks
	var eg errgroup.Group
	for i := range 20 {
		desc, err := json.Marshal(ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
		require.NoError(t, err)
		resp := map[string]string{"containerimage.descriptor": base64.StdEncoding.EncodeToString(desc), "image.name": fmt.Sprintf("example.com/a:%d", i)}
		eg.Go(func() error {
			unlock, err := locks.lock(t.Context(), []string{dir})
			if err != nil {
				return err
			}
			defer unlock()
			return enter(t.Context(), dir, resp)
		})
	}
	require.NoError(t, eg.Wait())
	index, err := ociindex.NewStoreIndex(dir).Read()
	require.NoError(t, err)
	require.Len(t, index.Manifests, 20)
}

func TestDirLocks(t *testing.T) {
	var l dirLocks
	unlock, err := l.lock(t.Context(), []string{"b", "a"})
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	_, err = l.lock(ctx, []string{"0", "a"})
	require.EqualError(t, err, "interrupted")
	got := make(chan struct{})
	go func() {
		defer close(got)
		unlock, err := l.lock(t.Context(), []string{"a", "0"})
		if err == nil {
			unlock()
		}
	}()
	unlock()
	<-got
}
