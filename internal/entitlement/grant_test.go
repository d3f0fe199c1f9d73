package entitlement

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// guardOf returns the guard of a working directory.
func guardOf(dir string, env map[string]string) Guard {
	return Guard{
		Dir: dir, Env: env, SecretFile: func(ir.Secret) string { return "" },
		Path: func(name string) string {
			if filepath.IsAbs(name) {
				return name
			}
			return filepath.Join(dir, name)
		},
	}
}

func missing(t *testing.T, g Guard, p *ir.Project, allow ...string) *Privileges {
	t.Helper()
	granted, err := Parse(allow)
	require.NoError(t, err)
	m, err := g.Missing(p, granted, true)
	require.NoError(t, err)
	return m
}

func TestParseAllow(t *testing.T) {
	p, err := Parse([]string{
		"network.host", "security.insecure", "ssh", "device=gpu,required", "fs=/a", "fs.read=b", "fs.write=*",
		"image", "image.push=x", "image.load", "buildx.local.delete",
	})
	require.NoError(t, err)
	require.Equal(t, &Privileges{
		networkHost: true, securityInsecure: true, ssh: true, localDelete: true,
		devices: map[string]bool{"gpu": true},
		read:    map[string]bool{"/a": true, "b": true},
		write:   map[string]bool{"/a": true, "*": true},
	}, p)

	p, err = Parse([]string{"device"})
	require.NoError(t, err)
	require.True(t, p.allDevices)

	for value, want := range map[string]string{
		"":                      `unknown entitlement key ""`,
		"x=y":                   `unknown entitlement key "x"`,
		"ssh=default":           `unknown entitlement key "ssh"`,
		"network.host=1":        `unknown entitlement key "network.host"`,
		"buildx.local.delete=1": "buildx.local.delete does not accept a value",
		`device="`:              `failed to parse device entitlement "\""`,
	} {
		_, err := Parse([]string{value})
		require.ErrorContains(t, err, want)
	}
}

func TestExisting(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	at := func(p string) string { return filepath.Join(root, p) }
	require.NoError(t, os.MkdirAll(at("a/b"), 0o755))
	require.NoError(t, os.WriteFile(at("file"), nil, 0o644))
	for link, target := range map[string]string{
		"rel": "a/b", "abs": at("a"), "up": "a/b/../../file", "dangling": "a/new/x", "out": "../..",
		"loop": "loop", "a/b/back": "..",
	} {
		require.NoError(t, os.Symlink(target, at(link)))
	}
	for _, tt := range []struct{ path, dir, rest string }{
		{"a/b", "a/b", ""},
		{"a//b/./", "a/b", ""},
		{"a/new/x", "a", "new/x"},
		{"rel/new", "a/b", "new"},
		{"abs/b", "a/b", ""},
		{"up", "file", ""},
		{"dangling/y", "a", "new/x/y"},
		{"rel/back/b", "a/b", ""},
		{"rel/../new", "a", "new"},
	} {
		dir, rest, err := existing(root + "/" + tt.path)
		require.NoError(t, err, tt.path)
		require.Equal(t, at(tt.dir), dir, tt.path)
		require.Equal(t, tt.rest, rest, tt.path)
	}
	dir, _, err := existing(at("out"))
	require.NoError(t, err)
	require.Equal(t, filepath.Dir(filepath.Dir(root)), dir)
	_, _, err = existing(at("loop"))
	require.ErrorContains(t, err, "too many symbolic links")
	_, _, err = existing(at("file/x"))
	require.ErrorIs(t, err, syscall.ENOTDIR)
	dir, rest, err := existing("/")
	require.NoError(t, err)
	require.Equal(t, "/", dir)
	require.Empty(t, rest)
}

func TestWithin(t *testing.T) {
	for _, tt := range []struct {
		p, dir string
		want   bool
	}{
		{"/a", "/a", true}, {"/a/b", "/a", true}, {"/a", "/", true}, {"/ab", "/a", false}, {"/", "/a", false},
		{"/a/..b", "/a", true}, {"/b", "/a", false},
	} {
		require.Equal(t, tt.want, within(tt.p, tt.dir), "%s in %s", tt.p, tt.dir)
	}
}

