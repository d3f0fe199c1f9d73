//go:build linux

package localfile

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func mode(t *testing.T, name string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(name)
	require.NoError(t, err)
	return info.Mode()
}

func content(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

// names of a directory: nothing may be left beside a file.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestNewFileHasTheModeThatTheUmaskLeaves(t *testing.T) {
	for _, mask := range []int{0o022, 0o077, 0o002} {
		dir := t.TempDir()
		name := filepath.Join(dir, "new")
		old := syscall.Umask(mask)
		err := Write(t.Context(), name, []byte("x"), nil)
		syscall.Umask(old)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o666&^mask), mode(t, name))
		require.Equal(t, []string{"new"}, names(t, dir))
	}
}

func TestFileKeepsItsModeAndOwner(t *testing.T) {
	name := filepath.Join(t.TempDir(), "old")
	require.NoError(t, os.WriteFile(name, []byte("a longer content"), 0o600))
	require.NoError(t, os.Chmod(name, 0o640))
	if os.Getuid() == 0 {
		require.NoError(t, os.Chown(name, 4711, 4712))
	}
	require.NoError(t, Write(t.Context(), name, []byte("new"), nil))
	require.Equal(t, "new", content(t, name))
	require.Equal(t, fs.FileMode(0o640), mode(t, name))
	if os.Getuid() == 0 {
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.EqualValues(t, 4711, info.Sys().(*syscall.Stat_t).Uid)
		require.EqualValues(t, 4712, info.Sys().(*syscall.Stat_t).Gid)
	}
}

func TestDiscardLeavesWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "old")
	require.NoError(t, os.WriteFile(name, []byte("old"), 0o644))
	f, err := Create(t.Context(), name, nil)
	require.NoError(t, err)
	require.False(t, f.IsStream())
	_, err = f.Write([]byte("half of"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, f.Discard())
	require.Equal(t, "old", content(t, name))
	require.Equal(t, []string{"old"}, names(t, dir))
}

func TestSymlinksStay(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("old"), 0o644))
	require.NoError(t, os.Symlink("sub", filepath.Join(dir, "dir")))
	require.NoError(t, os.Symlink("sub/file", filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("dir/new", filepath.Join(dir, "dangling")))
	require.NoError(t, os.Symlink("link", filepath.Join(dir, "twice")))
	for _, name := range []string{"link", "dangling", "twice", "dir/file"} {
		require.NoError(t, Write(t.Context(), filepath.Join(dir, name), []byte(name), nil))
		require.Equal(t, name, content(t, filepath.Join(dir, name)))
	}
	require.Equal(t, []string{"dangling", "dir", "link", "sub", "twice"}, names(t, dir))
	require.Equal(t, []string{"file", "new"}, names(t, filepath.Join(dir, "sub")))
	for _, name := range []string{"link", "dangling", "twice", "dir"} {
		require.NotZero(t, mode(t, filepath.Join(dir, name))&fs.ModeSymlink, name)
	}

	require.NoError(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	require.ErrorIs(t, Write(t.Context(), filepath.Join(dir, "loop"), nil, nil), syscall.ELOOP)
}

func TestDeviceIsWrittenTo(t *testing.T) {
	require.NoError(t, Write(t.Context(), os.DevNull, []byte("x"), nil))
	require.NotZero(t, mode(t, os.DevNull)&fs.ModeCharDevice)
	link := filepath.Join(t.TempDir(), "null")
	require.NoError(t, os.Symlink(os.DevNull, link))
	require.NoError(t, Write(t.Context(), link, []byte("x"), nil))
	require.NotZero(t, mode(t, os.DevNull)&fs.ModeCharDevice)
	require.ErrorIs(t, Write(t.Context(), "/dev/full", []byte("x"), nil), syscall.ENOSPC)
}

// reader reads a pipe to its end.
func reader(t *testing.T, name string) <-chan string {
	got := make(chan string, 1)
	go func() {
		b, err := os.ReadFile(name)
		if err != nil {
			b = []byte(err.Error())
		}
		got <- string(b)
	}()
	return got
}

func TestPipeIsWrittenTo(t *testing.T) {
	dir := t.TempDir()
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	require.NoError(t, os.Symlink(fifo, link))
	for _, name := range []string{fifo, link} {
		got := reader(t, fifo)
		require.NoError(t, Write(t.Context(), name, []byte("through"), nil))
		require.Equal(t, "through", <-got)
	}
	require.NotZero(t, mode(t, fifo)&fs.ModeNamedPipe)
}

func TestPipeThatNobodyReadsIsLeft(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	ctx, cancel := context.WithCancelCause(t.Context())
	calls := 0
	_, err := Create(ctx, fifo, func() {
		calls++
		cancel(errors.New("stopped"))
	})
	require.EqualError(t, err, "nobody reads the pipe "+fifo+": stopped")
	require.Equal(t, 1, calls)
}

func TestPipeThatIsFullIsLeft(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	r, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer r.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	f, err := Create(ctx, fifo, nil)
	require.NoError(t, err)
	require.True(t, f.IsStream())
	ended := make(chan error)
	go func() {
		_, err := f.Write(make([]byte, 1<<20)) // more than a pipe holds
		ended <- err
	}()
	_, err = r.Read(make([]byte, 1))
	require.NoError(t, err)
	cancel(errors.New("stopped"))
	require.EqualError(t, <-ended, "stopped")
	require.NoError(t, f.Discard())
}

func TestPipeWhoseReaderGoesIsAnError(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	r, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	require.NoError(t, err)
	f, err := Create(t.Context(), fifo, nil)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	_, err = f.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.EPIPE)
	require.NoError(t, f.Discard())
}

