package engine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/buildkit/util/urlutil"

	"github.com/dbake/dbake/frontend"
)

// The variables that say what docker buildx is to record of a work tree:
// BUILDX_GIT_INFO (default yes) puts it into the provenance, BUILDX_GIT_LABELS into labels,
// and BUILDX_GIT_CHECK_DIRTY marks a revision that has changes beside it.
const (
	envGitInfo   = "BUILDX_GIT_INFO"
	envGitLabels = "BUILDX_GIT_LABELS"
	envGitDirty  = "BUILDX_GIT_CHECK_DIRTY"
)

// passVCS passes facts about the work trees of contexts to the frontend. Each is examined
// once.
func (e *Engine) passVCS(ctx context.Context, opts *frontend.Options) {
	info, err := strconv.ParseBool(e.Env[envGitInfo])
	opts.VCSProvenance = err != nil || info
	labels, err := strconv.ParseBool(e.Env[envGitLabels])
	opts.VCSLabels = e.Env[envGitLabels] == "full" || err == nil && labels
	git, err := exec.LookPath("git")
	if err != nil || !opts.VCSProvenance && !opts.VCSLabels {
		return
	}
	type tree struct {
		frontend.VCS
		ok bool
	}
	known := map[string]tree{}
	opts.VCS = func(dir string) (frontend.VCS, bool) {
		root := workTree(dir)
		if root == "" {
			return frontend.VCS{}, false
		}
		t, seen := known[root]
		if !seen {
			t.VCS, t.ok = e.askGit(ctx, git, root)
			known[root] = t
		}
		return t.VCS, t.ok
	}
}

// workTree returns the root of the work tree that dir lies in, "" when there is
// none.
func workTree(dir string) string {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return ""
	}
	for {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

// askGit asks git about the work tree at root. It returns false when git knows none there.
func (e *Engine) askGit(ctx context.Context, git, root string) (frontend.VCS, bool) {
	ask := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, git, append([]string{"-C", root}, args...)...)
		cmd.Env = os.Environ()
		for k, v := range e.Env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		out, err := cmd.Output()
		first, _, _ := strings.Cut(string(out), "\n")
		return first, err
	}
	v := frontend.VCS{Root: root}
	if in, err := ask("rev-parse", "--is-inside-work-tree"); err != nil || in != "true" {
		return v, false
	}
	if sha, err := ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}"); err == nil {
		v.Revision = sha
		if on, err := strconv.ParseBool(e.Env[envGitDirty]); err == nil && on {
			if changed, err := ask("status", "--porcelain", "--ignored"); err == nil && changed != "" {
				v.Revision += "-dirty"
			}
		}
	}
	remotes := []string{"origin", "upstream"}
	if branch, err := ask("symbolic-ref", "-q", "HEAD"); err == nil {
		if name, err := ask("for-each-ref", "--format=%(upstream:remotename)", branch); err == nil && name != "" {
			remotes = append([]string{name}, remotes...)
		}
	}
	for _, name := range remotes {
		if url, err := ask("remote", "get-url", name); err == nil && url != "" {
			v.Source = urlutil.RedactCredentials(url)
			break
		}
	}
	return v, true
}