// What is asked for is the same for equal paths, and one path for what lies
// together.
func TestPrivilegeRequest(t *testing.T) {
	dir := t.TempDir()
	g := guardOf(dir, map[string]string{"SSH_AUTH_SOCK": "x"})
	p := &ir.Project{Dir: dir, Targets: []*ir.Target{
		{
			Name: "a", Context: ir.ParseContext("/usr", nil), Dockerfile: "Dockerfile",
			Contexts: map[string]ir.Source{
				"one": ir.ParseNamedContext("/usr/bin"), "two": ir.ParseNamedContext("docker-image://alpine"), "three": ir.ParseNamedContext("target:b"), "four": ir.ParseNamedContext("https://example.com/x.git"),
				"five": ir.ParseNamedContext("oci-layout:///etc:tag@sha256:0"),
			},
			Outputs: []ir.Output{{Type: "tar", Dest: "/usr/out.tar"}, {Type: "tar", Dest: "-"}, {Type: "image"}},
			SSH:     []ir.SSH{{ID: "default"}, {ID: "key", Paths: []string{"/bin/sh"}}},
		},
		{
			Name: "b", Context: ir.ParseContext("git@github.com:x/y.git", nil), Dockerfile: "Dockerfile",
			Entitlements: []string{"device", "device=x"},
			CacheFrom:    []ir.CacheEntry{{Type: "local", Attrs: map[string]string{"src": "/usr"}}, {Type: "registry", Attrs: map[string]string{"src": "/var"}}},
		},
	}}
	left := missing(t, g, p, "fs.read=/bin")
	req, err := g.Request(left, false)
	require.NoError(t, err)
	require.Equal(t, "--allow=device --allow=ssh --allow=fs=/usr --allow=fs.read=/etc", req.Flags())

	left = missing(t, g, p, "fs=*", "ssh", "device")
	req, err = g.Request(left, false)
	require.NoError(t, err)
	require.True(t, req.Empty())
}

// A directory that has the name of a repository is a directory.
func TestPrivilegesOfDirectoriesLikeRepositories(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "x.git")))
	g := guardOf(dir, map[string]string{})
	left := missing(t, g, &ir.Project{Targets: []*ir.Target{{Name: "t", Context: ir.ParseContext("x.git", nil), Dockerfile: "Dockerfile"}}})
	require.Len(t, left.read, 1)
}

// What is read as a directory is guarded as one, however it is spelled.
func TestSpellingsOfDirectories(t *testing.T) {
	g := guardOf(t.TempDir(), map[string]string{})
	for text, outside := range map[string]bool{
		"docker-image:/../../../../../../../../etc": true,
		"cwd://target:/../../../../../../../../etc": true,
		"oci-layout:///etc:latest":                  true,
		"docker-image://etc":                        false,
		"target:etc":                                false,
	} {
		p := &ir.Project{Targets: []*ir.Target{{Name: "t", Dockerfile: "Dockerfile", Contexts: map[string]ir.Source{"x": ir.ParseNamedContext(text)}}}}
		left := missing(t, g, p)
		require.Equal(t, outside, left.read["/etc"], text)
	}
}

func TestRemoteDefinitions(t *testing.T) {
	g := guardOf(t.TempDir(), map[string]string{})
	p := &ir.Project{Targets: []*ir.Target{{
		Name: "t", Context: ir.Tree(".", "https://example.com/x.git"), Dockerfile: "/etc/Dockerfile",
		Contexts: map[string]ir.Source{"in": {Kind: ir.SourceTree, Path: "etc"}, "out": ir.ParseNamedContext("cwd:///usr")},
	}}}
	left := missing(t, g, p)
	require.Equal(t, map[string]bool{"/etc": true, "/usr": true}, left.read)

	for env, refused := range map[string]bool{"1": false, "0": true} {
		g.Env[envRemoteFSAccess] = env
		req, err := g.Request(left, true)
		require.NoError(t, err)
		require.Equal(t, refused, req.Refused())
	}
	g.Env[envRemoteFSAccess] = "x"
	_, err := g.Request(left, true)
	require.ErrorContains(t, err, envRemoteFSAccess)
}
