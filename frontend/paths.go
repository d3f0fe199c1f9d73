package frontend

import (
	"path"
	"path/filepath"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// paths are the names that files and directories have for the user, and as sources.
type paths struct {
	dir  string // of the project
	real string // the same, without symbolic links
}

// abs returns the path that the user wrote as name.
func (p paths) abs(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(p.dir, name)
}

// show returns the name of a path for people: relative to the project where it
// lies inside.
func (p paths) show(abs string) string {
	if rel, err := filepath.Rel(p.dir, abs); err == nil && filepath.IsLocal(rel) {
		return filepath.ToSlash(rel)
	}
	return abs
}

// stableName returns the name of a directory's local source. It depends only on
// where the directory lies relative to the project.
func (p paths) stableName(prefix, realDir string) string {
	rel, err := filepath.Rel(p.real, realDir)
	if err != nil {
		rel = realDir // another volume
	}
	rel = filepath.ToSlash(rel)
	base := path.Base(rel)
	if rel == "." {
		base = "project"
	}
	base = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, base)
	return prefix + "-" + digest.FromString(rel).Encoded()[:12] + "-" + base
}

// realPath returns p, absolute, without symbolic links.
func realPath(p string) (string, error) {
	p, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(p)
}
