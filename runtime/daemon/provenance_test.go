package daemon

import (
	"maps"
	"slices"
	"testing"

	"github.com/containerd/platforms"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/frontend"
)

// TestDescribe asks a frontend for a result with the options that made it, unless
// these would have it do anything but return the result.
func TestDescribe(t *testing.T) {
	s := &solver{}
	def := definition(t, "a")
	base := map[string]string{"filename": "docker/Dockerfile", "attest:provenance": "mode=max", "build-arg:V": "1", "platform": "linux/arm64,linux/amd64"}
	with := func(attrs ...string) map[string]string {
		m := maps.Clone(base)
		for i := 0; i < len(attrs); i += 2 {
			m[attrs[i]] = attrs[i+1]
		}
		return m
	}
	without := func(key string) map[string]string {
		m := maps.Clone(base)
		delete(m, key)
		return m
	}
	for _, tc := range []struct {
		name    string
		request map[string]string
		old     bool
		want    []string // beyond those of base; nil when no frontend is asked
	}{
		{name: "plain", request: base, want: []string{}},
		{name: "no provenance", request: without("attest:provenance")},
		{name: "another frontend", request: nil},
		{name: "old node", request: base, old: true},
		{name: "stage", request: with("target", "Final"), want: []string{"target"}},
		{name: "stage by number", request: with("target", "2")},
		{name: "epoch", request: with("build-arg:SOURCE_DATE_EPOCH", "1"), want: []string{"build-arg:SOURCE_DATE_EPOCH"}},
		{name: "epoch of the context", request: with("build-arg:SOURCE_DATE_EPOCH", "context")},
		{name: "other contexts", request: with("context:x", "local:x", "context:final::linux/arm64", "input:y", "target", "final"), want: []string{"context:x", "target"}},
		{name: "remote context", request: with("context", "https://example.com/r.git"), want: []string{"context", "contextkey"}},
		{name: "what would be done again", request: with("dockerfilekey", "dir", "build-arg:BUILDKIT_SYNTAX", "x/y", "attest:sbom", ""), want: []string{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := &fakeGateway{own: gwpb.Caps.CapSet(gwpb.Caps.All())}
			if tc.old {
				g.own = gwpb.Caps.CapSet(nil)
			}
			before := maps.Clone(tc.request)
			_, err := s.describe(t.Context(), g, Content{Definition: def, Platform: platforms.MustParse("linux/arm64"), Request: tc.request})
			require.NoError(t, err)
			require.Equal(t, before, tc.request)
			require.Len(t, g.solves, 1)
			req := g.solves[0]
			if tc.want == nil {
				require.Same(t, def, req.Definition)
				require.Empty(t, req.CacheImports, "the node holds the result")
				return
			}
			require.Equal(t, "dockerfile.v0", req.Frontend)
			require.Same(t, def, req.FrontendInputs[described])
			var keys []string
			for k := range req.FrontendOpt {
				keys = append(keys, k)
			}
			want := append([]string{"filename", "attest:provenance", "build-arg:V", "platform", "context:" + described, "input-metadata:" + described}, tc.want...)
			require.ElementsMatch(t, want, keys)
			require.Equal(t, "linux/arm64", req.FrontendOpt["platform"])
			require.Equal(t, []string{"docker/Dockerfile", "docker/Dockerfile.dockerignore"}, madeFiles(t, req.FrontendInputs["dockerfile"]))
		})
	}
}

// madeFiles lists the files that a definition makes.
func madeFiles(t *testing.T, def *pb.Definition) []string {
	t.Helper()
	var list []string
	for _, dt := range def.Def {
		var op pb.Op
		require.NoError(t, op.UnmarshalVT(dt))
		for _, a := range op.GetFile().GetActions() {
			if f := a.GetMkfile(); f != nil {
				list = append(list, f.Path[1:])
			}
		}
	}
	slices.Sort(list)
	return list
}

// An export of several platforms is asked for all of them.
func TestFrontendAttrs(t *testing.T) {
	unit := func(attrs ...string) *frontend.Unit {
		u := &frontend.Unit{FrontendAttrs: map[string]string{"label:a": "b"}}
		for i := 0; i < len(attrs); i += 2 {
			u.FrontendAttrs[attrs[i]] = attrs[i+1]
		}
		return u
	}
	require.Equal(t, map[string]string{"label:a": "b"}, FrontendAttrs([]*frontend.Unit{unit()}))
	one := unit("platform", "linux/amd64")
	require.Equal(t, one.FrontendAttrs, FrontendAttrs([]*frontend.Unit{one}))
	require.Equal(t, map[string]string{"label:a": "b", "platform": "linux/amd64,linux/arm/v7"},
		FrontendAttrs([]*frontend.Unit{one, unit("platform", "linux/arm/v7")}))
	require.Equal(t, "linux/amd64", one.FrontendAttrs["platform"])
}
