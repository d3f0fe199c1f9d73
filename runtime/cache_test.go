package runtime

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/nodeset"
)

// Of the caches that targets ask for, those are reported whose content is certain.
func TestWrittenCaches(t *testing.T) {
	shared, own, undone, others := digest.FromString("shared"), digest.FromString("own"), digest.FromString("undone"), digest.FromString("others")
	graph := &llbmerge.Graph{Vertices: []*llbmerge.Vertex{
		{Digest: digest.FromString("source"), Kind: llbmerge.KindImage, Users: []string{"a", "b"}},
		{Digest: shared, Kind: llbmerge.KindExec, Users: []string{"a", "b"}},
		{Digest: own, Kind: llbmerge.KindExec, Users: []string{"a"}},
		{Digest: undone, Kind: llbmerge.KindExec, Users: []string{"a"}},
		{Digest: others, Kind: llbmerge.KindExec, Users: []string{"b"}},
	}}
	n := &nodeRun{info: daemon.NodeInfo{Spec: nodeset.Spec{Name: "n1"}}, tracker: newTracker(yes, yes)}
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
	x.note(&solveSource{job: "d", output: 2}, exporting("failed to solve: Canceled: context canceled"))
	x.note(&solveSource{job: "d", output: 1}, &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Name: "exporting to GitHub Actions Cache", Error: "refused"}}})
	var warnings []string
	a.warnUnwritten(x, func(text string) { warnings = append(warnings, text) })
	require.Equal(t, []string{
		"target a: the cache cannot be written to registry: refused",
		"target d: the cache cannot be written to the cache of GitHub Actions: refused",
	}, warnings)
}

// exporter notes what it is asked to export, and fails as the test says.
type exporter struct {
	daemon.Daemon
	asked []string
	fails map[string]error
}

func (d *exporter) Export(_ context.Context, req daemon.ExportRequest, _ func(*bkclient.SolveStatus)) (map[string]string, error) {
	what := "nothing"
	if req.Entry != nil {
		what = req.Entry.Type
	}
	for _, c := range req.CacheTo {
		what += " and " + c.Type
	}
	d.asked = append(d.asked, what)
	return map[string]string{"containerimage.digest": "sha256:" + what, cacheentry.ManifestKey: "of " + what}, d.fails[what]
}

// Caches that need not be written are written when the outputs are, by a solve of their
// own: what they are in may fall silent. Others are parts of what was asked for.
func TestSpareCaches(t *testing.T) {
	mute := &fault.Rejected{Err: errors.New("the service for caches of type s3 has not answered for 45s")}
	spare := map[string]string{"ignore-error": "true"}
	for name, tt := range map[string]struct {
		caches  []ir.CacheEntry
		outputs []ir.Output
		fails   map[string]error
		asked   []string
		cache   any    // what the metadata says of one
		why     string // a cache was not written
		err     string
	}{
		"none":          {outputs: []ir.Output{{Type: "registry"}}, asked: []string{"image"}, cache: "of image"},
		"required":      {caches: []ir.CacheEntry{{Type: "s3"}}, outputs: []ir.Output{{Type: "registry"}}, asked: []string{"image and s3"}, cache: "of image and s3"},
		"spare":         {caches: []ir.CacheEntry{{Type: "s3", Attrs: spare}}, outputs: []ir.Output{{Type: "registry"}}, asked: []string{"image", "nothing and s3"}, cache: "of nothing and s3"},
		"inline":        {caches: []ir.CacheEntry{{Type: "inline", Attrs: spare}}, outputs: []ir.Output{{Type: "registry"}}, asked: []string{"image and inline"}, cache: "of image and inline"},
		"both":          {caches: []ir.CacheEntry{{Type: "gha", Attrs: spare}, {Type: "s3"}}, outputs: []ir.Output{{Type: "registry"}}, asked: []string{"image and s3", "nothing and gha"}, cache: "of nothing and gha"},
		"no output":     {caches: []ir.CacheEntry{{Type: "gha", Attrs: spare}, {Type: "s3"}}, asked: []string{"nothing and s3", "nothing and gha"}, cache: "of nothing and gha"},
		"spare alone":   {caches: []ir.CacheEntry{{Type: "gha", Attrs: spare}}, asked: []string{"nothing and gha"}},
		"spare fails":   {caches: []ir.CacheEntry{{Type: "s3", Attrs: spare}}, outputs: []ir.Output{{Type: "registry"}}, fails: map[string]error{"nothing and s3": mute}, asked: []string{"image", "nothing and s3"}, cache: "of image", why: "the service for caches of type s3 has not answered for 45s"},
		"required dies": {caches: []ir.CacheEntry{{Type: "s3"}, {Type: "gha", Attrs: spare}}, outputs: []ir.Output{{Type: "registry"}}, fails: map[string]error{"image and s3": mute}, asked: []string{"image and s3"}, err: "write output of type image: the service for caches of type s3 has not answered for 45s"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBuild(t, 1, "a")
			b.Jobs[0].Target.Outputs = tt.outputs
			w := newWork(b)
			ws := newWorkers(1)
			unit := b.Jobs[0].Units[0]
			x, err := newExports(w, &caches{byUnit: map[ir.UnitID][]ir.CacheEntry{unit.ID: tt.caches}}, nil, ws, nil)
			require.NoError(t, err)
			d := &exporter{fails: tt.fails}
			p := &submission{conn: &daemon.Connection{Daemon: d}, ctx: t.Context(), node: &nodeRun{}}
			got, err := x.write(p, 0, lookups{})
			require.Equal(t, tt.asked, d.asked)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			for _, r := range got.responses {
				require.Equal(t, tt.cache, r.Values[cacheentry.ManifestKey])
			}
			require.LessOrEqual(t, len(tt.outputs), len(got.responses))
			warned := unwritten{}
			warned.note(got.spare.from, &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Name: "exporting cache to s3", Error: "context canceled"}}})
			warned.fail(got.spare)
			if tt.why != "" {
				require.Equal(t, []string{"the cache cannot be written: " + tt.why}, warned.of("a"))
			}
		})
	}
}

