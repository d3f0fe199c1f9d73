package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestShells has real shells complete a command line with the scripts.
func TestShells(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, filepath.Join(bin, "dbake")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "docker-bake.hcl"), []byte("target \"web\" { description = \"the site\" }\ntarget \"web-dev\" {}\ntarget \"api\" {}"), 0o644))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "state"), 0o755))

	// What completes LINE, one completion a line.
	shells := map[string]string{
		"bash": `source <(dbake completion bash)
COMP_LINE=$LINE COMP_POINT=${#LINE}
_dbake
printf '%s\n' "${COMPREPLY[@]}"`,
		"fish": `dbake completion fish | source
complete -C "$LINE"`,
		// zsh completes on a line editor only, so that what it is given is read.
		"zsh": `compdef() { :; }
compset() { :; }
_files() { [[ $1 == -/ ]] && print -l *(/) || print -l *; }
_describe() { shift 2; print -rl -- "${(@P)1}"; }
source <(dbake completion zsh)
words=("${(@s: :)LINE}"); CURRENT=$#words
_dbake`,
	}
	lines := []struct {
		line  string
		wants []string // each is the start of a completion
		not   string
	}{
		{"dbake build we", []string{"web", "web-dev"}, "api"},
		{"dbake build --progress rawj", []string{"rawjson"}, "plain"},
		{"dbake build --progr", []string{"--progress"}, "web"},
		{"dbake build --state-dir ", []string{"state"}, "docker-bake.hcl"},
		{"dbake build -f dock", []string{"docker-bake.hcl"}, "web"},
		{"dbake build --set ap", []string{"api."}, "web"},
	}
	for shell, script := range shells {
		t.Run(shell, func(t *testing.T) {
			if _, err := exec.LookPath(shell); err != nil {
				t.Skipf("there is no %s on PATH", shell)
			}
			for _, tt := range lines {
				cmd := exec.Command(shell, "-c", script)
				cmd.Dir = dir
				cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + bin + ":" + os.Getenv("PATH"), "LINE=" + tt.line}
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				got := strings.Split(strings.TrimSpace(string(out)), "\n")
				for _, want := range tt.wants {
					found := false
					for _, g := range got {
						found = found || strings.HasPrefix(g, want)
					}
					require.True(t, found, "%s: %q is not in %q", tt.line, want, got)
				}
				for _, g := range got {
					require.False(t, strings.HasPrefix(g, tt.not), "%s: %q", tt.line, got)
				}
			}
		})
	}
}

// TestBashBreaksWords completes what readline takes for the end of a word.
func TestBashBreaksWords(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("there is no bash on PATH")
	}
	bin := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, filepath.Join(bin, "dbake")))
	for line, want := range map[string]string{
		"dbake build --progress=raw": "rawjson",
		"dbake build --nodes tcp:":   "//",
	} {
		cmd := exec.Command("bash", "-c", `source <(dbake completion bash)
COMP_LINE=$LINE COMP_POINT=${#LINE} COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
_dbake
printf '%s\n' "${COMPREPLY[@]}"`)
		cmd.Dir, cmd.Env = t.TempDir(), []string{"HOME=" + t.TempDir(), "PATH=" + bin + ":" + os.Getenv("PATH"), "LINE=" + line}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, want, strings.TrimSpace(string(out)))
	}
}
