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
