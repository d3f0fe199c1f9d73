package plan

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Extended attributes of files count, as they do on nodes.
func TestMakeupOfExtendedAttributes(t *testing.T) {
	p := newProject(t, "-- docker-bake.hcl --\ntarget \"default\" {}\n-- Dockerfile --\nFROM scratch\nCOPY f /\n-- f --\n1\n")
	before := results(t, p.prepare())
	err := syscall.Setxattr(filepath.Join(p.Dir, "f"), "user.dbake", []byte("x"), 0)
	if errors.Is(err, syscall.ENOTSUP) {
		t.Skip("the file system has no extended attributes")
	}
	require.NoError(t, err)
	require.NotEqual(t, before, results(t, p.prepare()))
}
