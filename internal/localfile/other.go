//go:build !unix

package localfile

import (
	"context"
	"io/fs"
	"os"
)

func inherited(int) bool { return true }

func replacesClosed(int) bool { return false }

func openDescriptor(_ context.Context, p Place, _ func()) (*os.File, error) {
	return os.OpenFile(p.path, os.O_WRONLY, 0)
}

// alike gives f the mode of another file.
func alike(f *os.File, other fs.FileInfo) error { return f.Chmod(other.Mode().Perm()) }
