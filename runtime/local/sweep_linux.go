package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// sweep removes what a dead daemon left of its node directory's volatile part:
// containers, mounts, temporary files and sockets. The cache stays. After a daemon
// that ended by itself it finds nothing.
func sweep(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	socket := traceSocket(dir)
	// Mounts are listed by their real path.
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	bundles, err := filepath.Glob(filepath.Join(escapeGlob(dir), "root", "runc-*", "executor", "*", "config.json"))
	if err != nil {
		return err
	}
	for i, b := range bundles {
		bundles[i] = filepath.Dir(b)
	}
	if err := deleteContainers(bundles); err != nil {
		return err
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	// Only now, with nothing mounted below, is it safe to remove recursively.
	for _, b := range bundles {
		if err := os.RemoveAll(b); err != nil {
			return err
		}
	}
	tmp, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range tmp {
		if err := os.RemoveAll(filepath.Join(dir, "tmp", e.Name())); err != nil {
			return err
		}
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// deleteContainers kills and removes the containers of the given bundles, whose
// base names are the container ids.
func deleteContainers(bundles []string) error {
	if len(bundles) == 0 {
		return nil
	}
	runc, err := findRunc()
	if err != nil {
		return err
	}
	for _, b := range bundles {
		// Forced, it succeeds for a container that never came to be or is gone.
		out, err := exec.Command(runc, "delete", "--force", filepath.Base(b)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("remove container %s: %w: %s", filepath.Base(b), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// unmountBelow unmounts everything that is mounted below dir.
func unmountBelow(dir string) error {
	// Stacked mounts take a turn each.
	for range 10 {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return fmt.Errorf("list mounts: %w", err)
		}
		var below []string
		for _, m := range mounts {
			if m.Mountpoint != dir {
				below = append(below, m.Mountpoint)
			}
		}
		if len(below) == 0 {
			return nil
		}
		// The list is in order of mounting, so the last ones go first.
		for i := len(below) - 1; i >= 0; i-- {
			err := unix.Unmount(below[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("unmount %s: %w", below[i], err)
			}
		}
	}
	return fmt.Errorf("something keeps mounting below %s", dir)
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