// inherit makes a descriptor as a parent process gives one, and its name.
func inherit(t *testing.T, f *os.File) string {
	t.Helper()
	fd, err := unix.Dup(int(f.Fd()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return "/dev/fd/" + strconv.Itoa(fd)
}

func TestDescriptorIsWrittenTo(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	name := inherit(t, w)
	require.NoError(t, Write(t.Context(), name, []byte("through"), nil))
	require.NoError(t, w.Close())
	b := make([]byte, 7)
	_, err = io.ReadFull(r, b)
	require.NoError(t, err)
	require.Equal(t, "through", string(b))

	// A file goes on where its descriptor stands, and is not replaced.
	file := filepath.Join(t.TempDir(), "log")
	log, err := os.Create(file)
	require.NoError(t, err)
	defer log.Close()
	_, err = log.WriteString("before ")
	require.NoError(t, err)
	require.NoError(t, Write(t.Context(), inherit(t, log), []byte("now"), nil))
	_, err = log.WriteString(" after")
	require.NoError(t, err)
	require.Equal(t, "before now after", content(t, file))
}

func TestDescriptorThatWasNotGivenIsRefused(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "own"))
	require.NoError(t, err)
	defer f.Close()
	n := strconv.Itoa(int(f.Fd()))
	require.EqualError(t, Write(t.Context(), "/dev/fd/"+n, nil, nil), "file descriptor "+n+" was not given to this process")
	require.EqualError(t, Write(t.Context(), "/dev/fd/1023", nil, nil), "file descriptor 1023 is not open")
}

func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "a"), 0o755))
	require.NoError(t, os.Symlink("a", filepath.Join(dir, "b")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	require.NoError(t, os.Symlink("fifo", filepath.Join(dir, "pipe")))
	at := func(name string) Place {
		p, err := Locate(name)
		require.NoError(t, err)
		return p
	}
	in := func(name string) Place { return at(filepath.Join(dir, name)) }
	require.True(t, in("a/x").Same(in("b/x")))
	require.True(t, in("a/new/x").Same(in("b/new/../new/x")))
	require.False(t, in("a/x").Same(in("a/y")))
	require.True(t, in("fifo").Same(in("pipe")))
	require.True(t, in("a").Holds(in("b/c/d")))
	require.False(t, in("a").Holds(in("b")))
	require.False(t, in("a").Holds(in("ab")))
	require.True(t, at(os.DevNull).IsSink())
	require.True(t, in("pipe").IsStream())
	require.False(t, in("pipe").IsSink())
	require.True(t, in("b").IsDir())
	require.False(t, in("new").Exists())
}

func TestReplaceTakesThePlaceOfWhateverIsThere(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "cache", "file")
	require.NoError(t, Replace(name, []byte("1"), 0o600))
	require.NoError(t, Replace(name, []byte("2"), 0o600))
	require.Equal(t, "2", content(t, name))
	require.NoError(t, os.Remove(name))
	require.NoError(t, unix.Mkfifo(name, 0o600))
	require.NoError(t, Replace(name, []byte("3"), 0o600))
	require.Equal(t, "3", content(t, name))
	require.NoError(t, os.Remove(name))
	require.NoError(t, os.Mkdir(name, 0o700))
	require.Error(t, Replace(name, []byte("4"), 0o600))
	require.Equal(t, []string{"file"}, names(t, filepath.Dir(name)))
}

// The tests run as root, which may do all; what others may not is tried as another user.
func TestReadOnlyDirectoryWithAWritableFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(name, []byte("old and longer"), 0o666))
	require.NoError(t, os.Chmod(name, 0o666))
	locked := filepath.Join(dir, "locked")
	require.NoError(t, os.WriteFile(locked, []byte("old"), 0o444))
	require.NoError(t, os.Chmod(dir, 0o555))
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
	asNobody(t, dir, func() {
		require.NoError(t, Write(t.Context(), name, []byte("new"), nil))
		require.ErrorIs(t, Write(t.Context(), locked, []byte("new"), nil), fs.ErrPermission)
		require.ErrorIs(t, Write(t.Context(), filepath.Join(dir, "other"), nil, nil), fs.ErrPermission)
	})
	require.Equal(t, "new", content(t, name))
	require.Equal(t, "old", content(t, locked))
}

func TestFileOfAnotherInAStickyDirectory(t *testing.T) {
	if os.Getuid() != 0 {
		return // there is no other user to be
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o777|fs.ModeSticky))
	name := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(name, []byte("old and longer"), 0o666))
	require.NoError(t, os.Chmod(name, 0o666))
	asNobody(t, dir, func() { require.NoError(t, Write(t.Context(), name, []byte("new"), nil)) })
	require.Equal(t, "new", content(t, name))
	require.Equal(t, []string{"file"}, names(t, dir))
}

func TestReadTakesRegularFilesOnly(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(name, []byte("content"), 0o600))
	b, err := Read(name, 7)
	require.NoError(t, err)
	require.Equal(t, "content", string(b))
	_, err = Read(name, 6)
	require.ErrorContains(t, err, "larger than 6 bytes")
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	for _, other := range []string{fifo, dir, "/dev/zero"} {
		_, err = Read(other, 100)
		require.ErrorIs(t, err, ErrNotRegular, other)
	}
	_, err = Read(filepath.Join(dir, "none"), 100)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// An error names the file that was asked for, and not the one that is written first.
func TestErrorsNameTheFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "missing", "file")
	require.EqualError(t, Write(t.Context(), name, nil, nil), "create "+name+": no such file or directory")
}
