package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/console"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

func TestParseAllow(t *testing.T) {
	p, err := parseAllow([]string{
		"network.host", "security.insecure", "ssh", "device=gpu,required", "fs=/a", "fs.read=b", "fs.write=*",
		"image", "image.push=x", "image.load", "buildx.local.delete",
	})
	require.NoError(t, err)
	require.Equal(t, &privileges{
		networkHost: true, securityInsecure: true, ssh: true, localDelete: true,
		devices: map[string]bool{"gpu": true},
		read:    map[string]bool{"/a": true, "b": true},
		write:   map[string]bool{"/a": true, "*": true},
	}, p)

	p, err = parseAllow([]string{"device"})
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
		_, err := parseAllow([]string{value})
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
	a := &app{dir: dir, env: map[string]string{"SSH_AUTH_SOCK": "x"}}
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
	missing, err := a.missingPrivileges(p, &definitionFlags{Allow: []string{"fs.read=/bin"}})
	require.NoError(t, err)
	req, err := a.privilegeRequest(missing, false)
	require.NoError(t, err)
	require.Equal(t, "--allow=device --allow=ssh --allow=fs=/usr --allow=fs.read=/etc", req.flags())

	missing, err = a.missingPrivileges(p, &definitionFlags{Allow: []string{"fs=*", "ssh", "device"}})
	require.NoError(t, err)
	req, err = a.privilegeRequest(missing, false)
	require.NoError(t, err)
	require.True(t, req.empty())
}

// A directory that has the name of a repository is a directory.
func TestPrivilegesOfDirectoriesLikeRepositories(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "x.git")))
	a := &app{dir: dir, env: map[string]string{}}
	missing, err := a.missingPrivileges(&ir.Project{Targets: []*ir.Target{{Name: "t", Context: ir.ParseContext("x.git", nil), Dockerfile: "Dockerfile"}}}, &definitionFlags{})
	require.NoError(t, err)
	require.Len(t, missing.read, 1)
}

// What is read as a directory is guarded as one, however it is spelled.
func TestSpellingsOfDirectories(t *testing.T) {
	a := &app{dir: t.TempDir(), env: map[string]string{}}
	for text, outside := range map[string]bool{
		"docker-image:/../../../../../../../../etc": true,
		"cwd://target:/../../../../../../../../etc": true,
		"oci-layout:///etc:latest":                  true,
		"docker-image://etc":                        false,
		"target:etc":                                false,
	} {
		p := &ir.Project{Targets: []*ir.Target{{Name: "t", Dockerfile: "Dockerfile", Contexts: map[string]ir.Source{"x": ir.ParseNamedContext(text)}}}}
		missing, err := a.missingPrivileges(p, &definitionFlags{})
		require.NoError(t, err)
		require.Equal(t, outside, missing.read["/etc"], text)
	}
}

func TestRemoteDefinitions(t *testing.T) {
	a := &app{dir: t.TempDir(), env: map[string]string{}}
	p := &ir.Project{Targets: []*ir.Target{{
		Name: "t", Context: ir.Tree(".", "https://example.com/x.git"), Dockerfile: "/etc/Dockerfile",
		Contexts: map[string]ir.Source{"in": {Kind: ir.SourceTree, Path: "etc"}, "out": ir.ParseNamedContext("cwd:///usr")},
	}}}
	missing, err := a.missingPrivileges(p, &definitionFlags{})
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"/etc": true, "/usr": true}, missing.read)

	for env, refused := range map[string]bool{"1": false, "0": true} {
		a.env[envRemoteFSAccess] = env
		req, err := a.privilegeRequest(missing, isRemote(p))
		require.NoError(t, err)
		require.Equal(t, refused, req.refused())
	}
	a.env[envRemoteFSAccess] = "x"
	_, err = a.privilegeRequest(missing, isRemote(p))
	require.ErrorContains(t, err, envRemoteFSAccess)
}

// At a terminal the user is asked.
func TestAsk(t *testing.T) {
	for input, granted := range map[string]bool{"y\n": true, "Y\n": true, "n\n": false, "\n": false, "yes\n": false} {
		pty, name, err := console.NewPty()
		if err != nil {
			require.ErrorIs(t, err, fs.ErrNotExist)
			t.Skip("no pseudo terminals here")
		}
		terminal, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
		require.NoError(t, err)
		_, err = pty.Write([]byte(input))
		require.NoError(t, err)
		var out bytes.Buffer
		a := &app{dir: t.TempDir(), stdin: terminal, stderr: &out, args: []string{"build", "-k"}}
		req, err := a.privilegeRequest(&privileges{networkHost: true}, false)
		require.NoError(t, err)
		require.NoError(t, a.showProgress(nil))
		err = req.ask(t.Context(), a)
		if granted {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, "additional privileges requested")
		}
		require.Equal(t, `Your build is requesting privileges for following possibly insecure capabilities:

 - Running build containers that can access host network

In order to not see this message in the future pass "--allow=network.host" to grant requested privileges.

Your full command with requested privileges:

dbake build --allow=network.host -k

Do you want to grant requested privileges and continue? [y/N] `, out.String())
		require.NoError(t, terminal.Close())
		require.NoError(t, pty.Close())
	}
}
