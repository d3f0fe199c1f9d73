package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The schemas in docs are those of the types of today; "make reference" makes them.
func TestSchemasAreOfToday(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(filepath.Join("..", ".."))
	require.NoError(t, write(dir))
	for _, d := range documents {
		want, err := os.ReadFile(filepath.Join(dir, d.file))
		require.NoError(t, err)
		have, err := os.ReadFile(filepath.Join("docs", "schema", d.file))
		require.NoError(t, err)
		require.Equal(t, string(want), string(have), "%s: run make reference", d.file)
	}
}
