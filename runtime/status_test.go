package runtime

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/nodeset"
)

var (
	start  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	step   = digest.FromString("step")
	source = digest.FromString("source")
)

func yes(digest.Digest) bool { return true }

// at is a time in seconds from start.
func at(s float64) *time.Time {
	t := start.Add(time.Duration(s * float64(time.Second)))
	return &t
}

func vertex(d digest.Digest, started, completed *time.Time) *bkclient.SolveStatus {
	return &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Digest: d, Started: started, Completed: completed}}}
}

func TestTracker(t *testing.T) {
	tr := newTracker(func(d digest.Digest) bool { return d == step }, yes)
	observe := func(st *bkclient.SolveStatus, export bool) (shown int, changes []change) {
		fresh, changes := tr.observe(st, &solveSource{export: export})
		return len(fresh.Vertexes), changes
	}

	shown, changes := observe(vertex(step, nil, nil), false)
	require.Equal(t, 1, shown)
	require.Empty(t, changes)
	shown, changes = observe(vertex(step, at(0), nil), false)
	require.Equal(t, 1, shown)
	require.Equal(t, []change{{vertex: step}}, changes)
	shown, changes = observe(vertex(step, at(0), at(2)), false)
	require.Equal(t, 1, shown)
	require.Equal(t, []change{{vertex: step, done: true, took: 2 * time.Second}}, changes)

	// Another stream repeats the same from the start.
	for _, st := range []*bkclient.SolveStatus{vertex(step, nil, nil), vertex(step, at(0), nil), vertex(step, at(0), at(2))} {
		shown, changes = observe(st, false)
		require.Zero(t, shown)
		require.Empty(t, changes)
	}
	// An export finds it cached.
	cached := vertex(step, at(3), at(3))
	cached.Vertexes[0].Cached = true
	shown, changes = observe(cached, true)
	require.Zero(t, shown)
	require.Empty(t, changes)
	require.Len(t, tr.vertices[step].runs, 1)

	// It really runs again.
	_, changes = observe(vertex(step, at(5), at(6)), false)
	require.Equal(t, []change{{vertex: step, repeated: true}}, changes, "its result was there already")
	require.Len(t, tr.vertices[step].runs, 2)

	// The end of a source's first phase says nothing about its result.
	shown, changes = observe(vertex(source, at(0), at(1)), false)
	require.Equal(t, 1, shown)
	require.Empty(t, changes)

	// What only an export does is shown.
	shown, _ = observe(vertex(digest.FromString("exporting"), at(7), nil), true)
	require.Equal(t, 1, shown)
}

// What nodes spend time on beside steps: base images that were not there, and
// outputs.
func TestMeasured(t *testing.T) {
	fetched, present := digest.FromString("fetched"), digest.FromString("present")
	isStep := func(d digest.Digest) bool { return d == step }
	isShared := func(d digest.Digest) bool { return d == step || d == fetched || d == present }
	n := &nodeRun{info: daemon.NodeInfo{Spec: nodeset.Spec{Name: "n1", Addr: "tcp://n1"}}, tracker: newTracker(isStep, isShared)}
	evaluate := func(st *bkclient.SolveStatus) { n.tracker.observe(st, &solveSource{}) }
	evaluate(vertex(fetched, at(0), at(1)))
	evaluate(vertex(present, at(0), at(1)))
	evaluate(&bkclient.SolveStatus{Statuses: []*bkclient.VertexStatus{{Vertex: fetched, ID: "extracting sha256:1"}}})
	evaluate(vertex(fetched, at(1), at(3)))
	evaluate(vertex(step, at(3), at(4)))
	export := &solveSource{job: "web@linux/amd64,linux/arm64", export: true, output: 2, id: "web 2"}
	for _, d := range []digest.Digest{digest.FromString("a"), digest.FromString("b")} {
		st := vertex(d, at(5), at(6))
		st.Vertexes[0].Name = "exporting to image"
		n.tracker.observe(st, export)
	}
	graph := &llbmerge.Graph{Vertices: []*llbmerge.Vertex{
		{Digest: fetched, Kind: llbmerge.KindImage}, {Digest: present, Kind: llbmerge.KindImage}, {Digest: step, Kind: llbmerge.KindExec},
	}}
	const job = "web@linux/amd64,linux/arm64"
	require.Equal(t, []plan.Measurement{
		{Node: "tcp://n1", Vertex: fetched, Start: *at(0), Took: time.Second},
		{Node: "tcp://n1", Vertex: fetched, Start: *at(1), Took: 2 * time.Second},
		{Node: "tcp://n1", Vertex: step, Start: *at(3), Took: time.Second},
		{Node: "tcp://n1", Job: job, Start: *at(5), Took: time.Second},
		{Node: "tcp://n1", Job: job, Start: *at(5), Took: time.Second},
	}, n.measurements(graph))
}

