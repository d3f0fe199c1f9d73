package filesum

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/folder"
)

// later is so late that all files have settled.
func later() time.Time { return time.Now().Add(time.Hour) }

// tree is a directory with files, and a place for caches.
type tree struct {
	t          testing.TB
	dir, cache string
}

func newTree(t testing.TB) *tree {
	return &tree{t: t, dir: t.TempDir(), cache: filepath.Join(t.TempDir(), "files")}
}

func (w *tree) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	require.NoError(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(w.t, os.WriteFile(path, []byte(text), 0o644))
}

// files are files that nobody has looked at.
func (w *tree) files(names ...string) []File {
	var list []File
	for _, name := range names {
		list = append(list, File{Name: name})
	}
	return list
}

// sums is one run: the digests, and how many files were read for them.
func (w *tree) sums(now time.Time, names ...string) ([]Sum, int) {
	w.t.Helper()
	c := Open(w.cache, now)
	sums, _, err := c.Sums(context.Background(), w.dir, w.files(names...))
	require.NoError(w.t, err)
	require.NoError(w.t, c.Save())
	return sums, int(c.reads.Load())
}

func TestUnchangedFilesAreReadOnce(t *testing.T) {
	w := newTree(t)
	w.write("a", "1")
	w.write("sub/b", "2")
	want := []Sum{sha256.Sum256([]byte("1")), sha256.Sum256([]byte("2"))}
	sums, reads := w.sums(later(), "a", "sub/b")
	require.Equal(t, want, sums)
	require.Equal(t, 2, reads)
	sums, reads = w.sums(later(), "a", "sub/b")
	require.Equal(t, want, sums)
	require.Zero(t, reads)

	w.write("a", "11")
	sums, reads = w.sums(later(), "a", "sub/b")
	require.Equal(t, []Sum{sha256.Sum256([]byte("11")), want[1]}, sums)
	require.Equal(t, 1, reads)

	// A run that asks for less forgets nothing.
	_, reads = w.sums(later(), "a")
	require.Zero(t, reads)
	_, reads = w.sums(later(), "sub/b")
	require.Zero(t, reads)
}

// A program can write other bytes of the same number and put the modification time
// back, as rsync and tar do.
func TestTimesThatAreSetHideNothing(t *testing.T) {
	w := newTree(t)
	w.write("a", "old")
	path := filepath.Join(w.dir, "a")
	before, err := os.Stat(path)
	require.NoError(t, err)
	if identify(before).changed == 0 {
		t.Skip("this system does not tell when a file was changed")
	}
	w.sums(later(), "a")
	for changed := false; !changed; { // the clock of the file system ticks every few milliseconds
		w.write("a", "new")
		require.NoError(t, os.Chtimes(path, before.ModTime(), before.ModTime()))
		after, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, before.ModTime(), after.ModTime())
		changed = identify(before) != identify(after)
	}
	sums, reads := w.sums(later(), "a")
	require.Equal(t, []Sum{sha256.Sum256([]byte("new"))}, sums)
	require.Equal(t, 1, reads)
}

func TestWhatWasJustChangedIsReadAgain(t *testing.T) {
	w := newTree(t)
	w.write("a", "1")
	for range 2 {
		_, reads := w.sums(time.Now(), "a")
		require.Equal(t, 1, reads)
	}
	c := Open(w.cache, time.Now())
	for range 2 {
		_, _, err := c.Sums(context.Background(), w.dir, w.files("a"))
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, c.reads.Load(), "within a run it is read once")
}

func TestWhatCannotBeRead(t *testing.T) {
	w := newTree(t)
	w.write("d/x", "")
	sums, _ := w.sums(later(), "none", "d")
	require.NotEqual(t, sums[0], sums[1])
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, err := Open("", later()).Sums(ctx, w.dir, w.files("d/x"))
	require.ErrorIs(t, err, context.Canceled)
}

func TestDamagedCacheIsAsNone(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"cut":       func(b []byte) []byte { return b[:len(b)-7] },
		"a bit":     func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"other":     func([]byte) []byte { return []byte("something else that is long enough to hold a digest") },
		"header":    func([]byte) []byte { return []byte(format) },
		"malformed": func([]byte) []byte { return seal(format + "\xff\xff\xff\xff\x01") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTree(t)
			w.write("a", "1")
			w.sums(later(), "a")
			path := filepath.Join(w.cache, fileName(w.dir))
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, damage(b), 0o600))
			sums, reads := w.sums(later(), "a")
			require.Equal(t, []Sum{sha256.Sum256([]byte("1"))}, sums)
			require.Equal(t, 1, reads)
			_, reads = w.sums(later(), "a")
			require.Zero(t, reads, "it was written anew")
		})
	}
}

func seal(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return append([]byte(s), sum[:]...)
}

func TestWhatNobodyAsksForGoes(t *testing.T) {
	w := newTree(t)
	w.write("a", "1")
	w.write("b", "2")
	now := later()
	w.sums(now, "a", "b")
	other := &tree{t: t, dir: t.TempDir(), cache: w.cache}
	other.write("c", "3")
	other.sums(now, "c")
	files := func() int {
		entries, err := os.ReadDir(w.cache)
		require.NoError(t, err)
		return len(entries)
	}
	require.Equal(t, 2, files())

	now = now.Add(time.Duration(kept+1) * 24 * time.Hour)
	_, reads := w.sums(now, "a")
	require.Zero(t, reads)
	require.NoError(t, folder.Prune(w.cache, now))
	require.Equal(t, 1, files(), "that of the other root is gone")
	c := Open(w.cache, now)
	require.Len(t, c.load(w.dir), 1)
}

func TestCacheThatIsKeptNowhere(t *testing.T) {
	w := newTree(t)
	w.write("a", "1")
	w.cache = ""
	_, reads := w.sums(later(), "a")
	require.Equal(t, 1, reads)

	// One that cannot be written says so and answers all the same.
	w.cache = filepath.Join(w.dir, "a", "below a file")
	c := Open(w.cache, later())
	sums, _, err := c.Sums(context.Background(), w.dir, w.files("a"))
	require.NoError(t, err)
	require.Equal(t, []Sum{sha256.Sum256([]byte("1"))}, sums)
	var pathErr *fs.PathError
	require.ErrorAs(t, c.Save(), &pathErr)
}

func BenchmarkSums(b *testing.B) {
	const n = 10_000
	w := newTree(b)
	var names []string
	text := make([]byte, 4<<10)
	for i := range n {
		names = append(names, fmt.Sprintf("d%02d/f%04d", i/100, i))
		copy(text, names[i])
		w.write(names[i], string(text))
	}
	run := func(b *testing.B) {
		c := Open(w.cache, later())
		_, _, err := c.Sums(context.Background(), w.dir, w.files(names...))
		require.NoError(b, err)
		require.NoError(b, c.Save())
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, os.RemoveAll(w.cache))
			run(b)
		}
	})
	b.Run("warm", func(b *testing.B) {
		for b.Loop() {
			run(b)
		}
	})
}
