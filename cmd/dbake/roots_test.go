package main

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHasRoots(t *testing.T) {
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		t.Skip("the system itself judges")
	}
	dir := t.TempDir()
	full, empty, none := filepath.Join(dir, "full"), filepath.Join(dir, "empty"), filepath.Join(dir, "none")
	require.NoError(t, os.WriteFile(full, []byte("certificates"), 0o644))
	require.NoError(t, os.WriteFile(empty, nil, 0o644))
	for _, c := range []struct {
		env   string // SSL_CERT_FILE
		files []string
		want  bool
	}{
		{"", []string{none, full}, true},
		{"", []string{none}, false},
		{"", []string{empty, full}, false}, // only the first that there is counts
		{"", []string{dir}, false},
		{none, []string{full}, false},
		{full, []string{none}, true},
	} {
		getenv := func(name string) string { return map[string]string{"SSL_CERT_FILE": c.env}[name] }
		require.Equal(t, c.want, hasRoots(getenv, c.files), "%v", c)
	}
}
