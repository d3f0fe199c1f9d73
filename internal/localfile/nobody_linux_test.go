package localfile

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// asNobody runs f with the file rights of an ordinary user, on a thread of its own.
// Directories above dir are made passable.
func asNobody(t *testing.T, dir string, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		f()
		return
	}
	for d := filepath.Dir(dir); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends with its rights
		// The file system's user of this thread only; the rights of root go with it.
		if err := unix.Setfsuid(65534); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Setfsgid(65534); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}