func TestTrackerCachedAndFailed(t *testing.T) {
	tr := newTracker(yes, yes)
	cached := vertex(step, at(0), at(0))
	cached.Vertexes[0].Cached = true
	fresh, changes := tr.observe(cached, &solveSource{})
	require.Len(t, fresh.Vertexes, 1)
	require.Equal(t, []change{{vertex: step, done: true, cached: true}}, changes)
	require.True(t, tr.vertices[step].cached)
	require.Empty(t, tr.vertices[step].runs)
	fresh, changes = tr.observe(cached, &solveSource{})
	require.Empty(t, fresh.Vertexes)
	require.Empty(t, changes)

	// Without its end it would be shown as unfinished for ever: a display counts each start.
	begun := vertex(digest.FromString("fetched"), at(0), nil)
	begun.Vertexes[0].Cached = true
	fresh, changes = tr.observe(begun, &solveSource{})
	require.Empty(t, fresh.Vertexes)
	require.Empty(t, changes)

	failed := vertex(source, at(0), at(1))
	failed.Vertexes[0].Error = "exit code: 1"
	fresh, changes = tr.observe(failed, &solveSource{})
	require.Len(t, fresh.Vertexes, 1, "the failure is shown")
	require.Empty(t, changes)
	require.False(t, tr.vertices[source].done)
}

// A result that is fetched from a cache looks like an execution, but for its layers.
func TestTrackerFetched(t *testing.T) {
	for name, late := range map[string]bool{"layers first": false, "layers last": true} {
		t.Run(name, func(t *testing.T) {
			tr := newTracker(yes, yes)
			layer := &bkclient.SolveStatus{Statuses: []*bkclient.VertexStatus{{ID: "extracting sha256:1", Vertex: step, Timestamp: *at(1)}}}
			if !late {
				tr.observe(layer, &solveSource{})
			}
			tr.observe(vertex(step, at(0), at(2)), &solveSource{})
			if late {
				require.Len(t, tr.vertices[step].runs, 1)
				tr.observe(layer, &solveSource{})
			}
			require.Empty(t, tr.vertices[step].runs)
			require.True(t, tr.vertices[step].cached)
			require.True(t, tr.vertices[step].done)
		})
	}
}

