package nodeset

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/dockerconfig"
)

// home lays a txtar archive out as a home directory and returns its environment.
func home(t *testing.T, archive string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, f.Data, 0o644))
	}
	return map[string]string{"HOME": dir, "PATH": os.Getenv("PATH")}
}

const pool = `
-- .docker/buildx/instances/pool --
{"Name":"pool","Driver":"remote","Nodes":[
 {"Name":"pool0","Endpoint":"tcp://10.0.0.1:1234","Platforms":[{"architecture":"amd64","os":"linux"}],
  "DriverOpts":{"cacert":"/abs/ca.pem","cert":"/abs/c.pem","key":"/abs/k.pem","servername":"bk","default-load":"true"},"Flags":null,"Files":null},
 {"Name":"pool1","Endpoint":"unix:///run/bk.sock","Platforms":null,"DriverOpts":null,"Flags":null,"Files":{"buildkitd.toml":"ZGVidWcgPSB0cnVlCg=="}},
 {"Name":"pool2","Endpoint":"ssh://build@arm","Platforms":null,"DriverOpts":null,"Flags":null,"Files":null}],"Dynamic":false}
-- .docker/buildx/instances/box --
{"Name":"Box","Driver":"docker-container","Nodes":[
 {"Name":"box0","Endpoint":"desktop-linux"},{"Name":"box_1","Endpoint":"tcp://10.0.0.9:2375"},{"Name":"box2","Endpoint":""}]}
-- .docker/buildx/instances/old --
{"Name":"old","Driver":"","Nodes":[{"Name":"old0","Endpoint":"default"}]}
-- .docker/buildx/instances/dbc --
{"Name":"dbc","Driver":"cloud","Nodes":[{"Name":"dbc0","Endpoint":"cloud://org/dbc_linux-amd64"}]}
-- .docker/buildx/instances/empty --
{"Name":"empty","Driver":"remote","Nodes":null}
-- .docker/buildx/instances/odd --
{"Name":"odd","Driver":"firecracker","Nodes":[{"Name":"odd0","Endpoint":"x"}]}
-- .docker/buildx/instances/notls --
{"Name":"notls","Driver":"remote","Nodes":[{"Name":"notls0","Endpoint":"tcp://a:1","DriverOpts":{"servername":"x"}}]}
-- .docker/buildx/instances/bad --
{"Name":"bad","Driver":"remote","Nodes":[{"Name":"bad0","Endpoint":"tcp://a:1"},{"Name":"bad1","Endpoint":"tcp://b"}]}
-- .docker/buildx/instances/torn --
{"Name":"torn"
`

func TestFromBuilder(t *testing.T) {
	env := home(t, pool)
	for _, tc := range []struct {
		builder string
		want    []Spec
	}{
		{"pool", []Spec{
			{Name: "pool0", Addr: "tcp://10.0.0.1:1234", Prefers: []string{"linux/amd64"}, TLS: &TLS{CACert: "/abs/ca.pem", Cert: "/abs/c.pem", Key: "/abs/k.pem", ServerName: "bk"}},
			{Name: "pool1", Addr: "unix:///run/bk.sock"},
			{Name: "pool2", Addr: "ssh://build@arm"},
		}},
		{"BOX", []Spec{
			{Name: "box0", Addr: "docker-container://buildx_buildkit_box0?context=desktop-linux", Source: "builder Box"},
			{Name: "box_1", Addr: "docker-container://buildx_buildkit_box_1?host=tcp%3A%2F%2F10.0.0.9%3A2375", Source: "builder Box"},
			{Name: "box2", Addr: "docker-container://buildx_buildkit_box2", Source: "builder Box"},
		}},
		{"default", []Spec{{Name: "default", Addr: "docker://default"}}},
		{"old", []Spec{{Name: "old0", Addr: "docker-container://buildx_buildkit_old0?context=default"}}},
	} {
		t.Run(tc.builder, func(t *testing.T) {
			before := snapshot(t, env["HOME"])
			got, err := FromBuilder(t.Context(), tc.builder, dockerconfig.New(env, nil))
			require.NoError(t, err)
			for i := range tc.want {
				tc.want[i].Speed = 1
				if tc.want[i].Source == "" {
					tc.want[i].Source = "builder " + tc.builder
				}
			}
			for i, s := range got {
				require.Equal(t, strings.HasPrefix(s.Addr, "docker-container:"), s.Container != nil)
				got[i].Container = nil // see TestContainer
			}
			require.Equal(t, tc.want, got)
			require.Equal(t, before, snapshot(t, env["HOME"]))
		})
	}
}

