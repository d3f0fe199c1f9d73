//go:build unix

package localfile

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// inherited reports whether a descriptor was given to the process: those that it
// opens itself are closed when it starts another program.
func inherited(fd int) bool {
	if fd <= 2 {
		return true
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}

// replacesClosed reports whether a descriptor is what the Go runtime opens in the place of
// one that is closed.
func replacesClosed(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_ACCMODE != unix.O_RDWR {
		return false
	}
	var is, null unix.Stat_t
	return unix.Fstat(fd, &is) == nil && unix.Stat(os.DevNull, &null) == nil &&
		is.Mode&unix.S_IFMT == unix.S_IFCHR && is.Rdev == null.Rdev
}

// openDescriptor opens what the process has open as p.fd. A pipe or a device is
// opened once more, so that waiting can be ended without a change to what other
// processes share; a regular file goes on where the descriptor stands.
func openDescriptor(ctx context.Context, p Place, waiting func()) (*os.File, error) {
	if mode := p.info.Mode(); mode&(fs.ModeNamedPipe|fs.ModeDevice) != 0 {
		if f, err := openStream(ctx, p, waiting); err == nil || ctx.Err() != nil {
			return f, err
		}
	}
	fd, err := unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "write", Path: p.path, Err: err}
	}
	return os.NewFile(uintptr(fd), p.path), nil
}

// alike gives f the mode and the owner of another file.
func alike(f *os.File, other fs.FileInfo) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	is, ok := info.Sys().(*syscall.Stat_t)
	want, wanted := other.Sys().(*syscall.Stat_t)
	if !ok || !wanted {
		return errors.New("no owner known")
	}
	if is.Uid != want.Uid || is.Gid != want.Gid {
		if err := f.Chown(int(want.Uid), int(want.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(other.Mode().Perm())
}
