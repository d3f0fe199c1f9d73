package cachepolicy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// cluster is an input with one cluster of n units of two records, planned on nodes in
// turn.
func clusterOf(n, nodes int, tags ...string) (Input, []ir.UnitID) {
	in := Input{
		Store: Store{Repo: Repo{Name: "r/c", Prefix: "dbake"}}, Nodes: map[ir.UnitID]int{},
		Records: map[ir.UnitID][]int{}, Known: map[string][]string{"r/c": tags},
	}
	var ids []ir.UnitID
	for i := range n {
		id := ir.UnitID(fmt.Sprintf("t%02d@linux", i))
		ids = append(ids, id)
		in.Units = append(in.Units, ir.Unit{ID: id, Target: &ir.Target{Name: fmt.Sprintf("t%02d", i)}})
		in.Records[id] = []int{0, i + 1}
		in.Nodes[id] = i % nodes
	}
	in.Clusters = []Cluster{{Units: ids}}
	return in, ids
}

func never(string, ir.UnitID) bool { return false }
func free(int) bool                { return true }

func partRefs(list []Export) []string {
	var out []string
	for _, e := range list {
		out = append(out, e.Entry.Attrs["ref"])
	}
	return out
}

func TestWriterWritesInWaves(t *testing.T) {
	in, ids := clusterOf(16, 1)
	in.Bytes = []int64{40 << 20} // what all share is large
	for range ids {
		in.Bytes = append(in.Bytes, 8<<20)
	}
	w := NewWriter(in, never)
	var waves []int
	for _, u := range ids {
		w.NoteBuilt(u, 0, true)
		for _, e := range w.Begin(free) {
			waves = append(waves, len(e.Units))
			w.NoteEnd(e, Wrote)
		}
	}
	require.Equal(t, []int{1, 4, 4, 4, 3}, waves)
	require.Empty(t, w.Finish(in.Nodes))
	whole := "r/c:dbake-" + Cluster{ids}.Name()
	require.Equal(t, []Join{{
		Ref: whole, Cluster: Cluster{ids}.Name(), Units: ids, Parts: []string{whole + "-0", whole + "-1", whole + "-2", whole + "-3", whole + "-4"}, Reason: "5 parts",
	}}, w.Joins())
}

// A node that has built all that was planned for it takes units from another one: they are
// written together.
func TestWriterGathersWhatIsStolen(t *testing.T) {
	in, ids := clusterOf(12, 2)
	w := NewWriter(in, never)
	var waves []int // of the node that steals
	note := func(list []Export) {
		for _, e := range list {
			if e.Node == 1 {
				waves = append(waves, len(e.Units))
			}
			w.NoteEnd(e, Wrote)
		}
	}
	var other []ir.UnitID
	for _, u := range ids {
		if in.Nodes[u] == 0 {
			other = append(other, u)
			continue
		}
		w.NoteBuilt(u, 1, true)
		note(w.Begin(free))
	}
	require.Equal(t, []int{6}, waves)
	for _, u := range other {
		w.NoteBuilt(u, 1, true)
		note(w.Begin(free))
	}
	require.Equal(t, []int{6, 6}, waves)
	require.Empty(t, w.Finish(in.Nodes))
	require.Len(t, w.Joins(), 1)
}

func TestWriterWritesAWholeClusterAtOnce(t *testing.T) {
	in, ids := clusterOf(3, 1)
	w := NewWriter(in, never)
	for _, u := range ids {
		w.NoteBuilt(u, 0, true)
	}
	list := w.Begin(free)
	require.Equal(t, []string{"r/c:dbake-" + Cluster{ids}.Name()}, partRefs(list))
	require.Equal(t, "max", list[0].Entry.Attrs["mode"])
	require.Empty(t, w.Begin(free), "it is under way")
	w.NoteEnd(list[0], Wrote)
	require.Empty(t, w.Joins())
}

func TestWriterWritesOnlyWhatIsNew(t *testing.T) {
	in, ids := clusterOf(4, 2)
	whole := in.Repo.tag(Cluster{ids}.Name(), -1)
	in.Known["r/c"] = []string{whole}
	all := func(ref string, _ ir.UnitID) bool { return ref == "r/c:"+whole }

	w := NewWriter(in, all)
	for _, u := range ids {
		w.NoteBuilt(u, in.Nodes[u], false)
	}
	require.Empty(t, w.Begin(free))
	require.Empty(t, w.Finish(in.Nodes))
	require.Empty(t, w.Joins())

	w = NewWriter(in, all)
	for i, u := range ids {
		w.NoteBuilt(u, in.Nodes[u], i == 2)
	}
	list := append(w.Begin(free), w.Finish(in.Nodes)...)
	require.Len(t, list, 1)
	require.Equal(t, []ir.UnitID{ids[2]}, list[0].Units)
	w.NoteEnd(list[0], Wrote)
	joins := w.Joins()
	require.Len(t, joins, 1)
	require.Equal(t, []string{"r/c:" + whole, "r/c:" + whole + "-0"}, joins[0].Parts)
	require.Equal(t, "r/c:"+whole, joins[0].Base)
	require.Equal(t, ids, joins[0].Units)

	// The base has become too large: all is written anew.
	again := w.Again(joins[0], in.Nodes)
	require.Len(t, again, 2)
	for _, e := range again {
		w.NoteEnd(e, Wrote)
	}
	joins = w.Joins()
	require.Len(t, joins, 1)
	require.Empty(t, joins[0].Base)
	require.Equal(t, partRefs(again), joins[0].Parts)
	require.Nil(t, w.Again(joins[0], in.Nodes))
}

