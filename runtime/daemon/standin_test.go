package daemon

import (
	"context"
	"errors"
	"testing"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/llbmerge"
)

// standInGraph is a node that has looked a COPY up for one target, and is then given a
// target that reads what another node made on top of it.
type standInGraph struct {
	copies, box, top *pb.Definition
	step             map[string]digest.Digest
}

func newStandInGraph(t *testing.T) standInGraph {
	libs := llb.Image("base").File(llb.Copy(llb.Local("src"), "/lib", "/lib"), llb.WithCustomName("copy lib"))
	other := libs.Run(llb.Shlex("test"), llb.WithCustomName("test")).Root()
	service := libs.Run(llb.Shlex("compile"), llb.WithCustomName("compile")).Root()
	box := llb.Image("base").File(llb.Copy(service, "/bin", "/bin"), llb.WithCustomName("copy bin"))
	var units []llbmerge.Unit
	top := service.File(llb.Copy(llb.Local("src"), "/top", "/top"), llb.WithCustomName("copy top")).Run(llb.Shlex("link"), llb.WithCustomName("link")).Root()
	for id, st := range map[string]llb.State{"other": other, "box": box, "top": top} {
		def, err := st.Marshal(t.Context())
		require.NoError(t, err)
		units = append(units, llbmerge.Unit{ID: id, Definition: def.ToPB()})
	}
	g, err := llbmerge.Merge(units)
	require.NoError(t, err)
	s := standInGraph{step: map[string]digest.Digest{}}
	for _, v := range g.Vertices {
		s.step[v.Step] = v.Digest
	}
	s.copies, err = g.Slice("other")
	require.NoError(t, err)
	s.box, err = g.Slice("box")
	require.NoError(t, err)
	s.top, err = g.Slice("top")
	require.NoError(t, err)
	return s
}

func TestStandIns(t *testing.T) {
	image := &pb.SourceOp{Identifier: "docker-image://step@" + digest.FromString("image").String()}
	sent, old := registryCache("one.test/sent"), registryCache("one.test/old")
	for name, tt := range map[string]struct {
		before   bool            // the node has looked the COPY up
		with     []ir.CacheEntry // when it did
		made     error           // of the image
		fails    bool            // the node cannot fetch it
		replaces bool
	}{
		"looked up before":                {before: true, with: []ir.CacheEntry{old}, replaces: true},
		"looked up with the result":       {before: true, with: []ir.CacheEntry{old, sent}},
		"not looked up":                   {},
		"no image can be made":            {before: true, made: errors.New("no layers")},
		"the node cannot fetch the image": {before: true, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			graph := newStandInGraph(t)
			i, g := &standIns{}, &fakeGateway{}
			if tt.before {
				_, _, err := i.decide(t.Context(), g, nil, []*pb.Definition{graph.copies}, tt.with)
				require.NoError(t, err)
			}
			if tt.fails {
				g.fails = errors.New("no such host")
				_, _ = g.Solve(t.Context(), gateway.SolveRequest{})
			}
			take := Take{
				Step: graph.step["compile"], Name: "compile", Cache: sent, Readers: []digest.Digest{graph.step["copy lib"]},
				Image: func(context.Context) (*pb.SourceOp, error) { return image, tt.made },
			}
			got, _, err := i.decide(t.Context(), g, []Take{take}, []*pb.Definition{graph.box}, []ir.CacheEntry{old, sent})
			require.NoError(t, err)
			if !tt.replaces {
				require.Equal(t, []*pb.Definition{graph.box}, got)
				require.Equal(t, graph.box, i.replace(graph.box))
				return
			}
			require.NotEqual(t, graph.box, got[0])
			require.Equal(t, got[0], i.replace(graph.box), "what is written of it is what was solved")
			require.Equal(t, graph.copies, i.replace(graph.copies))

			// The node speaks of other vertices than everybody else.
			var now, stand digest.Digest
			for d, was := range i.original {
				switch was {
				case graph.step["copy bin"]:
					now = d
				case graph.step["compile"]:
					stand = d
				}
			}
			done := &bkclient.Vertex{Digest: stand, Name: "compile"}
			done.Completed = new(time.Unix(1, 0))
			st := i.restore(&bkclient.SolveStatus{
				Vertexes: []*bkclient.Vertex{done, {Digest: now, Inputs: []digest.Digest{stand}}},
				Logs:     []*bkclient.VertexLog{{Vertex: now}}, Statuses: []*bkclient.VertexStatus{{Vertex: stand}},
			})
			require.Equal(t, graph.step["compile"], st.Vertexes[0].Digest)
			require.True(t, st.Vertexes[0].Cached, "it was not run here")
			require.Equal(t, graph.step["copy bin"], st.Vertexes[1].Digest)
			require.Equal(t, []digest.Digest{graph.step["compile"]}, st.Vertexes[1].Inputs)
			require.Equal(t, graph.step["copy bin"], st.Logs[0].Vertex)
			require.Equal(t, graph.step["compile"], st.Statuses[0].Vertex)
			var ve *bkerrdefs.VertexError
			require.ErrorAs(t, i.blame(bkerrdefs.WrapVertex(errors.New("broken"), now)), &ve)
			require.Equal(t, graph.step["copy bin"].String(), ve.Digest)
		})
	}
}

