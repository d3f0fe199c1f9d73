//go:build integration

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/local/localtest"
	"github.com/dbake/dbake/runtime/nodeset/dockerengine"
)

// dockerd starts a Docker engine of its own for the test and returns its address. $DOCKERD
// names the program; the programs that it needs are beside it, in ../bin or on PATH.
func dockerd(t *testing.T) string {
	t.Helper()
	localtest.Need(t)
	program := os.Getenv("DOCKERD")
	if program == "" {
		var err error
		if program, err = exec.LookPath("dockerd"); err != nil {
			t.Skip("there is no dockerd on PATH (Debian: apt-get install docker.io) and none in $DOCKERD")
		}
	}
	dir := localtest.Dir(t)
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(program, "--iptables=false", "--bridge=none", "--data-root", filepath.Join(dir, "root"),
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "-H", "unix://"+socket)
	beside := filepath.Dir(program)
	cmd.Env = []string{"PATH=" + beside + ":" + filepath.Join(beside, "..", "bin") + ":" + os.Getenv("PATH"), "HOME=" + dir}
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		<-ended
		_ = log.Close() // it has been written
		// What the engine leaves mounted goes with its directory.
		mounts, err := os.ReadFile("/proc/self/mounts")
		require.NoError(t, err)
		for _, line := range strings.Split(string(mounts), "\n") {
			if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
				require.NoError(t, syscall.Unmount(fields[1], syscall.MNT_DETACH))
			}
		}
	})
	e, err := dockerengine.New(dockerengine.Endpoint{Host: "unix://" + socket})
	require.NoError(t, err)
	defer e.Close()
	for {
		if _, err := e.Info(t.Context()); err == nil {
			return "unix://" + socket
		}
		select {
		case err := <-ended:
			ended <- err
			said, _ := os.ReadFile(log.Name())
			t.Skipf("dockerd does not run here: %v: %s", err, said[max(0, len(said)-500):])
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// engineProject are two images with a step in common. The engine has no network, and
// busybox is that of this machine.
func engineProject(t *testing.T) string {
	t.Helper()
	dir := project(t, `
-- docker-bake.hcl --
group "default" { targets = ["web", "api"] }
target "base" {
  network           = "none"
  dockerfile-inline = "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"touch\", \"/base\"]"
}
target "web" {
  network           = "none"
  contexts          = { base = "target:base" }
  dockerfile-inline = "FROM base\nRUN [\"/bin/busybox\", \"touch\", \"/web\"]"
  tags              = ["team/web:1"]
}
target "api" {
  network           = "none"
  contexts          = { base = "target:base" }
  dockerfile-inline = "FROM base\nRUN [\"/bin/busybox\", \"touch\", \"/api\"]"
  tags              = ["team/api:1"]
}
`)
	busybox, err := exec.LookPath("busybox")
	require.NoError(t, err)
	data, err := os.ReadFile(busybox)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "busybox"), data, 0o755))
	return dir
}

// engineImages are the names of the images that an engine holds.
func engineImages(t *testing.T, host string) string {
	t.Helper()
	out, err := exec.Command("curl", "-sS", "--unix-socket", strings.TrimPrefix(host, "unix://"), "http://d/images/json").Output()
	require.NoError(t, err)
	var list []struct{ RepoTags []string }
	require.NoError(t, json.Unmarshal(out, &list), "%s", out)
	var names []string
	for _, i := range list {
		names = append(names, i.RepoTags...)
	}
	return strings.Join(names, " ")
}

// TestDockerd runs all that needs a Docker engine on one.
func TestDockerd(t *testing.T) {
	host, dbake := dockerd(t), executable(t)
	t.Run("engine", func(t *testing.T) { testDockerEngine(t, host, dbake) })
	t.Run("compose", func(t *testing.T) { testCompose(t, host, dbake) })
	t.Run("build", func(t *testing.T) { testImageBuild(t, host, dbake) })
}

