//go:build integration

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/runtime/local/localtest"
)

// TestSavedPlan builds a plan that was saved, on nodes that are started for it, and
// once more with the nodes changed in the file.
func TestSavedPlan(t *testing.T) {
	localtest.Need(t)
	dir, state := t.TempDir(), localtest.Dir(t)
	for name, text := range map[string]string{
		"docker-bake.hcl": `
variable "DBAKE_REGISTRY" { default = "" }
group "default" { targets = ["one", "two"] }
target "one" {
  tags = ["${DBAKE_REGISTRY}/one:1"]
  dockerfile-inline = "FROM scratch\nCOPY one /\n"
}
target "two" {
  dockerfile-inline = "FROM scratch\nCOPY two /\n"
}
`, "one": "1", "two": "2",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	home := t.TempDir()
	dbake := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		a := &app{
			stdin: strings.NewReader(""), stdout: &out, stderr: &out, dir: dir,
			env: map[string]string{"HOME": home, "PATH": os.Getenv("PATH")},
		}
		require.Zero(t, run(args, a), "%s", &out)
		return out.String()
	}

	dbake("plan", "--offline", "--strategy", "round-robin", "--format", "json", "-o", "plan.json",
		"--nodes", "local:2", "--state-dir", state, "--buildkitd", localtest.Buildkitd(t))
	saved := readPlan(t, filepath.Join(dir, "plan.json"))
	require.Len(t, saved.Nodes, 2)
	for range 2 {
		out := dbake("build", "--no-steal", "--progress", "plain", "plan.json", "--state-dir", state, "--buildkitd", localtest.Buildkitd(t))
		for _, n := range saved.Nodes {
			require.Len(t, n.Partitions, 1)
			require.Regexp(t, `(?m)^`+n.Partitions[0][0]+` +`+n.Name+` +built`, out)
		}
		saved.Nodes[0].Partitions, saved.Nodes[1].Partitions = saved.Nodes[1].Partitions, saved.Nodes[0].Partitions
		var b bytes.Buffer
		require.NoError(t, saved.Write(&b))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "plan.json"), b.Bytes(), 0o644))
	}
}

func readPlan(t *testing.T, name string) *report.File {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	saved, err := report.ReadFile(f)
	require.NoError(t, err)
	return saved
}
