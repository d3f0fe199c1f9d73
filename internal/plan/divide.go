package plan

import (
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/llbmerge"
)

// Divide returns b with a job for each group of platforms in place of a job whose
// steps no single node can run. Units stay together as long as one node can run
// them all; a unit that no node can run is left for [Make] to refuse. The jobs of a
// target follow each other and are named TARGET@PLATFORM,….
func (b *Build) Divide(nodes []Node) *Build {
	needs := map[string][]ocispecs.Platform{} // by unit
	for _, v := range b.Graph.Vertices {
		if v.Kind != llbmerge.KindExec || v.Platform == nil {
			continue
		}
		for _, u := range v.Users {
			needs[u] = append(needs[u], *v.Platform)
		}
	}
	fits := func(units ...*frontend.Unit) bool {
		return slices.ContainsFunc(nodes, func(n Node) bool {
			for _, u := range units {
				if slices.ContainsFunc(needs[string(u.ID)], func(p ocispecs.Platform) bool { return !n.runs(p) }) {
					return false
				}
			}
			return true
		})
	}
	out := *b
	out.Jobs = nil
	for _, j := range b.Jobs {
		if len(j.Units) < 2 || fits(j.Units...) {
			out.Jobs = append(out.Jobs, j)
			continue
		}
		var groups [][]*frontend.Unit
		for _, u := range j.Units {
			// First fit, so that no node can run two of the groups: parts of
			// a target never meet on one node.
			i := slices.IndexFunc(groups, func(g []*frontend.Unit) bool { return fits(append(slices.Clone(g), u)...) })
			if i < 0 {
				groups = append(groups, nil)
				i = len(groups) - 1
			}
			groups[i] = append(groups[i], u)
		}
		for _, g := range groups {
			var names []string
			for _, u := range g {
				names = append(names, platforms.Format(u.Platform))
			}
			out.Jobs = append(out.Jobs, Job{Name: j.Name + "@" + strings.Join(names, ","), Target: j.Target, Units: g})
		}
	}
	out.exports = out.predictExports()
	return &out
}

// runs reports whether the node can run steps of a platform.
func (n Node) runs(p ocispecs.Platform) bool {
	return len(n.Platforms) == 0 || slices.ContainsFunc(n.Platforms, func(have ocispecs.Platform) bool {
		return platforms.Only(have).Match(p)
	})
}