// testDockerEngine builds on the BuildKit inside a Docker engine.
func testDockerEngine(t *testing.T, host, dbake string) {
	home, dir := t.TempDir(), engineProject(t)
	do := func(args ...string) (string, int) {
		t.Helper()
		cmd := exec.Command(dbake, append([]string{"build", "--progress", "plain"}, args...)...)
		cmd.Dir, cmd.Env = dir, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "DOCKER_HOST=" + host}
		out, _ := cmd.CombinedOutput() // the status is what counts
		return string(out), cmd.ProcessState.ExitCode()
	}

	// What is built there is there, as with docker build.
	out, status := do("--nodes", "docker://")
	require.Zero(t, status, out)
	require.Contains(t, out, "3 of 3 targets built")
	require.NotContains(t, out, "No output specified")
	require.Contains(t, engineImages(t, host), "team/web:1")
	require.Contains(t, engineImages(t, host), "team/api:1")
	require.Equal(t, 1, strings.Count(out, `RUN ["/bin/busybox", "touch", "/base"]`), out)

	// It is found as docker finds it, where no local node can run.
	out, status = do("--buildkitd", "/nonexistent", "web")
	require.Zero(t, status, out)
	require.Contains(t, out, "using the BuildKit inside the Docker engine at "+host)
	out, status = do("--builder", "default", "web")
	require.Zero(t, status, out)

	// Images are loaded by leaving them there, and archives are made by the engine.
	out, status = do("--nodes", "docker://", "--load", "web")
	require.Zero(t, status, out)
	out, status = do("--nodes", "docker://", "--set", "web.output=type=docker,dest=web.tar", "web")
	require.Zero(t, status, out)
	list, err := exec.Command("tar", "tf", filepath.Join(dir, "web.tar")).CombinedOutput()
	require.NoError(t, err, "%s", list)
	require.Contains(t, string(list), "manifest.json")
	out, status = do("--nodes", "docker://", "--set", "web.output=type=local,dest=out", "web")
	require.Zero(t, status, out)
	require.FileExists(t, filepath.Join(dir, "out", "web"))

	// A container that stands still is started, and one that is gone is made.
	e, err := dockerengine.New(dockerengine.Endpoint{Host: host})
	require.NoError(t, err)
	defer e.Close()
	c := dockerengine.Container{Name: "bk", Image: "team/web:1", Cmd: []string{"/bin/busybox", "sleep", "100"}, Volume: "bk_state", Network: "none", Restart: "no"}
	var said []string
	for range 2 { // the second finds it running
		if err := e.Boot(t.Context(), c, func(text string) { said = append(said, text) }); err != nil {
			// Such a container has all rights, which a machine in a container cannot give.
			require.ErrorContains(t, err, "operation not permitted")
			t.Log("privileged containers do not run here: that one was started is not seen")
			break
		}
	}
	require.Equal(t, []string{"pulling image team/web:1", "creating container bk", "starting container bk"}, said)

	// The engine pushes.
	reg := localtest.StartRegistry(t)
	name := reg.Addr + "/team/web:1"
	out, status = do("--nodes", "docker://", "--set", "web.tags="+name, "--push", "--metadata-file", "md.json", "web")
	require.Zero(t, status, out)
	data, err := os.ReadFile(filepath.Join(dir, "md.json"))
	require.NoError(t, err)
	var md map[string]map[string]any
	require.NoError(t, json.Unmarshal(data, &md))
	desc, err := registryClient(t).Resolve(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, desc.Digest.String(), md["web"]["containerimage.digest"])

	// What it cannot do, it says.
	out, status = do("--nodes", "docker://", "--set", "web.output=type=oci,dest=web.oci", "web")
	require.Equal(t, 1, status, out)
	require.Contains(t, out, "target web: an output of type oci cannot be written; the Docker engine can do that with its containerd image store only")
	out, status = do("--nodes", "docker://", "--no-cache", "--cache-registry", reg.Addr+"/cache", "web")
	require.Zero(t, status, out)
	require.Contains(t, out, "the Docker engine cannot write a cache of type registry")

	// Beside another node it does what it can, and is left out of what it cannot.
	other := localtest.Start(t, 1).Nodes()[0].Addr
	out, status = do("--nodes", "docker://", "--nodes", "other="+other, "--set", "*.no-cache=true")
	require.Zero(t, status, out)
	out, status = do("--nodes", "docker://", "--nodes", "other="+other, "--set", "web.output=type=oci,dest=web.oci", "web")
	require.Zero(t, status, out)
	require.Contains(t, out, "node docker is left out")
	require.FileExists(t, filepath.Join(dir, "web.oci"))

	// What another node builds is loaded into the engine under all its names, and what has
	// none without one. This engine takes one platform only.
	out, status = do("--nodes", "other="+other, "--load", "--set", "web.tags=two/web:1", "--set", "web.tags=two/web:latest", "web")
	require.Zero(t, status, out)
	require.Contains(t, engineImages(t, host), "two/web:1")
	require.Contains(t, engineImages(t, host), "two/web:latest")
	named := func() []string {
		return strings.Fields(strings.ReplaceAll(engineImages(t, host), "<none>:<none>", ""))
	}
	before := named()
	out, status = do("--nodes", "other="+other, "--load", "--set", "web.tags=", "--set", "web.labels.kind=nameless", "web")
	require.Zero(t, status, out)
	require.ElementsMatch(t, before, named())
	require.Regexp(t, `web +other +built; loaded image@sha256:[0-9a-f]{64} into the Docker engine`, out)
	out, status = do("--nodes", "other="+other, "--load", "--set", "web.platform=linux/amd64", "--set", "web.platform=linux/arm64", "web")
	require.Equal(t, 1, status, out)
	require.Contains(t, out, "ERROR: --load: target web: docker exporter does not currently support exporting manifest lists")
	out, status = do("--nodes", "docker://", "--set", "web.cache-to=type=local,dest=cc", "web")
	require.Equal(t, 1, status, out)
	require.Contains(t, out, "target web: a cache of type local cannot be written")
}

