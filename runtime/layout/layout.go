package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store serves the blobs of the OCI layout in a directory and changes
// nothing there. containerd's own store creates directories and removes labels
// where it is opened, also if it is only to be read.
type Store string

var _ content.Store = Store("")

// Stores opens OCI image layouts by id.
func Stores(dirs map[string]string) (map[string]content.Store, error) {
	stores := make(map[string]content.Store, len(dirs))
	for id, dir := range dirs {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("image layout %s: directory %s is not absolute", id, dir)
		}
		stores[id] = Store(dir)
	}
	return stores, nil
}

// Path returns the file of a blob.
func (dir Store) Path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(string(dir), ocispecs.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// Info implements content.InfoProvider.
func (dir Store) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	name, err := dir.Path(d)
	if err != nil {
		return content.Info{}, err
	}
	fi, err := os.Stat(name)
	if err != nil {
		return content.Info{}, blobError(d, err)
	}
	return content.Info{Digest: d, Size: fi.Size(), CreatedAt: fi.ModTime(), UpdatedAt: fi.ModTime()}, nil
}

// ReaderAt implements content.Provider.
func (dir Store) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	name, err := dir.Path(desc.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, blobError(desc.Digest, err)
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(blobError(desc.Digest, err), f.Close())
	}
	return blobFile{f, fi.Size()}, nil
}

// Walk implements content.Manager. No blob has labels, and filters are about
// those, so that a filter selects nothing.
func (dir Store) Walk(ctx context.Context, fn content.WalkFunc, filters ...string) error {
	if len(filters) > 0 {
		return nil
	}
	root := filepath.Join(string(dir), ocispecs.ImageBlobsDir)
	return filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case entry.IsDir():
			return nil
		}
		d := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(filepath.Dir(name))), entry.Name())
		info, err := dir.Info(ctx, d)
		if errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) {
			return nil // no blob, or gone by now
		}
		if err != nil {
			return err
		}
		return fn(info)
	})
}

// Update implements content.Manager; it is refused, as all that follows.
func (dir Store) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, dir.readOnlyError()
}

// Delete implements content.Manager.
func (dir Store) Delete(context.Context, digest.Digest) error { return dir.readOnlyError() }

// Status implements content.IngestManager: nothing is ever being written.
func (dir Store) Status(_ context.Context, ref string) (content.Status, error) {
	return content.Status{}, fmt.Errorf("write of %s: %w", ref, errdefs.ErrNotFound)
}

// ListStatuses implements content.IngestManager.
func (dir Store) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, nil
}

// Abort implements content.IngestManager.
func (dir Store) Abort(context.Context, string) error { return dir.readOnlyError() }

// Writer implements content.Ingester.
func (dir Store) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, dir.readOnlyError()
}

func (dir Store) readOnlyError() error {
	return fmt.Errorf("image layout %s is only read: %w", string(dir), errdefs.ErrPermissionDenied)
}

// blobError is err in the terms in which a node asks.
func blobError(d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
	}
	return fmt.Errorf("blob %s: %w", d, err)
}

// blobFile is an open blob.
type blobFile struct {
	*os.File
	size int64
}

func (b blobFile) Size() int64 { return b.size }

var _ io.ReaderAt = blobFile{}
