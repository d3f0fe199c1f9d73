package dbake

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// action runs the script of action.yml as a runner does.
type action struct {
	t    *testing.T
	temp string
	env  []string
}

func newAction(t *testing.T, env ...string) *action {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" || !onPath("bash") || !onPath("curl") {
		t.Skip("the action needs bash and curl, on Linux or macOS")
	}
	a := &action{t: t, temp: t.TempDir()}
	a.env = append([]string{
		"PATH=" + a.temp + "/dbake:" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "RUNNER_TEMP=" + a.temp,
		"GITHUB_PATH=" + filepath.Join(a.temp, "path"), "GITHUB_OUTPUT=" + filepath.Join(a.temp, "output"),
	}, env...)
	return a
}

func (a *action) run(step string, env ...string) (string, error) {
	cmd := exec.Command("bash", "scripts/action.sh", step)
	cmd.Env = append(a.env, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (a *action) read(name string) string {
	a.t.Helper()
	data, err := os.ReadFile(filepath.Join(a.temp, name))
	require.NoError(a.t, err)
	return string(data)
}

// standIn notes its arguments, one on each line, and does what the real one would leave.
const standIn = `#!/usr/bin/env bash
printf '%s\n' "$@" -- >> "$RUNNER_TEMP/calls"
case "$1 $2" in
  "history export") echo measured > "$4" ;;
  "build --metadata-file") echo '{"app":{}}' > "$3"; exit "${STATUS:-0}" ;;
esac
`

// release serves a release whose dbake is standIn.
func release(t *testing.T, sum func(archive []byte) string) *httptest.Server {
	var archive bytes.Buffer
	zip := gzip.NewWriter(&archive)
	tw := tar.NewWriter(zip)
	require.NoError(t, tw.WriteHeader(&tar.Header{Name: "dbake", Mode: 0o755, Size: int64(len(standIn))}))
	_, err := tw.Write([]byte(standIn))
	require.NoError(t, err)
	require.NoError(t, tw.Close())
	require.NoError(t, zip.Close())
	name := fmt.Sprintf("dbake_1.2.3_%s_%s.tar.gz", runtime.GOOS, runtime.GOARCH)
	mux := http.NewServeMux()
	for _, dir := range []string{"/download/v1.2.3/", "/latest/download/"} {
		mux.HandleFunc(dir+"SHA256SUMS", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "%s  %s\n%s  other.deb\n", sum(archive.Bytes()), name, sum(nil))
		})
		mux.HandleFunc(dir+name, func(w http.ResponseWriter, _ *http.Request) { w.Write(archive.Bytes()) })
	}
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

func sha(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

func TestActionInstalls(t *testing.T) {
	for _, version := range []string{"1.2.3", "v1.2.3", "latest"} {
		a := newAction(t, "RELEASES="+release(t, sha).URL, "VERSION="+version)
		out, err := a.run("install")
		require.NoError(t, err, "%s", out)
		require.Equal(t, filepath.Join(a.temp, "dbake")+"\n", a.read("path"))
		require.Equal(t, standIn, a.read("dbake/dbake"))
	}

	// What is not what the release says is not run.
	a := newAction(t, "RELEASES="+release(t, func([]byte) string { return sha([]byte("other")) }).URL)
	out, err := a.run("install")
	require.Error(t, err)
	require.Contains(t, out, "is not what the release says")
	require.NoFileExists(t, filepath.Join(a.temp, "dbake", "dbake"))

	a = newAction(t, "RELEASES="+release(t, sha).URL, "VERSION=9")
	out, err = a.run("install")
	require.Error(t, err)
	require.Contains(t, out, "::error::dbake: cannot fetch")
}

func TestActionBuilds(t *testing.T) {
	a := newAction(t, "RELEASES="+release(t, sha).URL)
	out, err := a.run("install")
	require.NoError(t, err, "%s", out)
	out, err = a.run("build", "TARGETS=api web", "FILES=a b.hcl\n\n  c.yaml  ", "SET=*.args.X=a b", "NODES=tcp://a:1\ntcp://b:1", "PUSH=true", "ARGS=--sbom=true")
	require.NoError(t, err, "%s", out)
	require.Equal(t, strings.Join([]string{
		"build", "--metadata-file", filepath.Join(a.temp, "dbake-metadata.json"), "--file", "a b.hcl", "--file", "c.yaml",
		"--set", "*.args.X=a b", "--nodes", "tcp://a:1", "--nodes", "tcp://b:1", "--push", "--sbom=true", "--", "api", "web", "--",
		"history", "export", "-o", filepath.Join(a.temp, "dbake-history.jsonl"), "--", "",
	}, "\n"), a.read("calls"))
	require.Regexp(t, `^metadata<<(dbake-\d+)\n\{"app":\{\}\}\n\ndbake-\d+\n$`, a.read("output"))

	// The next run knows what this one has measured. A build that fails fails the step,
	// and what was measured is kept all the same.
	require.NoError(t, os.Remove(filepath.Join(a.temp, "calls")))
	_, err = a.run("build", "STATUS=7")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 7, exit.ExitCode())
	require.True(t, strings.HasPrefix(a.read("calls"), "history\nimport\n"))
	require.Contains(t, a.read("calls"), "history\nexport\n")
}

// engine stands in for docker: it notes its calls. A container whose name has FAILS in it
// does not start, and BuildKit answers when it is asked for the second time.
const engine = `#!/usr/bin/env bash
echo "$@" >> "$RUNNER_TEMP/docker"
case "$1" in
  run) [[ -z ${FAILS:-} || $* != *$FAILS* ]] ;;
  exec) [[ $(grep -c "^exec $2 " "$RUNNER_TEMP/docker") -ge 2 ]] ;;
esac
`

// Nodes are started for a job, used beside those that are given, and removed, also those that
// did not start.
func TestActionStartsNodes(t *testing.T) {
	a := newAction(t, "RELEASES="+release(t, sha).URL, "BUILDKIT_IMAGE=moby/buildkit:v1")
	out, err := a.run("install")
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.WriteFile(filepath.Join(a.temp, "dbake", "docker"), []byte(engine), 0o755))
	out, err = a.run("start", "START_NODES=2")
	require.NoError(t, err, "%s", out)
	names := strings.Fields(a.read("dbake-nodes"))
	require.Len(t, names, 2)
	for _, name := range names {
		require.Contains(t, a.read("docker"), "run --detach --privileged --name "+name+" moby/buildkit:v1\n")
		require.Equal(t, 2, strings.Count(a.read("docker"), "exec "+name+" buildctl debug workers\n"))
	}
	out, err = a.run("build", "NODES=tcp://a:1")
	require.NoError(t, err, "%s", out)
	require.Contains(t, a.read("calls"), "--nodes\ntcp://a:1\n--nodes\ndocker-container://"+names[0]+"\n--nodes\ndocker-container://"+names[1]+"\n")
	out, err = a.run("stop")
	require.NoError(t, err, "%s", out)
	for _, name := range names {
		require.Contains(t, a.read("docker"), "rm --force --volumes "+name+"\n")
	}
	require.NoFileExists(t, filepath.Join(a.temp, "dbake-nodes"))

	out, err = a.run("start", "START_NODES=3", "FAILS=node2")
	require.Error(t, err)
	require.Contains(t, out, "::error::dbake: node 2 could not be started from moby/buildkit:v1")
	started := strings.Fields(a.read("dbake-nodes"))
	require.Len(t, started, 2)
	out, err = a.run("stop")
	require.NoError(t, err, "%s", out)
	require.Contains(t, a.read("docker"), "rm --force --volumes "+started[1]+"\n")

	out, err = a.run("start", "START_NODES=many")
	require.Error(t, err)
	require.Contains(t, out, `start-nodes is "many", and not a number`)
}

// Nodes that are started are of the BuildKit that dbake is built with.
func TestActionBuildKit(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/moby/buildkit").Output()
	require.NoError(t, err)
	data, err := os.ReadFile("action.yml")
	require.NoError(t, err)
	require.Contains(t, string(data), "moby/buildkit:"+strings.TrimSpace(string(out))+`"`)
}

// Every input of action.yml reaches the script, or a step's condition.
func TestActionInputs(t *testing.T) {
	data, err := os.ReadFile("action.yml")
	require.NoError(t, err)
	var file struct {
		Inputs map[string]struct{ Description string }
	}
	require.NoError(t, yaml.Unmarshal(data, &file))
	require.NotEmpty(t, file.Inputs)
	for name, in := range file.Inputs {
		require.NotEmpty(t, in.Description, name)
		require.Contains(t, string(data), "inputs."+name, name)
	}
}