// A result that could not be read is made anew. What is said of the lost one meanwhile, by
// builds that have not failed yet, neither hides the execution nor ends it.
func TestTrackerLost(t *testing.T) {
	found := func(s float64) *bkclient.SolveStatus {
		st := vertex(step, at(s), at(s))
		st.Vertexes[0].Cached = true
		return st
	}
	layers := func(s float64) *bkclient.SolveStatus {
		return &bkclient.SolveStatus{Statuses: []*bkclient.VertexStatus{{ID: "sha256:1", Vertex: step, Timestamp: *at(s)}}}
	}
	runs := []*bkclient.SolveStatus{vertex(step, nil, nil), vertex(step, at(10), nil), vertex(step, at(10), at(12))}
	for name, heard := range map[string]struct{ before, between, after []*bkclient.SolveStatus }{
		"nothing else":              {},
		"it was found, once more":   {before: []*bkclient.SolveStatus{found(1)}},
		"it was found elsewhere":    {before: []*bkclient.SolveStatus{found(11)}},
		"found after it began":      {between: []*bkclient.SolveStatus{found(1), found(11)}},
		"somebody fetches it":       {between: []*bkclient.SolveStatus{layers(11)}},
		"somebody has fetched it":   {after: []*bkclient.SolveStatus{layers(11)}},
		"a fetch before that ended": {before: []*bkclient.SolveStatus{vertex(step, at(2), at(3))}},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTracker(yes, yes)
			var changes []change
			observe := func(list ...*bkclient.SolveStatus) {
				for _, st := range list {
					_, more := tr.observe(st, &solveSource{})
					changes = append(changes, more...)
				}
			}
			observe(found(1), layers(2), vertex(source, at(4), at(5)))
			require.True(t, tr.status(step).done)
			tr.forget(step)
			changes = nil
			observe(heard.before...)
			require.Empty(t, changes)
			require.False(t, tr.status(step).done)
			observe(runs[:2]...)
			observe(heard.between...)
			require.False(t, tr.status(step).done)
			observe(runs[2:]...)
			observe(heard.after...)
			require.Equal(t, []change{{vertex: step}, {vertex: step, done: true, took: 2 * time.Second}}, changes)
			require.Len(t, tr.status(step).runs, 1)
			require.False(t, tr.status(step).cached)
		})
	}
}

// A search for lost results, or an export, may execute what has been lost since. What they only
// find or fetch changes nothing.
func TestTrackerExecutedElsewhere(t *testing.T) {
	prints := func(st *bkclient.SolveStatus, s float64) *bkclient.SolveStatus {
		st.Logs = []*bkclient.VertexLog{{Vertex: step, Data: []byte("hello\n"), Timestamp: *at(s)}}
		return st
	}
	fetched := vertex(step, at(10), at(12))
	fetched.Statuses = []*bkclient.VertexStatus{{ID: "sha256:1", Vertex: step, Timestamp: *at(11)}}
	failed := vertex(step, at(10), at(12))
	failed.Vertexes[0].Error = "gone"
	search, export := &solveSource{search: true}, &solveSource{export: true}
	found := vertex(step, at(0), at(0))
	found.Vertexes[0].Cached = true
	first := []change{{vertex: step, done: true, took: 2 * time.Second}}
	again := []change{{vertex: step, repeated: true}}
	for name, tt := range map[string]struct {
		before *bkclient.SolveStatus
		from   *solveSource
		st     *bkclient.SolveStatus
		want   []change
	}{
		"a search executes":                 {from: search, st: vertex(step, at(10), at(12)), want: first},
		"a search executes again":           {before: vertex(step, at(0), at(1)), from: search, st: vertex(step, at(10), at(12)), want: again},
		"a search finds":                    {from: search, st: found},
		"a search begins":                   {from: search, st: vertex(step, at(10), nil)},
		"a search fetches":                  {from: search, st: fetched},
		"a search fails":                    {from: search, st: failed},
		"an export fetches what it had":     {before: vertex(step, at(0), at(1)), from: export, st: fetched},
		"an export repeats":                 {before: vertex(step, at(0), at(1)), from: export, st: vertex(step, at(0), at(1))},
		"an export executes again":          {before: vertex(step, at(0), at(1)), from: export, st: prints(vertex(step, at(10), at(12)), 11), want: again},
		"it had been found":                 {before: found, from: export, st: prints(vertex(step, at(10), at(12)), 11), want: again},
		"it had printed":                    {before: prints(vertex(step, at(0), at(1)), 0.5), from: export, st: vertex(step, at(10), at(12))},
		"an export executes what was named": {before: vertex(step, nil, nil), from: export, st: vertex(step, at(10), at(12)), want: first},
		"an export fetches what was named":  {before: vertex(step, nil, nil), from: export, st: fetched},
		"an export finds what was named":    {before: vertex(step, nil, nil), from: export, st: found},
		"an export is said nothing of":      {before: found, from: export, st: vertex(step, at(10), at(12))},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTracker(yes, yes)
			runs := 0
			if tt.before != nil {
				tr.observe(tt.before, &solveSource{})
				runs = len(tr.status(step).runs)
			}
			_, changes := tr.observe(tt.st, tt.from)
			require.Equal(t, tt.want, changes)
			require.Len(t, tr.status(step).runs, runs+len(tt.want))
			require.Equal(t, tt.before == found && tt.want == nil, tr.status(step).cached)
		})
	}
}

