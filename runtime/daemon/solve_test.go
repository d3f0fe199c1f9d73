package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/solver/result"
	"github.com/moby/buildkit/util/apicaps"
	apicapspb "github.com/moby/buildkit/util/apicaps/pb"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// fakeGateway answers every solve with a reference of its own.
type fakeGateway struct {
	gateway.Client
	caps  apicaps.CapSet
	own   apicaps.CapSet // of the gateway itself
	fails error          // of the second solve

	mu     sync.Mutex
	solves []gateway.SolveRequest
}

// fakeRef is the result of a solve.
type fakeRef struct {
	gateway.Reference
	def *pb.Definition
}

func (g *fakeGateway) BuildOpts() gateway.BuildOpts {
	return gateway.BuildOpts{LLBCaps: g.caps, Caps: g.own}
}

func (g *fakeGateway) Solve(_ context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.solves = append(g.solves, req)
	if g.fails != nil && len(g.solves) == 2 {
		return nil, g.fails
	}
	res := gateway.NewResult()
	res.SetRef(&fakeRef{def: req.Definition})
	return res, nil
}

// without are the capabilities of a node that lacks one.
func without(missing apicaps.CapID) apicaps.CapSet {
	var list []*apicapspb.APICap
	for _, c := range pb.Caps.All() {
		if apicaps.CapID(c.ID) != missing {
			list = append(list, c)
		}
	}
	return pb.Caps.CapSet(list)
}

func definition(t *testing.T, name string) *pb.Definition {
	t.Helper()
	def, err := llb.Scratch().File(llb.Mkfile("/"+name, 0o644, nil)).Marshal(t.Context())
	require.NoError(t, err)
	return def.ToPB()
}

// TestEvaluateAll submits one solve where the node knows the op that joins results,
// and one for each unit to nodes before that.
func TestEvaluateAll(t *testing.T) {
	p := Partition{
		Joined: definition(t, "joined"), Single: []*pb.Definition{definition(t, "a"), definition(t, "b")},
		Imports: []ir.CacheEntry{{Type: "registry", Attrs: map[string]string{"ref": "example.com/cache"}}},
	}
	s := &solver{}

	g := &fakeGateway{caps: pb.Caps.CapSet(pb.Caps.All())}
	ev := func(g *fakeGateway) *evaluation {
		ev := &evaluation{client: g}
		all, _ := ev.readings.enter(p.Imports)
		all[0].end() // it was read
		return ev
	}
	require.NoError(t, s.evaluateAll(t.Context(), ev(g), p))
	require.Len(t, g.solves, 1)
	require.Same(t, p.Joined, g.solves[0].Definition)

	old := &fakeGateway{caps: without(pb.CapPassthroughOp)}
	require.NoError(t, s.evaluateAll(t.Context(), ev(old), p))
	require.Len(t, old.solves, 2)
	require.ElementsMatch(t, p.Single, []*pb.Definition{old.solves[0].Definition, old.solves[1].Definition})
	for _, req := range append(g.solves, old.solves...) {
		require.True(t, req.Evaluate)
		require.Equal(t, []gateway.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "example.com/cache"}}}, req.CacheImports)
	}

	failing := &fakeGateway{caps: old.caps, fails: errors.New("exit code: 1")}
	require.ErrorIs(t, s.evaluateAll(t.Context(), ev(failing), p), failing.fails)
}

// TestResult assembles results as the Dockerfile frontend does.
func TestResult(t *testing.T) {
	s := &solver{}
	amd64, arm := platforms.MustParse("linux/amd64"), platforms.MustParse("linux/arm/v7")
	a, b, scan := definition(t, "a"), definition(t, "b"), definition(t, "scan")
	one := Content{Definition: a, Platform: amd64, Metadata: map[string][]byte{exptypes.ExporterImageConfigKey: []byte("config a")}}
	two := Content{Definition: b, Platform: arm, Metadata: map[string][]byte{exptypes.ExporterImageConfigKey: []byte("config b")},
		Attestations: []result.Attestation[*pb.Definition]{{Ref: scan}}}
	ids := func(res *gateway.Result) []string {
		var p exptypes.Platforms
		require.NoError(t, json.Unmarshal(res.Metadata[exptypes.ExporterPlatformsKey], &p))
		var list []string
		for _, p := range p.Platforms {
			list = append(list, p.ID)
		}
		return list
	}
	def := func(ref gateway.Reference) *pb.Definition { return ref.(*fakeRef).def }

	res, err := s.result(t.Context(), &fakeGateway{}, ExportRequest{Contents: []Content{one}})
	require.NoError(t, err)
	require.Same(t, a, def(res.Ref))
	require.Empty(t, res.Refs)
	require.Equal(t, "config a", string(res.Metadata[exptypes.ExporterImageConfigKey]))
	require.Equal(t, []string{"linux/amd64"}, ids(res))

	res, err = s.result(t.Context(), &fakeGateway{}, ExportRequest{Contents: []Content{one}, Index: true})
	require.NoError(t, err)
	require.Nil(t, res.Ref)
	require.Same(t, a, def(res.Refs["linux/amd64"]))
	require.Equal(t, "config a", string(res.Metadata[exptypes.ExporterImageConfigKey+"/linux/amd64"]))

	res, err = s.result(t.Context(), &fakeGateway{}, ExportRequest{Contents: []Content{one, two}})
	require.NoError(t, err)
	require.Same(t, b, def(res.Refs["linux/arm/v7"]))
	require.Equal(t, "config b", string(res.Metadata[exptypes.ExporterImageConfigKey+"/linux/arm/v7"]))
	require.Equal(t, []string{"linux/amd64", "linux/arm/v7"}, ids(res))
	require.Len(t, res.Attestations["linux/arm/v7"], 1)
	require.Same(t, scan, def(res.Attestations["linux/arm/v7"][0].Ref))

	failing := &fakeGateway{fails: errors.New("gone")}
	_, err = s.result(t.Context(), failing, ExportRequest{Contents: []Content{one, two}})
	require.ErrorIs(t, err, failing.fails)
}
