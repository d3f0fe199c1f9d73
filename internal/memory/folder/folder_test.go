package folder

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/stretchr/testify/require"
)

func at(days float64) func() time.Time {
	return func() time.Time {
		return time.Unix(1_700_000_000, 0).Add(time.Duration(days * float64(24*time.Hour)))
	}
}

func TestReadAndWrite(t *testing.T) {
	f := Folder{Dir: filepath.Join(t.TempDir(), "new"), Limit: 10}
	got, err := f.Read("a/b")
	require.NoError(t, err)
	require.Nil(t, got)
	require.NoError(t, f.Write("a/b", []byte("text")))
	got, err = f.Read("a/b")
	require.NoError(t, err)
	require.Equal(t, "text", string(got))
	info, err := os.Stat(f.Path("a/b"))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode())

	require.NoError(t, f.Write("long", make([]byte, 11)))
	_, err = f.Read("long")
	require.ErrorContains(t, err, "larger than 10 bytes")

	// A pipe is not waited for.
	require.NoError(t, syscall.Mkfifo(f.Path("pipe"), 0o600))
	got, err = f.Read("pipe")
	require.NoError(t, err)
	require.Nil(t, got)
}

// Many who add at a time all find their way in.
func TestUpdate(t *testing.T) {
	f := Folder{Dir: t.TempDir(), Limit: 1000}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			err := f.Update("x", func(old []byte) ([]byte, error) { return append(old, '+'), nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := f.Read("x")
	require.NoError(t, err)
	require.Len(t, got, 20)

	failed := errors.New("no")
	require.ErrorIs(t, f.Update("x", func([]byte) ([]byte, error) { return nil, failed }), failed)
	again, err := f.Read("x")
	require.NoError(t, err)
	require.Equal(t, got, again)

	other := flock.New(f.Path("x") + locked)
	require.NoError(t, other.Lock())
	defer func() { require.NoError(t, other.Unlock()) }()
	f.Wait = time.Millisecond
	require.ErrorIs(t, f.Update("x", func([]byte) ([]byte, error) { return nil, nil }), ErrLocked)
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	f := Folder{Dir: dir, Limit: 100, Now: at(0)}
	keep := func([]byte) ([]byte, error) { return []byte("x"), nil }
	for _, name := range []string{"unused", "sub/unused", "read"} {
		require.NoError(t, f.Write(name, []byte("x")))
	}
	for _, name := range []string{"updated", "busy"} {
		require.NoError(t, f.Update(name, keep))
	}
	require.NoError(t, os.WriteFile(f.Path("lost.lock"), nil, 0o600))
	require.NoError(t, os.Chtimes(f.Path("lost.lock"), at(0)(), at(0)()))
	f.Now = at(20)
	_, err := f.Read("read")
	require.NoError(t, err)
	lock := flock.New(f.Path("busy") + locked)
	require.NoError(t, lock.Lock())
	defer func() { require.NoError(t, lock.Unlock()) }()

	require.NoError(t, Prune(dir, at(29)()))
	require.FileExists(t, f.Path("unused"))
	require.NoError(t, Prune(dir, at(31)()))
	var left []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			left = append(left, e.Name())
		}
		return err
	}))
	require.Equal(t, []string{"busy", "busy.lock", "read"}, left)
	require.NoError(t, Prune(filepath.Join(dir, "none"), at(31)()))
}