func TestTrackerLogs(t *testing.T) {
	tr := newTracker(yes, yes)
	logs := func(list ...*bkclient.VertexLog) int {
		fresh, _ := tr.observe(&bkclient.SolveStatus{Logs: list}, &solveSource{})
		return len(fresh.Logs)
	}
	line := func(s float64, data string) *bkclient.VertexLog {
		return &bkclient.VertexLog{Vertex: step, Data: []byte(data), Timestamp: *at(s)}
	}
	require.Equal(t, 2, logs(line(1, "one\r\ntw"), line(2, "o\nthree")))
	require.Zero(t, logs(line(1, "one\r\ntw"), line(2, "o\nthree")), "replayed by another stream")
	require.Equal(t, []string{"one", "two", "three"}, tr.logTail(step))
	for i := range 100 {
		require.Equal(t, 1, logs(line(float64(10+i), fmt.Sprintf("-%d\n", i))))
	}
	tail := tr.logTail(step)
	require.Len(t, tail, tailLines)
	require.Equal(t, "-99", tail[tailLines-1])
	require.Empty(t, tr.logTail(source))
}

// A node that left output out repeats the end of standard output behind what the step
// said at last on standard error.
func TestTailOfClippedOutput(t *testing.T) {
	much := strings.Repeat("much\n", 1000)
	var tail outputTail
	tail.add(1, much)
	tail.add(standardError, "a warning\n")
	tail.add(1, much)
	require.NotContains(t, tail.lines(), "a warning", "it was not the last word")
	tail.add(1, "\n"+clippedOutput+"200KiB/s reached]\n")
	tail.add(standardError, "the real error\nand its place")
	tail.add(1, much)
	lines := tail.lines()
	require.Len(t, lines, tailLines)
	require.Equal(t, []string{"much", "a warning", "the real error", "and its place"}, lines[tailLines-4:])
	for i := range 30 {
		tail.add(standardError, fmt.Sprintf("\nerror %d", i))
	}
	require.Equal(t, "error 29", tail.lines()[tailLines], "the line still being written comes on top")
	tail.add(1, much)
	lines = tail.lines()
	require.Len(t, lines, tailLines)
	require.Equal(t, "much", lines[tailLines-errorLines-1])
	require.Equal(t, "error 20", lines[tailLines-errorLines])

	var short outputTail
	short.add(standardError, "error\n")
	short.add(1, clippedOutput+"2MiB reached]\n")
	require.Equal(t, []string{"error", clippedOutput + "2MiB reached]"}, short.lines())
}

