package local

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSocketPath is how long the path of a socket may be; the kernel takes 107 bytes.
const maxSocketPath = 100

// makeStateDir creates a state directory and those below it that are for their owner alone.
// It refuses one in which somebody else could replace the programs and files.
//
// What is of the wrong kind there is set aside, and notify gets a line.
func makeStateDir(dir string, notify func(string, ...any)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create state directory: %w", err)
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	switch uid, known := fileOwner(fi); {
	case known && uid != os.Geteuid() && uid != 0:
		return fmt.Errorf("state directory %s belongs to user %d, who could replace what runs there: choose another one with --state-dir, or change its owner", dir, uid)
	case fi.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others may write to the state directory %s, and could replace what runs there: run `chmod go-w %s`, or choose another one with --state-dir", dir, dir)
	}
	if err := makeWay(dir, notify); err != nil {
		return err
	}
	for _, sub := range []string{filepath.Join(dir, "nodes"), filepath.Join(dir, "registry"), socketDir(dir)} {
		if err := makePrivate(sub); err != nil {
			return err
		}
	}
	return nil
}

// makePrivate makes a directory that nobody but its owner can enter, or closes one
// that is there. What others own is refused.
func makePrivate(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create directory: %w", err)
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("private directory: %w", err)
	}
	uid, known := fileOwner(fi)
	if !fi.IsDir() || known && uid != os.Geteuid() {
		return fmt.Errorf("%s is not a directory of yours: remove it, or choose another --state-dir", dir)
	}
	if fi.Mode().Perm() == 0o700 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("private directory: %w", err)
	}
	return nil
}

// socketDir returns where the sockets of a state directory are: below it, unless that
// would be too long a path.
func socketDir(stateDir string) string {
	dir := filepath.Join(stateDir, "run")
	if len(dir)+len("/n999-trace.sock") < maxSocketPath {
		return dir
	}
	sum := sha256.Sum256([]byte(stateDir))
	return filepath.Join(os.TempDir(), fmt.Sprintf("dbake-%d-%x", os.Geteuid(), sum[:8]))
}

func nodeSocket(stateDir, name string) string {
	return filepath.Join(socketDir(stateDir), name+".sock")
}

// traceSocket returns the path of a daemon's socket for traces. The default is one
// path for all daemons of a machine.
func traceSocket(stateDir, name string) string {
	return filepath.Join(socketDir(stateDir), name+"-trace.sock")
}

func controlSocket(stateDir string) string {
	return filepath.Join(socketDir(stateDir), "control.sock")
}
