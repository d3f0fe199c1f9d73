//go:build unix

package view

import (
	"os"

	"golang.org/x/sys/unix"
)

// foreground reports whether this process has the terminal: one in the background would be
// stopped for changing how it takes keys. A terminal that is not that of its session stops
// no process.
func foreground(f *os.File) bool {
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}
