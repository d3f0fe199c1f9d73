// Package watch reports changes of the files that a build reads.
//
// A [Watcher] watches them; [Watcher.Next] waits for changes and returns their names once
// it has been quiet for a moment, so that the many steps of an editor or a checkout are one
// change. Changes while nobody waits are kept by the system.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/dbake/dbake/internal/localfile"
)

// Root is a directory that is watched.
type Root struct {
	Dir string // absolute
	// Only are the names of the files in Dir that count; nil is everything below Dir.
	Only []string
}

const (
	// quiet is how long nothing must have changed before changes are reported, and
	// longest how long they are held back for that.
	quiet   = 100 * time.Millisecond
	longest = 2 * time.Second
)

// Watcher watches roots. It is used by one goroutine.
type Watcher struct {
	events  *fsnotify.Watcher
	roots   []Root
	ignored []string
}

// New returns a watcher of nothing. It must be closed.
func New() (*Watcher, error) {
	w, err := fsnotify.NewBufferedWatcher(256)
	if err != nil {
		return nil, explain(err)
	}
	return &Watcher{events: w}, nil
}

// Close ends the watch.
func (w *Watcher) Close() error { return w.events.Close() }

// Set replaces the roots. Files at or below a name of ignored do not count: builds write
// them. A directory that does not exist is not waited for.
func (w *Watcher) Set(roots []Root, ignored []string) error {
	w.roots, w.ignored = roots, ignored
	wanted := map[string]bool{}
	for _, r := range roots {
		if r.Only != nil {
			if _, err := os.Stat(r.Dir); err == nil {
				wanted[r.Dir] = true
			}
			continue
		}
		for _, dir := range w.below(r.Dir) {
			wanted[dir] = true
		}
	}
	for _, dir := range w.events.WatchList() {
		if !wanted[dir] {
			_ = w.events.Remove(dir) // it may have gone by itself
		}
		delete(wanted, dir)
	}
	for dir := range wanted {
		if err := w.add(dir); err != nil {
			return err
		}
	}
	return nil
}

// below returns the directories below dir that count, with dir itself.
func (w *Watcher) below(dir string) []string {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error { // what cannot be read is not watched
		switch {
		case err != nil && entry != nil && entry.IsDir():
			return fs.SkipDir
		case err != nil || !entry.IsDir():
			return nil
		case entry.Name() == ".git" || w.isIgnored(path):
			return fs.SkipDir
		}
		dirs = append(dirs, path)
		return nil
	})
	return dirs
}

func (w *Watcher) isIgnored(path string) bool {
	for dir := path; ; dir = filepath.Dir(dir) {
		if localfile.IsBeside(filepath.Base(dir)) {
			return true // an output that is not yet in its place
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return slices.ContainsFunc(w.ignored, func(name string) bool { return inside(name, path) })
}

// inside reports whether path is dir or below it.
func inside(dir, path string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == filepath.Separator || strings.HasSuffix(dir, string(filepath.Separator)))
}

func (w *Watcher) add(dir string) error {
	err := w.events.Add(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has gone since
	}
	return explain(err)
}

// explain adds a remedy to errors about the limits of the system.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("watch files: the system watches no more directories: raise fs.inotify.max_user_watches (sysctl): %w", err)
	case errors.Is(err, syscall.EMFILE):
		return fmt.Errorf("watch files: the system has no more watchers: raise fs.inotify.max_user_instances (sysctl): %w", err)
	}
	return fmt.Errorf("watch files: %w", err)
}

// Next waits for changes and returns their names, sorted. It returns the cause of ctx
// when that ends.
func (w *Watcher) Next(ctx context.Context) ([]string, error) {
	changed := map[string]bool{}
	var calm, late <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case e, ok := <-w.events.Events:
			if !ok {
				return nil, errors.New("watch files: the watch has ended")
			}
			if !w.counts(e.Name) {
				continue
			}
			if e.Has(fsnotify.Create) {
				if err := w.grow(e.Name); err != nil {
					return nil, err
				}
			}
			changed[e.Name] = true
		case err, ok := <-w.events.Errors:
			if ok && !errors.Is(err, fsnotify.ErrEventOverflow) {
				return nil, explain(err)
			}
			// The system has lost changes: any file may have changed.
			for _, r := range w.roots {
				changed[r.Dir] = true
			}
		case <-calm:
			return names(changed), nil
		case <-late:
			return names(changed), nil
		}
		calm = time.After(quiet)
		if late == nil {
			late = time.After(longest)
		}
	}
}

// grow watches a directory that is new.
func (w *Watcher) grow(path string) error {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() || !slices.ContainsFunc(w.roots, func(r Root) bool { return r.Only == nil && inside(r.Dir, path) }) {
		return nil // gone, a file, or of no interest
	}
	for _, dir := range w.below(path) {
		if err := w.add(dir); err != nil {
			return err
		}
	}
	return nil
}

// counts reports whether path is watched.
func (w *Watcher) counts(path string) bool {
	if w.isIgnored(path) || filepath.Base(path) == ".git" {
		return false
	}
	return slices.ContainsFunc(w.roots, func(r Root) bool {
		if r.Only == nil {
			return inside(r.Dir, path)
		}
		return filepath.Dir(path) == r.Dir && slices.Contains(r.Only, filepath.Base(path))
	})
}

func names(set map[string]bool) []string {
	return slices.Sorted(maps.Keys(set))
}
