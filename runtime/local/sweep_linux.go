package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sweep removes the volatile files that a dead daemon left.
// The cache stays. Its processes and mounts are gone, as they were in namespaces of
// its own, so nothing but files can be below.
func sweep(stateDir, name string) error {
	dir := nodeDir(stateDir, name)
	bundles, err := filepath.Glob(filepath.Join(escapeGlob(dir), "root", "runc-*", "executor", "*", "config.json"))
	if err != nil {
		return err
	}
	var volatile []string
	for _, b := range bundles {
		bundle := filepath.Dir(b)
		volatile = append(volatile, bundle)
		removeCgroups(filepath.Base(bundle))
	}
	tmp, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range tmp {
		volatile = append(volatile, filepath.Join(dir, "tmp", e.Name()))
	}
	for _, path := range append(volatile, traceSocket(stateDir, name), nodeSocket(stateDir, name)) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroups removes the control groups of a dead container, one for each
// hierarchy of version 1, or the one of version 2. An empty group that stays harms
// nobody, so failing to remove one is no error.
func removeCgroups(container string) {
	for _, parent := range []string{"/sys/fs/cgroup/*/buildkit/", "/sys/fs/cgroup/buildkit/"} {
		// The only error is a bad pattern.
		groups, _ := filepath.Glob(parent + escapeGlob(container))
		for _, g := range groups {
			os.Remove(g)
		}
	}
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