func TestFromBuilderErrors(t *testing.T) {
	sum := sha256.Sum256([]byte("desk"))
	env := home(t, pool+"-- .docker/contexts/meta/"+hex.EncodeToString(sum[:])+"/meta.json --\n{\"Name\":\"desk\"}\n")
	for _, tc := range []struct{ builder, want string }{
		{"nope", "builder nope: no such builder; " + env["HOME"] + "/.docker/buildx has bad, box, dbc, empty, notls, odd, old, pool, torn"},
		{"../pool", "builder ../pool: no such builder; " + env["HOME"] + "/.docker/buildx has bad, box, dbc, empty, notls, odd, old, pool, torn"},
		{"dbc", "builder dbc: it is a builder of Docker Build Cloud, whose nodes only docker itself can reach; make a builder with 'docker buildx create --driver docker-container --bootstrap', or use --nodes, for example --nodes local:1"},
		{"empty", "builder empty: it has no nodes; add one with 'docker buildx create --append --name empty'"},
		{"odd", `builder odd: dbake cannot use the driver "firecracker"; it can use docker, remote, docker-container and kubernetes; or make a builder with 'docker buildx create --driver docker-container --bootstrap', or use --nodes, for example --nodes local:1`},
		{"notls", "builder notls: the builder's driver options set TLS without cacert, which the remote driver requires"},
		{"bad", "builder bad: node bad1: endpoint tcp://b: the address has no port; write tcp://b:1234 if buildkitd listens on 1234"},
		{"torn", "builder torn: read " + env["HOME"] + "/.docker/buildx/instances/torn: unexpected end of JSON input"},
	} {
		t.Run(tc.builder, func(t *testing.T) {
			_, err := FromBuilder(t.Context(), tc.builder, dockerconfig.New(env, nil))
			require.EqualError(t, err, tc.want)
			var be *BuilderError
			require.ErrorAs(t, err, &be)
		})
	}
	_, err := FromBuilder(t.Context(), "x", dockerconfig.New(nil, nil))
	require.EqualError(t, err, "builder x: there is no configuration of buildx: none of $BUILDX_CONFIG, $DOCKER_CONFIG and $HOME is set")
	_, err = FromBuilder(t.Context(), "x", dockerconfig.New(home(t, ""), nil))
	require.ErrorContains(t, err, "/.docker/buildx has none")
}

// defaultFile is the name under defaults/ for an endpoint.
func defaultFile(endpoint string) string {
	sum := sha256.Sum256([]byte(endpoint))
	return fmt.Sprintf("-- .docker/buildx/defaults/%s --\n", hex.EncodeToString(sum[:])[:20])
}

