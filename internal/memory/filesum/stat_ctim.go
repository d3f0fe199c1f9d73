//go:build dragonfly || linux || openbsd || solaris

package filesum

import (
	"io/fs"
	"syscall"
)

func identify(info fs.FileInfo) identity {
	id := identity{size: info.Size(), modified: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.changed, id.inode = st.Ctim.Nano(), st.Ino
	}
	return id
}

// Sole reports whether a file that was looked at has no second name.
func Sole(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 1
}
