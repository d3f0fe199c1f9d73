package runtime

import (
	"testing"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/nodeset"
)

// Of the caches that targets ask for, those are told whose content is known for
// sure.
func TestWrittenCaches(t *testing.T) {
	shared, own, undone, others := digest.FromString("shared"), digest.FromString("own"), digest.FromString("undone"), digest.FromString("others")
	graph := &llbmerge.Graph{Vertices: []*llbmerge.Vertex{
		{Digest: digest.FromString("source"), Kind: llbmerge.KindImage, Users: []string{"a", "b"}},
		{Digest: shared, Kind: llbmerge.KindExec, Users: []string{"a", "b"}},
		{Digest: own, Kind: llbmerge.KindExec, Users: []string{"a"}},
		{Digest: undone, Kind: llbmerge.KindExec, Users: []string{"a"}},
		{Digest: others, Kind: llbmerge.KindExec, Users: []string{"b"}},
	}}
	n := &nodeRun{info: NodeInfo{Spec: nodeset.Spec{Name: "n1"}}, tracker: newTracker(yes, yes)}
	for _, d := range []digest.Digest{shared, own, others} {
		n.tracker.observe(vertex(d, at(0), at(1)), &solveSource{})
	}
	entry := func(attrs ...string) ir.CacheEntry {
		e := ir.CacheEntry{Type: "registry", Attrs: map[string]string{"ref": "r/c:1"}}
		for i := 0; i < len(attrs); i += 2 {
			e.Attrs[attrs[i]] = attrs[i+1]
		}
		return e
	}
	for name, c := range map[string]struct {
		entry ir.CacheEntry
		state State
		want  []WrittenCache
	}{
		"whole":           {entry("mode", "max"), Done, []WrittenCache{{Ref: "r/c:1", Steps: []digest.Digest{shared, own}}}},
		"last steps only": {entry(), Done, nil},
		"failed":          {entry("mode", "max"), Failed, nil},
		"perhaps":         {entry("mode", "max", "ignore-error", "true"), Done, nil},
		"in a directory":  {ir.CacheEntry{Type: "local", Attrs: map[string]string{"mode": "max", "dest": "d"}}, Done, nil},
	} {
		t.Run(name, func(t *testing.T) {
			target := &ir.Target{Name: "a"}
			a := newAccounts(newWork(&Build{Graph: graph, Jobs: []plan.Job{{Name: "a", Target: target, Units: []*frontend.Unit{{ID: "a", Target: target}}}}}))
			a.results[0].Node, a.results[0].State = "n1", c.state
			written := a.writtenCaches(&caches{byUnit: map[ir.UnitID][]ir.CacheEntry{"a": {c.entry}}}, nodeRuns{n})
			require.Equal(t, c.want, written)
		})
	}
}

// A cache that its target need not write is reported when it could not be written: once,
// of the last try, and not beside the error of a target that failed.
func TestUnwrittenCaches(t *testing.T) {
	exporting := func(err string) *bkclient.SolveStatus {
		return &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Name: "exporting cache to registry", Error: err}, {Name: "exporting to image", Error: "of no cache"}}}
	}
	job := func(name string) plan.Job { return plan.Job{Name: name, Target: &ir.Target{Name: name}} }
	a := newAccounts(newWork(&Build{Graph: &llbmerge.Graph{}, Jobs: []plan.Job{job("a"), job("b"), job("c"), job("d")}}))
	for i, state := range []State{Done, Failed, Done, Done} {
		a.results[i].State = state
	}
	x := unwritten{}
	one, two := &solveSource{job: "a", output: 1}, &solveSource{job: "a", output: 2}
	for range 2 {
		x.note(one, exporting("refused"))
		x.note(two, exporting(""))
	}
	x.note(&solveSource{job: "b"}, exporting("refused"))
	x.note(&solveSource{job: "c"}, exporting("refused at first"))
	x.note(&solveSource{job: "c"}, exporting(""))
	x.note(&solveSource{targets: []string{"d"}}, exporting("of the shared cache"))
	x.note(nil, exporting("of nobody"))
	x.note(&solveSource{job: "d", output: 1}, &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Name: "exporting to GitHub Actions Cache", Error: "refused"}}})
	var warnings []string
	a.warnUnwritten(x, func(text string) { warnings = append(warnings, text) })
	require.Equal(t, []string{
		"target a: the cache cannot be written to registry: refused",
		"target d: the cache cannot be written to the cache of GitHub Actions: refused",
	}, warnings)
}