// Exports are kept apart whose vertices have one digest; what an evaluation has
// reported is not reported again.
func TestOwn(t *testing.T) {
	exporter, importing := digest.FromString("exporter of the session"), digest.FromString("importing cache manifest")
	message := func() []*bkclient.SolveStatus {
		return []*bkclient.SolveStatus{
			{Vertexes: []*bkclient.Vertex{
				{Digest: exporter, Name: "exporting to image", Started: at(3)},
				{Digest: step, Name: "RUN exporting", Started: at(3), Completed: at(3), Cached: true},
				{Digest: importing, Name: "importing cache manifest from x", Started: at(3)},
			}},
			{
				Statuses: []*bkclient.VertexStatus{{ID: "pushing layers", Vertex: exporter}, {ID: "x", Vertex: step}},
				Logs:     []*bkclient.VertexLog{{Vertex: exporter, Timestamp: *at(4)}}, Warnings: []*bkclient.VertexWarning{{Vertex: exporter}},
			},
		}
	}
	tr := newTracker(func(d digest.Digest) bool { return d == step }, func(d digest.Digest) bool { return d == step })
	tr.observe(vertex(step, at(0), at(1)), &solveSource{targets: []string{"a", "b"}})
	tr.observe(vertex(importing, at(0), at(1)), &solveSource{targets: []string{"a", "b"}})
	seen := map[digest.Digest]bool{}
	for i, name := range []string{"a", "b"} {
		from := &solveSource{targets: []string{name}, job: name, export: true, id: name, output: i}
		list := message()
		first, _ := tr.observe(list[0], from)
		second, _ := tr.observe(list[1], from)
		require.Len(t, first.Vertexes, 1)
		v := first.Vertexes[0]
		require.Equal(t, []string{"exporting to image", "exporting to image (output 1)"}[i], v.Name)
		require.False(t, seen[v.Digest])
		seen[v.Digest] = true
		require.Equal(t, []string{name}, tr.vertices[v.Digest].targets)
		require.Len(t, second.Statuses, 1)
		require.Equal(t, v.Digest, second.Statuses[0].Vertex)
		require.Equal(t, v.Digest, second.Logs[0].Vertex)
		require.Equal(t, v.Digest, second.Warnings[0].Vertex)
		require.Equal(t, message(), list, "the message is as it was")
	}
	require.Len(t, tr.vertices[step].runs, 1)
}

// A step that a solve waits for has another start in its status stream.
func TestTrackerOverlap(t *testing.T) {
	tr := newTracker(yes, yes)
	tr.observe(vertex(step, at(0), at(10)), &solveSource{})
	fresh, changes := tr.observe(vertex(step, at(4), at(10)), &solveSource{})
	require.Empty(t, fresh.Vertexes)
	require.Empty(t, changes)
	require.Len(t, tr.vertices[step].runs, 1)
	tr.observe(vertex(step, at(11), at(12)), &solveSource{})
	require.Len(t, tr.vertices[step].runs, 2, "it ran again")
}

// A step that was answered by a cache is shown as cached also when its layers are
// fetched later.
func TestTrackerShowsFetchAsCached(t *testing.T) {
	tr := newTracker(yes, yes)
	cached := vertex(step, at(0), at(0))
	cached.Vertexes[0].Cached = true
	tr.observe(cached, &solveSource{})
	fresh, _ := tr.observe(vertex(step, at(1), at(3)), &solveSource{})
	require.Len(t, fresh.Vertexes, 1)
	require.True(t, fresh.Vertexes[0].Cached)
	require.Empty(t, tr.vertices[step].runs)
}

func TestUnion(t *testing.T) {
	require.Zero(t, union(nil))
	require.Equal(t, 6*time.Second, union([]execution{
		{*at(10), *at(12)}, {*at(0), *at(3)}, {*at(1), *at(2)}, {*at(2), *at(4)}, {*at(4), *at(4)},
	}))
}

func TestPlain(t *testing.T) {
	inner := errors.New("failed to solve: rpc error: code = Unknown desc = exit code: 1")
	err := fault.Plain(inner)
	require.Equal(t, "exit code: 1", err.Error())
	require.ErrorIs(t, err, inner)
	other := errors.New("no route")
	require.Same(t, other, fault.Plain(other))
	require.Equal(t, "bad", fault.Plain(status.Error(codes.InvalidArgument, "bad")).Error())
}

