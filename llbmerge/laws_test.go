package llbmerge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/llbsolver"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// forRandom runs a law on random projects.
func forRandom(t *testing.T, law func(t *testing.T, rng *rand.Rand, units []Unit)) {
	for seed := range uint64(40) {
		p := newPlot(seed, 5+int(seed)*3)
		units := p.units(2 + int(seed)%9)
		t.Run(fmt.Sprint(seed), func(t *testing.T) { law(t, p.rng, units) })
	}
}

func TestCommutative(t *testing.T) {
	forRandom(t, func(t *testing.T, rng *rand.Rand, units []Unit) {
		want := describe(merge(t, units))
		rng.Shuffle(len(units), func(i, j int) { units[i], units[j] = units[j], units[i] })
		require.Equal(t, want, describe(merge(t, units)))
	})
}

func TestIdempotent(t *testing.T) {
	forRandom(t, func(t *testing.T, _ *rand.Rand, units []Unit) {
		g := merge(t, units)
		again := merge(t, cut(t, g, g.Units()...))
		require.Equal(t, describe(g), describe(again))
		for _, id := range g.Units() {
			require.Equal(t, encode(t, cut(t, g, id)[0].Definition), encode(t, cut(t, again, id)[0].Definition))
		}
	})
}

func TestAssociative(t *testing.T) {
	forRandom(t, func(t *testing.T, rng *rand.Rand, units []Unit) {
		want := describe(merge(t, units))
		n := rng.IntN(len(units) + 1)
		x, y := merge(t, units[:n]), merge(t, units[n:])
		parts := append(cut(t, x, x.Units()...), cut(t, y, y.Units()...)...)
		require.Equal(t, want, describe(merge(t, parts)))
	})
}

func TestSliceOfMergeIsMergeOfSlices(t *testing.T) {
	forRandom(t, func(t *testing.T, rng *rand.Rand, units []Unit) {
		g := merge(t, units)
		ids := g.Units()
		rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		ids = ids[:1+rng.IntN(len(ids))]
		want, err := g.Slice(ids...)
		require.NoError(t, err)
		got, err := merge(t, cut(t, g, ids...)).Slice(ids...)
		require.NoError(t, err)
		require.Equal(t, encode(t, want), encode(t, got))

		// A joined slice is a definition like any other.
		whole := merge(t, []Unit{{ID: "joined", Definition: want}})
		again, err := whole.Slice("joined")
		require.NoError(t, err)
		require.Equal(t, want.Def, again.Def)
	})
}

// The slice at a unit's root is that of the units which need the root.
func TestSliceAt(t *testing.T) {
	forRandom(t, func(t *testing.T, _ *rand.Rand, units []Unit) {
		g := merge(t, units)
		for _, id := range g.Units() {
			root, ok := g.Root(id)
			if !ok {
				continue
			}
			of, err := g.Slice(id)
			require.NoError(t, err)
			at, err := g.SliceAt(root)
			require.NoError(t, err)
			require.ElementsMatch(t, of.Def, at.Def)
			v, _ := g.Vertex(root.Digest)
			if len(v.Users) == 1 {
				require.Equal(t, of.Metadata, at.Metadata)
			}
		}
		for _, v := range g.Vertices {
			def, err := g.SliceAt(Root{Digest: v.Digest})
			require.NoError(t, err)
			checkDefinition(t, g, def, nil)
			require.Equal(t, v.Bytes, def.Def[len(def.Def)-2])
		}
	})
	_, err := merge(t, nil).SliceAt(Root{Digest: digest.FromString("x")})
	require.ErrorContains(t, err, "not in the graph")
}

// Only what depends on a local source depends on which other units there are.
func TestDigestsAreLocal(t *testing.T) {
	forRandom(t, func(t *testing.T, _ *rand.Rand, units []Unit) {
		g := merge(t, units)
		for _, u := range units {
			local := map[digest.Digest]bool{}
			for _, v := range merge(t, []Unit{u}).Vertices {
				local[v.Digest] = v.Kind == KindLocal || slices.ContainsFunc(v.Inputs, func(d digest.Digest) bool { return local[d] })
				if _, ok := g.Vertex(v.Digest); !ok {
					require.True(t, local[v.Digest], "%s", v.Step)
				}
			}
		}
	})
}

