package daemon

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"

	"github.com/dbake/dbake/internal/localfile"
	"github.com/dbake/dbake/runtime/fault"
)

// Transfers records the client's directories that one node has read, and the files that
// could not be sent to it.
type Transfers struct {
	sum atomic.Int64 // bytes

	mu    sync.Mutex     // guards what follows
	walks map[string]int // by local source name
	// unread are the files that are not sent because they cannot be read, by local source name
	// and path. fresh are the sources that TakeUnread has yet to return.
	unread map[string]map[string]*fault.InputError
	fresh  map[string]bool
}

// Bytes returns how much was sent.
func (t *Transfers) Bytes() int64 { return t.sum.Load() }

// Walks returns how often each local source was sent.
func (t *Transfers) Walks() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	walks := make(map[string]int, len(t.walks))
	for name, n := range t.walks {
		walks[name] = n
	}
	return walks
}

// LeaveOut notes that a file or directory cannot be read. It is not sent any more.
func (t *Transfers) LeaveOut(source, path string, err *fault.InputError) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unread[source][path] != nil {
		return
	}
	if t.unread == nil {
		t.unread = map[string]map[string]*fault.InputError{}
	}
	if t.unread[source] == nil {
		t.unread[source] = map[string]*fault.InputError{}
	}
	if t.fresh == nil {
		t.fresh = map[string]bool{}
	}
	t.unread[source][path], t.fresh[source] = err, true
}

// leavesOut reports whether a path is not to be sent.
func (t *Transfers) leavesOut(source, path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unread[source][path] != nil
}

// TakeUnread returns all files left out of the sources that have left out more since the
// last call.
func (t *Transfers) TakeUnread() map[string]map[string]*fault.InputError {
	t.mu.Lock()
	defer t.mu.Unlock()
	var changed map[string]map[string]*fault.InputError
	for source := range t.fresh {
		if changed == nil {
			changed = map[string]map[string]*fault.InputError{}
		}
		changed[source] = maps.Clone(t.unread[source])
	}
	t.fresh = nil
	return changed
}

// directories serves the local sources of a session, notes files that cannot be read and
// counts bytes. Ownership is reset to root, as BuildKit's own client does, so that the
// digest of a layer does not depend on who ran the build.
type directories struct {
	dirs map[string]string
	sent *Transfers
}

var _ session.Attachable = (*directories)(nil)

// Register implements session.Attachable.
func (d *directories) Register(s *grpc.Server) { filesync.RegisterFileSyncServer(s, d) }

// DiffCopy implements filesync.FileSyncServer.
func (d *directories) DiffCopy(stream filesync.FileSync_DiffCopyServer) error {
	t := &transfer{directories: d, failed: make(chan struct{})}
	err := filesync.NewFSSyncProvider(t).(filesync.FileSyncServer).DiffCopy(&endingStream{stream, t})
	if t.err != nil {
		return t.err
	}
	return err
}

// TarStream implements filesync.FileSyncServer.
func (d *directories) TarStream(stream filesync.FileSync_TarStreamServer) error {
	return filesync.NewFSSyncProvider(&transfer{directories: d, failed: make(chan struct{})}).(filesync.FileSyncServer).TarStream(stream)
}

// transfer is the answer to one request for a directory.
type transfer struct {
	*directories
	once   sync.Once
	failed chan struct{} // closed once a file could not be sent
	err    error         // which; set before failed is closed
}

// fail ends the transfer.
func (t *transfer) fail(err error) {
	t.once.Do(func() {
		t.err = err
		close(t.failed)
	})
}

// endingStream is a stream in which nothing more is received once the transfer has failed. A
// sender that cannot read a file would otherwise wait for the node, which waits for the file.
type endingStream struct {
	filesync.FileSync_DiffCopyServer
	transfer *transfer
}

// RecvMsg implements grpc.ServerStream.
func (s *endingStream) RecvMsg(m any) error {
	received := make(chan error, 1) // the end of the stream ends what is left behind
	go func() { received <- s.FileSync_DiffCopyServer.RecvMsg(m) }()
	select {
	case err := <-received:
		return err
	case <-s.transfer.failed:
		return s.transfer.err
	}
}

var _ filesync.DirSource = (*transfer)(nil)

// LookupDir implements filesync.DirSource.
func (t *transfer) LookupDir(name string) (fsutil.FS, bool) {
	dir, ok := t.dirs[name]
	if !ok {
		return nil, false
	}
	s := &sourceFS{name: name, dir: dir, transfer: t, open: os.OpenFile}
	f, err := os.Open(dir) // fsutil takes one that cannot be listed for an empty one
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		s.FS, err = fsutil.NewFS(dir)
	}
	if err != nil {
		_ = s.fail(".", err) // DiffCopy returns it
		return nil, false
	}
	return s, true
}

