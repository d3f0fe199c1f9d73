//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || solaris)

package filesum

import "io/fs"

func identify(info fs.FileInfo) identity {
	return identity{size: info.Size(), modified: info.ModTime().UnixNano()}
}
