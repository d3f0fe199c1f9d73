package plan

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/continuity/sysx"
	"github.com/moby/patternmatcher"

	"github.com/dbake/dbake/internal/memory/filesum"
)

// listing is what there is of the files that a step reads.
type listing struct {
	files []found       // in the order of a walk
	infos []fs.FileInfo // of the regular files among them; nil is not known
	bytes int64
}

// listPlain lists the files that r means where that is simple: everything below a path
// without wildcards and links, but for what plain patterns exclude. It asks the system once
// for each file, and lists what [listAny] would. ok is false where something is less simple,
// or fails: a file with extended attributes or a second name, a pattern that brings back
// what another excluded. The error is that of ctx.
func listPlain(ctx context.Context, dir string, r read, excludes []string) (l listing, ok bool, err error) {
	if runtime.GOOS == "windows" || len(r.includes) > 0 || len(r.excludes) > 0 {
		return listing{}, false, nil
	}
	w := &plainWalk{dir: dir}
	if len(excludes) > 0 {
		if w.excluded, err = patternmatcher.New(excludes); err != nil || w.excluded.Exclusions() {
			return listing{}, false, nil
		}
	}
	p := path.Clean(strings.Trim(r.path, "/"))
	if p == "." {
		err = w.below(ctx, "", patternmatcher.MatchInfo{})
	} else if info, plain := plainFile(dir, p); plain {
		err = w.add(ctx, p, info, patternmatcher.MatchInfo{})
	} else {
		err = errNotPlain
	}
	switch {
	case ctx.Err() != nil:
		return listing{}, false, context.Cause(ctx)
	case err != nil:
		return listing{}, false, nil
	}
	return w.listing, true, nil
}

// errNotPlain is why a walk was not plain.
var errNotPlain = errors.New("not a plain file or directory")

// plainWalk is a walk of [listPlain].
type plainWalk struct {
	listing
	dir      string
	excluded *patternmatcher.PatternMatcher // nil excludes nothing
}

// below adds what there is below the directory p. above are the patterns that exclude it.
func (w *plainWalk) below(ctx context.Context, p string, above patternmatcher.MatchInfo) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(w.dir, p))
	if err != nil {
		return err
	}
	w.files = slices.Grow(w.files, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		name := e.Name()
		if p != "" {
			name = p + "/" + name
		}
		if err := w.add(ctx, name, info, above); err != nil {
			return err
		}
	}
	return nil
}

// add adds the file p and what is below it.
func (w *plainWalk) add(ctx context.Context, p string, info fs.FileInfo, above patternmatcher.MatchInfo) error {
	if w.excluded != nil {
		var out bool
		var err error
		if out, above, err = w.excluded.MatchesUsingParentResults(p, above); err != nil || out {
			return err
		}
	}
	full := w.dir + "/" + p
	if list, err := sysx.LListxattr(full); err != nil && !errors.Is(err, syscall.ENOTSUP) || len(list) > 0 {
		return errNotPlain
	}
	f := found{path: p, mode: info.Mode()}
	switch {
	case info.IsDir():
		w.files = append(w.files, f)
		return w.below(ctx, p, above)
	case !filesum.Sole(info):
		return errNotPlain
	case f.mode.IsRegular():
		w.infos = append(w.infos, info)
	case f.mode&fs.ModeSymlink != 0:
		var err error
		if f.link, err = os.Readlink(full); err != nil {
			return err
		}
	default:
		return errNotPlain
	}
	w.files = append(w.files, f)
	w.bytes += info.Size()
	return nil
}

// plainFile is [isPlain] for what a walk can start at. It returns what p is.
func plainFile(dir, p string) (info fs.FileInfo, ok bool) {
	// A pattern is trimmed, and one that begins in this way brings files back.
	if strings.HasPrefix(p, "!") || strings.TrimSpace(p) != p {
		return nil, false
	}
	return lookPlain(dir, p)
}
