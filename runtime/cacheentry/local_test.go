package cacheentry

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client/ociindex"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/layout"
)

func TestLocalImports(t *testing.T) {
	dir := t.TempDir()
	d := writeCache(t, filepath.Join(dir, "cache"), "manifest", "latest", "main")
	lost := writeCache(t, filepath.Join(dir, "lost"), "manifest", "latest")
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "lost", "blobs")))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "broken"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "broken", "index.json"), []byte("{"), 0o644))
	before := filesBelow(t, dir)
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
			kept, stores, warnings, err := LocalImports([]cachepolicy.Import{registry, {Entry: entry(tt.attrs), Units: []ir.UnitID{"a"}}}, dir)
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
			require.Equal(t, map[string]content.Store{"local:" + src: layout.Store(src)}, stores)
		})
	}
	require.Equal(t, before, filesBelow(t, dir), "nothing is written")

	_, _, _, err := LocalImports([]cachepolicy.Import{{Entry: entry(nil)}}, dir)
	require.ErrorContains(t, err, "src is required")
	_, err = LocalExport(entry(nil), dir)
	require.ErrorContains(t, err, "dest is required")
	e, err := LocalExport(entry(attrs{"dest": "out", "mode": "max"}), dir)
	require.NoError(t, err)
	require.Equal(t, attrs{"dest": filepath.Join(dir, "out"), "mode": "max"}, e.Attrs)
}

// writeCache writes a cache that is one blob under some tags.
func writeCache(t *testing.T, dir, blob string, tags ...string) digest.Digest {
	t.Helper()
	d := digest.FromString(blob)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", d.Encoded()), []byte(blob), 0o644))
	for _, tag := range tags {
		require.NoError(t, ociindex.NewStoreIndex(dir).Put(ocispecs.Descriptor{Digest: d, Size: int64(len(blob))}, ociindex.Tag(tag)))
	}
	return d
}

// filesBelow lists the files below dir.
func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, _ fs.DirEntry, err error) error {
		list = append(list, name)
		return err
	}))
	return list
}