func TestDefault(t *testing.T) {
	const sock = "unix:///var/run/docker.sock"
	current := func(key, name string, global bool) string {
		return fmt.Sprintf("-- .docker/buildx/current --\n{\"Key\":%q,\"Name\":%q,\"Global\":%v}\n", key, name, global)
	}
	for _, tc := range []struct {
		name  string
		files string
		env   map[string]string
		first string // name of the first node; "" = none configured
		err   string
	}{
		{name: "nothing at all"},
		{name: "builders but none chosen", files: pool},
		{name: "chosen for this engine", files: pool + current(sock, "pool", false), first: "pool0"},
		{name: "chosen for another engine", files: pool + current(sock, "pool", false), env: map[string]string{"DOCKER_HOST": "tcp://10.0.0.7:2375"}},
		{name: "chosen for the remote engine", files: pool + current("tcp://10.0.0.7:2375", "pool", false), env: map[string]string{"DOCKER_HOST": "tcp://10.0.0.7"}, first: "pool0"},
		{name: "chosen everywhere", files: pool + current("x", "pool", true), first: "pool0"},
		{name: "chosen everywhere and gone", files: pool + current("x", "lost", true)},
		{name: "chosen and gone", files: pool + current(sock, "lost", false)},
		{name: "chosen for a docker context", files: pool + current("desk", "old", false), env: map[string]string{"DOCKER_CONTEXT": "desk"}, first: "old0"},
		{name: "docker context of config.json", files: pool + current("desk", "old", false) + "-- .docker/config.json --\n{\"currentContext\":\"desk\"}\n", first: "old0"},
		{name: "DOCKER_HOST overrules the context", files: pool + current("desk", "old", false), env: map[string]string{"DOCKER_CONTEXT": "desk", "DOCKER_HOST": sock}},
		{name: "default of the engine", files: pool + current("desk", "old", false) + defaultFile(sock) + "pool", first: "pool0"},
		{name: "BUILDX_BUILDER wins", files: pool + current(sock, "pool", false), env: map[string]string{"BUILDX_BUILDER": "old"}, first: "old0"},
		{name: "BUILDX_BUILDER unknown", files: pool, env: map[string]string{"BUILDX_BUILDER": "lost"}, err: "$BUILDX_BUILDER: builder lost: no such builder"},
		{name: "docker driver asked for", files: pool, env: map[string]string{"BUILDX_BUILDER": "default"}, first: "default"},
		{name: "docker driver by default", files: current(sock, "engine", false) + "-- .docker/buildx/instances/engine --\n{\"Name\":\"engine\",\"Driver\":\"docker\",\"Nodes\":[{\"Name\":\"e\"}]}\n", first: "e"},
		{name: "cloud by default", files: pool + current(sock, "dbc", false), err: "builder dbc: it is a builder of Docker Build Cloud"},
		{name: "torn file", files: "-- .docker/buildx/current --\n{\n", err: "current builder of buildx: read "},
		{name: "torn config", files: pool + "-- .docker/config.json --\n{\n", err: "current builder of buildx: read "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			env := home(t, tc.files)
			for k, v := range tc.env {
				env[k] = v
			}
			specs, ok, err := Default(t.Context(), dockerconfig.New(env, nil))
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.first != "", ok)
			if ok {
				require.Equal(t, tc.first, specs[0].Name)
			} else {
				require.Empty(t, specs)
			}
		})
	}
}

func TestConfigDirs(t *testing.T) {
	env := home(t, `
-- buildx/instances/a --
{"Name":"a","Driver":"remote","Nodes":[{"Name":"a0","Endpoint":"tcp://a:1"}]}
-- docker/buildx/instances/b --
{"Name":"b","Driver":"remote","Nodes":[{"Name":"b0","Endpoint":"tcp://b:1"}]}
`)
	specs, err := FromBuilder(t.Context(), "b", dockerconfig.New(map[string]string{"DOCKER_CONFIG": env["HOME"] + "/docker"}, nil))
	require.NoError(t, err)
	require.Equal(t, "b0", specs[0].Name)
	specs, err = FromBuilder(t.Context(), "a", dockerconfig.New(map[string]string{"DOCKER_CONFIG": env["HOME"] + "/docker", "BUILDX_CONFIG": env["HOME"] + "/buildx"}, nil))
	require.NoError(t, err)
	require.Equal(t, "a0", specs[0].Name)
}

// snapshot lists the files below dir with their contents.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	}))
	return files
}

const kube = `
-- .docker/buildx/instances/kube --
{"Name":"kube","Driver":"kubernetes","Nodes":[{"Name":"kube_0","Endpoint":"kubernetes:///kube?deployment=kube_0&kubeconfig=%2Fetc%2Fkc","DriverOpts":{"namespace":"ci","replicas":"2"}}]}
`

