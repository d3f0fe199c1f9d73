package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/cmd/dbake/internal/watch"
	"github.com/dbake/dbake/internal/engine"
)

// lastBuild names the state that changes are compared with.
const lastBuild = "the last build"

// round is one of the builds of a watch: the state it is compared with, and the state it
// leaves to the next.
type round struct {
	watcher *watch.Watcher
	since   *engine.Since // nil builds everything
	idle    bool          // nothing of what is built has changed
}

// watch builds, and then builds again what a change touches, until it is interrupted. A
// build that fails is shown, and the next change waited for.
func (c *buildCmd) watch(ctx context.Context, a *app, call callFlag) (err error) {
	w, err := watch.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	r := &round{watcher: w}
	// If the first build fails early, a change of these files is waited for.
	o := c.options(a)
	o.Env = a.env
	if err := w.Set(filesRoots(o.LocalFiles()), nil); err != nil {
		return err
	}
	for {
		limited, stop := a.limit(ctx, c.Timeout)
		c.metadataWritten, r.idle = false, false
		err := stop(c.build(limited, a, call, r))
		if ctx.Err() != nil {
			return err
		}
		var usage usageError
		switch {
		case errors.As(err, &usage):
			return err
		case err != nil:
			a.progress.Error(err, a.debug)
		}
		a.progress.Note("watching for changes; interrupt to end")
		changed, err := w.Next(ctx)
		if err != nil {
			return err
		}
		a.progress.Note("changed: " + c.shorten(a, changed))
	}
}

// filesRoots watches files by their directories, as editors replace files.
func filesRoots(files []string) []watch.Root {
	byDir := map[string][]string{}
	for _, name := range files {
		byDir[filepath.Dir(name)] = append(byDir[filepath.Dir(name)], filepath.Base(name))
	}
	var roots []watch.Root
	for dir, names := range byDir {
		roots = append(roots, watch.Root{Dir: dir, Only: names})
	}
	slices.SortFunc(roots, func(x, y watch.Root) int { return strings.Compare(x.Dir, y.Dir) })
	return roots
}

// reads watches the files that the session reads and does not write. The stage
// [engine.Reuse] must have been done.
func (r *round) reads(a *app, c *buildCmd, s *engine.Session) error {
	o, touched := s.Options(), s.Footprint()
	files := o.LocalFiles()
	for _, name := range touched.Dockerfiles {
		files = append(files, name, name+".dockerignore", filepath.Join(filepath.Dir(name), ".dockerignore"))
	}
	roots := filesRoots(files)
	for _, dir := range touched.Reads {
		roots = append(roots, watch.Root{Dir: dir})
	}
	ignored := touched.Writes
	for _, name := range []string{c.MetadataFile, c.SummaryJSON, c.LogDir} {
		if name != "" && name != "-" {
			ignored = append(ignored, a.path(name))
		}
	}
	return r.watcher.Set(roots, ignored)
}

// begin watches the files that the session reads and announces the targets that it builds
// again. The stage [engine.Access] must have been done; nil does nothing.
func (r *round) begin(ctx context.Context, a *app, c *buildCmd, s *engine.Session) error {
	if r == nil {
		return nil
	}
	if err := s.Through(ctx, engine.Reuse); err != nil {
		return err
	}
	if err := r.reads(a, c, s); err != nil {
		return err
	}
	r.announce(a, s)
	return nil
}

// nothing reports whether a change touches nothing.
func (r *round) nothing() bool { return r != nil && r.idle && r.since != nil }

// announce shows the targets that a change touches.
func (r *round) announce(a *app, s *engine.Session) {
	c := s.Changes().Comparison()
	r.idle = s.Images().Idle()
	if c == nil {
		return
	}
	if r.idle {
		a.progress.Note("it touches no target")
		return
	}
	for _, t := range c.Changed {
		if t.Linked {
			continue
		}
		reason := view.ChangeReason(c, t)
		if t.Added {
			reason = "it was not built"
		}
		a.progress.Note(fmt.Sprintf("building %s again: %s", t.Target, reason))
	}
}

// mostChanged is how many files a line names.
const mostChanged = 5

// shorten names files as the user does.
func (c *buildCmd) shorten(a *app, files []string) string {
	var names []string
	for i, name := range files {
		if i == mostChanged {
			names = append(names, fmt.Sprintf("%d more", len(files)-i))
			break
		}
		if rel, err := filepath.Rel(a.dir, name); err == nil && !strings.HasPrefix(rel, "..") {
			name = rel
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