// sourceFS is the directory of a local source.
//
// What cannot be read is left out, and noted before the node has all that it asked for. fsutil
// alone would fail the transfer for all that wait for it, or send an empty file, which the node
// would keep for the real one. It would also leave out what stands behind a file that goes away
// while its directory is listed.
type sourceFS struct {
	fsutil.FS
	name     string
	dir      string
	transfer *transfer
	open     func(name string, flag int, perm os.FileMode) (*os.File, error)
}

var _ fsutil.FS = (*sourceFS)(nil)

// Walk implements fsutil.FS.
func (s *sourceFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	// FollowPaths are resolved by walking single paths first; only the walk of
	// the whole tree is a transfer.
	if target == "" || target == "/" || target == "." {
		s.transfer.sent.mu.Lock()
		if s.transfer.sent.walks == nil {
			s.transfer.sent.walks = map[string]int{}
		}
		s.transfer.sent.walks[s.name]++
		s.transfer.sent.mu.Unlock()
	}
	return s.FS.Walk(ctx, target, func(path string, e fs.DirEntry, walkErr error) error {
		// An output of this build that is not yet in its place is no input of it.
		if s.transfer.sent.leavesOut(s.name, path) || localfile.IsBeside(filepath.Base(path)) {
			if e != nil && e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if walkErr != nil {
			// Not every walker wants to know: some do not look into this directory.
			err := fn(path, e, walkErr)
			if err == nil || gone(err) || errors.Is(err, fs.SkipDir) {
				return err
			}
			s.transfer.sent.LeaveOut(s.name, path, s.inputError(path, err))
			return nil
		}
		err := fn(path, dirEntry{e, s, path}, nil)
		if out := (*leftOut)(nil); errors.As(err, &out) {
			return nil
		}
		return err
	})
}

// dirEntry is an entry of a directory. Whether it can be read is found out only when it is
// looked at, since only entries that are to be sent are.
type dirEntry struct {
	fs.DirEntry
	fs   *sourceFS
	path string
}

// Info implements fs.DirEntry. Files belong to root.
func (e dirEntry) Info() (fs.FileInfo, error) {
	info, err := e.DirEntry.Info()
	if gone(err) {
		return nil, &leftOut{err.Error()}
	}
	if err == nil {
		err = e.fs.readable(e.path, info.Mode())
	}
	if err != nil {
		failed := e.fs.inputError(e.path, err)
		e.fs.transfer.sent.LeaveOut(e.fs.name, e.path, failed)
		return nil, &leftOut{failed.Error()}
	}
	if st, ok := info.Sys().(*fstypes.Stat); ok {
		st.Uid, st.Gid = 0, 0 // it is a copy
	}
	return info, nil
}

// leftOut reports that an entry is not sent. fsutil does not know this error; at one of its own
// it would leave out more.
type leftOut struct{ text string }

func (e *leftOut) Error() string { return e.text }

// readable returns why a file cannot be read, as far as that can be found out without
// opening every one.
func (s *sourceFS) readable(path string, mode fs.FileMode) error {
	if !mode.IsRegular() || mode.Perm()&0o444 == 0o444 {
		return nil
	}
	f, err := s.open(filepath.Join(s.dir, path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err == nil {
		return f.Close()
	}
	if gone(err) {
		return nil // the next to open it will say so
	}
	return err
}

// gone reports whether err means that a file does not exist.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// inputError returns the error that path cannot be read.
func (s *sourceFS) inputError(path string, err error) *fault.InputError {
	var named *fs.PathError
	for errors.As(err, &named) {
		err = named.Err
	}
	return &fault.InputError{Path: filepath.Join(s.dir, path), Err: err}
}

// fail ends the transfer because a file that the node knows of cannot be read.
func (s *sourceFS) fail(path string, err error) error {
	failed := s.inputError(path, err)
	if !errors.Is(err, fault.ErrWentAway) {
		s.transfer.sent.LeaveOut(s.name, path, failed)
	}
	s.transfer.fail(failed)
	return failed
}

// Open implements fsutil.FS. Its reader reports a file that cannot be opened.
func (s *sourceFS) Open(path string) (io.ReadCloser, error) {
	r := &fileReader{fs: s, path: path}
	// Do not wait for the writer of a pipe that has taken the place of a file.
	f, err := s.open(filepath.Join(s.dir, path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if gone(err) || errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.ELOOP) {
			err = fault.ErrWentAway
		}
		r.err = s.fail(path, err)
		return r, nil
	}
	r.file = f
	if info, err := f.Stat(); err != nil {
		r.err = s.fail(path, err)
	} else if !info.Mode().IsRegular() {
		r.err = s.fail(path, fault.ErrWentAway)
	}
	return r, nil
}

// fileReader reads a file and counts the bytes.
type fileReader struct {
	fs   *sourceFS
	path string
	file *os.File // nil when it could not be opened
	err  error    // why it cannot be read
}

// Read implements io.Reader.
func (r *fileReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.file.Read(p)
	r.fs.transfer.sent.sum.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.fs.fail(r.path, err)
	}
	return n, err
}

// Close implements io.Closer.
func (r *fileReader) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
