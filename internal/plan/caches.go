package plan

import (
	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/warm"
)

// Caches returns the input of the cache policy, as far as it is known before a node is chosen.
// Units are in one cluster when they share a step: what stands behind a shared step is then in
// the same cache as the step itself. Unlike predicted costs, clusters are the same in every
// run.
func (b *Build) Caches(stores ...cachepolicy.Store) cachepolicy.Input {
	in := cachepolicy.Input{NoCache: true, Records: map[ir.UnitID][]int{}}
	if len(stores) > 0 {
		in.Store, in.More = stores[0], stores[1:]
	}
	var ids []ir.UnitID
	for _, u := range b.Units {
		in.Units = append(in.Units, ir.Unit{ID: u.ID, Target: u.Target})
		in.NoCache = in.NoCache && u.Target.NoCache != nil && *u.Target.NoCache
		ids = append(ids, u.ID)
	}
	in.Bytes = make([]int64, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		if v.Kind.IsStep() {
			in.Bytes[i] = b.Costs[i].Bytes
		}
		for _, u := range v.Users {
			in.Records[ir.UnitID(u)] = append(in.Records[ir.UnitID(u)], i)
		}
	}
	in.Clusters = cachepolicy.Group(ids, in.Records, func(v int) bool {
		return b.Graph.Vertices[v].Kind.IsStep()
	})
	return in
}

// WithCache returns b knowing that these results are in a cache that every node can
// read.
func (b *Build) WithCache(results map[warm.ResultID]bool) *Build {
	out := *b
	out.cached = results
	return &out
}

// CachedUnits returns the units whose steps all have their results among those given. A step
// that ignores the cache has no result there that counts.
func (b *Build) CachedUnits(results map[warm.ResultID]bool) map[ir.UnitID]bool {
	units := map[ir.UnitID]bool{}
	for _, u := range b.Units {
		units[u.ID] = true
	}
	for i, v := range b.Graph.Vertices {
		if !v.Kind.IsStep() || results[b.Names.list[i].result] && !v.IgnoreCache {
			continue
		}
		for _, u := range v.Users {
			delete(units, ir.UnitID(u))
		}
	}
	return units
}