func TestWriterTriesOnceMore(t *testing.T) {
	in, ids := clusterOf(2, 1)
	in.Bytes = []int64{wave, 0, 0}
	w := NewWriter(in, never)
	w.NoteBuilt(ids[0], 0, true)
	list := w.Begin(free)
	require.Len(t, list, 1)
	w.NoteEnd(list[0], Failed)
	w.NoteBuilt(ids[1], 0, true)
	require.Empty(t, w.Begin(free))
	list = w.Finish(in.Nodes)
	require.Equal(t, []string{"r/c:dbake-" + Cluster{ids}.Name()}, partRefs(list))
	w.NoteEnd(list[0], Failed)
	require.Empty(t, w.Joins())
}

// What cannot be joined is left to Decide: a repository that could not be asked, and a
// cluster that is too large to be read as a whole.
func TestWriterLeavesTheRest(t *testing.T) {
	unknown, ids := clusterOf(2, 2)
	unknown.Known = nil
	large, _ := clusterOf(2, 2)
	large.limits.records = 2
	for _, in := range []Input{unknown, large} {
		w := NewWriter(in, never)
		for _, u := range ids {
			w.NoteBuilt(u, in.Nodes[u], true)
		}
		require.Empty(t, w.Begin(free))
		require.Empty(t, w.Finish(in.Nodes))
		require.Len(t, Decide(w.Rest(in.Nodes)).Exports, 2)
	}
	in, _ := clusterOf(2, 2)
	require.Empty(t, Decide(NewWriter(in, never).Rest(in.Nodes)).Exports)
}

func TestWriterPartsOfAClusterThatWasPartlyBuilt(t *testing.T) {
	in, ids := clusterOf(3, 1)
	w := NewWriter(in, never)
	w.NoteBuilt(ids[0], 0, true)
	for _, e := range append(w.Begin(free), w.Finish(map[ir.UnitID]int{ids[0]: 0})...) {
		w.NoteEnd(e, Wrote)
	}
	require.Equal(t, "r/c:dbake-"+Name(ids[:1]), w.Joins()[0].Ref)
}

// Whatever the order of what happens, every unit that was built and is not in the base
// is written once, by the node that built it, and the join holds all.
func TestWriterWritesEachUnitOnce(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		in, ids := clusterOf(1+rng.IntN(20), 1+rng.IntN(4))
		in.Bytes = []int64{rng.Int64N(2 * wave)}
		for range ids {
			in.Bytes = append(in.Bytes, rng.Int64N(wave))
		}
		whole := in.Repo.tag(Cluster{ids}.Name(), -1)
		inBase := map[ir.UnitID]bool{}
		if rng.IntN(2) == 0 {
			in.Known["r/c"] = []string{whole}
			for _, u := range ids {
				inBase[u] = rng.IntN(2) == 0
			}
		}
		w := NewWriter(in, func(_ string, u ir.UnitID) bool { return inBase[u] })
		built, fresh := map[ir.UnitID]int{}, map[ir.UnitID]bool{}
		written := map[ir.UnitID]int{}
		var under []Export
		end := func() {
			i := rng.IntN(len(under))
			e := under[i]
			under = slices.Delete(under, i, i+1)
			how := Wrote
			if rng.IntN(10) == 0 {
				how = Failed
			}
			for _, u := range e.Units {
				if how == Wrote {
					written[u]++
				}
				require.Equal(t, built[u], e.Node)
			}
			w.NoteEnd(e, how)
		}
		for _, i := range rng.Perm(len(ids)) {
			u := ids[i]
			if rng.IntN(8) == 0 {
				continue // it fails
			}
			built[u], fresh[u] = rng.IntN(4), rng.IntN(3) == 0
			w.NoteBuilt(u, built[u], fresh[u])
			under = append(under, w.Begin(free)...)
			for len(under) > 0 && rng.IntN(2) == 0 {
				end()
			}
		}
		for len(under) > 0 {
			end()
		}
		for _, e := range w.Finish(built) {
			for _, u := range e.Units {
				written[u]++
			}
			w.NoteEnd(e, Wrote)
		}
		for u := range built {
			want := 1
			if inBase[u] && !fresh[u] {
				want = 0
			}
			require.Equal(t, want, written[u], "seed %d, %s", seed, u)
		}
		for _, j := range w.Joins() {
			for u := range built {
				require.Contains(t, j.Units, u, "seed %d", seed)
			}
			require.Equal(t, slices.Compact(slices.Sorted(slices.Values(j.Parts))), slices.Sorted(slices.Values(j.Parts)))
		}
	}
}
