//go:build integration

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/local/localtest"
)

// The commands of the tutorial, taken from the page, run to the end on a machine that
// has no Go and no Docker on its path, and an empty home.
func TestTutorial(t *testing.T) {
	localtest.Need(t)
	page, err := os.ReadFile(filepath.Join(root(t), "docs", "tutorial.md"))
	require.NoError(t, err)
	var script strings.Builder
	for rest := string(page); ; {
		var ok bool
		if _, rest, ok = strings.Cut(rest, "\n```sh\n"); !ok {
			break
		}
		var block string
		block, rest, ok = strings.Cut(rest, "\n```")
		require.True(t, ok)
		script.WriteString(block + "\n")
	}
	require.Greater(t, strings.Count(script.String(), "dbake build"), 3)

	bin, dir := t.TempDir(), localtest.Dir(t)
	out, err := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(bin, "dbake"), ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for name, file := range map[string]string{"buildkitd": localtest.Buildkitd(t), "runc": find(t, "runc"), "busybox": find(t, "busybox")} {
		require.NoError(t, os.Symlink(file, filepath.Join(bin, name)))
	}
	env := []string{
		"PATH=" + bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + filepath.Join(dir, "home"),
		"TMPDIR=" + t.TempDir(),
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "home"), 0o755))
	bash := func(script string) string {
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	require.Error(t, exec.Command("env", "-i", env[0], "sh", "-c", "command -v go").Run(), "Go is where the tutorial would find it")
	t.Cleanup(func() { bash("dbake cluster down || true") })

	text := bash(script.String())
	require.Contains(t, text, "HELLO AGAIN FROM WEB")
	require.Contains(t, text, "deleted local-nodes")
	require.NoDirExists(t, filepath.Join(dir, "home", ".local", "share", "dbake", "nodes"))
}

// find returns where a program of this machine is.
func find(t *testing.T, name string) string {
	t.Helper()
	file, err := exec.LookPath(name)
	require.NoError(t, err)
	return file
}
