package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/memory"
	"github.com/dbake/dbake/runtime/local"
)

type stateCmd struct {
	List  stateListCmd  `cmd:"" name:"ls" help:"Show what dbake keeps on this machine: where, how much, and what for."`
	Prune statePruneCmd `cmd:"" help:"Delete some of it."`
}

// kept is one kind of state that dbake keeps on this machine.
type kept struct {
	name, help string
	path       string
	remove     func(ctx contextBinding) error
}

// stateFlags name the places that are not the default ones.
type stateFlags struct {
	StateDir string `placeholder:"DIR" help:"Where local nodes and their registry keep their state."`
}

// list returns the state that dbake keeps on this machine, in the order in which it is
// shown. State without a place, as without a home directory, is left out.
func (f stateFlags) list(a *app) ([]kept, error) {
	own := memory.New(a.env, a.progress.Warn)
	var list []kept
	for _, m := range []struct{ name, path, help string }{
		{"history", "history.db", "what each step took on which node"},
		{"nodes", "nodes", "which results each node held when it was last used"},
		{"caches", "caches", "which results the caches in registries held"},
		{"runs", "runs", "what builds did, for dbake log"},
		{"pushed", "pushed", "which images were pushed, and of what they are made"},
		{"files", "files", "digests of your files"},
		{"units", "units", "what your Dockerfiles were compiled to"},
		{"images", "images", "what registries said of base images"},
		{"facts", "facts", "what nodes were like when they were last used"},
		{"arrivals", "arrivals", "when nodes came up after the start of a build"},
		{"transfers", "transfers", "how long results took from node to node"},
	} {
		if path := own.Dir(m.path); path != "" {
			list = append(list, kept{m.name, m.help, path, func(contextBinding) error { return removeAll(path) }})
		}
	}
	dir := a.path(f.StateDir)
	if dir == "" {
		var err error
		if dir, err = local.DefaultStateDir(); err != nil {
			return list, nil // there are no local nodes either
		}
	}
	return append(list,
		kept{"local-nodes", "what local nodes have built", filepath.Join(dir, "nodes"),
			func(ctx contextBinding) error { return local.Remove(ctx, dir, false) }},
		kept{"local-registry", "images pushed there (local nodes go with it)", filepath.Join(dir, "registry"),
			func(ctx contextBinding) error { return local.Remove(ctx, dir, true) }},
	), nil
}

// removeAll deletes a file or a directory, with the lock and the damaged copy beside it.
func removeAll(path string) error {
	var errs []error
	for _, p := range []string{path, path + ".lock", path + ".damaged"} {
		errs = append(errs, os.RemoveAll(p))
	}
	return errors.Join(errs...)
}

type stateListCmd struct {
	stateFlags
	Format string `default:"table" enum:"table,json" help:"Output: table or json."`
}

func (c *stateListCmd) Run(ctx contextBinding, a *app) error {
	list, err := c.list(a)
	if err != nil {
		return err
	}
	rows := []view.Stored{} // an empty list in JSON too
	for _, k := range list {
		row := view.Stored{Name: k.name, Help: k.help, Path: k.path}
		if row.Bytes, row.Changed, err = diskUse(ctx, k.path); err != nil {
			return err
		}
		rows = append(rows, row)
	}
	if c.Format == "json" {
		return a.writeJSON(rows)
	}
	return view.State(a.stdout, rows, time.Now())
}

// diskUse returns how many bytes are below a path, and when that last changed. Files that
// cannot be read, or go meanwhile, do not count.
func diskUse(ctx contextBinding, path string) (bytes int64, changed time.Time, err error) {
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil //nolint:nilerr // it does not count
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it has gone
		}
		if info.Mode().IsRegular() {
			bytes += blocks(info)
		}
		if info.ModTime().After(changed) {
			changed = info.ModTime()
		}
		return nil
	})
	return bytes, changed, err
}

type statePruneCmd struct {
	stateFlags
	Names  []string `arg:"" optional:"" name:"name" help:"What to delete, by the names that ls shows."`
	All    bool     `help:"Delete everything."`
	DryRun bool     `help:"Only show what would be deleted."`
}

func (c *statePruneCmd) Run(ctx contextBinding, a *app) error {
	list, err := c.list(a)
	if err != nil {
		return err
	}
	var names []string
	for _, k := range list {
		names = append(names, k.name)
	}
	if len(c.Names) == 0 && !c.All {
		return usageError{fmt.Errorf("name what to delete, or give --all: %s", strings.Join(names, ", "))}
	}
	for _, n := range c.Names {
		if !slices.Contains(names, n) {
			return usageError{fmt.Errorf("dbake keeps nothing named %q; it keeps %s", n, strings.Join(names, ", "))}
		}
	}
	for _, k := range list {
		if !c.All && !slices.Contains(c.Names, k.name) {
			continue
		}
		bytes, _, err := diskUse(ctx, k.path)
		if err != nil {
			return err
		}
		verb := "deleted"
		if c.DryRun {
			verb = "would delete"
		} else if err := k.remove(ctx); err != nil {
			return fmt.Errorf("delete %s: %w", k.name, err)
		}
		if _, err := fmt.Fprintf(a.stdout, "%s %s (%s)\n", verb, k.name, view.Size(bytes)); err != nil {
			return err
		}
	}
	return nil
}
