package runtime

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/sched"
)

// submissionState is how far a submission is. The states are in order of progress, and no
// submission goes back.
type submissionState int

const (
	// submitted is a submission that waits for a connection to its node.
	submitted submissionState = iota
	// running is one that a worker carries out, or keeps the results of.
	running
	// unwanted is one whose end the scheduler has asked for; its worker has not ended.
	unwanted
	// ended is one whose end the scheduler knows of. Workers may still write its outputs.
	ended
)

// unitState is how far a submission is with a unit. The states are in order of progress,
// and no unit goes back.
type unitState int

const (
	// solving is a unit whose results are not there yet.
	solving unitState = iota
	// built is one whose results are there, and the scheduler knows.
	built
	// failing is reported as failed to the scheduler, as it reads files that its node was
	// not sent.
	failing
	// settled is one whose results are needed no longer: it was exported, or failed, or
	// the scheduler does not want its outputs.
	settled
)

// submission is some units that a node was given as one solve. It belongs to the loop, but
// for what is set before its worker starts.
type submission struct {
	id      sched.PartitionID
	node    *nodeRun
	units   []sched.UnitID
	targets []string // that the units are for
	slice   daemon.Partition
	bases   []*llbmerge.Vertex // images that it may pull
	delay   time.Duration
	release <-chan struct{} // closed by letGo, when its results are needed no longer
	letGo   func()

	state submissionState
	unit  map[sched.UnitID]unitState
	// missing is how many roots a unit waits for; -1 = for all that there is. waiting are
	// the units that wait for a root.
	missing map[sched.UnitID]int
	waiting map[digest.Digest][]sched.UnitID

	// conn is the connection through which it runs; ctx and cancel end its workers.
	// Invariant: they are set if and only if it has run.
	conn   *daemon.Connection
	ctx    context.Context
	cancel context.CancelCauseFunc
	// unread is how many steps read files that its node was not sent, when it began.
	unread int
	// lost is how many results its node was known to have lost when it was cut.
	lost int
	// writing are the units that a worker writes something of. solved is the report of the
	// solve's end. Invariant: it is there only while some worker writes.
	writing map[sched.UnitID]bool
	solved  *solvedMessage
}

// move brings p into a later state. It reports false, and does nothing, when p is there
// already or beyond it.
func (p *submission) move(to submissionState) bool {
	if to <= p.state {
		return false
	}
	p.state = to
	return true
}

// progress brings a unit of p into a later state. It reports false, and does nothing, when
// the unit is there already or beyond it.
func (p *submission) progress(u sched.UnitID, to unitState) bool {
	if to <= p.unit[u] {
		return false
	}
	p.unit[u] = to
	return true
}

// openUnits are the units that no failure was reported of and whose results are needed.
func (p *submission) openUnits() []sched.UnitID {
	var list []sched.UnitID
	for _, u := range p.units {
		if p.unit[u] < failing {
			list = append(list, u)
		}
	}
	return list
}

// settle notes that the results of a unit are needed no longer, and reports whether that
// is so of all.
func (p *submission) settle(u sched.UnitID) bool {
	p.progress(u, settled)
	return !slices.ContainsFunc(p.units, func(u sched.UnitID) bool { return p.unit[u] < settled })
}

// begin has p run through the connection of its node; unread is how many steps read what
// the node was not sent.
func (p *submission) begin(unread int) {
	p.move(running)
	p.conn, p.unread = p.node.conn, unread
	p.ctx, p.cancel = context.WithCancelCause(p.conn.Ended)
}

// reach notes that d is there. It returns the units whose last root is d.
func (p *submission) reach(d digest.Digest) []sched.UnitID {
	var list []sched.UnitID
	for _, u := range p.waiting[d] {
		if p.missing[u]--; p.missing[u] == 0 {
			list = append(list, u)
		}
	}
	delete(p.waiting, d)
	return list
}

// await notes that a unit is built when d is there.
func (p *submission) await(u sched.UnitID, d digest.Digest) {
	p.waiting[d] = append(p.waiting[d], u)
	p.missing[u]++
}

// beginWrite notes that a worker writes something of a unit.
func (p *submission) beginWrite(u sched.UnitID) { p.writing[u] = true }

