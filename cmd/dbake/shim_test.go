package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestForwarded(t *testing.T) {
	flags := []string{"--nodes=tcp://a:1", "--cache-registry=h/c"}
	for _, tt := range []struct {
		args string
		want string // "" is for the real one
		env  map[string]string
	}{
		{args: "buildx bake web", want: "build --nodes=tcp://a:1 --cache-registry=h/c web"},
		{args: "bake --file - --progress rawjson", want: "build --nodes=tcp://a:1 --cache-registry=h/c --file - --progress rawjson"},
		{args: "buildx f", want: "build --nodes=tcp://a:1 --cache-registry=h/c"},
		{args: "--context far -D buildx bake", want: "--debug build --nodes=tcp://a:1 --cache-registry=h/c", env: map[string]string{"DOCKER_CONTEXT": "far"}},
		{args: "buildx --builder b bake", want: "build --builder=b --cache-registry=h/c"},
		{args: "bake --builder=b x", want: "build --cache-registry=h/c --builder=b x"},
		{args: "bake -- --builder", want: "build --nodes=tcp://a:1 --cache-registry=h/c -- --builder"},
		{args: "buildx build .", want: "build --nodes=tcp://a:1 --cache-registry=h/c --file=- --set=default.context=. --allow=fs=* --allow=ssh"},
		{args: "--context far buildx b -D .", want: "build --nodes=tcp://a:1 --cache-registry=h/c --file=- --set=default.context=. --allow=fs=* --allow=ssh --debug", env: map[string]string{"DOCKER_CONTEXT": "far"}},
		{args: "build --builder b .", want: "build --cache-registry=h/c --file=- --set=default.context=. --allow=fs=* --allow=ssh --builder=b"},
		{args: "buildx build -"},
		{args: "buildx build"},
		{args: "buildx build --help"},
		{args: "buildx ls"},
		{args: "docker-cli-plugin-metadata"},
		{args: "buildx --no-such bake"},
		{args: "buildx"},
		{args: ""},
		{args: "__complete buildx bake "},
	} {
		env := map[string]string{}
		got, _, err := translate(flags, strings.Fields(tt.args), env)
		if tt.want == "" {
			require.ErrorIs(t, err, errForeign, tt.args)
		} else {
			require.NoError(t, err, tt.args)
		}
		require.Equal(t, tt.want, strings.Join(got, " "), tt.args)
		if tt.env == nil {
			tt.env = map[string]string{}
		}
		require.Equal(t, tt.env, env, tt.args)
	}
}

// shimmed is a home with a shim in docker's directory of plugins.
type shimmed struct {
	t                  *testing.T
	home, dir, plugins string
	real               string
}

// newShim makes a home and installs the shim before a docker-buildx that says how it
// was called, or before the one that BUILDX names.
func newShim(t *testing.T, flags ...string) *shimmed {
	t.Helper()
	s := &shimmed{t: t, home: t.TempDir(), dir: t.TempDir()}
	s.plugins = filepath.Join(s.home, ".docker", "cli-plugins")
	s.real = os.Getenv("BUILDX")
	if s.real == "" {
		s.real = filepath.Join(s.home, "real's buildx")
		require.NoError(t, os.WriteFile(s.real, []byte("#!/bin/sh\nif [ \"$1\" = docker-cli-plugin-metadata ]; then echo '{\"SchemaVersion\":\"0.1.0\",\"Vendor\":\"x\",\"Version\":\"v0.38.2\"}'; exit; fi\n[ \"$1\" = buildx ] && shift\necho \"github.com/docker/buildx: $@\"\n[ \"$1\" != no-such ]"), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "docker-bake.hcl"), []byte(`target "default" { tags = ["x:1"] }`), 0o644))
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out, dir: s.dir, env: map[string]string{"HOME": s.home}}
	require.Zero(t, run(append([]string{"install-shim", s.plugins, "--buildx", s.real}, flags...), a), out.String())
	require.Contains(t, out.String(), "docker buildx bake and build are dbake")
	return s
}

func (s *shimmed) run(stdin, program string, args ...string) (stdout, stderr string, status int) {
	s.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env, cmd.Stdin = s.dir, []string{"HOME=" + s.home, "PATH=" + os.Getenv("PATH")}, strings.NewReader(stdin)
	return runCommand(cmd)
}