// farm writes a builder of the remote driver into the configuration of buildx.
func farm(t *testing.T, home string, addrs []string) {
	t.Helper()
	type node struct{ Name, Endpoint string }
	b := struct {
		Name, Driver string
		Nodes        []node
	}{Name: "farm", Driver: "remote"}
	for i, addr := range addrs {
		b.Nodes = append(b.Nodes, node{fmt.Sprintf("farm%d", i), addr})
	}
	data, err := json.Marshal(b)
	require.NoError(t, err)
	dir := filepath.Join(home, ".docker", "buildx", "instances")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "farm"), data, 0o644))
}

// composeTargets is how many services the compose file has: as many as three nodes are
// counted on to build at once, and their steps take long enough to be worth all three.
const composeTargets = 12

func composeProject(t *testing.T) string {
	t.Helper()
	dir := engineProject(t)
	require.NoError(t, os.Remove(filepath.Join(dir, "docker-bake.hcl")))
	services := "services:\n"
	for i := range composeTargets {
		services += fmt.Sprintf("  s%d: { build: { context: ., args: { I: %d } } }\n", i, i)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(services), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nARG I\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"busybox sleep 2; echo $I > /i\"]\n"), 0o644))
	return dir
}

func addrsOf(t *testing.T, n int) []string {
	t.Helper()
	var addrs []string
	for _, node := range localtest.Start(t, n).Nodes() {
		addrs = append(addrs, node.Addr)
	}
	return addrs
}

