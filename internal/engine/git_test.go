package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/frontend"
)

func TestWorkTrees(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	e := &Engine{Config: Config{Env: map[string]string{
		"HOME": t.TempDir(), "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com",
	}}}
	git := func(args ...string) {
		cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
		cmd.Env = os.Environ()
		for k, v := range e.Env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	ask := func(dir string) (frontend.VCS, bool) {
		var o frontend.Options
		e.passVCS(t.Context(), &o)
		return o.VCS(dir)
	}
	sub := filepath.Join(dir, "app")
	require.NoError(t, os.Mkdir(sub, 0o755))
	_, ok := ask(sub)
	require.False(t, ok)

	git("init", "-q")
	v, ok := ask(sub)
	require.True(t, ok)
	require.Equal(t, frontend.VCS{Root: dir}, v, "no commit yet, no remote")

	require.NoError(t, os.WriteFile(filepath.Join(sub, "file"), nil, 0o644))
	git("add", "-A")
	git("commit", "-q", "-m", "first")
	git("remote", "add", "upstream", "https://user:canary-password@example.com/up")
	v, _ = ask(sub)
	require.Regexp(t, `^[0-9a-f]{40}$`, v.Revision)
	require.Contains(t, v.Source, "example.com/up")
	require.NotContains(t, v.Source, "canary")
	git("remote", "add", "origin", "https://example.com/origin")
	v, _ = ask(sub)
	require.Equal(t, "https://example.com/origin", v.Source)

	e.Env[envGitDirty] = "1"
	clean, _ := ask(sub)
	require.Equal(t, v.Revision, clean.Revision)
	require.NoError(t, os.WriteFile(filepath.Join(sub, "new"), nil, 0o644))
	dirty, _ := ask(sub)
	require.Equal(t, v.Revision+"-dirty", dirty.Revision)

	var o frontend.Options
	e.passVCS(t.Context(), &o)
	require.True(t, o.VCSProvenance)
	require.False(t, o.VCSLabels)
	e.Env[envGitInfo], e.Env[envGitLabels] = "false", "full"
	e.passVCS(t.Context(), &o)
	require.False(t, o.VCSProvenance)
	require.True(t, o.VCSLabels)
	e.Env[envGitLabels] = "0"
	o = frontend.Options{}
	e.passVCS(t.Context(), &o)
	require.Nil(t, o.VCS)
}
