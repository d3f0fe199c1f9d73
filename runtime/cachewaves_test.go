package runtime

import (
	"testing"
	"testing/synctest"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
)

// What the cache of a cluster is known to hold is not written again; what is built anew
// is written alone, and joined to it.
func TestCachesGetOnlyWhatIsNew(t *testing.T) {
	for name, tc := range map[string]struct {
		known bool // the ledger knows the ref
		runs  bool // a step of the first job is run
		more  bool // there is a target that is not built
		want  []string
	}{
		"nothing new":     {known: true},
		"one job":         {known: true, runs: true, want: []string{"-0"}},
		"one is left out": {known: true, runs: true, more: true, want: []string{"-0"}},
		"not remembered":  {runs: true, want: []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 1, names...)
				withCaches(t, b)
				held, ids := map[digest.Digest]bool{}, []ir.UnitID{}
				for _, j := range b.Jobs {
					ids = append(ids, j.Units[0].ID)
					b.Cache.Records[j.Units[0].ID] = nil
				}
				for i, v := range b.Graph.Vertices {
					held[v.Digest] = true
					for _, u := range v.Users {
						b.Cache.Records[ir.UnitID(u)] = append(b.Cache.Records[ir.UnitID(u)], i)
					}
				}
				if tc.more {
					// A target that is not built, as its image is unchanged.
					b.Cache.Units = append(b.Cache.Units, ir.Unit{ID: "zz", Target: &ir.Target{Name: "zz"}})
					b.Cache.Records["zz"] = []int{0, 999}
					ids = append(ids, "zz")
					b.Cache.Clusters = []cachepolicy.Cluster{{Units: ids}}
				}
				tag := "dbake-" + cachepolicy.Name(ids)
				ref := "example.com/cache:" + tag
				b.Cache.Known = map[string][]string{"example.com/cache": {tag}}
				if tc.known {
					b.CacheHolds = map[string]map[ir.UnitID]bool{ref: {}}
					for _, u := range ids {
						b.CacheHolds[ref][u] = true
					}
				}
				f := newFleet(t, b)
				for d := range held {
					f.nodes[0].held[d] = true
				}
				if tc.runs {
					root, ok := b.Graph.Root(names[0])
					require.True(t, ok)
					delete(f.nodes[0].held, root.Digest)
				}
				res, _, err := f.run(t.Context(), b)
				require.NoError(t, err)
				require.Equal(t, all(Done, names...), states(res))
				var want []string
				for _, suffix := range tc.want {
					want = append(want, ref+suffix)
				}
				require.Equal(t, want, f.nodes[0].caches)
			})
		})
	}
}
