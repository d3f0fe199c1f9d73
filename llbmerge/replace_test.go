package llbmerge

import (
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// A source takes the place of a step: what only the step needed is gone, what reads it
// reads the source, under its own name and place, and all else is as before.
func TestReplace(t *testing.T) {
	src := llb.Local("src", llb.SessionID("s"))
	libs := llb.Image("base").Run(llb.Shlex("toolchain"), llb.WithCustomName("toolchain")).Root().
		File(llb.Copy(src, "/lib", "/lib"), llb.WithCustomName("copy lib"))
	service := libs.Run(llb.Shlex("compile"), llb.WithCustomName("compile"), llb.IgnoreCache).Root()
	box := llb.Image("base").File(llb.Copy(service, "/bin", "/bin"), llb.WithCustomName("copy bin")).
		Run(llb.Shlex("pack"), llb.WithCustomName("pack")).Root()
	def, err := box.Marshal(t.Context())
	require.NoError(t, err)
	g := merge(t, []Unit{{ID: "box", Definition: def.ToPB()}})
	whole, err := g.Slice("box")
	require.NoError(t, err)
	before := encode(t, whole)
	named := map[string]digest.Digest{}
	for _, v := range g.Vertices {
		named[v.Step] = v.Digest
	}
	image := &pb.SourceOp{Identifier: "oci-layout://dbake/step@" + digest.FromString("image").String()}

	made, err := Replace(whole, map[digest.Digest]*pb.SourceOp{named["compile"]: image})
	require.NoError(t, err)
	require.Equal(t, before, encode(t, whole), "the definition itself is left alone")

	names := map[string]digest.Digest{}
	for d, md := range made.Definition.Metadata {
		if name := md.Description[customName]; name != "" {
			names[name] = digest.Digest(d)
		}
	}
	require.NotContains(t, names, "toolchain")
	require.NotContains(t, names, "copy lib")
	require.Len(t, made.Definition.Def, 5, "base, image, copy bin, pack, and the end")
	for _, name := range []string{"compile", "copy bin", "pack"} {
		require.Equal(t, named[name], made.Original[names[name]], name)
	}
	require.False(t, made.Definition.Metadata[names["compile"].String()].IgnoreCache)

	again, err := (&builder{infos: map[digest.Digest]*pb.SourceInfo{}, groups: map[string]*localGroup{}}).load(Unit{ID: "box", Definition: made.Definition})
	require.NoError(t, err, "what comes out is a definition")
	require.Len(t, again.nodes, 4)

	none, err := Replace(whole, map[digest.Digest]*pb.SourceOp{digest.FromString("other"): image})
	require.NoError(t, err)
	require.Nil(t, none)
}

// A source has one output: a step of whose others something is read stays.
func TestReplaceOtherOutput(t *testing.T) {
	run := llb.Image("base").Run(llb.Shlex("make"))
	cache := run.AddMount("/out", llb.Scratch())
	def, err := cache.Run(llb.Shlex("use")).Root().Marshal(t.Context())
	require.NoError(t, err)
	g := merge(t, []Unit{{ID: "u", Definition: def.ToPB()}})
	whole, err := g.Slice("u")
	require.NoError(t, err)
	var step digest.Digest
	for _, v := range g.Vertices {
		if v.Command == "make" {
			step = v.Digest
		}
	}
	require.NotEmpty(t, step)
	_, err = Replace(whole, map[digest.Digest]*pb.SourceOp{step: {Identifier: "docker-image://x"}})
	require.ErrorContains(t, err, "another output")
}
