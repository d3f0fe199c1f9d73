package runtime

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/sched"
)

// What a node could not read may be there again when it looks for it, as another node has
// written it. That is a miss, and no attempt that failed, unless it goes on.
func TestLostAndThereAgain(t *testing.T) {
	gone := errors.New("could not fetch content descriptor sha256:" + strings.Repeat("1", 64) + " (application/vnd.oci.image.layer.v1.tar+gzip) from remote: not found")
	for _, c := range []struct {
		name     string
		returns  int // with which look it is there again; 0 = never
		attempts int
		looks    int
	}{
		{"it is there again", 1, 1, 1},
		{"it is there at last", mostRepeats, 1, mostRepeats},
		{"it never is", 0, 1, mostRepeats + 1},
		{"it never is, with attempts", 0, 3, mostRepeats + 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 1, "a")
				b.Sched.Options.MaxAttempts = c.attempts
				f := newFleet(t, b)
				n := f.nodes[0]
				n.fails["a first"] = gone
				looks := 0
				n.unreadable = func(chain []*pb.Definition) int {
					if looks++; looks == c.returns {
						delete(n.fails, "a first")
					}
					return len(chain)
				}
				res, _, err := f.run(t.Context(), b)
				require.Equal(t, c.looks, looks)
				if c.returns == 0 {
					require.ErrorContains(t, err, gone.Error())
					require.Equal(t, all(Failed, "a"), states(res))
					return
				}
				require.NoError(t, err)
				require.Equal(t, all(Done, "a"), states(res))
			})
		})
	}
}

// A step that could not read what is lost is made to ignore the cache, and is another step to the
// node then. If that fails in the same way there is no other, and it waits for the end of the
// builds that know its failure.
func TestFailedAgain(t *testing.T) {
	b := newBuild(t, 1, "a")
	w := newWork(b)
	n := newNodeRun(0, daemon.NodeInfo{}, newTracker(w.isStep, yes))
	l := newLostResults(w, nil, nil, nil)
	a := slices.IndexFunc(b.Graph.Vertices, func(v *llbmerge.Vertex) bool { return v.Kind.IsStep() })
	d := b.Graph.Vertices[a].Digest
	fail := func(as digest.Digest, from float64, text string) {
		st := vertex(as, at(from), at(from+1))
		st.Vertexes[0].Error = text
		n.tracker.observe(l.unalias(st), &solveSource{})
	}
	gone := "sha256:" + strings.Repeat("1", 64) + ": not found"

	fail(d, 0, "could not fetch content descriptor "+gone)
	require.Empty(t, l.failures(n), "it does not ignore the cache")
	l.noteStuck(n)
	require.Equal(t, 1, l.count(n))
	fail(d, 0, "could not fetch content descriptor "+gone)
	require.Empty(t, l.failures(n), "another build reports the same")
	fail(daemon.Ignoring(d), 2, "could not fetch content descriptor "+gone)
	require.Equal(t, []sched.VertexID{sched.VertexID(a)}, l.failures(n))
	l.noteStuck(n)
	require.Equal(t, []sched.VertexID{sched.VertexID(a)}, l.failures(n), "it is as it was")
	n.tracker.observe(l.unalias(vertex(daemon.Ignoring(d), at(4), at(5))), &solveSource{})
	require.Empty(t, l.failures(n), "it is done")
	fail(daemon.Ignoring(d), 6, "could not fetch content descriptor "+gone)
	l.noteStuck(n)
	require.Equal(t, lookups{d.String(): false}, l.lookups(n), "the node has come back empty, and has it no longer")
	require.Equal(t, []sched.VertexID{sched.VertexID(a)}, l.failures(n))
}

// What was lost and built again may be lost once more, on a node that has come back empty. What was
// searched for before it was built again is not.
func TestLostOnceMore(t *testing.T) {
	b := newBuild(t, 1, "a")
	w := newWork(b)
	n := newNodeRun(0, daemon.NodeInfo{}, newTracker(w.isStep, yes))
	x, err := newExchange(w, nil)
	require.NoError(t, err)
	l := newLostResults(w, x, nil, nil)
	a := slices.IndexFunc(b.Graph.Vertices, func(v *llbmerge.Vertex) bool { return v.Kind.IsStep() })
	d, found := b.Graph.Vertices[a].Digest, []sched.VertexID{sched.VertexID(a)}

	before := l.remade(n)
	require.True(t, l.note(n, found, before))
	require.Equal(t, lookups{d.String(): false}, l.lookups(n))
	n.tracker.observe(l.unalias(vertex(daemon.Ignoring(d), at(0), at(1))), &solveSource{})
	require.Equal(t, lookups{d.String(): true}, l.lookups(n))
	require.False(t, l.note(n, found, before))
	require.Equal(t, lookups{d.String(): true}, l.lookups(n), "it was built since that search began")
	require.False(t, l.note(n, found, l.remade(n)))
	require.Equal(t, lookups{d.String(): false}, l.lookups(n))
}

// The status that is given the graph's digests is another one: the daemon waits for what it says,
// by the digests that the node uses.
func TestUnaliasLeavesStatus(t *testing.T) {
	graph, node := digest.FromString("graph"), digest.FromString("node")
	l := &lostResults{aliases: map[digest.Digest]digest.Digest{node: graph}}
	status := func(d digest.Digest) *bkclient.SolveStatus {
		return &bkclient.SolveStatus{
			Vertexes: []*bkclient.Vertex{{Digest: d, Name: "step"}, {Digest: "other"}},
			Statuses: []*bkclient.VertexStatus{{Vertex: d}},
			Logs:     []*bkclient.VertexLog{{Vertex: d}},
			Warnings: []*bkclient.VertexWarning{{Vertex: d}},
		}
	}
	st := status(node)
	require.Equal(t, status(graph), l.unalias(st))
	require.Equal(t, status(node), st)
}
