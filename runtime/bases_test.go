package runtime

import (
	"testing"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/llbmerge"
)

func TestPinned(t *testing.T) {
	d := digest.FromString("manifest").String()
	for name, want := range map[string]string{
		"docker-image://docker.io/library/golang:1.26@" + d: "docker.io/library/golang@" + d,
		"docker-image://r.example:5000/base@" + d:           "r.example:5000/base@" + d,
		"docker-image://docker.io/library/golang:1.26":      "", // it may be another one on each node
		"docker-image://":     "",
		"git://example.com/x": "",
	} {
		v := &llbmerge.Vertex{Kind: llbmerge.KindImage, Op: &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: name}}}}
		ref, ok := pinnedRef(v)
		require.Equal(t, want, ref, name)
		require.Equal(t, want != "", ok, name)
	}
	_, ok := pinnedRef(&llbmerge.Vertex{Kind: llbmerge.KindExec, Op: &pb.Op{}})
	require.False(t, ok)
}

// Of each node, the first solve that needs an image pulls the copy.
func TestBasesAreTriedOnce(t *testing.T) {
	b := &bases{pulled: map[pulledBase]bool{}}
	require.True(t, b.first("n1", "v"))
	require.False(t, b.first("n1", "v"))
	require.True(t, b.first("n2", "v"))
}
