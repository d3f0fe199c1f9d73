package daemon

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"google.golang.org/grpc"

	"github.com/dbake/dbake/runtime/fault"
)

// faults keeps the first failure of this machine while it takes what a node sends.
// The node reports it too, but in words only.
type faults struct {
	mu    sync.Mutex
	first error // guarded by mu
}

func (f *faults) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == nil {
		f.first = err
	}
}

// at returns the failure as one of writing to place, nil when there is none.
func (f *faults) at(place string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == nil {
		return nil
	}
	var named *fs.PathError
	if errors.As(f.first, &named) {
		return &fault.Rejected{Err: &fault.OutputError{Err: f.first}}
	}
	return &fault.Rejected{Err: &fault.OutputError{Place: place, Err: f.first}}
}

// receiver takes the files that a node sends.
type receiver struct {
	*filesync.SyncTarget
	faults *faults
}

var _ session.Attachable = (*receiver)(nil)

// Register implements session.Attachable.
func (r *receiver) Register(s *grpc.Server) { filesync.RegisterFileSendServer(s, r) }

// DiffCopy implements filesync.FileSendServer.
func (r *receiver) DiffCopy(stream filesync.FileSend_DiffCopyServer) error {
	watched := &watchedStream{FileSend_DiffCopyServer: stream}
	err := r.SyncTarget.DiffCopy(watched)
	if err != nil && !watched.broken.Load() && stream.Context().Err() == nil {
		r.faults.note(err)
	}
	return err
}

// watchedStream knows whether it was the node that failed.
type watchedStream struct {
	filesync.FileSend_DiffCopyServer
	broken atomic.Bool
}

// RecvMsg implements grpc.ServerStream.
func (s *watchedStream) RecvMsg(m any) error {
	err := s.FileSend_DiffCopyServer.RecvMsg(m)
	if err != nil && !errors.Is(err, io.EOF) {
		s.broken.Store(true)
	}
	return err
}

// receivingStore is a store of blobs on this machine that a node writes to.
type receivingStore struct {
	content.Store
	faults *faults
}

// Writer implements content.Ingester.
func (s *receivingStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.Store.Writer(ctx, opts...)
	if err != nil {
		s.faults.noteLocal(err)
		return nil, err
	}
	return &receivingWriter{Writer: w, faults: s.faults}, nil
}

type receivingWriter struct {
	content.Writer
	faults *faults
}

// Write implements io.Writer.
func (w *receivingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.faults.noteLocal(err)
	return n, err
}

// noteLocal notes err if it comes from the file system, and not from what was asked.
func (f *faults) noteLocal(err error) {
	var path *fs.PathError
	var link *os.LinkError
	var errno syscall.Errno
	if errors.As(err, &path) || errors.As(err, &link) || errors.As(err, &errno) {
		f.note(err)
	}
}
