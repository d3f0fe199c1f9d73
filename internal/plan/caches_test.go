package plan

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan/plantest"
)

// A cache holds a unit when it holds the results of all its steps.
func TestCachedUnits(t *testing.T) {
	p := newProject(t, plantest.Shop)
	b := p.prepare("app", "web")
	results := map[warm.ResultID]bool{}
	for i, v := range b.Graph.Vertices {
		if v.Kind.IsStep() {
			results[b.Names.list[i].result] = true
		}
	}
	require.Equal(t, map[ir.UnitID]bool{"app": true, "web": true}, b.CachedUnits(results))
	root, ok := b.Graph.Root("web")
	require.True(t, ok)
	delete(results, b.Names.list[b.graph.index[root.Digest]].result)
	require.Equal(t, map[ir.UnitID]bool{"app": true}, b.CachedUnits(results))
	require.Empty(t, b.CachedUnits(nil))
}
