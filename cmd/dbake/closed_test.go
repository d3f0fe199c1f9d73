//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// An archive is not lost without a word when standard output was closed by the caller, who
// then has /dev/null there. A caller that wants /dev/null says so.
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

	const closed = "it is closed (or is /dev/null, opened for reading and writing)"
	for _, tt := range []struct{ name, args, want string }{
		{"closed", `build --allow fs.write=* --nodes tcp://127.0.0.1:1 >&-`, "docker-bake.hcl:2,29-48: target default writes standard output, and " + closed + "; name a file; /dev/null is one, too"},
		{"all closed", `build --allow fs.write=* --nodes tcp://127.0.0.1:1 <&- >&- `, "target default writes standard output, and " + closed},
		{"for both", `build --allow fs.write=* --nodes tcp://127.0.0.1:1 1<>/dev/null`, closed},
		{"by name", `build --allow fs.write=* --nodes tcp://127.0.0.1:1 named >&-`, "target named: write to file descriptor 1: " + closed},
		{"summary", `build --allow fs.write=* --nodes tcp://127.0.0.1:1 --summary-json - file >&-`, "--summary-json writes standard output, and " + closed},
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
			if tt.want == "" {
				require.NoError(t, err, string(said))
				require.NotContains(t, string(said), closed)
				return
			}
			require.Equal(t, 1, cmd.ProcessState.ExitCode(), string(said))
			require.Contains(t, string(said), tt.want)
		})
	}
}
