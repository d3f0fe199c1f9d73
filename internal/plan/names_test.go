package plan

import (
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/dbake/dbake/llbmerge"
)

// What is cut out of the bytes of a vertex is what its op would be encoded to.
func TestWithoutInputs(t *testing.T) {
	base := llb.Image("docker.io/library/base:1", llb.LinuxArm64)
	made := base.Run(llb.Shlex("make all"), llb.AddEnv("A", "b"), llb.AddMount("/src", local("a"), llb.Readonly), llb.AddSecret("/s", llb.SecretID("x"))).Root()
	other := llb.Git("https://example.com/x.git", "main").File(llb.Mkdir("/d", 0o755).Mkfile("/d/f", 0o644, []byte("text")))
	st := llb.Merge([]llb.State{made, llb.Diff(base, made), other.File(llb.Copy(made, "/out", "/", &llb.CopyInfo{AllowWildcard: true}))})
	def, err := st.Run(llb.Shlex("true"), llb.IgnoreCache).Root().Marshal(t.Context(), llb.LinuxAmd64)
	require.NoError(t, err)
	g, err := llbmerge.Merge([]llbmerge.Unit{{ID: "u", Definition: def.ToPB()}})
	require.NoError(t, err)
	kinds := map[llbmerge.Kind]bool{}
	for _, v := range g.Vertices {
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(&pb.Op{Op: v.Op.GetOp(), Platform: v.Op.GetPlatform()})
		require.NoError(t, err)
		got, err := withoutInputs(v)
		require.NoError(t, err)
		require.Equal(t, want, got, v.Step)
		kinds[v.Kind] = true
	}
	require.GreaterOrEqual(t, len(kinds), 6)
	_, err = withoutInputs(&llbmerge.Vertex{Bytes: []byte{0x0a, 0x7f}})
	require.Error(t, err)
}