// Of results that are sent in several caches with one COPY below them, the node finds only one:
// images stand in for the others, and for what may stand on those.
func TestStandInsOfSeveralCaches(t *testing.T) {
	graph := newStandInGraph(t)
	lib, top := graph.step["copy lib"], graph.step["copy top"]
	caches := map[string]ir.CacheEntry{}
	var all []ir.CacheEntry
	for _, name := range []string{"compile", "test", "link"} {
		caches[name] = registryCache("one.test/" + name)
		all = append(all, caches[name])
	}
	take := func(name string, cache string, readers ...digest.Digest) Take {
		below := map[digest.Digest]bool{lib: true}
		if name == "link" {
			below[graph.step["compile"]], below[top] = true, true
		}
		return Take{
			Step: graph.step[name], Name: name, Cache: caches[cache], Readers: readers, Below: below,
			Image: func(context.Context) (*pb.SourceOp, error) {
				return &pb.SourceOp{Identifier: "docker-image://step@" + digest.FromString(name).String()}, nil
			},
		}
	}
	compile, test, link := take("compile", "compile", lib), take("test", "test", lib), take("link", "link", lib, top)
	for name, tt := range map[string]struct {
		takes    []Take
		solves   [][]*pb.Definition
		replaces []string
		reads    []ir.CacheEntry // the last solve, of all
	}{
		"one alone":          {[]Take{compile}, [][]*pb.Definition{{graph.box}}, nil, all},
		"side by side":       {[]Take{compile, test}, [][]*pb.Definition{{graph.box, graph.copies}}, []string{"compile"}, all[1:]},
		"in one cache":       {[]Take{take("compile", "link", lib), link}, [][]*pb.Definition{{graph.top, graph.box}}, nil, all},
		"one above":          {[]Take{compile, link}, [][]*pb.Definition{{graph.top}}, []string{"link"}, all[:2]},
		"one above, later":   {[]Take{compile, link}, [][]*pb.Definition{{graph.box}, {graph.top}}, []string{"compile", "link"}, all[1:2]},
		"not for this solve": {[]Take{compile, test}, [][]*pb.Definition{{graph.box}}, []string{"compile"}, all[1:]},
	} {
		t.Run(name, func(t *testing.T) {
			i := &standIns{}
			var reads []ir.CacheEntry
			var err error
			for _, defs := range tt.solves {
				_, reads, err = i.decide(t.Context(), &fakeGateway{}, tt.takes, defs, all)
				require.NoError(t, err)
			}
			var replaces []string
			for _, name := range []string{"compile", "test", "link"} {
				if i.standsFor(graph.step[name]) {
					replaces = append(replaces, name)
				}
			}
			require.Equal(t, tt.replaces, replaces)
			require.Equal(t, tt.reads, reads)
		})
	}
}

// Who waits for another's decision hears that nobody wants his.
func TestStandInsInterrupted(t *testing.T) {
	i := &standIns{}
	leave, err := i.enter(t.Context())
	require.NoError(t, err)
	defer leave()
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	_, _, err = i.decide(ctx, &fakeGateway{}, nil, nil, nil)
	require.ErrorIs(t, err, stopped)
}
