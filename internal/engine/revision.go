package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dbake/dbake/frontend"
)

// checkoutTimeout bounds how long git may take to write the files of a revision.
const checkoutTimeout = 10 * time.Minute

// checkout is the tree of a revision beside the work tree, which it leaves alone: git
// writes the files through its filters, as those of LFS, but registers nothing.
//
// Files have the permissions of those in the work tree where git sees no difference:
// git knows only whether a file can be executed. Submodules are there as far as their
// commits are in the work tree's submodules. What git ignores is not there.
type checkout struct {
	root string // of the work tree
	dir  string // of the tree, as root is of the work tree
	tmp  string
}

// checkOut writes the tree of a revision of the work tree that dir lies in.
func (e *Engine) checkOut(ctx context.Context, rev string) (_ *checkout, err error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("read revision %s: %w", rev, err)
	}
	c := &checkout{root: workTree(e.Dir)}
	if c.root == "" {
		return nil, fmt.Errorf("%q is neither a saved plan nor a revision: %s lies in no git work tree", rev, e.Dir)
	}
	if c.tmp, err = os.MkdirTemp("", "dbake-revision-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.remove())
		}
	}()
	if c.tmp, err = filepath.EvalSymlinks(c.tmp); err != nil {
		return nil, err
	}
	c.dir = filepath.Join(c.tmp, "tree")
	ctx, stop := context.WithTimeoutCause(ctx, checkoutTimeout, fmt.Errorf("git has not written the files of %s within %s", rev, checkoutTimeout))
	defer stop()
	w := &treeWriter{engine: e, git: git, tmp: c.tmp}
	commit, err := w.run(ctx, c.root, nil, "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, w.absent(ctx, c.root, rev)
	}
	if err := w.write(ctx, c.root, strings.TrimSpace(commit), c.dir); err != nil {
		return nil, fmt.Errorf("read revision %s: %w", rev, err)
	}
	if err := sharePermissions(c.root, c.dir); err != nil {
		return nil, fmt.Errorf("read revision %s: %w", rev, err)
	}
	return c, nil
}

// absent is the error for a revision that a repository does not have. The clones of CI
// have little else than one commit.
func (w *treeWriter) absent(ctx context.Context, repo, rev string) error {
	shallow, err := w.run(ctx, repo, nil, "rev-parse", "--is-shallow-repository")
	if err != nil || strings.TrimSpace(shallow) != "true" {
		return fmt.Errorf("%q is neither a saved plan nor a revision that this repository has; fetch it if it is elsewhere", rev)
	}
	fetch := "--depth=1 origin " + rev
	if branch, ok := strings.CutPrefix(rev, "origin/"); ok {
		fetch = fmt.Sprintf("--depth=1 origin %s:refs/remotes/%s", branch, rev)
	}
	if strings.ContainsAny(rev, "~^@:{") {
		fetch = "--unshallow" // it is counted from another one
	}
	return fmt.Errorf("%q is neither a saved plan nor a revision that this shallow clone has: fetch it with 'git fetch %s', or clone with more of the history (fetch-depth: 0 of actions/checkout)", rev, fetch)
}

// remove deletes the tree.
func (c *checkout) remove() error { return os.RemoveAll(c.tmp) }

// at returns where a path of the work tree is in the tree. Other paths stay what they are.
func (c *checkout) at(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		real = path
	}
	rel, err := filepath.Rel(c.root, real)
	if err != nil || !filepath.IsLocal(rel) {
		return path
	}
	return filepath.Join(c.dir, rel)
}

// vcs answers for the tree as known does for the work tree: a difference in what a commit is
// called is none between two trees.
func (c *checkout) vcs(known func(string) (frontend.VCS, bool)) func(string) (frontend.VCS, bool) {
	if known == nil {
		return nil
	}
	return func(dir string) (frontend.VCS, bool) {
		rel, err := filepath.Rel(c.dir, dir)
		if err != nil || !filepath.IsLocal(rel) {
			return known(dir)
		}
		v, ok := known(c.root)
		v.Root = c.dir
		return v, ok
	}
}

// treeWriter writes trees of repositories.
type treeWriter struct {
	engine *Engine
	git    string
	tmp    string
	count  int // of trees, to name their indexes
}

// run runs git in a directory and returns what it prints.
func (w *treeWriter) run(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, w.git, append([]string{"-C", dir, "-c", "core.sparseCheckout=false"}, args...)...)
	cmd.Env = os.Environ()
	for k, v := range w.engine.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Env = append(cmd.Env, "GIT_TERMINAL_PROMPT=0")
	cmd.Env = append(cmd.Env, env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}

// write writes the tree of a commit, and those of submodules.
func (w *treeWriter) write(ctx context.Context, repo, commit, dir string) error {
	w.count++
	index := []string{"GIT_INDEX_FILE=" + filepath.Join(w.tmp, fmt.Sprintf("index-%d", w.count))}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if _, err := w.run(ctx, repo, index, "read-tree", commit); err != nil {
		return err
	}
	if _, err := w.run(ctx, repo, index, "checkout-index", "--all", "--force", "--prefix="+dir+"/"); err != nil {
		return err
	}
	list, err := w.run(ctx, repo, nil, "ls-tree", "-r", "-z", commit)
	if err != nil {
		return err
	}
	for entry := range strings.SplitSeq(list, "\x00") {
		about, name, _ := strings.Cut(entry, "\t")
		fields := strings.Fields(about)
		if len(fields) != 3 || fields[1] != "commit" {
			continue
		}
		sub := filepath.Join(repo, name)
		if _, err := os.Lstat(filepath.Join(sub, ".git")); err == nil {
			if _, err = w.run(ctx, sub, nil, "cat-file", "-e", fields[2]+"^{commit}"); err == nil {
				if err := w.write(ctx, sub, fields[2], filepath.Join(dir, name)); err != nil {
					return fmt.Errorf("submodule %s: %w", name, err)
				}
				continue
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w.engine.Report.Warn(fmt.Sprintf("submodule %s is not here as it was at that revision (%.12s): its files count as added", name, fields[2]))
	}
	return nil
}

// sharePermissions gives the files and directories below tree the permissions that they
// have below work, if both or neither can be executed.
func sharePermissions(work, tree string) error {
	return filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		rel, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		here, err := os.Lstat(filepath.Join(work, rel))
		if err != nil {
			return nil // it is only in one of them
		}
		there, err := d.Info()
		if err != nil {
			return err
		}
		const executable = 0o100
		if here.Mode().Type() != there.Mode().Type() || !d.IsDir() && (here.Mode()^there.Mode())&executable != 0 || here.Mode() == there.Mode() {
			return nil
		}
		return os.Chmod(path, here.Mode().Perm())
	})
}
