package compiler

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/dbake/dbake/compiler/ir"
)

// cwdScheme marks paths that start from the working directory of the command
// even where others start elsewhere.
const cwdScheme = "cwd://"

// setBase remembers the directory of the file of a block for the paths it sets.
func (t *definition) setBase(b *block) {
	dir := fileDir(b.DefRange.Filename)
	t.base.file = &dir
	if a := b.attribute("context"); a != nil {
		t.base.context = &dir
		t.base.contextRef = contextReference(a.Expr)
	}
	if len(t.contexts) > 0 && b.attribute("contexts") != nil {
		t.base.contexts = make(map[string]string, len(t.contexts))
		for name := range t.contexts {
			t.base.contexts[name] = dir
		}
	}
}

// fileDir returns the directory of a definition file, "" for those that have
// none.
func fileDir(name string) string {
	if name == "" || name == "-" || ir.IsRemote(name) {
		return ""
	}
	return filepath.Dir(name)
}

// contextReference returns the target whose context expr repeats, when it is
// target.NAME.context and nothing else.
func contextReference(expr hcl.Expression) string {
	traversal, diags := hcl.AbsTraversalForExpr(expr)
	if diags.HasErrors() || len(traversal) != 3 || traversal.RootName() != blockTarget {
		return ""
	}
	name, ok := stepName(traversal[1])
	field, isAttr := traversal[2].(hcl.TraverseAttr)
	if !ok || !isAttr || field.Name != "context" {
		return ""
	}
	return name
}

// rebase makes local paths relative to the files that hold them start from the
// working directory instead.
func (c *config) rebase() {
	for _, t := range c.targets {
		if ref, ok := c.byName[t.base.contextRef]; ok {
			switch {
			case ref.base.context != nil:
				t.base.context = ref.base.context
			case ref.base.file != nil:
				t.base.context = ref.base.file
			}
		}
		switch {
		case t.context == nil:
			t.base.useFile = t.base.file != nil
		case t.base.context != nil:
			dir := rebasePath(*t.base.context, *t.context)
			t.context = &dir
		}
		for name, v := range t.contexts {
			if dir, ok := t.base.contexts[name]; ok {
				t.contexts[name] = rebasePath(dir, v)
			}
		}
	}
}

// defaultContext returns the context of a target that sets none.
func (b pathBase) defaultContext() string {
	if b.useFile && b.file != nil {
		return rebasePath(*b.file, ".")
	}
	return "."
}

// rebasePath returns p starting from dir, unless it is absolute, or no path.
func rebasePath(dir, p string) string {
	if dir == "" || p == "" || filepath.IsAbs(p) || ir.IsRemote(p) {
		return p
	}
	for _, prefix := range []string{cwdScheme, "target:", "docker-image:", "oci-layout://"} {
		if strings.HasPrefix(p, prefix) {
			return p
		}
	}
	return filepath.Join(dir, filepath.FromSlash(p))
}

// placeContext gives a target the context it is built from: local paths are
// cleaned, and with a remote definition those that do not start from cwd:// are
// directories of it.
func (t *definition) placeContext(dir string, remote *RemoteDefinition) error {
	dockerfile := *t.dockerfile
	if *t.context == "-" {
		return fmt.Errorf("context from stdin not allowed in bake")
	}
	if dockerfile == "-" {
		return fmt.Errorf("dockerfile from stdin not allowed in bake")
	}
	ctx := *t.context
	if !strings.HasPrefix(ctx, cwdScheme) && !ir.IsRemote(ctx) {
		ctx = path.Clean(ctx)
	}
	if remote != nil && remote.Tree && !strings.HasPrefix(ctx, cwdScheme) && !ir.IsRemote(ctx) {
		t.remoteContext = &ctx
		url := remoteSubdir(remote.URL, ctx)
		if ctx == "." {
			url = remote.URL
		}
		t.context = &url
		return nil
	}

	local, isLocal := strings.CutPrefix(ctx, cwdScheme)
	if isLocal {
		local = path.Clean(local)
		// The Dockerfile would have to come from the remote definition, which
		// cannot be combined with a local context. One that happens to lie there
		// must not be taken for it.
		fromRemote := remote != nil && ir.IsRemote(remote.URL)
		if fromRemote && !strings.HasPrefix(dockerfile, cwdScheme) && !ir.IsRemote(dockerfile) {
			if _, err := os.Stat(filepath.Join(dir, local, path.Clean(dockerfile))); err == nil {
				return fmt.Errorf("reading a dockerfile for a remote build invocation is currently not supported")
			}
		}
		ctx = local
	}
	t.context = &ctx
	return nil
}

// origin returns where the attribute at a path was set.
func (t *definition) origin(path string) ir.Range {
	return (&ir.Target{Origins: t.origins}).Origin(path)
}

// remoteSubdir returns the URL of a directory of a git repository that remote
// names, possibly itself by a directory of it. The way in which remote gives its
// directory, as a query or as a fragment, is kept.
func remoteSubdir(remote, dir string) string {
	dir = path.Clean(dir)
	if dir == "." || remote == "" {
		return remote
	}
	ref := ir.ParseGit(remote)
	if ref == nil {
		return remote
	}
	if ref.Subdir != "" {
		dir = path.Join(ref.Subdir, dir)
	}
	if !strings.Contains(remote, "#") {
		if u, err := url.Parse(remote); err == nil {
			if q := u.Query(); q.Has("subdir") {
				q.Set("subdir", dir)
				u.RawQuery = q.Encode()
				return u.String()
			}
		}
	}
	base, fragment, _ := strings.Cut(remote, "#")
	commit, _, _ := strings.Cut(fragment, ":")
	return base + "#" + commit + ":" + dir
}