func TestInvariants(t *testing.T) {
	forRandom(t, func(t *testing.T, rng *rand.Rand, units []Unit) {
		g := merge(t, units)
		checkGraph(t, g)
		ids := g.Units()
		for _, ids := range [][]string{ids, ids[:1], ids[len(ids)/2:]} {
			def, err := g.Slice(ids...)
			require.NoError(t, err)
			checkDefinition(t, g, def, ids)
		}
	})
}

// checkGraph checks what holds for every graph.
func checkGraph(t testing.TB, g *Graph) {
	seen := map[digest.Digest]bool{}
	used := map[string]int{}
	for _, v := range g.Vertices {
		require.Equal(t, digest.FromBytes(v.Bytes), v.Digest)
		require.False(t, seen[v.Digest], "%s is there twice", v.Digest)
		seen[v.Digest] = true
		var op pb.Op
		require.NoError(t, op.UnmarshalVT(v.Bytes))
		require.Len(t, v.Inputs, len(op.Inputs))
		for i, in := range v.Inputs {
			require.Equal(t, op.Inputs[i].Digest, in.String())
			require.True(t, seen[in], "%s stands before its input", v.Digest)
		}
		dt, err := deterministic.Marshal(&op)
		require.NoError(t, err)
		require.Equal(t, v.Bytes, dt)
		require.NotEmpty(t, v.Users)
		require.True(t, slices.IsSorted(v.Users))
		for _, id := range v.Users {
			used[id]++
		}
		if src := op.GetSource(); src != nil && v.Kind == KindLocal {
			require.NotContains(t, src.Attrs, pb.AttrLocalUniqueID)
			require.NotContains(t, src.Attrs, pb.AttrLocalSessionID)
		}
	}
	for _, id := range g.Units() {
		require.Equal(t, used[id], len(g.units[id].vertices))
	}
	n := 0
	for _, group := range g.Groups() {
		for _, v := range group.Vertices {
			require.Equal(t, group.Users, g.Vertices[v].Users)
			n++
		}
	}
	require.Equal(t, len(g.Vertices), n)
}

// checkDefinition checks a slice as BuildKit does when it loads one.
func checkDefinition(t testing.TB, g *Graph, def *pb.Definition, ids []string) {
	want := map[digest.Digest]bool{}
	for _, v := range g.Vertices {
		if slices.ContainsFunc(v.Users, func(id string) bool { return slices.Contains(ids, id) }) {
			want[v.Digest] = true
		}
	}
	seen := map[string]bool{}
	for _, dt := range def.Def {
		d := digest.FromBytes(dt)
		require.False(t, seen[string(d)])
		seen[string(d)] = true
		delete(want, d)
		require.NotNil(t, def.Metadata[string(d)])
		var op pb.Op
		require.NoError(t, op.UnmarshalVT(dt))
		for _, in := range op.Inputs {
			require.True(t, seen[in.Digest])
		}
	}
	require.Empty(t, want)
	require.Len(t, def.Metadata, len(def.Def))
	for d, locs := range def.Source.GetLocations() {
		require.True(t, seen[d])
		for _, l := range locs.Locations {
			require.Less(t, int(l.SourceIndex), len(def.Source.Infos))
		}
	}
	edge, err := llbsolver.Load(context.Background(), def, nil)
	require.NoError(t, err)
	if _, ok := g.Vertex(edge.Vertex.Digest()); !ok {
		require.Len(t, edge.Vertex.Inputs(), len(distinctRoots(g, ids)))
	}
	op, err := llb.NewDefinitionOp(def)
	require.NoError(t, err)
	_, err = llb.NewState(op.Output()).Marshal(context.Background())
	require.NoError(t, err)
}

func distinctRoots(g *Graph, ids []string) map[Root]bool {
	roots := map[Root]bool{}
	for _, id := range ids {
		if r, ok := g.Root(id); ok {
			roots[r] = true
		}
	}
	return roots
}
