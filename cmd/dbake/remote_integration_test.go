//go:build integration

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// remoteProject is a project that is read from elsewhere: a target at its root, one
// in a directory, one with another directory as named context and one that is
// local.
var remoteProject = map[string]string{
	"docker-bake.hcl": `
group "default" {
  targets = ["root", "dir", "named", "own"]
}
target "root" {
  output = ["type=local,dest=out/root"]
}
target "dir" {
  context = "dir"
  output = ["type=local,dest=out/dir"]
}
target "named" {
  dockerfile-inline = "FROM scratch\nCOPY --from=other x /\n"
  contexts = { other = "dir" }
  output = ["type=local,dest=out/named"]
}
target "own" {
  context = "cwd://."
  dockerfile-inline = "FROM scratch\nCOPY mine /\n"
  output = ["type=local,dest=out/own"]
}
`,
	"Dockerfile":     "FROM scratch\nCOPY hello /\n",
	"hello":          "from the root\n",
	"dir/Dockerfile": "FROM scratch\nCOPY x /y\n",
	"dir/x":          "from the directory\n",
}

// builtRemotely is what building remoteProject where there is a file "mine" leaves.
var builtRemotely = map[string]string{
	"out/root/hello": "from the root\n",
	"out/dir/y":      "from the directory\n",
	"out/named/x":    "from the directory\n",
	"out/own/mine":   "local\n",
}

