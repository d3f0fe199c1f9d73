//go:build integration

package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWatch changes files while a build watches them.
func TestWatch(t *testing.T) {
	for _, mode := range []string{"fail-fast", "atomic"} {
		t.Run(mode, func(t *testing.T) { watchIn(t, mode) })
	}
}

func watchIn(t *testing.T, mode string) {
	dbake, addrs := executable(t), addrsOf(t, 2)
	dir := project(t, `
-- docker-bake.hcl --
group "default" { targets = ["web", "api"] }
target "web" {
  context = "web"
  output  = ["type=local,dest=web/out"]
}
target "api" {
  context = "api"
  output  = ["type=local,dest=out/api"]
}
-- web/Dockerfile --
FROM scratch
COPY page /
-- web/.dockerignore --
*.tmp
out
-- web/page --
one
-- api/Dockerfile --
FROM scratch
COPY . /
-- api/code --
one
`)
	cmd := exec.Command(dbake, "--watch", "--execution", mode, "--progress", "plain", "--nodes", "a="+addrs[0], "--nodes", "b="+addrs[1], "--metadata-file", "md.json")
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	stderr, status := start(t, cmd)
	end := func() { _ = cmd.Process.Kill() } // it may have ended
	kill := time.AfterFunc(hung, end)
	t.Cleanup(func() {
		kill.Stop()
		end()
	})
	lines := bufio.NewScanner(stderr)
	// round returns what is shown until changes are waited for.
	round := func() string {
		t.Helper()
		var shown strings.Builder
		for lines.Scan() {
			if strings.Contains(lines.Text(), "watching for changes") {
				return shown.String()
			}
			shown.WriteString(lines.Text() + "\n")
		}
		require.Fail(t, "it has ended", shown.String())
		return ""
	}
	write := func(name, text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	built := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return string(data)
	}

	shown := round()
	require.Contains(t, shown, "2 of 2 targets built")
	require.Equal(t, "one\n", built("web/out/page"))

	write("web/page", "two\n")
	shown = round()
	require.Contains(t, shown, "changed: web/page")
	require.Contains(t, shown, "building web again: ")
	require.NotContains(t, shown, "building api again")
	require.NotContains(t, shown, "[api ")
	require.Equal(t, "two\n", built("web/out/page"))

	// What is built is no change, nor is a file that no target reads.
	write("web/x.tmp", "")
	shown = round()
	require.Contains(t, shown, "changed: web/x.tmp\n")
	require.Contains(t, shown, "it touches no target")

	// A build that fails is not the end, and its target is tried again.
	write("api/Dockerfile", "FROM scratch\nCOPY missing /\n")
	shown = round()
	require.Contains(t, shown, "ERROR: ")
	require.Contains(t, shown, "missing")
	write("docker-bake.hcl", "target {")
	require.Contains(t, round(), "ERROR: docker-bake.hcl:1")
	write("docker-bake.hcl", "target \"default\" {\n  context = \"api\"\n  output = [\"type=local,dest=out/api\"]\n}\n")
	require.Contains(t, round(), "missing")
	write("api/Dockerfile", "FROM scratch\nCOPY code /new\n")
	require.Contains(t, round(), "1 of 1 target built")
	require.Equal(t, "one\n", built("out/api/new"))

	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	for lines.Scan() {
	}
	require.Equal(t, 130, status())
}
