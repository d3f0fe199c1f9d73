package localfile

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// readerInterval is how often it is looked whether a named pipe has a reader.
const readerInterval = 50 * time.Millisecond

// File is a file that is being written. Its methods may be called from several
// goroutines, but only one may write.
type File struct {
	ctx   context.Context // ends waiting for a reader
	stop  func() bool     // ends the watch on ctx
	file  *os.File
	place Place
	// temporary is set when file is beside its place, and takes it with Commit.
	temporary bool
}

// Create opens the file with an absolute name for writing. waiting, when it is not
// nil, is called once if a named pipe has no reader yet.
//
// The file must be ended with Commit or Discard. When ctx ends, so does what waits
// for the reader of a pipe, with the cause of ctx.
func Create(ctx context.Context, name string, waiting func()) (*File, error) {
	return create(ctx, name, waiting, true)
}

// CreateBeside is Create for what must be possible to take back until Commit: where no file
// can be made beside the old one, and for a stream, it fails.
func CreateBeside(ctx context.Context, name string) (*File, error) {
	return create(ctx, name, nil, false)
}

// create is Create; with inPlace, what cannot be written beside its place is written there.
func create(ctx context.Context, name string, waiting func(), inPlace bool) (*File, error) {
	place, err := Locate(name)
	if err != nil {
		return nil, err
	}
	f := &File{ctx: ctx, place: place, stop: func() bool { return true }}
	switch {
	case place.IsDir():
		return nil, &fs.PathError{Op: "write", Path: name, Err: syscall.EISDIR}
	case !inPlace && place.IsStream():
		return nil, &fs.PathError{Op: "write", Path: name, Err: ErrNotRegular}
	case place.fd >= 0:
		f.file, err = openDescriptor(ctx, place, waiting)
	case place.IsStream():
		f.file, err = openStream(ctx, place, waiting)
	default:
		err = f.openRegular(inPlace)
	}
	if err != nil {
		return nil, err
	}
	if !f.temporary {
		file := f.file
		f.stop = context.AfterFunc(ctx, func() {
			// Of a file that cannot wait there is nothing to end.
			_ = file.SetWriteDeadline(time.Unix(1, 0))
		})
	}
	return f, nil
}

// openStream opens what is neither a regular file nor a directory.
func openStream(ctx context.Context, p Place, waiting func()) (*os.File, error) {
	if p.info.Mode()&fs.ModeSocket != 0 {
		return nil, &fs.PathError{Op: "write", Path: p.path, Err: errors.New("it is a socket")}
	}
	if p.info.Mode()&fs.ModeNamedPipe == 0 {
		return os.OpenFile(p.path, os.O_WRONLY, 0)
	}
	for {
		// Without a reader a blocking open could not be ended.
		f, err := os.OpenFile(p.path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if !errors.Is(err, syscall.ENXIO) {
			return f, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		t := time.NewTimer(readerInterval)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("nobody reads the pipe %s: %w", p.path, context.Cause(ctx))
		}
	}
}

// openRegular opens a file beside the place, or else, with inPlace, the place itself.
func (f *File) openRegular(inPlace bool) error {
	old := f.place.info
	if old != nil {
		// Who may not write it shall not replace it.
		probe, err := os.OpenFile(f.place.path, os.O_WRONLY, 0)
		if err != nil && !errors.Is(err, syscall.ETXTBSY) {
			return err
		}
		if err == nil {
			if err := probe.Close(); err != nil {
				return err
			}
		}
	}
	tmp, err := beside(f.place.path, 0o666)
	if err == nil && old != nil {
		if err = alike(tmp, old); err != nil {
			err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
		}
	}
	if err == nil {
		f.file, f.temporary = tmp, true
		return nil
	}
	if old == nil || !inPlace || !refused(err) {
		return err
	}
	f.file, err = os.OpenFile(f.place.path, os.O_WRONLY|os.O_TRUNC, 0)
	return err
}

// refused reports whether err is about what may be done, and not about space, say.
func refused(err error) bool {
	for _, e := range []error{fs.ErrPermission, syscall.EROFS, syscall.EBUSY, syscall.EXDEV} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// temporaryPrefix begins the names of what waits to take its place.
const temporaryPrefix = ".dbake-"

// Beside returns a new name in the directory of path, for what is to take its place.
func Beside(path string) string {
	return filepath.Join(filepath.Dir(path), temporaryPrefix+rand.Text())
}

// IsBeside reports whether a name without a directory is such a name.
func IsBeside(name string) bool {
	return strings.HasPrefix(name, temporaryPrefix) && len(name) == len(temporaryPrefix)+len(rand.Text())
}

// beside makes a new file in the directory of path. The error is about path, as nobody
// has heard of another.
func beside(path string, perm fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(Beside(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	var named *fs.PathError
	if errors.As(err, &named) {
		return nil, &fs.PathError{Op: "create", Path: path, Err: named.Err}
	}
	return f, err
}

// IsStream reports whether what is written cannot be taken back.
func (f *File) IsStream() bool { return !f.temporary }

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	if err != nil && f.ctx.Err() != nil {
		err = context.Cause(f.ctx)
	}
	return n, err
}

// Close ends the writing: a reader of a stream sees the end. Closing twice is no
// error.
func (f *File) Close() error {
	f.stop()
	if err := f.file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}

// Commit closes the file and puts it into its place.
func (f *File) Commit() error {
	if err := f.Close(); err != nil {
		return errors.Join(err, f.Discard())
	}
	if !f.temporary {
		return nil
	}
	if info, err := os.Lstat(f.place.path); err == nil && !info.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("%s was a file and is none any more", f.place.path), f.Discard())
	}
	err := os.Rename(f.file.Name(), f.place.path)
	if err == nil {
		return nil
	}
	if f.place.info != nil && refused(err) {
		// It may be the root of a mount, or of somebody else in a directory where
		// only owners rename.
		if copyErr := overwrite(f.place.path, f.file.Name()); copyErr != nil {
			err = errors.Join(err, copyErr)
		} else {
			err = nil
		}
	}
	return errors.Join(err, f.Discard())
}

// overwrite copies a file into an existing one.
func overwrite(to, from string) (err error) {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// Discard closes the file and removes what was written, if it is not yet in its
// place.
func (f *File) Discard() error {
	err := f.Close()
	if !f.temporary {
		return err
	}
	if rmErr := os.Remove(f.file.Name()); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}

// Write writes a whole file that the user named; name and waiting are those of Create.
func Write(ctx context.Context, name string, data []byte, waiting func()) error {
	f, err := Create(ctx, name, waiting)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Discard())
	}
	return f.Commit()
}

// Replace puts a file with this content at path, whatever was there, and makes the
// directory if there is none. Nobody sees a part of it.
func Replace(path string, data []byte, perm fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := beside(path, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// ErrNotRegular reports that a pipe, a directory or something else is where a file should
// be.
var ErrNotRegular = errors.New("not a regular file")

// Read returns the content of a regular file of at most limit bytes. Nothing else is
// waited for, as a pipe would be.
func Read(path string, limit int64) (data []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &fs.PathError{Op: "read", Path: path, Err: ErrNotRegular}
	case info.Size() > limit:
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("larger than %d bytes", limit)}
	}
	// Not to grow a buffer for what is as large as it says; it may have grown meanwhile.
	b := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	_, err = b.ReadFrom(io.LimitReader(f, limit))
	return b.Bytes(), err
}