// runCommand runs a command and returns what it printed, and its status.
func runCommand(cmd *exec.Cmd) (stdout, stderr string, status int) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // the status is what counts
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestShim calls the shim as other programs do.
func TestShim(t *testing.T) {
	s := newShim(t)
	shim := filepath.Join(s.plugins, buildxFile)

	stdout, stderr, status := s.run("", shim, "version")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "github.com/docker/buildx")

	stdout, stderr, status = s.run("", shim, "bake", "--print")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, `"x:1"`)
	require.Contains(t, stdout, `"group"`)

	_, stderr, status = s.run("", shim, "no-such")
	require.NotZero(t, status, stderr)
	_, stderr, status = s.run("", shim, "bake", "--no-such-flag")
	require.Equal(t, 1, status, stderr)
	require.Contains(t, stderr, "ERROR: unknown flag --no-such-flag")

	// Compose reads the definition from a pipe, and takes the lines of stderr that are
	// no JSON for the error.
	_, stderr, status = s.run(`{"group":{"default":{"targets":["missing"]}}}`, shim, "bake", "--file", "-", "--progress", "rawjson", "--metadata-file", filepath.Join(s.dir, "md"), "--allow", "fs.read="+s.dir)
	require.Equal(t, 1, status)
	var other []string
	for line := range strings.Lines(stderr) {
		if !json.Valid([]byte(line)) {
			other = append(other, line)
		}
	}
	require.Len(t, other, 1, stderr)
	require.Regexp(t, `^ERROR: .*missing`, other[0])

	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("there is no docker command on PATH")
	}
	stdout, stderr, status = s.run("", "docker", "buildx", "bake", "--print")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, `"x:1"`)
	stdout, stderr, status = s.run("", "docker", "buildx", "version")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "github.com/docker/buildx")
	_, stderr, status = s.run("", "docker", "buildx", "bake", "nothing")
	require.Equal(t, 1, status, stderr)
	require.Contains(t, stderr, "failed to find target nothing")
}

// TestShimWithoutDbake leaves docker as it was when dbake is gone.
func TestShimWithoutDbake(t *testing.T) {
	s := newShim(t)
	shim := filepath.Join(s.plugins, "shim")
	require.NoError(t, os.WriteFile(shim, []byte(shimScript(filepath.Join(s.home, "gone"), s.real, nil)), 0o755))
	stdout, stderr, status := s.run("", shim, "bake", "--help")
	require.Zero(t, status, stderr)
	require.NotContains(t, stdout, "dbake")
}

// TestShimKeeps moves a docker-buildx away that is where the shim goes, and back.
func TestShimKeeps(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, "plugins")
	require.NoError(t, os.Mkdir(dir, 0o755))
	shim, kept := filepath.Join(dir, buildxFile), filepath.Join(dir, asideFile)
	real := []byte("#!/bin/sh\necho real")
	require.NoError(t, os.WriteFile(shim, real, 0o755))
	do := func(args ...string) (string, int) {
		var out bytes.Buffer
		a := &app{stdout: &out, stderr: &out, dir: home, env: map[string]string{"HOME": home}}
		status := run(append([]string{"install-shim", "plugins"}, args...), a)
		return out.String(), status
	}
	for range 2 { // the second finds a shim there
		out, status := do("--nodes", "tcp://a:1", "--cache-registry", "h:5000")
		require.Zero(t, status, out)
		got, err := os.ReadFile(kept)
		require.NoError(t, err)
		require.Equal(t, real, got)
		script, err := os.ReadFile(shim)
		require.NoError(t, err)
		require.Contains(t, string(script), "'--nodes=tcp://a:1' '--cache-registry=h:5000' -- \"$@\"")
	}
	out, status := do("--remove")
	require.Zero(t, status, out)
	got, err := os.ReadFile(shim)
	require.NoError(t, err)
	require.Equal(t, real, got)
	require.NoFileExists(t, kept)

	out, status = do("--remove")
	require.Equal(t, 1, status)
	require.Contains(t, out, "is not a shim of dbake")

	out, status = do("--nodes", "a")
	require.Equal(t, 2, status, out)
	out, status = do("--buildx", os.DevNull)
	require.Equal(t, 1, status)
	require.Contains(t, out, "would be lost")

	require.NoError(t, os.Remove(shim))
	if out, status = do(); status != 0 { // where docker is installed there is another one
		require.Contains(t, out, "name the real one with --buildx")
	}
}
