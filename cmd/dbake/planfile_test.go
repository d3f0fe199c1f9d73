package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A plan names neither the daemon that is started for local nodes nor the directory
// that they are in.
func TestPlanNamesNoProgram(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plan.json"), []byte(`{"format": "dbake-plan", "version": 1, "request": {
		"targets": ["app"], "nodes": ["local:2"], "buildkitd": "/tmp/evil", "state_dir": "/tmp/evil-state", "builder": ""}}`), 0o600))
	a := &app{dir: dir, env: map[string]string{}}
	saved, err := a.planFile([]string{"plan.json"})
	require.NoError(t, err)
	var c buildCmd
	require.NoError(t, c.useSaved(a, saved))
	require.Equal(t, []string{"local:2"}, c.Nodes)
	require.Empty(t, c.Buildkitd)
	require.Empty(t, c.StateDir)
	require.Empty(t, c.Allow)
}
