package runtime

import (
	"errors"
	"testing"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/sched"
)

// Neither a submission nor a unit of it goes back.
func TestSubmissionMoves(t *testing.T) {
	for from := submitted; from <= ended; from++ {
		for to := submitted; to <= ended; to++ {
			p := &submission{state: from}
			require.Equal(t, to > from, p.move(to), "%d to %d", from, to)
			require.Equal(t, max(from, to), p.state)
		}
	}
	for from := solving; from <= settled; from++ {
		for to := solving; to <= settled; to++ {
			p := &submission{unit: map[sched.UnitID]unitState{1: from}}
			require.Equal(t, to > from, p.progress(1, to), "%d to %d", from, to)
			require.Equal(t, max(from, to), p.unit[1])
		}
	}
}

// The end of a solve waits for what is written of its results, and not for reports of an end
// that is known.
func TestSubmissionEnds(t *testing.T) {
	s := newSubmissions()
	p := s.add(sched.Submit{Partition: 1, Units: []sched.UnitID{0, 1}}, &nodeRun{}, nil, nil)
	require.Equal(t, []sched.UnitID{0, 1}, p.openUnits())
	p.beginWrite(0)
	p.beginWrite(1)
	require.False(t, p.endSolve(solvedMessage{p: p}))
	require.Nil(t, p.endWrite(0))
	require.NotNil(t, p.endWrite(1))
	require.True(t, p.endSolve(solvedMessage{p: p}))
	require.Equal(t, []sched.UnitID{0}, p.openUnits(), "the other is what it waited for")
	require.True(t, p.settle(0))

	p = s.add(sched.Submit{Partition: 2, Units: []sched.UnitID{0}}, &nodeRun{}, nil, nil)
	p.beginWrite(0)
	require.False(t, p.endSolve(solvedMessage{p: p}))
	s.end(p)
	require.Nil(t, p.endWrite(0))
	require.Nil(t, s.at(2))
}

// A unit is built when the last of its roots is there, or all is.
func TestSubmissionReached(t *testing.T) {
	p := newSubmissions().add(sched.Submit{Units: []sched.UnitID{0, 1}}, &nodeRun{}, nil, nil)
	a, b := digest.FromString("a"), digest.FromString("b")
	p.await(0, a)
	p.await(0, b)
	p.await(1, b)
	require.Empty(t, p.reach(a))
	require.Empty(t, p.reach(a))
	require.Equal(t, []sched.UnitID{0, 1}, p.reach(b))
}

func TestNodeMoves(t *testing.T) {
	for from := notHeard; from <= barred; from++ {
		for to := notHeard; to <= barred; to++ {
			n := &nodeRun{state: from, waiting: []*submission{{}}}
			want := from
			if n.move(to) {
				want = to
				require.Equal(t, n.up(), len(n.waiting) > 0, "what waits for a node that is not up goes elsewhere")
			}
			require.Equal(t, want, n.state)
		}
	}
	n := newNodeRun(0, daemon.NodeInfo{}, nil)
	c := &daemon.Connection{HangUp: func(error) {}}
	require.True(t, n.lose(errors.New("silent"), errNodeLost))
	require.False(t, n.lose(errors.New("still silent"), errNodeLost), "it is given up already")
	require.EqualError(t, n.err, "silent")
	n.connect(c)
	require.NoError(t, n.err)
	n.follow([]change{{vertex: "step"}}, &bkclient.SolveStatus{})
	require.True(t, n.busy())
	n.disconnect(&daemon.Connection{})
	require.True(t, n.busy(), "that was another connection")
	n.disconnect(c)
	require.False(t, n.busy())
	require.True(t, n.up(), "it is hoped for")
	n.bar(errors.New("it failed"))
	n.connect(c)
	require.False(t, n.up(), "it is not used any more")
	require.EqualError(t, n.err, "it failed")
}