func TestRemoteDefinition(t *testing.T) {
	w := newEmptyWorld(t)
	w.up(2)
	t.Cleanup(w.down)

	repository := gitRepository(t, remoteProject)
	open := gitServer(t, repository, "")
	closed := gitServer(t, repository, "sesame")
	files := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/project.tar.gz":
			_, _ = rw.Write(archive(t, remoteProject)) // the client's matter
		case "/single.hcl":
			_, _ = rw.Write([]byte("target \"default\" {\n  dockerfile-inline = \"FROM scratch\\nCOPY mine /\\n\"\n  output = [\"type=local,dest=out/own\"]\n}\n"))
		case "/large.hcl":
			_, _ = rw.Write(bytes.Repeat([]byte("# large\n"), 1<<19))
		case "/medium.hcl":
			_, _ = rw.Write(append(bytes.Repeat([]byte("# medium\n"), 1<<10), "target \"default\" {}\n"...))
		default:
			http.NotFound(rw, r)
		}
	}))
	t.Cleanup(files.Close)

	for name, tc := range map[string]struct {
		url  string
		env  []string
		want map[string]string
	}{
		"git":         {url: open, want: builtRemotely},
		"git ref":     {url: open + "#main", want: builtRemotely},
		"private git": {url: closed, env: []string{"buildx_bake_git_auth_token=sesame"}, want: builtRemotely},
		"archive":     {url: files.URL + "/project.tar.gz", want: builtRemotely},
		"single file": {url: files.URL + "/single.hcl", want: map[string]string{"out/own/mine": "local\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "mine"), []byte("local\n"), 0o600))
			r := remoteRun(t, w, dir, tc.env, append([]string{"build", "--progress", "plain", "--allow", "fs=*"}, append(w.on(2), tc.url)...)...)
			require.Zero(t, r.status, r.stderr)
			for file, want := range tc.want {
				got, err := os.ReadFile(filepath.Join(dir, file))
				require.NoError(t, err)
				require.Equal(t, want, string(got), file)
			}
		})
	}

	t.Run("print", func(t *testing.T) {
		r := remoteRun(t, w, t.TempDir(), nil, append([]string{"build", "--print"}, append(w.on(2), open, "dir")...)...)
		require.Zero(t, r.status, r.stderr)
		var printed struct {
			Target map[string]struct{ Context string }
		}
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &printed), r.stdout)
		require.Equal(t, open+"#:dir", printed.Target["dir"].Context)

		r = remoteRun(t, w, t.TempDir(), nil, append([]string{"build", "--print"}, append(w.on(2), files.URL+"/medium.hcl")...)...)
		require.Zero(t, r.status, r.stderr)
		require.Contains(t, r.stdout, `"context": "."`)
	})
	t.Run("plan", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "mine"), []byte("local\n"), 0o600))
		for _, url := range []string{open, files.URL + "/project.tar.gz"} {
			r := remoteRun(t, w, dir, nil, append([]string{"plan"}, append(w.on(2), url)...)...)
			require.Zero(t, r.status, r.stderr)
			require.Contains(t, r.stdout, "named")
		}
	})
	t.Run("plan of a context", func(t *testing.T) {
		dir := t.TempDir()
		context := gitServer(t, gitRepository(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY file /there\n", "file": "x"}), "")
		bake := fmt.Sprintf("target \"default\" {\n  context = %q\n}\n", context)
		write(t, dir, bake)
		r := remoteRun(t, w, dir, nil, append([]string{"plan"}, w.on(2)...)...)
		require.Zero(t, r.status, r.stderr)
		require.Contains(t, r.stdout, "default")
		r = remoteRun(t, w, dir, nil, "plan", "--format", "json", "--nodes", "far="+w.addrs[0])
		require.Zero(t, r.status, r.stderr)
		require.Contains(t, r.stdout, "COPY file /there")
		r = remoteRun(t, w, dir, nil, "plan", "--offline", "--nodes", "far="+w.addrs[0])
		require.NotZero(t, r.status)
	})
	t.Run("check", func(t *testing.T) {
		r := remoteRun(t, w, t.TempDir(), nil, append([]string{"build", "--check"}, append(w.on(2), open, "dir")...)...)
		require.Zero(t, r.status, r.stderr)
		require.Contains(t, r.stdout, "Check complete, no warnings found")
	})
	t.Run("errors", func(t *testing.T) {
		for _, tc := range []struct {
			args []string
			want string
		}{
			{args: []string{closed}, want: "read " + closed},
			{args: []string{files.URL + "/none.hcl"}, want: "404"},
			{args: []string{files.URL + "/large.hcl"}, want: "non-archive definition URL bigger than maximum allowed size"},
			{args: []string{"-f", "none.hcl", open}, want: "none.hcl"},
			{args: []string{open + "#main:dir"}, want: "couldn't find a bake definition"},
		} {
			r := remoteRun(t, w, t.TempDir(), nil, append(append([]string{"build", "--print"}, w.on(2)...), tc.args...)...)
			require.NotZero(t, r.status, tc.args)
			require.Contains(t, r.stderr, tc.want)
		}
	})
}

const moving = `
-- docker-bake.hcl --
variable "URL" { default = "" }
group "default" { targets = ["a", "b"] }
target "a" {
  dockerfile-inline = "FROM busybox:1\nADD ${URL}#main /a\nRUN cat /a/file > /out\n"
  output            = ["type=local,dest=a"]
}
target "b" {
  context           = "${URL}#main"
  dockerfile-inline = "FROM busybox:1\nCOPY file /b\nRUN cat /b > /out\n"
  output            = ["type=local,dest=b"]
}
`

// TestBranchMoves moves a branch as soon as a node has heard where it is: two
// nodes build the commit that it was at all the same, the next run the new one.
func TestBranchMoves(t *testing.T) {
	w := newWorld(t, 2)
	bare := gitRepository(t, map[string]string{"file": "first\n"})
	work := t.TempDir()
	git := func(args ...string) {
		out, err := exec.Command("git", args...).CombinedOutput()
		require.NoError(t, err, "git %s: %s", strings.Join(args, " "), out)
	}
	git("clone", "-q", bare, work)
	require.NoError(t, os.WriteFile(filepath.Join(work, "file"), []byte("second\n"), 0o600))
	git("-C", work, "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "-q", "-a", "-m", "second")
	git("-C", work, "push", "-q", "origin", "HEAD:refs/heads/next")
	var once sync.Once
	url := gitServer(t, bare, "", func(r *http.Request) {
		if r.Method == http.MethodPost {
			once.Do(func() { git("-C", bare, "update-ref", "refs/heads/main", "refs/heads/next") })
		}
	})
	dir := project(t, moving)
	for _, want := range []string{"first\n", "second\n"} {
		r := w.build(dir, 2, "--strategy", "round-robin", "--var", "URL="+url, "--allow", "fs.write="+dir)
		require.Zero(t, r.status, r.stderr)
		for _, target := range []string{"a", "b"} {
			got, err := os.ReadFile(filepath.Join(dir, target, "out"))
			require.NoError(t, err)
			require.Equal(t, want, string(got), target)
		}
	}
}

// remoteRun runs dbake with more variables in its environment.
func remoteRun(t *testing.T, w *world, dir string, env []string, args ...string) result {
	t.Helper()
	cmd := w.command(dir, args...)
	cmd.Env = append(cmd.Env, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
	}
	return result{status: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

// gitRepository returns a bare repository whose branch main holds files.
func gitRepository(t *testing.T, files map[string]string) string {
	t.Helper()
	base := t.TempDir()
	work, bare := filepath.Join(base, "work"), filepath.Join(base, "project.git")
	for name, data := range files {
		path := filepath.Join(work, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(data), 0o600))
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", work},
		{"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "-q", "-m", "all"},
		{"clone", "-q", "--bare", work, bare},
	} {
		out, err := exec.Command("git", args...).CombinedOutput()
		require.NoError(t, err, "git %s: %s", strings.Join(args, " "), out)
	}
	return bare
}

// gitServer serves a repository over HTTP to whoever knows the token and returns
// its URL. served hear of each request that has been answered.
func gitServer(t *testing.T, bare, token string, served ...func(*http.Request)) string {
	t.Helper()
	path, err := exec.LookPath("git")
	require.NoError(t, err)
	backend := &cgi.Handler{
		Path: path, Args: []string{"http-backend"},
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(bare), "GIT_HTTP_EXPORT_ALL=1"},
	}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != token {
			rw.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(rw, r)
		for _, f := range served {
			f(r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/" + filepath.Base(bare)
}

// archive returns files as a compressed tar archive.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for name, data := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}))
		_, err := w.Write([]byte(data))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return buf.Bytes()
}
