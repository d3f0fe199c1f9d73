package localfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// maxLinks bounds a chain of symbolic links, as the kernel does.
const maxLinks = 40

// Place is what a file name leads to.
type Place struct {
	path string      // where the last symbolic link ends
	info fs.FileInfo // nil when nothing is there
	fd   int         // of this process; -1 when it is none
	open bool        // path leads through /proc to what a process has open
}

// Locate finds what an absolute file name leads to, without opening it.
func Locate(name string) (Place, error) {
	path := filepath.Clean(name)
	for range maxLinks {
		info, err := os.Lstat(path)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return Place{}, err
		case err != nil:
			dir := withoutLinks(filepath.Dir(path))
			if _, ok := descriptor(dir, filepath.Base(path)); ok {
				return Place{}, fmt.Errorf("file descriptor %s is not open", filepath.Base(path))
			}
			return Place{path: filepath.Join(dir, filepath.Base(path)), fd: -1}, nil
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return Place{}, err
		}
		path = filepath.Join(dir, filepath.Base(path))
		if fd, ok := descriptor(dir, filepath.Base(path)); ok {
			if info, err = os.Stat(path); err != nil {
				return Place{}, err
			}
			if fd >= 0 && !inherited(fd) {
				return Place{}, fmt.Errorf("file descriptor %d was not given to this process", fd)
			}
			return Place{path: path, info: info, fd: fd, open: true}, nil
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return Place{path: path, info: info, fd: -1}, nil
		}
		next, err := os.Readlink(path)
		if err != nil {
			return Place{}, err
		}
		if !filepath.IsAbs(next) {
			next = filepath.Join(dir, next)
		}
		path = filepath.Clean(next)
	}
	return Place{}, &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
}

// descriptor reports whether a directory lists the open files of a process, and
// which descriptor of this process base is; -1 is one of another process.
func descriptor(dir, base string) (fd int, ok bool) {
	n, err := strconv.Atoi(base)
	if err != nil || n < 0 {
		return 0, false
	}
	if dir == "/dev/fd" {
		return n, true
	}
	rest, ok := strings.CutPrefix(dir, "/proc/")
	if !ok || filepath.Base(dir) != "fd" {
		return 0, false
	}
	if pid, _, _ := strings.Cut(rest, "/"); pid == strconv.Itoa(os.Getpid()) || pid == "self" || pid == "thread-self" {
		return n, true
	}
	return -1, true
}

// withoutLinks resolves the links of a directory as far as it exists.
func withoutLinks(dir string) string {
	if r, err := filepath.EvalSymlinks(dir); err == nil {
		return r
	}
	up := filepath.Dir(dir)
	if up == dir {
		return dir
	}
	return filepath.Join(withoutLinks(up), filepath.Base(dir))
}

// Path is the name without links. It names what is there only when the place is no
// descriptor.
func (p Place) Path() string { return p.path }

// Exists reports whether something is there.
func (p Place) Exists() bool { return p.info != nil }

// IsDir reports whether a directory is there.
func (p Place) IsDir() bool { return p.info != nil && p.info.IsDir() }

// IsStream reports whether what is written there cannot be taken back.
func (p Place) IsStream() bool {
	return p.open || p.info != nil && !p.info.Mode().IsRegular() && !p.info.IsDir()
}

// IsSink reports whether several files can go there without harm to each other:
// it is a device, as /dev/null.
func (p Place) IsSink() bool {
	return p.info != nil && p.info.Mode()&fs.ModeDevice != 0
}

// MayBeClosed reports whether this may be a standard stream that the caller has closed. The
// Go runtime puts /dev/null in its place, opened for reading and writing, as some callers
// do who want /dev/null; what is written there is lost, which no write reports.
func (p Place) MayBeClosed() bool {
	return p.open && p.fd >= 0 && p.fd <= 2 && replacesClosed(p.fd)
}

// Same reports whether what is written to p and to q goes to one place.
func (p Place) Same(q Place) bool {
	if p.info != nil && q.info != nil && (p.IsStream() || q.IsStream()) {
		return os.SameFile(p.info, q.info)
	}
	return p.path == q.path
}

// Holds reports whether q lies below the directory p.
func (p Place) Holds(q Place) bool {
	rel, err := filepath.Rel(p.path, q.path)
	return err == nil && rel != "." && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
