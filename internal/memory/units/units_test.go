package units

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var start = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func file(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	return files[0]
}

func unpack(t *testing.T, p Packed) string {
	t.Helper()
	data, err := p.Unpack(nil)
	require.NoError(t, err)
	return string(data)
}

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "units")
	s := Open(dir, "/project", start)
	_, ok := s.Get([]byte("in"))
	require.False(t, ok)
	require.NoError(t, s.Save())
	require.NoDirExists(t, dir, "nothing is written when nothing is new")
	s.Put([]byte("in"), []byte("old"))
	require.Equal(t, "out of in", unpack(t, s.Put([]byte("in"), []byte("out of in"))))
	s.Put([]byte("other"), nil)
	require.NoError(t, s.Save())
	_, ok = s.Get([]byte("in"))
	require.False(t, ok, "memory is given back")

	data, err := os.ReadFile(file(t, dir))
	require.NoError(t, err)
	require.NotContains(t, string(data), "out of in")
	info, err := os.Stat(file(t, dir))
	require.NoError(t, err)
	require.Zero(t, info.Mode().Perm()&0o077)

	s = Open(dir, "/project", start)
	got, ok := s.Get([]byte("in"))
	require.True(t, ok)
	require.Equal(t, "out of in", unpack(t, got))
	got, ok = s.Get([]byte("other"))
	require.True(t, ok)
	require.Empty(t, unpack(t, got))
	_, ok = s.Get([]byte("neither"))
	require.False(t, ok)
	_, ok = Open(dir, "/another", start).Get([]byte("in"))
	require.False(t, ok)

	other := Open(dir, "/project", start)
	other.program = []byte("of another version")
	_, ok = other.Get([]byte("in"))
	require.False(t, ok, "another program makes its own")
	for _, none := range []*Store{nil, Open("", "/project", start)} {
		require.Nil(t, none.Put([]byte("in"), []byte("out")))
		_, ok = none.Get([]byte("in"))
		require.False(t, ok)
		require.NoError(t, none.Save())
	}
}

// Whatever happens to a file, what is read of it is what was written, or nothing.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := Open(dir, "/project", start)
	for i := range 3 {
		s.Put(fmt.Appendf(nil, "in%d", i), fmt.Appendf(nil, "out%d", i))
	}
	require.NoError(t, s.Save())
	whole, err := os.ReadFile(file(t, dir))
	require.NoError(t, err)
	look := func(data []byte) (found int) {
		require.NoError(t, os.WriteFile(file(t, dir), data, 0o600))
		s := Open(dir, "/project", start)
		for i := range 3 {
			if got, ok := s.Get(fmt.Appendf(nil, "in%d", i)); ok {
				require.Equal(t, fmt.Sprintf("out%d", i), unpack(t, got))
				found++
			}
		}
		return found
	}
	require.Equal(t, 3, look(whole))
	for i := range whole {
		require.Less(t, look(whole[:i]), 3)
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1
		look(damaged)
	}
	require.NoError(t, os.Remove(file(t, dir)))
	require.NoError(t, os.Mkdir(filepath.Join(dir, s.name), 0o700))
	_, ok := Open(dir, "/project", start).Get([]byte("in0"))
	require.False(t, ok)
}

// What repeats itself, as the digests in LLB do, takes little room.
func TestPacked(t *testing.T) {
	dir := t.TempDir()
	s := Open(dir, "/project", start)
	data := bytes.Repeat([]byte("sha256:0123456789abcdef"), 1000)
	s.Put([]byte("in"), data)
	require.NoError(t, s.Save())
	info, err := os.Stat(file(t, dir))
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(len(data)/10))
	got, ok := Open(dir, "/project", start).Get([]byte("in"))
	require.True(t, ok)
	require.Equal(t, string(data), unpack(t, got))
}

// What was not used for long goes, first what is too much.
func TestLimit(t *testing.T) {
	dir := t.TempDir()
	put := func(at time.Time, names ...string) {
		s := Open(dir, "/project", at)
		s.limit = 4096
		for _, n := range names {
			if _, ok := s.Get([]byte(n)); !ok {
				data := make([]byte, s.limit/16) // random, so that it does not get smaller
				_, err := rand.Read(data)
				require.NoError(t, err)
				s.Put([]byte(n), data)
			}
		}
		s.Put([]byte("too large"), make([]byte, s.limit/16+1))
		require.NoError(t, s.Save())
		info, err := os.Stat(file(t, dir))
		require.NoError(t, err)
		require.LessOrEqual(t, info.Size(), int64(s.limit))
	}
	has := func(at time.Time, name string) bool {
		_, ok := Open(dir, "/project", at).Get([]byte(name))
		return ok
	}
	put(start, "a", "b")
	next := start.Add(24 * time.Hour)
	put(next, "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m")
	require.False(t, has(next, "a"))
	require.True(t, has(next, "b"))
	require.False(t, has(next, "too large"))
	put(next.Add(40*24*time.Hour), "z")
	require.False(t, has(next, "b"))
	require.True(t, has(next, "z"))
}
