package plan

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/llbmerge"
)

// BenchmarkContent names what is read of a directory of 10,000 files: cold reads all
// of them, warm finds their digests from the run before.
func BenchmarkContent(b *testing.B) {
	dir, cache := b.TempDir(), b.TempDir()
	text := make([]byte, 4<<10)
	for i := range 10_000 {
		name := filepath.Join(dir, fmt.Sprintf("d%02d", i/100), fmt.Sprintf("f%04d", i))
		copy(text, name)
		require.NoError(b, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(b, os.WriteFile(name, text, 0o644))
	}
	run := func(b *testing.B) {
		sums := filesum.Open(cache, time.Now().Add(time.Hour))
		c, err := readContent(context.Background(), sums, dir, read{path: "/"}, nil, false)
		require.NoError(b, err)
		require.EqualValues(b, 10_000*len(text), c.bytes)
		require.NoError(b, sums.Save())
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, os.RemoveAll(cache))
			run(b)
		}
	})
	b.Run("warm", func(b *testing.B) {
		for b.Loop() {
			run(b)
		}
	})
}

// TestReads has steps that select files of one directory in every way.
func TestReads(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "d/c", "d/e", "secret"} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, nil, 0o644))
	}
	for name, c := range map[string]struct {
		step llb.State
		path string // the first of those that it reads
	}{
		"file":               {llb.Scratch().File(llb.Copy(local("d/c"), "d/c", "/")), "d/c"},
		"other":              {llb.Scratch().File(llb.Copy(local("b"), "b", "/")), ""},
		"wildcard":           {llb.Scratch().File(llb.Copy(local("?"), "?", "/", &llb.CopyInfo{AllowWildcard: true})), "a"},
		"directory":          {llb.Scratch().File(llb.Copy(local("d"), "d", "/")), "d/c"},
		"excluded":           {llb.Scratch().File(llb.Copy(local("/"), "/", "/")), "a"},
		"but":                {llb.Scratch().File(llb.Copy(local("/"), "/", "/", &llb.CopyInfo{ExcludePatterns: []string{"a", "d/c"}})), ""},
		"but in a directory": {llb.Scratch().File(llb.Copy(local("d"), "d", "/", &llb.CopyInfo{ExcludePatterns: []string{"c"}})), ""},
		"patterns":           {llb.Scratch().File(llb.Copy(local("/"), "/", "/", &llb.CopyInfo{IncludePatterns: []string{"d/*"}})), "d/c"},
		"mounted":            {llb.Scratch().Run(llb.Shlex("x"), llb.AddMount("/m", local("d"), llb.SourcePath("d"), llb.Readonly)).Root(), "d/c"},
	} {
		t.Run(name, func(t *testing.T) {
			def, err := c.step.Marshal(t.Context())
			require.NoError(t, err)
			g, err := llbmerge.Merge([]llbmerge.Unit{{ID: "u", Definition: def.ToPB()}})
			require.NoError(t, err)
			unread := map[string]bool{"a": true, "d/c": true, "secret": true, "gone": true}
			root, _ := g.Root("u")
			v, _ := g.Vertex(root.Digest)
			require.Equal(t, c.path, Reads(g, v, "ctx", dir, unread))
			require.Empty(t, Reads(g, v, "other", dir, unread))
			require.Equal(t, ".", Reads(g, v, "ctx", dir, map[string]bool{".": true}))
			delete(unread, "a")
			if c.path == "a" && name == "excluded" {
				require.Equal(t, "d/c", Reads(g, v, "ctx", dir, unread))
				delete(unread, "d/c")
				require.Empty(t, Reads(g, v, "ctx", dir, unread), "secret is not sent to anybody")
			}
		})
	}
}

// local is a directory with some files that are followed.
func local(follow string) llb.State {
	return llb.Local("ctx", llb.FollowPaths([]string{follow}), llb.ExcludePatterns([]string{"secret"}))
}
