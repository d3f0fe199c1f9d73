package peers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// quota bounds the processor time of a node, its daemon and its steps, by a control
// group that both are in.
type quota struct {
	root  string // of the groups
	group string // below it, as "/dbake-peers-1/n1"
	cpus  float64
}

// period is how often the time is given out anew, in microseconds.
const period = 100_000

// newQuota makes the group. There is none for 0 processors.
func newQuota(group string, cpus float64) (*quota, error) {
	if cpus == 0 {
		return nil, nil
	}
	q := &quota{root: "/sys/fs/cgroup", group: group, cpus: cpus}
	limit := int(cpus * period)
	file, text := "cpu.max", fmt.Sprintf("%d %d", limit, period)
	if _, err := os.Stat(filepath.Join(q.root, "cgroup.controllers")); err != nil { // version 1
		q.root = filepath.Join(q.root, "cpu")
		file, text = "cpu.cfs_quota_us", strconv.Itoa(limit)
	}
	dir := filepath.Join(q.root, q.group)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("limit the processor time of nodes: %w", err)
	}
	if file == "cpu.max" { // each group must let those below it be limited
		for _, above := range []string{q.root, filepath.Dir(dir)} {
			if err := os.WriteFile(filepath.Join(above, "cgroup.subtree_control"), []byte("+cpu"), 0); err != nil {
				return nil, errors.Join(fmt.Errorf("limit the processor time of nodes: %w", err), q.close())
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("limit the processor time of nodes: %w", err), q.close())
	}
	return q, nil
}

// daemon is the group of the daemon itself: in version 2 processes are in groups without
// further ones only.
func (q *quota) daemon() string { return filepath.Join(q.root, q.group, "daemon") }

// steps is the group below which the node's steps have theirs, as its configuration names
// it.
func (q *quota) steps() string { return q.group + "/steps" }

// add puts a process into the group.
func (q *quota) add(pid int) error {
	if q == nil {
		return nil
	}
	if err := os.MkdirAll(q.daemon(), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(q.daemon(), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// close removes the groups, of all controllers. Their processes have ended.
func (q *quota) close() error {
	if q == nil {
		return nil
	}
	roots, err := filepath.Glob("/sys/fs/cgroup/*")
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range append(roots, "/sys/fs/cgroup") {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(root, q.group), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, d := range dirs {
			if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		_ = os.Remove(filepath.Join(root, filepath.Dir(q.group))) // the last node's succeeds
	}
	return errors.Join(errs...)
}
