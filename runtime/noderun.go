package runtime

import (
	"fmt"
	"slices"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/sched"
)

// nodeState is the state of a node in a run.
type nodeState int

const (
	// notHeard is a node that has not answered yet.
	notHeard nodeState = iota
	// inUse is a node with a connection.
	inUse
	// hopedFor is a node whose connection has ended and that may get another one in a
	// moment: what it was doing waits.
	hopedFor
	// givenUp is a node that got no other connection in time. Its work went elsewhere; it
	// can come back.
	givenUp
	// barred is a node that is not used any more, since it fails whatever it is given.
	barred
)

// nodeMoves are the states that may follow each.
var nodeMoves = map[nodeState][]nodeState{
	notHeard: {inUse, givenUp},
	inUse:    {hopedFor, givenUp, barred},
	hopedFor: {inUse, givenUp, barred},
	givenUp:  {inUse, barred},
}

// nodeRun is one node's part of a run: its description, the reports of its solves, and the
// work that waits for it. It belongs to the loop, but for its tracker's and its transfers'
// own rules.
type nodeRun struct {
	info    daemon.NodeInfo
	id      sched.NodeID
	tracker *tracker
	sent    daemon.Transfers

	state nodeState
	// conn is its connection. Invariant: it is set when the node is in use, and otherwise only
	// when it is barred.
	conn *daemon.Connection
	// err is why it was given up. Invariant: it is set if and only if the node is given up or
	// barred.
	err      error
	sick     int    // failures of its own in a row
	sickness string // the last of them

	running map[digest.Digest]bool // steps
	flawed  []sched.VertexID       // steps that failed on it
	held    []func()               // let go of results that are kept until the end of the run
	// deferred are the reports on solves and exports that ended with the connection, and
	// waiting the submissions that came without one. Invariant: when the node is
	// given up, what is in them has ended or is about to.
	deferred []message
	waiting  []*submission
}

func newNodeRun(id int, info daemon.NodeInfo, t *tracker) *nodeRun {
	return &nodeRun{info: info, id: sched.NodeID(id), tracker: t, running: map[digest.Digest]bool{}}
}

// up reports whether the node is used, as the scheduler knows it.
func (n *nodeRun) up() bool { return n.state == inUse || n.state == hopedFor }

// move brings the node into another state. It reports false, and does nothing, when that state
// cannot follow.
func (n *nodeRun) move(to nodeState) bool {
	if !slices.Contains(nodeMoves[n.state], to) {
		return false
	}
	n.state = to
	if !n.up() {
		n.abandon()
	}
	return true
}

// connect gives the node a connection. It returns the work that waited for one. There may be
// some when only the connection broke.
func (n *nodeRun) connect(c *daemon.Connection) (deferred []message, waiting []*submission) {
	n.conn = c
	if n.state == barred {
		return nil, nil
	}
	n.info, n.err = c.Info, nil
	n.move(inUse)
	deferred, waiting = n.deferred, n.waiting
	n.abandon()
	return deferred, waiting
}

// disconnect notes that a connection has ended.
func (n *nodeRun) disconnect(c *daemon.Connection) {
	if n.conn != c {
		return
	}
	n.conn = nil
	clear(n.running)
	n.move(hopedFor)
}

// lose gives the node up for now. It reports whether it was used until then, or hoped for.
func (n *nodeRun) lose(err, hangUp error) bool {
	if n.conn != nil {
		n.conn.HangUp(hangUp)
		n.conn = nil
	}
	clear(n.running)
	if !n.move(givenUp) {
		return false
	}
	n.err = err
	return true
}

// bar gives the node up for good.
func (n *nodeRun) bar(err error) {
	if n.move(barred) {
		n.err = err
	}
}

// succeed notes that something went well, and fail a failure that is the node's own.
func (n *nodeRun) succeed() { n.sick = 0 }

func (n *nodeRun) fail(reason string) { n.sick, n.sickness = n.sick+1, reason }

// mostSick is how many failures in a row that are its own end the use of a node: one
// that fails all it is given would be given more and more, as it is always free.
const mostSick = 3

// flaw notes that a step failed on the node.
func (n *nodeRun) flaw(v sched.VertexID) {
	if !slices.Contains(n.flawed, v) {
		n.flawed = append(n.flawed, v)
	}
}

// failsAll returns why the node is to be given up for good; nil when it is not.
func (n *nodeRun) failsAll() error {
	if n.state == barred || n.sick < mostSick {
		return nil
	}
	return &fault.NodeSick{Reason: n.sickness, Err: fmt.Errorf("it failed %d times in a row", n.sick)}
}

// wait keeps p until the node has a connection.
func (n *nodeRun) wait(p *submission) { n.waiting = append(n.waiting, p) }

// defers keeps a report of what went through c, which has ended, until the node is back
// or lost. It reports false when the node is back.
func (n *nodeRun) defers(c *daemon.Connection, m message) bool {
	if n.conn != nil && n.conn != c {
		return false
	}
	n.deferred = append(n.deferred, m)
	return true
}

// abandon forgets the work that waits for the node.
func (n *nodeRun) abandon() { n.deferred, n.waiting = nil, nil }

// hold keeps results until the end of the run; letGo gives them up.
func (n *nodeRun) hold(letGo func()) { n.held = append(n.held, letGo) }

// letGo releases all results that the node keeps for the run.
func (n *nodeRun) letGo() {
	for _, f := range n.held {
		f()
	}
	n.held = nil
}

// follow notes which steps run.
func (n *nodeRun) follow(changes []change, st *bkclient.SolveStatus) {
	for _, c := range changes {
		switch {
		case c.done, c.repeated:
			delete(n.running, c.vertex)
		case n.conn != nil:
			n.running[c.vertex] = true
		}
	}
	for _, v := range st.Vertexes {
		if v.Error != "" && v.Completed != nil {
			delete(n.running, v.Digest)
		}
	}
}

// busy reports whether the node runs a step.
func (n *nodeRun) busy() bool { return len(n.running) > 0 }

// nodeRuns are the nodes of a run, by id.
type nodeRuns []*nodeRun

// name returns the name of a node.
func (l nodeRuns) name(id sched.NodeID) string { return l[id].info.Name }

// byName returns the node of a name; nil when there is none.
func (l nodeRuns) byName(name string) *nodeRun {
	for _, n := range l {
		if n.info.Name == name {
			return n
		}
	}
	return nil
}

// assumedPlatforms returns the platforms that a node is assumed to run before it answers: those
// of its spec, else those of the first node.
func (l nodeRuns) assumedPlatforms(n *nodeRun) []ocispecs.Platform {
	if list, err := daemon.ParsePlatforms(n.info.Spec.Platforms); err == nil && len(list) > 0 {
		return list
	}
	return l[0].info.Platforms
}
