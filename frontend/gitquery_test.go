package frontend

import (
	"testing"

	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

func TestGitQueries(t *testing.T) {
	const url = "https://example.com/repo.git?branch=main"
	platform := ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	settle := func(asInput bool, attrs map[string]string) *inputs {
		in := &inputs{
			unit: ir.Unit{Target: &ir.Target{Name: "t"}}, attrs: attrs, defs: map[string]*pb.Definition{}, dockerfileRoot: attrs["context"],
		}
		c := &compilation{Options: Options{GitQueryAsInput: asInput, NodePlatform: platform}}
		require.NoError(t, c.gitQueries(t.Context(), in))
		return in
	}
	source := func(def *pb.Definition) *pb.SourceOp {
		var op pb.Op
		require.NoError(t, op.UnmarshalVT(def.GetDef()[0]))
		return op.GetSource()
	}

	in := settle(false, map[string]string{"context": url, "context:src": url, "frontend.caps": "moby.buildkit.frontend.contexts+forward"})
	require.Equal(t, url, in.attrs["context"])
	require.Equal(t, "moby.buildkit.frontend.contexts+forward,moby.buildkit.frontend.gitquerystring,moby.buildkit.frontend.gitquerystring+forward", in.attrs["frontend.caps"])
	require.Empty(t, in.defs)

	in = settle(true, map[string]string{"context": url, "context:src": url, "build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1"})
	require.Equal(t, map[string]string{
		"input:context": url, "input:context:src": url, "context:src": "input:git_state_context:src", "build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1",
	}, in.attrs)
	require.Equal(t, "git://example.com/repo.git#refs/heads/main", source(in.defs["context"]).Identifier)
	require.Equal(t, "true", source(in.defs["context"]).Attrs[pb.AttrKeepGitDir])
	require.NotContains(t, source(in.defs["git_state_context:src"]).Attrs, pb.AttrKeepGitDir)
	require.Equal(t, in.defs["context"], in.defs["dockerfile"], "the Dockerfile lies in it")

	for _, advice := range []string{"", "0", "1"} {
		in = settle(true, map[string]string{"context:src": url, "build-arg:BUILDKIT_GIT_ADVICE": advice})
		require.Equal(t, advice == "1", source(in.defs["git_state_context:src"]).Attrs[pb.AttrGitAdvice] == "true", advice)
	}

	for _, plain := range []string{"https://example.com/repo.git#main", "https://example.com/file?x=1", "docker-image://a"} {
		attrs := map[string]string{"context": plain}
		require.Equal(t, map[string]string{"context": plain}, settle(true, attrs).attrs)
	}
}
