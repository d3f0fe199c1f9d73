package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/stretchr/testify/require"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
)

// treeClient is a node on which every definition results in the same files.
type treeClient struct {
	gateway.Client
	files  map[string]string
	solved int
}

func (c *treeClient) Solve(context.Context, gateway.SolveRequest) (*gateway.Result, error) {
	c.solved++
	res := gateway.NewResult()
	res.SetRef(treeRef{files: c.files})
	return res, nil
}

type treeRef struct {
	gateway.Reference
	files map[string]string
}

func (r treeRef) ReadFile(_ context.Context, req gateway.ReadRequest) ([]byte, error) {
	data, ok := r.files[req.Filename]
	if !ok {
		return nil, errors.New("no such file or directory")
	}
	if req.Range != nil {
		data = data[:min(len(data), req.Range.Length)]
	}
	return []byte(data), nil
}

func (r treeRef) StatFile(_ context.Context, req gateway.StatRequest) (*fstypes.Stat, error) {
	data, ok := r.files[req.Path]
	if !ok {
		return nil, errors.New("no such file or directory")
	}
	return &fstypes.Stat{Size: int64(len(data))}, nil
}

func TestReadHTTP(t *testing.T) {
	const url = "https://example.com/defs/build.hcl"
	long := strings.Repeat("# comment\n", headerSize)
	for name, content := range map[string]string{"short": "target \"t\" {}\n", "long": long, "empty": ""} {
		t.Run(name, func(t *testing.T) {
			c := &treeClient{files: map[string]string{"context": content}}
			f, err := readHTTP(t.Context(), c, url, []string{"whatever"}, false)
			require.NoError(t, err)
			require.Equal(t, &fetched{files: []compiler.RemoteFile{{Name: url, Data: []byte(content)}}}, f)
			require.Equal(t, 1, c.solved)
		})
	}

	c := &treeClient{files: map[string]string{"context": strings.Repeat("#", maxDefinition+1)}}
	_, err := readHTTP(t.Context(), c, url, nil, true)
	require.ErrorContains(t, err, "non-archive definition URL bigger than maximum allowed size")

	c = &treeClient{files: map[string]string{"context": "\x1f\x8b\x08...", "b.hcl": "b", "a.hcl": "a"}}
	f, err := readHTTP(t.Context(), c, url, []string{"b.hcl", "none.hcl", "a.hcl"}, true)
	require.NoError(t, err)
	require.Equal(t, []compiler.RemoteFile{{Name: "b.hcl", Data: []byte("b")}, {Name: "a.hcl", Data: []byte("a")}}, f.files)
	require.NotNil(t, f.tree)
	_, err = readHTTP(t.Context(), c, url, []string{"b.hcl", "none.hcl"}, false)
	require.EqualError(t, err, "none.hcl: no such file or directory")
}

func TestIsArchive(t *testing.T) {
	tarred := func(format tar.Format, name string) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 1, Format: format}))
		_, err := w.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return buf.Bytes()[:headerSize]
	}
	for name, tc := range map[string]struct {
		header []byte
		want   bool
	}{
		"gzip":         {[]byte("\x1f\x8b\x08\x00"), true},
		"bzip2":        {[]byte("BZh9"), true},
		"xz":           {[]byte("\xfd7zXZ\x00\x00"), true},
		"zstd":         {[]byte("\x28\xb5\x2f\xfd"), true},
		"zstd skipped": {[]byte("\x5e\x2a\x4d\x18\x00\x00\x00\x00"), true},
		"tar":          {tarred(tar.FormatUSTAR, "a"), true},
		"pax tar":      {tarred(tar.FormatPAX, strings.Repeat("long/", 300)+"a"), true},
		"gnu tar":      {tarred(tar.FormatGNU, strings.Repeat("long/", 300)+"a"), true},
		"empty":        {nil, false},
		"hcl":          {[]byte("target \"default\" {}\n"), false},
		"long hcl":     {bytes.Repeat([]byte("# a\n"), headerSize/4), false},
		"zeroes":       {make([]byte, headerSize), false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tc.want, isArchive(tc.header)) })
	}
}

func TestGitAccess(t *testing.T) {
	env := map[string]string{"Buildx_Bake_Git_Auth_Token": "t", envGitHeader: "basic", envGitSSH: "key1,key2"}
	require.Equal(t, []ir.Secret{
		{ID: "GIT_AUTH_TOKEN.example.com:8443", Env: "Buildx_Bake_Git_Auth_Token"},
		{ID: "GIT_AUTH_HEADER.example.com:8443", Env: envGitHeader},
	}, GitSecrets("https://example.com:8443/a/b.git#main:dir", env))
	require.Empty(t, GitSecrets("https://example.com/a/b.git", nil))
	require.Empty(t, GitSecrets("https://example.com/file.hcl", env))

	_, ok := GitAgent("https://example.com/a/b.git", env)
	require.False(t, ok)
	for _, url := range []string{"git@example.com:a/b.git#main", "ssh://git@example.com/a/b.git"} {
		agent, ok := GitAgent(url, env)
		require.True(t, ok, url)
		require.Equal(t, ir.SSH{ID: "default", Paths: []string{"key1", "key2"}}, agent)
		agent, ok = GitAgent(url, nil)
		require.True(t, ok, url)
		require.Equal(t, ir.SSH{ID: "default"}, agent)
	}
}