// endSolve notes that the solve of p has ended. It reports false when that has to wait until
// all is written, and keeps m for then.
func (p *submission) endSolve(m solvedMessage) bool {
	if len(p.writing) > 0 {
		p.solved = &m
		return false
	}
	return true
}

// endWrite notes that the worker which writes something of a unit has ended. It returns what
// has waited for the last of them.
func (p *submission) endWrite(u sched.UnitID) *solvedMessage {
	delete(p.writing, u)
	m := p.solved
	if m == nil || len(p.writing) > 0 || p.state == ended {
		return nil
	}
	// The scheduler learns of the unit before it learns of the end.
	p.progress(u, settled)
	p.solved = nil
	return m
}

// cut cuts the part of the graph that p needs, to be solved with imports, and notes the
// roots by whose end its units are known to be built.
func (p *submission) cut(w *work, known lookups, lost int, imports []ir.CacheEntry) error {
	p.slice.Imports, p.lost = imports, lost
	var ids []string
	steps := false
	for _, u := range p.units {
		if step, ok := w.step(u); ok {
			steps = true
			_, root := w.stepVertex(step)
			def, err := w.Graph.SliceAt(root)
			if err != nil {
				return err
			}
			p.slice.Single = append(p.slice.Single, known.in(def))
			p.await(u, root.Digest)
			continue
		}
		cut, err := p.cutJob(w, u, known)
		if err != nil {
			return err
		}
		ids = append(ids, cut...)
	}
	if len(ids) == 0 || steps || lost > 0 { // what joined units that have failed together has failed, too
		return nil
	}
	var err error
	if p.slice.Joined, err = w.Graph.Slice(ids...); err != nil {
		return fmt.Errorf("slice of the graph: %w", err)
	}
	known.in(p.slice.Joined)
	return nil
}

// cutJob is cut for a job. It returns the units of the graph that it cut.
func (p *submission) cutJob(w *work, u sched.UnitID, known lookups) (ids []string, err error) {
	whole := false
	for _, unit := range w.Jobs[u].Units {
		if unit.IsEmpty() {
			continue
		}
		id := string(unit.ID)
		def, err := w.Graph.Slice(id)
		if err != nil {
			return nil, fmt.Errorf("slice of the graph for %s: %w", id, err)
		}
		p.slice.Single = append(p.slice.Single, known.in(def))
		ids = append(ids, id)
		root, ok := w.Graph.Root(id)
		if !ok || !w.isStep(root.Digest) {
			// That the key of a source is known does not mean that it is there: only
			// the end of the solve does.
			whole = true
			continue
		}
		p.await(u, root.Digest)
	}
	if whole {
		p.missing[u] = -1
	}
	return ids, nil
}

// submissions are those of a run that have not ended.
type submissions struct {
	open map[sched.PartitionID]*submission
}

func newSubmissions() *submissions {
	return &submissions{open: map[sched.PartitionID]*submission{}}
}

// add adds what a command asks for: of units that are built for targets, from bases.
func (s *submissions) add(cmd sched.Submit, n *nodeRun, targets []string, bases []*llbmerge.Vertex) *submission {
	release := make(chan struct{})
	p := &submission{
		id: cmd.Partition, node: n, units: cmd.Units, targets: targets, bases: bases, delay: cmd.Delay,
		release: release, letGo: sync.OnceFunc(func() { close(release) }),
		unit:    map[sched.UnitID]unitState{},
		missing: map[sched.UnitID]int{},
		waiting: map[digest.Digest][]sched.UnitID{},
		writing: map[sched.UnitID]bool{},
	}
	s.open[p.id] = p
	return p
}

// at returns the submission of an id; nil when it has ended.
func (s *submissions) at(id sched.PartitionID) *submission { return s.open[id] }

// of returns those of a node, in order.
func (s *submissions) of(n *nodeRun) []*submission {
	var list []*submission
	for _, p := range s.open {
		if p.node == n {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *submission) int { return cmp.Compare(a.id, b.id) })
	return list
}

// end closes the books on p.
func (s *submissions) end(p *submission) {
	p.move(ended)
	delete(s.open, p.id)
}
