package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
)

// notes keeps what a session warns of.
type notes struct{ warnings []string }

func (n *notes) Note(string)                               {}
func (n *notes) Warn(text string)                          { n.warnings = append(n.warnings, text) }
func (n *notes) Begin(*plan.Build, *plan.Plan, bool) error { return nil }
func (n *notes) Observe(runtime.Event)                     {}
func (n *notes) End()                                      {}

// repository makes a git repository and returns what runs git in it.
func repository(t *testing.T, dir string) func(args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git")
	}
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "protocol.file.allow=always"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "GIT_CONFIG_NOSYSTEM=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "git %s: %s", args, out)
		return strings.TrimSpace(string(out))
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	git("init", "-q", "-b", "main")
	return git
}

func put(t *testing.T, dir, name, text string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), mode))
	require.NoError(t, os.Chmod(path, mode))
}

// The tree of a revision is as a checkout would make it, through filters and with
// submodules, and neither the work tree nor the repository is changed.
func TestCheckOut(t *testing.T) {
	top := t.TempDir()
	lib, dir := filepath.Join(top, "lib"), filepath.Join(top, "work")
	inLib := repository(t, lib)
	put(t, lib, "lib.txt", "lib 1\n", 0o644)
	inLib("add", ".")
	inLib("commit", "-q", "-m", "one")

	git := repository(t, dir)
	put(t, dir, "sub/file", "old\n", 0o600)
	put(t, dir, "run.sh", "run\n", 0o755)
	put(t, dir, "big.bin", "pointer\n", 0o644)
	put(t, dir, ".gitattributes", "*.bin filter=large\nhidden export-ignore\n", 0o644)
	put(t, dir, "hidden", "kept out of archives\n", 0o644)
	require.NoError(t, os.Symlink("sub/file", filepath.Join(dir, "link")))
	git("config", "filter.large.smudge", "sed s/pointer/content/")
	git("config", "filter.large.clean", "sed s/content/pointer/")
	git("submodule", "add", "-q", lib, "third/lib")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	put(t, dir, "sub/file", "new\n", 0o600)
	put(t, dir, "untracked", "x\n", 0o644)
	status, files := git("status", "--porcelain"), git("rev-parse", "HEAD")

	said := &notes{}
	e := New(Config{Dir: filepath.Join(dir, "sub"), Env: map[string]string{"HOME": t.TempDir()}, Report: said})
	c, err := e.checkOut(t.Context(), "main")
	require.NoError(t, err)
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(c.dir, name))
		require.NoError(t, err)
		return string(data)
	}
	require.Equal(t, "old\n", read("sub/file"))
	require.Equal(t, "content\n", read("big.bin"))
	require.Equal(t, "kept out of archives\n", read("hidden"))
	require.Equal(t, "lib 1\n", read("third/lib/lib.txt"))
	link, err := os.Readlink(filepath.Join(c.dir, "link"))
	require.NoError(t, err)
	require.Equal(t, "sub/file", link)
	for name, mode := range map[string]os.FileMode{"sub/file": 0o600, "run.sh": 0o755} {
		info, err := os.Stat(filepath.Join(c.dir, name))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), name)
	}
	require.NoFileExists(t, filepath.Join(c.dir, "untracked"))
	require.Equal(t, filepath.Join(c.dir, "sub"), c.at(e.Dir))
	require.Equal(t, top, c.at(top), "what is not in the work tree stays where it is")
	require.Empty(t, said.warnings)
	require.NoError(t, c.remove())
	require.NoDirExists(t, c.tmp)
	require.Equal(t, status, git("status", "--porcelain"))
	require.Equal(t, files, git("rev-parse", "HEAD"))

	// A commit that the submodule's repository does not have is reported.
	git("rm", "-q", "--cached", "third/lib")
	git("update-index", "--add", "--cacheinfo", "160000,0123456789012345678901234567890123456789,third/lib")
	git("commit", "-q", "-m", "two")
	c, err = e.checkOut(t.Context(), "HEAD")
	require.NoError(t, err)
	require.NoError(t, c.remove())
	require.Len(t, said.warnings, 1)
	require.Contains(t, said.warnings[0], "submodule third/lib is not here as it was at that revision (012345678901)")

	// What is no revision leaves nothing behind.
	t.Setenv("TMPDIR", t.TempDir())
	_, err = e.checkOut(t.Context(), "--help")
	require.ErrorContains(t, err, `"--help" is neither a saved plan nor a revision`)
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	require.Empty(t, left)
	_, err = New(Config{Dir: top, Report: said}).checkOut(t.Context(), "main")
	require.ErrorContains(t, err, "lies in no git work tree")
}
