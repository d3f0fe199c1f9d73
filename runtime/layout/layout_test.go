package layout

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
	"github.com/moby/buildkit/client/ociindex"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
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
	stores, err := Stores(map[string]string{"id": dir})
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

	_, err = Stores(map[string]string{"id": "relative"})
	require.ErrorContains(t, err, "is not absolute")
}

func TestEnter(t *testing.T) {
	dir := t.TempDir()
	desc, err := json.Marshal(ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString("m"), Size: 1})
	require.NoError(t, err)
	resp := map[string]string{"containerimage.descriptor": base64.StdEncoding.EncodeToString(desc)}
	require.NoError(t, Enter(t.Context(), dir, resp))
	resp["image.name"] = "docker.io/library/a:1,docker.io/library/a:2"
	require.NoError(t, Enter(t.Context(), dir, resp))
	dt, err := os.ReadFile(filepath.Join(dir, "index.json"))
	require.NoError(t, err)
	var index ocispecs.Index
	require.NoError(t, json.Unmarshal(dt, &index))
	var names []string
	for _, m := range index.Manifests {
		names = append(names, m.Annotations[ocispecs.AnnotationRefName])
	}
	require.ElementsMatch(t, []string{"latest", "1", "2"}, names)
	require.ErrorContains(t, Enter(t.Context(), dir, nil), "did not describe")
}

// Images that enter one layout at the same time are all there.
func TestEnterTogether(t *testing.T) {
	dir := t.TempDir()
	var locks Locks
	var eg errgroup.Group
	for i := range 20 {
		desc, err := json.Marshal(ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
		require.NoError(t, err)
		resp := map[string]string{"containerimage.descriptor": base64.StdEncoding.EncodeToString(desc), "image.name": fmt.Sprintf("example.com/a:%d", i)}
		eg.Go(func() error {
			unlock, err := locks.Lock(t.Context(), []string{dir})
			if err != nil {
				return err
			}
			defer unlock()
			return Enter(t.Context(), dir, resp)
		})
	}
	require.NoError(t, eg.Wait())
	index, err := ociindex.NewStoreIndex(dir).Read()
	require.NoError(t, err)
	require.Len(t, index.Manifests, 20)
}

func TestDirLocks(t *testing.T) {
	var l Locks
	unlock, err := l.Lock(t.Context(), []string{"b", "a"})
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	_, err = l.Lock(ctx, []string{"0", "a"})
	require.EqualError(t, err, "interrupted")
	got := make(chan struct{})
	go func() {
		defer close(got)
		unlock, err := l.Lock(t.Context(), []string{"a", "0"})
		if err == nil {
			unlock()
		}
	}()
	unlock()
	<-got
}