// fakeKubectl puts a program named kubectl first on PATH.
func fakeKubectl(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kubectl"), []byte("#!/bin/sh\n"+script), 0o755))
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

func TestKubernetes(t *testing.T) {
	fakeKubectl(t, `
[ "$*" = "--kubeconfig=/etc/kc --namespace=ci get pods --selector=app=kube-0 --output=json" ] || { echo "unexpected: $*" >&2; exit 1; }
cat <<'END'
{"items":[
 {"metadata":{"name":"kube-0-zz","namespace":"ci"},"spec":{"containers":[{"name":"buildkitd"}]},"status":{"phase":"Running"}},
 {"metadata":{"name":"kube-0-aa","namespace":"ci"},"spec":{"containers":[{"name":"buildkitd"},{"name":"side"}]},"status":{"phase":"Running"}},
 {"metadata":{"name":"kube-0-bb","namespace":"ci","deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{"containers":[{"name":"buildkitd"}]},"status":{"phase":"Running"}},
 {"metadata":{"name":"kube-0-cc","namespace":"ci"},"spec":{"containers":[{"name":"buildkitd"}]},"status":{"phase":"Pending"}}]}
END
`)
	specs, err := FromBuilder(t.Context(), "kube", dockerconfig.New(home(t, kube), nil))
	require.NoError(t, err)
	require.Equal(t, []Spec{
		{Name: "kube-0-aa", Addr: "kube-pod://kube-0-aa?container=buildkitd&kubeconfig=%2Fetc%2Fkc&namespace=ci", Speed: 1, Source: "builder kube"},
		{Name: "kube-0-zz", Addr: "kube-pod://kube-0-zz?container=buildkitd&kubeconfig=%2Fetc%2Fkc&namespace=ci", Speed: 1, Source: "builder kube"},
	}, specs)
}

func TestKubernetesErrors(t *testing.T) {
	for _, tc := range []struct{ name, script, want string }{
		{"no pods", `echo '{"items":[]}'`, "builder kube: deployment kube-0 has no running pod; start it with 'docker buildx inspect --bootstrap kube'"},
		{"refused", `echo 'pods is forbidden' >&2; exit 1`, "builder kube: list the pods of deployment kube-0: kubectl: pods is forbidden: exit status 1"},
		{"garbage", `echo x`, "builder kube: list the pods of deployment kube-0: read the answer of kubectl: invalid character 'x' looking for beginning of value"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fakeKubectl(t, tc.script)
			_, err := FromBuilder(t.Context(), "kube", dockerconfig.New(home(t, kube), nil))
			require.EqualError(t, err, tc.want)
		})
	}
	t.Run("no kubectl", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		_, err := FromBuilder(t.Context(), "kube", dockerconfig.New(home(t, kube), nil))
		require.ErrorContains(t, err, "a builder of the kubernetes driver needs kubectl on PATH")
	})
}

func TestCommandFor(t *testing.T) {
	for _, tc := range []struct {
		addr string
		want []string
	}{
		{"docker-container://c?context=x", nil}, // BuildKit's own helper does it
		{"kube-pod://p?namespace=n", nil},
		{"tcp://a:1", nil},
		{"docker-container://c?host=tcp%3A%2F%2Fh%3A1", []string{"docker", "--host", "tcp://h:1", "exec", "-i", "c", "buildctl", "dial-stdio"}},
		{"kube-pod://p?kubeconfig=%2Fk&namespace=n&container=c",
			[]string{"kubectl", "--kubeconfig=/k", "--namespace=n", "exec", "-i", "--container=c", "p", "--", "buildctl", "dial-stdio"}},
		{"kube-pod://p?kubeconfig=%2Fk%3A%2Fl&context=x",
			[]string{"env", "KUBECONFIG=/k:/l", "kubectl", "--context=x", "exec", "-i", "p", "--", "buildctl", "dial-stdio"}},
	} {
		u, err := url.Parse(tc.addr)
		require.NoError(t, err)
		require.Equal(t, tc.want, commandFor(u), tc.addr)
	}
}
