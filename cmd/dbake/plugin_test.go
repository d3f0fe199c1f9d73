package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain runs dbake instead of the tests when this executable is called as dbake is:
// a link to it is a plugin of docker.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); name == pluginFile || name == pluginName || len(os.Args) > 1 && os.Args[1] == forwardCommand {
		main()
	}
	os.Exit(m.Run())
}

func TestPluginArgs(t *testing.T) {
	type test struct {
		name, program string
		args          []string
		want          []string
		env           map[string]string
		err           string
	}
	for _, tt := range []test{
		{name: "not docker", program: "dbake", args: []string{"dbake", "x"}, want: []string{"dbake", "x"}},
		{name: "by hand", program: "/x/docker-dbake", args: []string{"build", "x"}, want: []string{"build", "x"}},
		{name: "by hand with flags", program: "docker-dbake", args: []string{"-f", "x.hcl", "web"}, want: []string{"-f", "x.hcl", "web"}},
		{name: "docker", program: "docker-dbake", args: []string{"dbake", "--print", "web"}, want: []string{"--print", "web"}},
		{name: "docker on Windows", program: "docker-dbake.exe", args: []string{"dbake", "web"}, want: []string{"web"}},
		{name: "nothing more", program: "docker-dbake", args: []string{"dbake"}, want: []string{}},
		{name: "target called dbake", program: "docker-dbake", args: []string{"dbake", "dbake"}, want: []string{"dbake"}},
		{name: "help", program: "docker-dbake", args: []string{"help", "dbake", "plan"}, want: []string{"plan", "--help"}},
		{name: "complete", program: "docker-dbake", args: []string{"__complete", "dbake", "build", ""}, want: []string{"__complete", "build", ""}},
		{
			name: "context", program: "docker-dbake", args: []string{"--context", "far", "--config=/c", "dbake", "-c"}, want: []string{"-c"},
			env: map[string]string{"DOCKER_CONTEXT": "far", "DOCKER_CONFIG": "/c"},
		},
		{
			name: "host", program: "docker-dbake", args: []string{"-DHtcp://h:1", "--tls", "--tlscacert", "ca", "dbake"}, want: []string{"--debug"},
			env: map[string]string{"DOCKER_HOST": "tcp://h:1", "DOCKER_TLS": "1", "DOCKER_TLS_CACERT": "ca"},
		},
		{name: "two hosts", program: "docker-dbake", args: []string{"-Ha", "-Hb", "dbake"}, err: "specify only one --host"},
		{name: "both", program: "docker-dbake", args: []string{"-Ha", "-cb", "dbake"}, err: "cannot specify both --host and --context"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{}
			got, err := pluginArgs(tt.program, tt.args, env)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
			if tt.env == nil {
				tt.env = map[string]string{}
			}
			require.Equal(t, tt.env, env)
		})
	}
}

// TestPluginContextReplacesHost has a flag of docker win over the environment.
func TestPluginContextReplacesHost(t *testing.T) {
	env := map[string]string{"DOCKER_HOST": "tcp://h:1", "DOCKER_TLS_VERIFY": "1"}
	_, err := pluginArgs(pluginFile, []string{"--context=c", "--tlsverify=false", "dbake"}, env)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"DOCKER_CONTEXT": "c"}, env)
}

// docker installs dbake as a plugin of the docker command in a new home and returns
// what runs docker there.
func docker(t *testing.T) func(args ...string) (stdout, stderr string, status int) {
	t.Helper()
	program, err := exec.LookPath("docker")
	if err != nil {
		t.Skip("there is no docker command on PATH")
	}
	home, dir := t.TempDir(), t.TempDir()
	plugins := filepath.Join(home, ".docker", "cli-plugins")
	require.NoError(t, os.MkdirAll(plugins, 0o755))
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, filepath.Join(plugins, pluginFile)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "docker-bake.hcl"), []byte(`target "web" { tags = ["x:1"] }`), 0o644))
	return func(args ...string) (string, string, int) {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Dir, cmd.Env = dir, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
		return runCommand(cmd)
	}
}

// TestDocker has the real docker command run dbake as its plugin.
func TestDocker(t *testing.T) {
	run := docker(t)
	stdout, stderr, status := run("dbake", "--help")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "Usage: dbake <command> [flags]")

	stdout, stderr, status = run("help", "dbake", "plan")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "--explain")

	stdout, stderr, status = run("--help")
	require.Zero(t, status, stderr)
	require.Regexp(t, `dbake\* +Build many images`, stdout)

	stdout, stderr, status = run("dbake", "web", "--print")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, `"x:1"`)

	_, stderr, status = run("dbake", "--no-such-flag")
	require.Equal(t, 2, status)
	require.Contains(t, stderr, "ERROR: unknown flag --no-such-flag")

	_, stderr, status = run("--config", t.TempDir(), "dbake", "web")
	require.NotZero(t, status, "%s", stderr) // no plugin there

	stdout, _, status = run("__complete", "dbake", "build", "w")
	require.Zero(t, status)
	require.Equal(t, "web\n:4\n", stdout)
}

func TestPluginMetadata(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out, env: map[string]string{}}
	require.Zero(t, run([]string{metadataCommand}, a))
	var got map[string]string
	require.NoError(t, json.Unmarshal(out.Bytes(), &got), out.String())
	require.Equal(t, "0.1.0", got["SchemaVersion"])
	require.NotEmpty(t, got["Vendor"])
}

// TestHangup has docker hang up, as it does when it is to stop.
func TestHangup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	var out bytes.Buffer
	a := &app{stderr: &out, env: map[string]string{envPluginSocket: path}}
	require.NoError(t, a.showProgress([]string{"--progress=plain"}))
	ctx, stop := a.interruptible()
	conn, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, ctx.Err())
	require.NoError(t, conn.Close())
	<-ctx.Done()
	stop()
	require.True(t, strings.Contains(out.String(), "stopping"), out.String())
}

// TestNoHangup ends a command that docker did not interrupt.
func TestNoHangup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	for _, addr := range []string{path, path + ".gone", ""} {
		a := &app{env: map[string]string{envPluginSocket: addr}}
		ctx, stop := a.interruptible()
		require.NoError(t, ctx.Err())
		stop()
	}
}
