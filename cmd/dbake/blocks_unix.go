//go:build unix

package main

import (
	"io/fs"
	"syscall"
)

// blocks returns how many bytes a file takes on its disk: less than its size when it has
// holes. A file with several names is divided among them.
func blocks(info fs.FileInfo) int64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Nlink == 0 {
		return info.Size()
	}
	return st.Blocks * 512 / int64(st.Nlink)
}
