//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An archive is not lost without a word when standard output was closed by the caller, which
// the Go runtime makes /dev/null, opened for reading and writing. Callers who want that, as
// Python's subprocess.DEVNULL does, get it.
func TestClosedStandardOutput(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	program := filepath.Join(dir, pluginFile)
	require.NoError(t, os.Symlink(self, program))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "docker-bake.hcl"), []byte(`
target "default" { output = ["type=tar,dest=-"] }
target "named"   { output = ["type=tar,dest=/dev/stdout"] }
target "file"    { output = ["type=tar,dest=out.tar"] }
`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY docker-bake.hcl /\n"), 0o600))

	const closed = "writes standard output, which is closed, or /dev/null opened for reading and writing: what is written there is lost"
	for _, tt := range []struct{ name, args, want string }{
		{"closed", `plan --offline --nodes tcp://127.0.0.1:1 >&-`, "WARNING: docker-bake.hcl:2,29-48: target default " + closed},
		{"all closed", `plan --offline --nodes tcp://127.0.0.1:1 <&- >&- `, "target default " + closed},
		{"for both", `plan --offline --nodes tcp://127.0.0.1:1 1<>/dev/null`, closed},
		{"by name", `plan --offline --nodes tcp://127.0.0.1:1 named >&-`, "target named writes /dev/stdout, which is closed"},
		{"planned", `plan --offline --nodes tcp://127.0.0.1:1 -o plan.json >&-`, closed},
		{"unwanted", `plan --offline --nodes tcp://127.0.0.1:1 -o plan.json >/dev/null`, ""},
		{"elsewhere", `plan --offline --nodes tcp://127.0.0.1:1 -o plan.json file >&-`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", `"$0" `+tt.args+` 2>err`, program)
			cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
			err := cmd.Run()
			said, readErr := os.ReadFile(filepath.Join(dir, "err"))
			require.NoError(t, readErr)
			require.NoError(t, err, string(said))
			if tt.want == "" {
				require.NotContains(t, string(said), "is lost")
				return
			}
			require.Contains(t, string(said), tt.want)
			require.Equal(t, 1, strings.Count(string(said), "is lost"), string(said))
		})
	}
}
