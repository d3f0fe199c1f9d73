package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/moby/buildkit/client/llb"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
)

// copying is a build of targets each of which copies the file of its name out of one
// directory; "all" copies all files.
func copying(t *testing.T, nodes int, names ...string) *Build {
	dir := t.TempDir()
	b := newBuildFrom(t, nodes, func(target *ir.Target) *frontend.Unit {
		file := target.Name
		if file == "all" {
			file = "/"
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, target.Name), nil, 0o644))
		src := llb.Local("ctx", llb.FollowPaths([]string{file}))
		st := base(t).File(llb.Copy(src, file, "/")).Run(llb.Shlex(target.Name)).Root()
		def, err := st.Marshal(t.Context())
		require.NoError(t, err)
		return &frontend.Unit{ID: ir.UnitID(target.Name), Target: target, Definition: def.ToPB(), Config: []byte("{}")}
	}, names...)
	b.Inputs.Dirs = map[string]string{"ctx": dir}
	return b
}

// TestUnreadFile has one file be unreadable once the build runs: only what reads it
// fails, although all share its transfer, and what ran without noticing is not
// exported.
func TestUnreadFile(t *testing.T) {
	for _, nodes := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			b := copying(t, nodes, "a", "b", "c", "all")
			b.Sched.Options.KeepGoing = true
			f := newFleet(t, b)
			for _, n := range f.nodes {
				n.unread = map[string][]string{"ctx": {"b"}}
			}
			res, _, err := f.run(t.Context(), b)
			require.Equal(t, map[string]State{"a": Done, "b": Failed, "c": Done, "all": Failed}, states(res))
			require.Equal(t, images("a", "c"), f.exports())
			require.ErrorContains(t, err, "target b: ")
			require.ErrorContains(t, err, "target all: ")
			require.ErrorContains(t, err, "this machine cannot read b: permission denied")
			require.NotContains(t, err.Error(), "on node")
		})
	}
}

// TestUnreadFileWithoutKeepGoing ends the build with the error of the file.
func TestUnreadFileWithoutKeepGoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := copying(t, 1, "a", "b")
		f := newFleet(t, b)
		f.nodes[0].unread = map[string][]string{"ctx": {"a"}}
		_, _, err := f.run(t.Context(), b)
		require.ErrorContains(t, err, "target a: ")
		require.Equal(t, 1, strings.Count(err.Error(), "permission denied"), err.Error())
		require.Zero(t, f.exports()["example.com/a:latest"])
	})
}

// TestUnreadFileOfNobody is no failure.
func TestUnreadFileOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := copying(t, 1, "a", "b")
		f := newFleet(t, b)
		f.nodes[0].unread = map[string][]string{"ctx": {"other", "gone/by/now"}}
		require.NoError(t, os.WriteFile(filepath.Join(b.Inputs.Dirs["ctx"], "other"), nil, 0o644))
		res, _, err := f.run(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, all(Done, "a", "b"), states(res))
	})
}