// A cache is read by the solves of units that need it. Nobody reads it as long as all goes as
// planned, if the nodes keep all results of all these units.
func TestImportsOfKeptResults(t *testing.T) {
	entry := func(ref string) ir.CacheEntry {
		return ir.CacheEntry{Type: ir.TypeRegistry, Attrs: map[string]string{"ref": ref}}
	}
	job := func(u ir.UnitID) plan.Job { return plan.Job{Name: string(u), Units: []*frontend.Unit{{ID: u}}} }
	for name, tt := range map[string]struct {
		kept      []ir.UnitID
		jobs      []plan.Job
		unplanned bool
		want      []ir.CacheEntry
	}{
		"nothing is kept":              {jobs: []plan.Job{job("a")}, want: []ir.CacheEntry{entry("ab"), entry("all")}},
		"of one":                       {kept: []ir.UnitID{"a"}, jobs: []plan.Job{job("a")}, want: []ir.CacheEntry{entry("ab"), entry("all")}},
		"of a cluster":                 {kept: []ir.UnitID{"a", "b"}, jobs: []plan.Job{job("a")}, want: []ir.CacheEntry{entry("all")}},
		"of a cluster, with another":   {kept: []ir.UnitID{"a", "b"}, jobs: []plan.Job{job("a"), job("c")}, want: []ir.CacheEntry{entry("c"), entry("all")}},
		"of all":                       {kept: []ir.UnitID{"a", "b", "c"}, jobs: []plan.Job{job("a"), job("c")}},
		"of all, and not as planned":   {kept: []ir.UnitID{"a", "b", "c"}, jobs: []plan.Job{job("c")}, unplanned: true, want: []ir.CacheEntry{entry("c"), entry("all")}},
		"of what is not built as well": {kept: []ir.UnitID{"a", "b", "c", "d"}, jobs: []plan.Job{job("a")}},
	} {
		t.Run(name, func(t *testing.T) {
			c := &caches{
				input: cachepolicy.Input{Nodes: map[ir.UnitID]int{"a": 0, "b": 1, "c": 0}},
				imports: []cachepolicy.Import{
					{Entry: entry("ab"), Units: []ir.UnitID{"a", "b"}}, {Entry: entry("c"), Units: []ir.UnitID{"c", "d"}}, {Entry: entry("all")},
				},
			}
			kept := map[ir.UnitID]bool{}
			for _, u := range tt.kept {
				kept[u] = true
			}
			c.findIdle(kept)
			require.Equal(t, tt.want, c.importsOf(tt.jobs, !tt.unplanned))
		})
	}
}

// What comes to another node than planned reads the caches, although all nodes keep all
// results.
func TestCachesAreReadAfterALoss(t *testing.T) {
	for name, lost := range map[string]bool{"as planned": false, "lost": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 2, "a", "b")
				withCaches(t, b)
				b.Kept = map[ir.UnitID]bool{}
				for _, j := range b.Jobs {
					b.Kept[j.Units[0].ID] = true
				}
				f := newFleet(t, b)
				if lost {
					time.AfterFunc(500*time.Millisecond, func() { close(f.nodes[1].dead) })
				}
				res, _, err := f.run(t.Context(), b)
				require.NoError(t, err)
				require.Equal(t, all(Done, "a", "b"), states(res))
				require.Equal(t, []int{0}, f.nodes[1].imports)
				if !lost {
					require.Equal(t, []int{0}, f.nodes[0].imports)
					return
				}
				require.Len(t, f.nodes[0].imports, 2)
				require.Zero(t, f.nodes[0].imports[0])
				require.NotZero(t, f.nodes[0].imports[1])
			})
		})
	}
}