// An old node does not say which step failed, but its status does.
func TestTrackerBlames(t *testing.T) {
	tr := newTracker(func(d digest.Digest) bool { return d != source }, yes)
	fail := func(d digest.Digest, text string) {
		st := vertex(d, at(0), at(1))
		st.Vertexes[0].Error = text
		tr.observe(st, &solveSource{})
	}
	fail(source, "exit code: 2")
	fail(step, "executor failed running [/bin/sh -c make]: exit code: 2")
	blamed, ok := tr.culprit(errors.New("rpc error: code = Unknown desc = executor failed running [/bin/sh -c make]: exit code: 2"))
	require.True(t, ok)
	require.Equal(t, step, blamed)
	_, ok = tr.culprit(errors.New("rpc error: code = Unknown desc = no space left"))
	require.False(t, ok)
	fail(digest.FromString("other"), "executor failed running [/bin/sh -c make]: exit code: 2")
	_, ok = tr.culprit(errors.New("executor failed running [/bin/sh -c make]: exit code: 2"))
	require.False(t, ok, "it may be either")
}

// A step that failed and is executed again on its node is reported again, and what it
// printed before is not what it printed last.
func TestTrackerFailures(t *testing.T) {
	all := func(digest.Digest) bool { return true }
	tr := newTracker(all, all)
	d := digest.FromString("v")
	at := func(s int) *time.Time { x := time.Unix(int64(s), 0); return &x }
	from := &solveSource{targets: []string{"a"}}
	see := func(v bkclient.Vertex, logs ...*bkclient.VertexLog) (*bkclient.SolveStatus, []change) {
		v.Digest = d
		return tr.observe(&bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{&v}, Logs: logs}, from)
	}
	began := []change{{vertex: d}}
	_, changes := see(bkclient.Vertex{Started: at(1)}, &bkclient.VertexLog{Vertex: d, Timestamp: *at(2), Data: []byte("first\n")})
	require.Equal(t, began, changes)
	for i := range 2 { // another stream repeats it
		fresh, _ := see(bkclient.Vertex{Started: at(1), Completed: at(3), Error: "exit code: 1"})
		require.Len(t, fresh.Vertexes, 1-i)
		require.Equal(t, 1, tr.failures(d))
		require.Equal(t, []string{"first"}, tr.logTail(d))
	}
	_, changes = see(bkclient.Vertex{Started: at(1)})
	require.Empty(t, changes, "that execution is known to have failed")
	_, changes = see(bkclient.Vertex{Started: at(5)})
	require.Equal(t, began, changes)
	require.Empty(t, tr.logTail(d))
	see(bkclient.Vertex{Started: at(5), Completed: at(6), Error: "exit code: 1"}, &bkclient.VertexLog{Vertex: d, Timestamp: *at(6), Data: []byte("second\n")})
	require.Equal(t, 2, tr.failures(d))
	_, changes = see(bkclient.Vertex{Started: at(7), Completed: at(9)})
	require.Equal(t, []change{{vertex: d, done: true, took: 2 * time.Second}}, changes)
	require.Equal(t, 2, tr.failures(d))
}

// What a step printed last may come when its failure is known already; what it prints in
// another execution stands alone.
func TestTrackerLogsAfterTheFailure(t *testing.T) {
	tr := newTracker(yes, yes)
	say := func(s float64, data string) {
		tr.observe(&bkclient.SolveStatus{Logs: []*bkclient.VertexLog{{Vertex: step, Data: []byte(data), Timestamp: *at(s)}}}, &solveSource{})
	}
	say(1, "first\n")
	tr.observe(&bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Digest: step, Started: at(0), Completed: at(3), Error: "exit code: 1"}}}, &solveSource{})
	say(2, "second\n")
	require.Equal(t, []string{"first", "second"}, tr.logTail(step))
	say(5, "again\n")
	require.Equal(t, []string{"again"}, tr.logTail(step))
}
