//go:build !unix

package targetlog

import "io/fs"

// private reports whether a directory is this user's: temporary files are.
func private(fs.FileInfo) bool { return true }
