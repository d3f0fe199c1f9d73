// Package filesum finds the SHA-256 of files and remembers it, so that a file that
// has not changed is read once and not in every run.
//
// A [Cache] is a directory with one file for each root below which files were looked
// at. What is remembered of a file is trusted as long as its size, its inode and the
// times of its last modification and of its last change of any kind are the same;
// the latter cannot be set by programs, so a file whose modification time was put
// back is read again. A file that was changed just before it was read might be
// changed once more without a visible difference: its digest is not kept beyond the run.
//
// The cache is never needed. A file of it that is damaged, or that another process
// replaces meanwhile, costs reading again. Nothing is locked.
package filesum

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/internal/memory/folder"
)

// Sum is the digest of a file.
type Sum [sha256.Size]byte

const (
	// settled is how long ago a file must have been changed for its digest to be
	// kept: more than the resolution of times of any file system.
	settled = 2 * time.Second
	// kept is for how many days a file that nobody asks for is remembered.
	kept = int64(folder.Keep / (24 * time.Hour))
	// maxReaders bounds the files that are read at one time.
	maxReaders = 16
)

// Cache remembers the digests of files. It is safe for concurrent use.
type Cache struct {
	buffers sync.Pool // of *[bufferSize]byte

	dir   string
	now   time.Time
	reads atomic.Int64 // files read, for tests

	mu    sync.Mutex       // guards what follows
	roots map[string]*root // by absolute directory
}

// root holds the digests of the files below a directory.
type root struct {
	files map[string]entry // by name, relative to the root
	dirty bool             // differs from what is on the disk
}

// entry is the digest of a file, and the state it was read in.
type entry struct {
	id   identity
	sum  Sum
	seen int64 // day when it was last asked for
	// fresh is set when the file might be changed once more without a visible difference:
	// the digest is good for this run only.
	fresh bool
}

// identity distinguishes versions of a file.
type identity struct {
	size     int64
	modified int64 // in nanoseconds since 1970, as the next
	changed  int64 // last change of content, name or mode; 0 = not known
	inode    uint64
}

// Open returns the cache in dir, which need not exist; "" is one that is kept
// nowhere. now is the time of this run.
func Open(dir string, now time.Time) *Cache {
	return &Cache{dir: dir, now: now, roots: map[string]*root{}}
}

// File is a file whose digest is asked for.
type File struct {
	Name string // relative to a directory
	// Info is what the file itself was found to be, no link being followed; nil has it
	// looked at.
	Info fs.FileInfo
}

// Sums returns the digests of regular files below dir. A file
// that cannot be read, or is gone by now, is known by its size and time only;
// unreadable is the error of the first by name that is there and cannot be read. err
// is that of ctx.
func (c *Cache) Sums(ctx context.Context, dir string, files []File) (sums []Sum, unreadable, err error) {
	r := c.root(dir)
	sums = make([]Sum, len(files))
	left := c.recall(r, files, sums)
	if len(left) == 0 {
		return sums, nil, context.Cause(ctx)
	}
	found := make([]*entry, len(left))
	failed := make([]error, len(left))
	var next atomic.Int64
	eg, ctx := errgroup.WithContext(ctx)
	for range min(maxReaders, 2*runtime.GOMAXPROCS(0), len(left)) {
		eg.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(left) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return context.Cause(ctx)
				}
				found[i], failed[i] = c.sum(r, dir, files[left[i]])
			}
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, nil, err
	}
	for _, err := range failed {
		if err != nil {
			unreadable = err
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, at := range left {
		e := found[i]
		sums[at] = e.sum
		r.put(files[at].Name, *e)
	}
	return sums, unreadable, nil
}

// recall fills in the digests that are remembered of files that were looked at, and returns
// the places of the others.
func (c *Cache) recall(r *root, files []File, sums []Sum) (left []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, f := range files {
		if f.Info == nil {
			left = append(left, i)
			continue
		}
		e, ok := r.files[f.Name]
		if !ok || e.id != identify(f.Info) {
			left = append(left, i)
			continue
		}
		sums[i] = e.sum
		if e.seen != c.day() {
			e.seen = c.day()
			r.put(f.Name, e)
		}
	}
	return left
}

// put notes what is known of a file. The lock of the cache is held.
func (r *root) put(name string, e entry) {
	if old, ok := r.files[name]; !ok || old != e {
		r.files[name] = e
		r.dirty = r.dirty || ok || !e.fresh
	}
}

// bufferSize is how much of a file is read at once.
const bufferSize = 64 << 10

// sum returns the present digest of one file. The error is why it cannot be read although
// it is there.
func (c *Cache) sum(r *root, dir string, f File) (*entry, error) {
	path := filepath.Join(dir, f.Name)
	info := f.Info
	if info == nil {
		var err error
		if info, err = os.Lstat(path); err != nil {
			return &entry{sum: sha256.Sum256([]byte("gone")), fresh: true}, nil
		}
	}
	id := identify(info)
	c.mu.Lock()
	old, ok := r.files[f.Name]
	c.mu.Unlock()
	if ok && old.id == id {
		old.seen = c.day()
		return &old, nil
	}
	buf, ok := c.buffers.Get().(*[bufferSize]byte)
	if !ok {
		buf = new([bufferSize]byte)
	}
	e, err := read(path, buf[:])
	c.buffers.Put(buf)
	if err != nil {
		e := &entry{sum: sha256.Sum256(fmt.Appendf(nil, "unreadable %d %d", id.size, id.modified)), fresh: true}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotRegular) {
			err = nil // it was replaced meanwhile
		}
		return e, err
	}
	c.reads.Add(1)
	e.seen = c.day()
	last := e.id.changed
	if last == 0 {
		last = e.id.modified
	}
	e.fresh = last >= c.now.Add(-settled).UnixNano()
	return &e, nil
}

// errNotRegular is returned for a file that is no longer regular.
var errNotRegular = errors.New("not a regular file")

// read returns the digest of a file and what the file was before it was read.
func read(path string, buf []byte) (e entry, err error) {
	// Do not wait for the writer of a pipe that has taken the place of a file.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return entry{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return entry{}, err
	}
	if !info.Mode().IsRegular() {
		return entry{}, errNotRegular
	}
	h := sha256.New()
	// Without the wrapper the file would be asked to copy itself.
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, buf); err != nil {
		return entry{}, err
	}
	e.id = identify(info)
	h.Sum(e.sum[:0])
	return e, nil
}

// day counts the days since 1970.
func (c *Cache) day() int64 { return c.now.Unix() / (24 * 60 * 60) }

// root returns what is known of the files below dir.
func (c *Cache) root(dir string) *root {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.roots[dir]
	if r == nil {
		r = &root{files: c.load(dir)}
		c.roots[dir] = r
	}
	return r
}

// Save writes new digests to the directory of the cache.
func (c *Cache) Save() error {
	if c.dir == "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for dir, r := range c.roots {
		if r.dirty {
			errs = append(errs, c.save(dir, r))
			r.dirty = false
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remember the digests of files: %w", err)
	}
	return nil
}
