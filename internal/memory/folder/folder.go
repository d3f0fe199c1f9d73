// Package folder keeps files that one run leaves for the next. It is the one rule that
// all of them follow:
//
//   - what is remembered is a help, never needed: a file that is missing, or is no
//     regular file, says nothing, and its reader treats damage as the same;
//   - a file is replaced whole, readable by its user only. A file that several processes
//     add to is changed under a lock beside it, for which each waits [Wait] at most;
//   - a file that was neither read nor written for [Keep] goes ([Prune]).
//
// A [Folder] is safe for concurrent use.
package folder

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/dbake/dbake/internal/localfile"
)

const (
	// Keep is how long a file lasts that nobody uses.
	Keep = 30 * 24 * time.Hour
	// Wait is how long to wait for a lock.
	Wait = 5 * time.Second

	// marked is the least time between two notes of a file's use in its times.
	marked = 24 * time.Hour
	// tried is the time between two tries to get a lock.
	tried = 20 * time.Millisecond
)

// locked is the end of the name of a lock.
const locked = ".lock"

// ErrLocked reports that another process kept a file locked for too long.
var ErrLocked = errors.New("another process keeps it locked")

// Folder is a directory, which need not exist yet. Names of files may have slashes.
type Folder struct {
	Dir   string
	Limit int64 // bytes that are read of a file, at most; > 0
	// Wait bounds the wait for a lock; 0 = the constant.
	Wait time.Duration
	// Now is the clock; nil = time.Now.
	Now func() time.Time
}

func (f Folder) now() time.Time {
	if f.Now == nil {
		return time.Now()
	}
	return f.Now()
}

// Path is where a file is.
func (f Folder) Path(name string) string { return filepath.Join(f.Dir, filepath.FromSlash(name)) }

// Read returns a file, nil when there is none, or something else in its place.
func (f Folder) Read(name string) ([]byte, error) {
	path := f.Path(name)
	data, err := localfile.Read(path, f.Limit)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, localfile.ErrNotRegular) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && f.now().Sub(info.ModTime()) > marked {
		_ = os.Chtimes(path, f.now(), f.now()) // else it goes too early, and is found anew
	}
	return data, nil
}

// Write replaces a file. Of several processes that do so at a time the last one wins.
func (f Folder) Write(name string, data []byte) error {
	if err := localfile.Replace(f.Path(name), data, 0o600); err != nil {
		return err
	}
	return os.Chtimes(f.Path(name), f.now(), f.now())
}

// Update replaces a file by the result of change, while no other Update of any process
// does. An error of change is returned as it is, and nothing is written.
func (f Folder) Update(name string, change func(old []byte) ([]byte, error)) (err error) {
	lock := flock.New(f.Path(name) + locked)
	if err := os.MkdirAll(filepath.Dir(lock.Path()), 0o700); err != nil {
		return err
	}
	ctx, stop := context.WithTimeoutCause(context.Background(), cmp.Or(f.Wait, Wait), ErrLocked)
	defer stop()
	if _, err := lock.TryLockContext(ctx, tried); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	old, err := f.Read(name)
	if err != nil {
		return err
	}
	data, err := change(old)
	if err != nil {
		return err
	}
	return f.Write(name, data)
}

// Prune removes the files below dir that nobody used for [Keep]. One that a process
// updates at this moment stays.
func Prune(dir string, now time.Time) error {
	var errs []error
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil // another process prunes, too
			}
			return err
		}
		if !strings.HasSuffix(path, locked) {
			errs = append(errs, prune(path, now))
		} else if _, err := os.Lstat(strings.TrimSuffix(path, locked)); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, remove(path, now)) // of a process that was ended
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// prune removes a file, and its lock, when nobody used it for long.
func prune(path string, now time.Time) (err error) {
	if !unused(path, now) {
		return nil
	}
	if _, err := os.Lstat(path + locked); err != nil {
		return remove(path, now)
	}
	lock := flock.New(path + locked)
	if ok, err := lock.TryLock(); err != nil || !ok {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	// A process that waits for this lock writes all the same, and may lose an entry that
	// another adds at that moment.
	return errors.Join(remove(path, now), os.Remove(path+locked))
}

// remove removes a file that nobody used for long.
func remove(path string, now time.Time) error {
	if !unused(path, now) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func unused(path string, now time.Time) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && now.Sub(info.ModTime()) >= Keep
}
