package targetlog

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

const (
	// lockName is the file that a process locks to own a directory.
	lockName = ".lock"
	suffix   = ".log"
	// maxRuns bounds how many processes write to directories below one at once.
	maxRuns = 100
)

// Default returns the directory of logs that is used when none is named, below a directory
// for temporary files. It belongs to this user alone; where somebody else has taken its
// name, it has another one.
func Default(temporary string) (string, error) {
	for _, name := range []string{"dbake-logs", fmt.Sprintf("dbake-logs-%d", os.Getuid())} {
		dir := filepath.Join(temporary, name)
		err := os.Mkdir(dir, 0o700)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("make a directory for logs: %w", err)
		}
		// A link could lead anywhere, and a directory that others may write to is not to be
		// trusted.
		if info, err := os.Lstat(dir); err == nil && info.IsDir() && private(info) {
			prune(dir, time.Now())
			return dir, nil
		}
	}
	dir, err := os.MkdirTemp(temporary, "dbake-logs-")
	if err != nil {
		return "", fmt.Errorf("make a directory for logs: %w", err)
	}
	return dir, nil
}

// The bounds of the logs in the default directory.
const (
	maxAge  = 14 * 24 * time.Hour
	maxKept = 512 << 20 // bytes
)

// prune removes logs that are old, and the oldest ones as long as there are too many. Logs
// that cannot be removed stay.
func prune(dir string, now time.Time) {
	type file struct {
		path string
		info fs.FileInfo
	}
	var files []file
	var bytes int64
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, suffix) {
			return nil
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			files = append(files, file{path, info})
			bytes += info.Size()
		}
		return nil
	})
	slices.SortFunc(files, func(a, b file) int {
		return cmp.Or(a.info.ModTime().Compare(b.info.ModTime()), cmp.Compare(a.path, b.path))
	})
	for _, f := range files {
		if bytes <= maxKept && now.Sub(f.info.ModTime()) <= maxAge {
			return
		}
		if os.Remove(f.path) == nil {
			bytes -= f.info.Size()
		}
	}
}

// take returns dir, or the first directory below it that no other process has, with the
// lock that says that it is taken.
func take(dir string) (string, *flock.Flock, error) {
	for n := 1; n <= maxRuns; n++ {
		d := dir
		if n > 1 {
			d = filepath.Join(dir, strconv.Itoa(n))
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", nil, err
		}
		lock := flock.New(filepath.Join(d, lockName))
		switch ok, err := lock.TryLock(); {
		case err != nil:
			return "", nil, err
		case ok:
			return d, lock, nil
		}
	}
	return "", nil, fmt.Errorf("%d processes write logs to %s", maxRuns, dir)
}

// fileNames returns a name of a file for each target. Two targets never share a file, even
// on file systems that ignore case.
func fileNames(targets []string) map[string]string {
	names, taken := map[string]string{}, map[string]bool{}
	for _, target := range targets {
		if _, ok := names[target]; !ok {
			names[target] = fileName(target, taken)
		}
	}
	return names
}

// longest bounds a name, in bytes.
const longest = 120

func fileName(target string, taken map[string]bool) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._-", r):
			return r
		}
		return '_'
	}, target)
	if strings.HasPrefix(name, ".") {
		name = "_" + name[1:]
	}
	if name != target || len(name) > longest || name == "" || taken[strings.ToLower(name)] {
		sum := sha256.Sum256([]byte(target))
		name = name[:min(len(name), longest)] + "-" + hex.EncodeToString(sum[:4])
	}
	taken[strings.ToLower(name)] = true
	return name + suffix
}
