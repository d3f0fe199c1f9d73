//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package cost

import (
	"os"
	"syscall"
)

// unlock gives up the lock of a database that was left open by a panic. Closing the
// file is not enough: its mapping, which nobody can reach any more, keeps the lock.
func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
