package output

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/internal/localfile"
	"github.com/dbake/dbake/runtime/fault"
)

// heldTree are the files of an output of type local, in a directory beside that which takes
// them.
type heldTree struct {
	dir   string // where they are
	dest  string // where they belong, without symbolic links at its end
	place string // the same for people
	// mirror removes what else is in the directory.
	mirror bool
}

// newHeldTree makes the directory for an output to dest.
func newHeldTree(dest, mode string) (*heldTree, error) {
	place, err := localfile.Locate(dest)
	if err != nil {
		return nil, err
	}
	kind, err := bkclient.ParseLocalExporterMode(mode)
	if err != nil {
		return nil, err
	}
	t := &heldTree{dir: localfile.Beside(place.Path()), dest: place.Path(), place: dest, mirror: kind == bkclient.LocalExporterModeDelete}
	if err := os.MkdirAll(filepath.Dir(t.dest), 0o755); err != nil {
		return nil, err
	}
	return t, os.Mkdir(t.dir, 0o700) // as BuildKit's client makes what is not there
}

func (t *heldTree) Place() string { return t.place }

func (t *heldTree) Publish(context.Context) error {
	err := t.merge(t.dir, t.dest)
	if err == nil {
		err = t.Discard()
	}
	if err != nil {
		return &fault.OutputError{Place: t.place, Err: err}
	}
	return nil
}

// merge moves what is in from to where it belongs, as the files of a node are written: one
// replaces what has its name, directories take what is in them.
func (t *heldTree) merge(from, to string) error {
	old, err := os.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Rename(from, to)
	}
	if err != nil {
		return err
	}
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	switch {
	case info.IsDir() != old.IsDir():
		if to == t.dest {
			return fmt.Errorf("it is no directory any more")
		}
		if err := os.RemoveAll(to); err != nil {
			return err
		}
		return os.Rename(from, to)
	case !info.IsDir():
		return os.Rename(from, to)
	}
	if err := t.mergeEntries(from, to); err != nil {
		return err
	}
	if to == t.dest {
		return nil // it is the user's own
	}
	return errors.Join(os.Chmod(to, info.Mode()), os.Chtimes(to, info.ModTime(), info.ModTime()))
}

// mergeEntries is merge for what is in a directory.
func (t *heldTree) mergeEntries(from, to string) error {
	for _, dir := range []string{from, to} { // whose own mode may not let anything in or out
		if info, err := os.Stat(dir); err != nil {
			return err
		} else if info.Mode().Perm()&0o700 != 0o700 {
			if err := os.Chmod(dir, info.Mode().Perm()|0o700); err != nil {
				return err
			}
		}
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
		if err := t.merge(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	if !t.mirror {
		return nil
	}
	olds, err := os.ReadDir(to)
	if err != nil {
		return err
	}
	for _, e := range olds {
		if !there[e.Name()] {
			if err := os.RemoveAll(filepath.Join(to, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *heldTree) Discard() error {
	err := os.RemoveAll(t.dir)
	if err == nil {
		return nil
	}
	// A directory without the right to change it keeps what is in it.
	_ = filepath.WalkDir(t.dir, func(path string, e fs.DirEntry, _ error) error {
		if e != nil && e.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(t.dir)
}
