//go:build unix

package dockerconfig

import (
	"path/filepath"
	"syscall"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// A pipe is not waited for.
func TestPipe(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "config.json"), 0o600))
	meta := filepath.Join(dir, "contexts", "meta", digest.FromString("desk").Encoded(), "meta.json")
	put(t, "", filepath.Dir(meta), "other")
	require.NoError(t, syscall.Mkfifo(meta, 0o600))
	c := New(map[string]string{"DOCKER_CONFIG": dir}, nil)
	_, err := c.File()
	require.ErrorContains(t, err, "config.json: not a regular file")
	_, err = c.Context("desk")
	require.ErrorContains(t, err, "meta.json: not a regular file")
	require.Empty(t, c.ContextNames())
}
