package main

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestImageCall translates calls of docker buildx build. Every flag of it is here.
func TestImageCall(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	env := map[string]string{"FROM_ENV": "e"}
	for _, tt := range []struct {
		args []string
		want []string // nil is for the real one
	}{
		{args: []string{"-t", "a:1", "--tag=b:2"}, want: []string{"--set=default.tag=a:1", "--set=default.tag=b:2"}},
		{args: []string{"-f", "sub/Dockerfile"}, want: []string{"--set=default.dockerfile=" + filepath.Join(dir, "sub/Dockerfile")}},
		{args: []string{"--build-arg", "A=b=c", "--build-arg", "FROM_ENV", "--build-arg", "NOT_SET", "--build-arg", "E="},
			want: []string{"--set=default.arg.A=b=c", "--set=default.arg.FROM_ENV=e", "--set=default.arg.E="}},
		{args: []string{"--label", "a.b=c", "--label", "bare"}, want: []string{"--set=default.label.a.b=c", "--set=default.label.bare="}},
		{args: []string{"--build-context", "Base:latest=docker-image://x", "--build-context=src=../src"}},
		{args: []string{"--build-context", "base:latest=docker-image://x", "--build-context=src=../src"},
			want: []string{"--set=default.contexts.base=docker-image://x", "--set=default.contexts.src=../src"}},
		{args: []string{"--platform", "linux/amd64,linux/arm64"}, want: []string{"--set=default.platform=linux/amd64", "--set=default.platform=linux/arm64"}},
		{args: []string{"--target", "prod", "--network=none", "--no-cache-filter", "a", "--shm-size=64m", "--ulimit", "nofile=9:9"},
			want: []string{"--set=default.network=none", "--set=default.no-cache-filter=a", "--set=default.shm-size=64m", "--set=default.target=prod", "--set=default.ulimit=nofile=9:9"}},
		{args: []string{"-o", "out", "--secret", "id=a,env=B", "--ssh", "default", "--cache-from", "x", "--cache-to", "type=inline", "--annotation", "a=b"},
			want: []string{"--set=default.annotation=a=b", "--set=default.cache-from=x", "--set=default.cache-to=type=inline", "--set=default.output=out", "--set=default.secret=id=a,env=B", "--set=default.ssh=default"}},
		{args: []string{"--attest", "type=sbom", "--provenance=false", "--sbom=true", "--push", "--load", "--pull", "--no-cache", "--metadata-file", "md"},
			want: []string{"--set=default.attest=type=sbom", "--metadata-file=md", "--provenance=false", "--sbom=true", "--load", "--no-cache", "--pull", "--push"}},
		{args: []string{"--add-host", "a:1.2.3.4,b=::1", "--resource", "memory=2g", "-m", "1g", "-c", "2"},
			want: []string{"--set=default.extra-host.a=1.2.3.4", "--set=default.extra-host.b=::1", "--set=default.resource.memory=2g", "--set=default.resource.memory=1g", "--set=default.resource.cpu-shares=2"}},
		{args: []string{"--rm", "--force-rm", "--compress"}, want: []string{}},
		{args: []string{"--progress", "rawjson"}, want: []string{"--progress=rawjson"}},
		{args: []string{"--progress=none"}, want: []string{"--progress=quiet"}},
		{args: []string{"-q"}, want: []string{"--progress=quiet"}},
		{args: []string{"-q", "--progress=plain"}},
		{args: []string{"--check"}},
		{args: []string{"--call=outline"}},
		{args: []string{"--cgroup-parent", "x"}},
		{args: []string{"--policy", "disabled=true"}},
		{args: []string{"--squash"}},
		{args: []string{"--add-host", "a:host-gateway"}, want: []string{"--set=default.extra-host.a=host-gateway"}},
		{args: []string{"--build-arg", "A+=b"}},
		{args: []string{"--tag="}},
		{args: []string{"-f", "https://h/Dockerfile"}},
		{args: []string{"--build-context", "a=target:b"}},
		{args: []string{"second"}},
	} {
		c, err := newImageCall(append(tt.args, "."), env)
		if tt.want == nil {
			require.ErrorIs(t, err, errForeign, tt.args)
			continue
		}
		require.NoError(t, err, tt.args)
		var got []string
		for _, arg := range c.command[3:] {
			if arg != "--allow=fs=*" && arg != "--allow=ssh" {
				got = append(got, arg)
			}
		}
		require.Equal(t, append([]string{"build", "--file=-", "--set=default.context=."}, tt.want...), append(c.command[:3:3], got...), tt.args)
	}

	c, err := newImageCall([]string{"--allow", "network.host", "--allow=buildx.local.delete", "--network", "host", "."}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"--set=default.network=host", "--allow=fs=*", "--allow=ssh", "--set=default.entitlement=network.host", "--allow=network.host", "--allow=buildx.local.delete", "--allow=network.host"}, c.command[3:])
	c, err = newImageCall([]string{"."}, map[string]string{"DOCKER_DEFAULT_PLATFORM": "linux/arm64"})
	require.NoError(t, err)
	require.Contains(t, c.command, "--set=default.platform=linux/arm64")
}

// TestImageDockerfile takes a Dockerfile from standard input as it is.
func TestImageDockerfile(t *testing.T) {
	c, err := newImageCall([]string{"-f", "-", "."}, nil)
	require.NoError(t, err)
	require.ErrorContains(t, c.readDockerfile(strings.NewReader(" \n")), "is empty")
	require.NoError(t, c.readDockerfile(strings.NewReader("FROM scratch\nENV A=${B} %{C} \"\"\n")))
	data, err := io.ReadAll(c.definition())
	require.NoError(t, err)
	require.JSONEq(t, `{"target": {"default": {"dockerfile-inline": "FROM scratch\nENV A=$${B} %%{C} \"\"\n"}}}`, string(data))
}
