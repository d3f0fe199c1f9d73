package plan

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/filesum"
)

// What is listed in the short way is what BuildKit's own walk lists.
func TestPlainWalk(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b.txt", "d/c", "d/e/f", "d/é\n", "d-x", "node_modules/m/x", "!odd", "z/.dockerignore"} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(name), 0o640))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	require.NoError(t, os.Symlink("d/c", filepath.Join(dir, "link")))
	second := filepath.Join(t.TempDir(), "two")
	require.NoError(t, os.MkdirAll(filepath.Join(second, "e"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(second, "x"), []byte("x"), 0o644))
	require.NoError(t, os.Link(filepath.Join(second, "x"), filepath.Join(second, "y")))

	for _, c := range []struct {
		dir, path string
		excludes  []string
		plain     bool
	}{
		{dir, "/", nil, true},
		{dir, "", []string{"node_modules", "*.txt"}, true},
		{dir, "/", []string{"**/e", "d/c"}, true},
		{dir, "/", []string{"*"}, true},
		{dir, "/", []string{"*", "!d"}, false},
		{dir, "/d", nil, true},
		{dir, "/d/", []string{"d/e"}, true},
		{dir, "d/e/f", nil, true},
		{dir, "d/e/f", []string{"d"}, true},
		{dir, "/empty", nil, true},
		{dir, "/a", []string{"a"}, true},
		{dir, "/!odd", nil, false},
		{dir, "/link", nil, false},
		{dir, "/nothing", nil, false},
		{dir, "/d/*", nil, false},
		{second, "/", nil, false},
		{second, "/e", nil, true},
		{filepath.Join(dir, "a"), "/", nil, false},
		{filepath.Join(dir, "gone"), "/", nil, false},
	} {
		t.Run(fmt.Sprint(c.path, c.excludes), func(t *testing.T) {
			got, ok, err := listPlain(t.Context(), c.dir, read{path: c.path}, c.excludes)
			require.NoError(t, err)
			require.Equal(t, c.plain, ok)
			if !ok {
				return
			}
			want, err := listAny(t.Context(), c.dir, read{path: c.path}, c.excludes)
			require.NoError(t, err)
			require.Equal(t, want.bytes, got.bytes)
			key, fault, err := got.sum(t.Context(), filesum.Open("", time.Now()), c.dir)
			require.NoError(t, err)
			require.NoError(t, fault)
			other, fault, err := want.sum(t.Context(), filesum.Open("", time.Now()), c.dir)
			require.NoError(t, err)
			require.NoError(t, fault)
			require.Equal(t, append([]found{}, want.files...), append([]found{}, got.files...))
			require.Equal(t, other, key)
		})
	}
}

// BenchmarkManyContents names what three steps read of each of many small directories, as
// most targets have them: two files, and everything.
func BenchmarkManyContents(b *testing.B) {
	const dirs = 500
	root, cache := b.TempDir(), b.TempDir()
	for i := range dirs {
		for _, name := range []string{"go.mod", "go.sum"} {
			path := filepath.Join(root, fmt.Sprint(i), name)
			require.NoError(b, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(b, os.WriteFile(path, []byte(path), 0o644))
		}
		for k := range 18 {
			path := filepath.Join(root, fmt.Sprint(i), fmt.Sprintf("pkg%d", k), "file.go")
			require.NoError(b, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(b, os.WriteFile(path, []byte(path), 0o644))
		}
	}
	run := func() {
		sums := filesum.Open(cache, time.Now().Add(time.Hour))
		for i := range dirs {
			for _, path := range []string{"/go.mod", "/go.sum", "/"} {
				c, err := readContent(b.Context(), sums, filepath.Join(root, fmt.Sprint(i)), read{path: path}, nil, false)
				require.NoError(b, err)
				require.NotEmpty(b, c.key)
			}
		}
		require.NoError(b, sums.Save())
	}
	run()
	for b.Loop() {
		run()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/dirs, "µs/directory")
}
