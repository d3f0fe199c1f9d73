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
			r := &run{
				Build:   &Build{Graph: graph, Jobs: []plan.Job{{Name: "a", Units: []*frontend.Unit{{ID: "a"}}}}},
				nodes:   []*nodeRun{n},
				steps:   map[ir.UnitID][]digest.Digest{"a": {shared, own, undone}, "b": {shared, others}},
				results: []JobResult{{Job: "a", Node: "n1", State: c.state}},
				caches:  caches{byUnit: map[ir.UnitID][]ir.CacheEntry{"a": {c.entry}}},
			}
			r.writtenByTargets()
			require.Equal(t, c.want, r.caches.written)
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
	r := &run{
		Build:   &Build{Jobs: []plan.Job{job("a"), job("b"), job("c"), job("d")}},
		results: []JobResult{{State: Done}, {State: Failed}, {State: Done}, {State: Done}},
	}
	one, two := &solveSource{job: "a", output: 1}, &solveSource{job: "a", output: 2}
	for range 2 {
		r.noteExports(one, exporting("refused"))
		r.noteExports(two, exporting(""))
	}
	r.noteExports(&solveSource{job: "b"}, exporting("refused"))
	r.noteExports(&solveSource{job: "c"}, exporting("refused at first"))
	r.noteExports(&solveSource{job: "c"}, exporting(""))
	r.noteExports(&solveSource{targets: []string{"d"}}, exporting("of the shared cache"))
	r.noteExports(nil, exporting("of nobody"))
	r.warnUnwritten()
	require.Equal(t, []string{"target a: the cache cannot be written to registry: refused"}, r.caches.warnings)
}