// perNode are the numbers of targets that the summary says each node built.
func perNode(out string) map[string]string {
	counts := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^ *(farm\d) +(\d+) +\d+ `).FindAllStringSubmatch(out, -1) {
		counts[m[1]] = m[2]
	}
	return counts
}

// TestDockerBuilder has the docker command build a compose file over the three nodes of
// a builder of buildx.
func TestDockerBuilder(t *testing.T) {
	program, err := exec.LookPath("docker")
	if err != nil {
		t.Skip("there is no docker command on PATH")
	}
	home, dbake, dir := t.TempDir(), executable(t), composeProject(t)
	farm(t, home, addrsOf(t, 3))
	plugins := filepath.Join(home, ".docker", "cli-plugins")
	require.NoError(t, os.MkdirAll(plugins, 0o755))
	require.NoError(t, os.Symlink(dbake, filepath.Join(plugins, pluginFile)))
	cmd := exec.Command(program, "dbake", "-f", "compose.yaml", "--builder", "farm", "--progress", "plain")
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), fmt.Sprintf("%d of %d targets built", composeTargets, composeTargets))
	counts := perNode(string(out))
	require.Len(t, counts, 3, "%s", out)
	for node, n := range counts {
		require.NotEqual(t, "0", n, "%s of %s", node, out)
	}
}

// testCompose calls the shim as docker compose does: the definition on standard input,
// status as JSON on standard error, digests in a file, and images in the engine.
func testCompose(t *testing.T, host, dbake string) {
	home, dir := t.TempDir(), composeProject(t)
	farm(t, home, addrsOf(t, 3))
	plugins := filepath.Join(home, ".docker", "cli-plugins")
	real := filepath.Join(home, "docker-buildx")
	require.NoError(t, os.WriteFile(real, []byte("#!/bin/sh\nexit 9\n"), 0o755))
	out, err := exec.Command(dbake, "install-shim", plugins, "--buildx", real).CombinedOutput()
	require.NoError(t, err, "%s", out)

	// As Docker Compose v5.6 writes it.
	type target struct {
		Context    string            `json:"context"`
		Dockerfile string            `json:"dockerfile"`
		Args       map[string]string `json:"args"`
		Labels     map[string]string `json:"labels"`
		Tags       []string          `json:"tags"`
		Output     []string          `json:"output"`
	}
	definition := struct {
		Group  map[string]any    `json:"group"`
		Target map[string]target `json:"target"`
	}{map[string]any{}, map[string]target{}}
	var names []string
	for i := range composeTargets {
		name := fmt.Sprintf("s%d", i)
		names = append(names, name)
		definition.Target[name] = target{
			dir, filepath.Join(dir, "Dockerfile"), map[string]string{"I": fmt.Sprint(i)},
			map[string]string{"com.docker.compose.project": "team", "com.docker.compose.service": name, "com.docker.compose.version": ""},
			[]string{"team/" + name}, []string{"type=docker"},
		}
	}
	definition.Group["default"] = map[string]any{"targets": names}
	call := func(file string, args ...string) (stderr string, status int) {
		input, err := json.Marshal(definition)
		require.NoError(t, err)
		args = append([]string{"bake", "--file", "-", "--progress", "rawjson", "--metadata-file", file, "--allow", "fs.read=" + dir, "--builder", "farm"}, args...)
		cmd := exec.CommandContext(t.Context(), filepath.Join(plugins, buildxFile), args...)
		cmd.Dir, cmd.Stdin = t.TempDir(), bytes.NewReader(input)
		cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "DOCKER_HOST=" + host}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		_ = cmd.Run() // the status is what counts
		return errs.String(), cmd.ProcessState.ExitCode()
	}
	// read is what compose makes of a line.
	read := func(stderr string) (vertexes map[string]bool, message []string) {
		vertexes = map[string]bool{}
		for line := range strings.Lines(stderr) {
			var s bkclient.SolveStatus
			if json.Unmarshal([]byte(line), &s) != nil {
				message = append(message, strings.TrimSpace(strings.TrimPrefix(line, "ERROR: ")))
			}
			for _, v := range s.Vertexes {
				vertexes[v.Name] = true
			}
		}
		return vertexes, message
	}

	file := filepath.Join(t.TempDir(), "md.json")
	stderr, status := call(file)
	require.Zero(t, status, stderr)
	vertexes, message := read(stderr)
	require.Empty(t, message)
	require.NotEmpty(t, vertexes)
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var md map[string]struct {
		Digest string `json:"containerimage.digest"`
		Image  string `json:"image.name"`
	}
	require.NoError(t, json.Unmarshal(data, &md))
	images := engineImages(t, host)
	for _, name := range names {
		require.Regexp(t, `^sha256:[0-9a-f]{64}$`, md[name].Digest, "%s", data)
		require.Contains(t, images, "team/"+name+":latest")
	}

	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"false\"]\n"), 0o644))
	stderr, status = call(filepath.Join(t.TempDir(), "md.json"))
	require.Equal(t, 1, status, stderr)
	_, message = read(stderr)
	require.NotEmpty(t, message)
	require.Contains(t, message[0], "failed")
}

// testImageBuild calls the shim as docker build does. The engine is the node where nothing
// names another, as for docker build.
func testImageBuild(t *testing.T, host, dbake string) {
	home, dir := t.TempDir(), engineProject(t)
	plugins := filepath.Join(home, ".docker", "cli-plugins")
	real := filepath.Join(home, "docker-buildx")
	require.NoError(t, os.WriteFile(real, []byte("#!/bin/sh\necho \"real: $@\"\nexit 9\n"), 0o755))
	out, err := exec.Command(dbake, "install-shim", plugins, "--buildx", real).CombinedOutput()
	require.NoError(t, err, "%s", out)
	const dockerfile = `FROM scratch AS base
COPY busybox /bin/busybox
ARG WORD
RUN --mount=type=secret,id=key ["/bin/busybox", "sh", "-c", "busybox cat /run/secrets/key >/word; echo $WORD >>/word"]
FROM base AS broken
RUN ["/bin/busybox", "false"]
`
	sub := filepath.Join(dir, "files")
	require.NoError(t, os.Mkdir(sub, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(sub, "Containerfile"), []byte(dockerfile), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(sub, "key"), []byte("secret\n"), 0o644))
	do := func(stdin string, args ...string) (stdout, stderr string, status int) {
		t.Helper()
		cmd := exec.Command(filepath.Join(plugins, buildxFile), append([]string{"buildx", "build", "--network", "none"}, args...)...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "DOCKER_HOST=" + host, "BUILDX_BUILDER=default", "WORD=env"}
		var o, e bytes.Buffer
		cmd.Stdout, cmd.Stderr = &o, &e
		_ = cmd.Run() // the status is what counts
		return o.String(), e.String(), cmd.ProcessState.ExitCode()
	}
	read := func(name string) string { return read(t, dir, name) }

	// The image is where docker run finds it, and its ID where the caller looks.
	_, stderr, status := do("", "-t", "one/image:1", "-f", "files/Containerfile", "--target", "base", "--build-arg", "WORD=hello",
		"--secret", "id=key,src=files/key", "--label", "a.b=c", "--iidfile", "iid", "--metadata-file", "md.json", ".")
	require.Zero(t, status, stderr)
	require.Contains(t, engineImages(t, host), "one/image:1")
	id := read("iid")
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, id)
	var md map[string]any
	require.NoError(t, json.Unmarshal([]byte(read("md.json")), &md))
	require.Equal(t, "docker.io/one/image:1", md["image.name"])
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, md["containerimage.digest"])

	// -q prints the ID and nothing else.
	stdout, stderr, status := do("", "-q", "-t", "one/image:1", "-f", "files/Containerfile", "--target", "base", "--label", "a.b=c", ".")
	require.Zero(t, status, stderr)
	require.Empty(t, stderr)
	require.Regexp(t, `^sha256:[0-9a-f]{64}\n$`, stdout)

	// A Dockerfile on standard input, a value of the environment, a directory as output.
	_, stderr, status = do(strings.ReplaceAll(dockerfile, "$WORD", "${WORD}"), "-f", "-", "--target", "base", "--build-arg", "WORD", "--secret", "id=key,src=files/key", "-o", "out", ".")
	require.Zero(t, status, stderr)
	require.Equal(t, "secret\nenv\n", read("out/word"))

	// What fails leaves no ID of an earlier image.
	_, stderr, status = do("", "-f", "files/Containerfile", "--iidfile", "iid", ".")
	require.Equal(t, 1, status, stderr)
	require.Contains(t, stderr, "exit code: 1")
	require.NoFileExists(t, filepath.Join(dir, "iid"))
	_, stderr, status = do("", "-t", "no/:tag", "-f", "files/Containerfile", ".")
	require.Equal(t, 1, status, stderr)
	require.Contains(t, stderr, `ERROR: --tag: target default: invalid tag "no/:tag"`)
	_, stderr, status = do("", "-o", "out", "--iidfile", "iid", ".")
	require.Equal(t, 1, status, stderr)
	require.Contains(t, stderr, "incompatible with image ID file")

	// What dbake does not do is the real one's.
	stdout, _, status = do("", "-")
	require.Equal(t, 9, status)
	require.Equal(t, "real: buildx build --network none -\n", stdout)
}
