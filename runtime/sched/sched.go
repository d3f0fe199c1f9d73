package sched

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Scheduler is the state of one run. It takes events in; its parts are described in the
// documentation of the package.
type Scheduler struct {
	thieves
	finished bool // Finish was returned
}

type nodeState int

const (
	expected nodeState = iota // not heard of, or reconnecting
	up
	lost
)

type node struct {
	lane
	id    NodeID
	name  string
	state nodeState
	err   string        // of the loss
	from  time.Duration // when it is expected to come
	speed float64
	slots int
	// tenants is how many others build there, see tenants.go.
	tenants int
	// assumed is set when slots is a guess, which limits nothing.
	assumed bool
	// emulates holds the platforms at which it is slower, with the factor.
	emulates map[string]float64
	// filled are the cache mounts that it has filled, cold the steps that take longer because of
	// those that it has not; nil is none.
	filled map[string]bool
	cold   bits
	held   bits
	// fetches is what others are going to send it, or have sent.
	fetches bits
	// relics are the steps with one result that it executed before it was lost; nil is none.
	relics bits
	all    demand // queued and submitted
	sub    demand // submitted
	watch  map[VertexID][]watcher

	runs    []*run    // in the order in which they were submitted
	waiting int       // runs that may be recalled: those with waits set
	running []running // steps under way; none of them is held
	// drains is set when it is to go, see drain.go.
	drains bool
	live   int // units of runs that are building or exporting
	// exp and got are the predicted and the measured time of the steps done, weighed.
	exp, got float64
	tally    tally
	doubt    doubt // from the steps done
	lag      float64
	lagSeen  int // when that was found, as in Scheduler.seen

	class int
	owner int     // index in the class's heap; -1 = others can take nothing from it
	ends  float64 // when it is expected to be done, as the heap knows it
	given []gift

	isHungry, isIdle, isTouched bool
}

type watcher struct {
	p   *part
	gen int
}

type running struct {
	v     VertexID
	since time.Duration
}

// gift remembers units that were stolen from a node, so that it can hedge.
type gift struct {
	units []UnitID
	to    NodeID
}

// run is one submission.
type run struct {
	id       PartitionID
	n        *node
	units    []member
	building int // units in that state
	live     int // units that it is still at; at least building
	canceled bool
	blamed   bool       // a unit of it failed by name
	again    bool       // what made it end early was removed
	conceded bool       // canceled because another node holds what it needs
	open     []VertexID // steps that it may have begun before it was taken back
	pooled   bool
	// waits is set when nothing of it has begun: it may be recalled.
	waits bool
	since time.Duration // when it was submitted
}

// New returns the scheduler of a run. The error lists all faults of the configuration.
func New(cfg Config) (*Scheduler, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("sched: %w", err)
	}
	if cfg.Options.MaxAttempts == 0 {
		cfg.Options.MaxAttempts = defaultAttempts
	}
	cfg.Units = slices.Clone(cfg.Units) // what a unit avoids is noted there
	s := &Scheduler{}
	s.cfg = cfg
	s.stamp, s.path = make([]uint32, len(cfg.Vertices)), make([]float64, len(cfg.Vertices))
	s.units, s.cached = make([]unit, len(cfg.Units)), newBits(len(cfg.Vertices))
	s.runs, s.left = map[PartitionID]*run{}, len(cfg.Units)
	s.cached.setAll(cfg.Network.Cached)
	s.index()
	if err := s.order(); err != nil {
		return nil, fmt.Errorf("sched: %w", err)
	}
	s.learned, s.trials = newLearning(cfg.Vertices), map[VertexID]*trial{}
	s.once = s.newResults()
	for i := range s.units {
		s.units[i].out = Outcome{Node: NoNode, Because: NoUnit, Vertex: NoVertex}
	}
	s.addNodes()
	for i, ps := range cfg.Plan {
		for _, p := range ps {
			s.enqueue(&s.nodes[i].lane, p, false, &part{orphan: NoNode})
		}
	}
	s.fillPools()
	s.claimWarm()
	s.refresh()
	for _, n := range s.nodes {
		s.touch(n)
	}
	s.retouch()
	return s, nil
}

func (s *Scheduler) addNodes() {
	s.findLarge()
	classes := map[string]int{}
	for i, c := range s.cfg.Nodes {
		n := &node{
			id: NodeID(i), name: c.Name, from: c.From, speed: c.Speed, slots: c.Slots, tenants: c.Tenants, assumed: c.SlotsAssumed, emulates: c.Emulates,
			held: newBits(len(s.cfg.Vertices)), fetches: newBits(len(s.cfg.Vertices)), watch: map[VertexID][]watcher{}, owner: -1,
		}
		if n.name == "" {
			n.name = fmt.Sprintf("node %d", i)
		}
		if n.speed == 0 {
			n.speed = 1
		}
		if n.slots == 0 {
			n.slots = 1
		}
		n.lane.n = n
		n.held.setAll(c.Warm)
		n.fetches.setAll(c.Fetches)
		n.setFilled(c.Filled, s.cfg.Vertices)
		n.all, n.sub = s.newDemand(n, false), s.newDemand(n, true)
		key := strings.Join(slices.Sorted(slices.Values(c.Platforms)), " ")
		k, ok := classes[key]
		if !ok {
			k = len(s.class)
			classes[key] = k
			s.class = append(s.class, nil)
		}
		n.class = k
		s.nodes = append(s.nodes, n)
	}
}

// fillPools puts the partitions of the pool into lanes, one for each set of nodes.
func (s *queues) fillPools() {
	byKey := map[string]*lane{}
	for pos, p := range s.cfg.Pool {
		groups := [][]UnitID{p}
		if len(p) > 1 && !s.anyAllows(p) {
			groups = singles(p)
		}
		for _, g := range groups {
			key := s.allowKey(g)
			l := byKey[key]
			if l == nil {
				l = &lane{key: key}
				byKey[key] = l
				s.pools = append(s.pools, l)
			}
			if len(g) == 0 {
				continue
			}
			l.back = int64(pos) // positions are comparable between pools
			s.enqueue(l, g, false, &part{orphan: NoNode, pooled: true})
		}
	}
}

func singles(units []UnitID) [][]UnitID {
	out := make([][]UnitID, len(units))
	for i, u := range units {
		out[i] = []UnitID{u}
	}
	return out
}

// Step takes one event and returns the commands that follow from it, in order. The slice
// belongs to the caller. Events for submissions that have ended, and for nodes, units and
// vertices that do not exist, change nothing.
func (s *Scheduler) Step(ev Event) []Command {
	if s.finished || ev == nil {
		return nil
	}
	s.now = max(s.now, ev.at())
	s.seen++
	s.out = nil
	switch e := ev.(type) {
	case NodeUp:
		s.nodeUp(e)
	case NodeLost:
		s.nodeLost(e)
		wakeDraining(&s.queues)
	case NodeDrain:
		drain(&s.fates, e)
	case NodeShared:
		share(&s.queues, e)
	case NewPlan:
		replan(&s.fates, e)
	case VertexStarted:
		s.vertexStarted(e)
	case VertexDone:
		s.vertexDone(e)
	case VertexCached:
		if s.validVertex(e.Vertex) {
			s.cached.set(e.Vertex)
			s.reconsider()
		}
	case VertexUnsent:
		if s.validVertex(e.Vertex) {
			s.unsent(e.Vertex)
		}
	case VertexMissed:
		s.vertexMissed(e)
	case UnitBuilt:
		s.unitBuilt(e)
	case UnitExported:
		s.unitExported(e)
	case UnitFailed:
		s.unitFailed(e)
	case PartitionEnded:
		s.partitionEnded(e)
	case Cancel:
		if e.Reason == "" {
			e.Reason = "canceled"
		}
		s.stop(e.Reason)
		s.cancelRuns(func(*run) bool { return true })
	case Tick:
		// A step that runs late makes its node end later without an event.
		for _, n := range s.nodes {
			if len(n.running) > 0 {
				s.touch(n)
			}
			evacuate(&s.fates, n)
		}
	}
	s.settle()
	return s.out
}

// settle brings everything that follows from an event about.
func (s *Scheduler) settle() {
	s.release()
	closeGates(&s.fates)
	for !s.stopping {
		relocate(&s.fates)
		s.refresh()
		s.retouch()
		s.dispatch()
		if len(s.dirty) > 0 {
			continue
		}
		s.retouch()
		if !s.steal() && !closeGates(&s.fates) && !overtake(&s.fates) {
			break
		}
	}
	if s.stopping {
		closeGates(&s.fates)
		// What is built and being written may end: the failure of one target is no
		// reason to break off the pushes of others.
		s.cancelRuns(func(r *run) bool { return !r.writes() })
	} else {
		s.writeDeferred()
	}
	if (s.left == 0 || s.stopping) && len(s.runs) == 0 {
		s.finished = true
		s.emit(Finish{Outcomes: s.outcomes(), Moves: slices.Clone(s.moves), Reason: s.reason})
	}
}

func (s *Scheduler) nodeUp(e NodeUp) {
	n := s.node(e.Node)
	if n == nil {
		return
	}
	if e.Empty {
		n.relics = nil
		n.setFilled(nil, s.cfg.Vertices)
	}
	findHeld(&s.fates, n, e.Holds)
	if n.state != up {
		n.state, n.err = up, ""
		s.wake(n)
	}
	if e.Emulates != nil {
		n.emulates = e.Emulates
		s.reckon(n)
	}
}

// reckon counts the work of n again, as its time has changed.
func (s *fates) reckon(n *node) {
	// What n owns follows from what it is submitted, and so do the ways: the old demand stays
	// until the new one is complete.
	all, sub := s.newDemand(n, false), s.newDemand(n, true)
	for _, p := range n.parts {
		for _, u := range p.units {
			all.add(s.cfg.Units[u].Root)
		}
	}
	for _, r := range n.runs {
		sub.by = r.id
		for _, m := range r.units {
			if m.st == building {
				all.add(s.cfg.Units[m.id].Root)
				sub.add(s.cfg.Units[m.id].Root)
			}
		}
	}
	for _, v := range slices.Sorted(maps.Keys(n.watch)) {
		if _, ok := sub.m[v]; !ok {
			sub.gone = append(sub.gone, v) // what waits for it would wait in vain
		}
	}
	n.all, n.sub = all, sub
	s.touch(n)
}

func (s *Scheduler) nodeLost(e NodeLost) {
	n := s.node(e.Node)
	if n == nil || n.state == lost {
		return
	}
	n.state, n.err = lost, e.Err
	if e.Reconnecting {
		n.state = expected
	}
	s.unconfine()
	if n.err == "" {
		n.err = "node lost"
	}
	s.noteRelics(n)
	dropKept(&s.fates, n)
	// First everything is taken off the node, then it is given out again: what goes
	// where depends on what the others already have.
	var groups []*part
	for _, r := range slices.Clone(n.runs) {
		s.emit(Abandon{Partition: r.id, Reason: n.err})
		groups = append(groups, s.close(r, ending{reason: n.err, retryable: true, lost: true})...)
	}
	queued := n.sortedParts()
	for _, p := range queued {
		n.remove(p)
		p.orphan = n.id
	}
	n.parts = nil
	again, gone := s.lostResults(n) // before they are forgotten
	n.held.clear()
	n.all, n.sub = s.newDemand(n, false), s.newDemand(n, true)
	clear(n.watch)
	for _, r := range n.running {
		s.learned.stop(r.v, n.id)
	}
	s.seen++
	n.running, n.given, n.exp, n.got, n.doubt = nil, nil, 0, 0, doubt{}
	s.touch(n)
	s.reopen(again, gone, n)
	for _, id := range again {
		groups = append(groups, &part{units: []UnitID{id}, why: Rescued, orphan: n.id})
	}
	s.reconsider()
	// Backwards, because each goes to the front.
	for _, p := range slices.Backward(append(groups, queued...)) {
		s.place(p)
	}
	if n.state == lost {
		s.checkPools()
	}
}

func (s *Scheduler) vertexStarted(e VertexStarted) {
	n := s.node(e.Node)
	if n == nil || n.state != up || !s.validVertex(e.Vertex) || n.held.has(e.Vertex) {
		return
	}
	if !slices.ContainsFunc(n.running, func(r running) bool { return r.v == e.Vertex }) {
		n.running = append(n.running, running{e.Vertex, s.now})
		s.seen++
		own(&s.fleet, n, e.Vertex) // it was thought to be held
		s.noteBegun(n, e.Vertex)
		s.learned.start(e.Vertex, n.id, s.now)
		s.forgetStray(n)
		s.wake(n)
	}
}

func (s *Scheduler) vertexDone(e VertexDone) {
	n := s.node(e.Node)
	if n == nil || n.state != up || !s.validVertex(e.Vertex) {
		return
	}
	if !e.Cached {
		s.trials[e.Vertex].pass()
	}
	if !e.Cached && e.Took > 0 && !n.held.has(e.Vertex) {
		s.learn(n, e.Vertex, e.Took)
		s.noteBegun(n, e.Vertex)
		s.fillMounts(n, e.Vertex)
	}
	if !e.Cached {
		own(&s.fleet, n, e.Vertex) // it had begun before it was told not to
	}
	s.hold(n, e.Vertex)
	s.wake(n)
}

// noteBegun notes that n executes v: the submission that asked for it has begun.
func (s *queues) noteBegun(n *node, v VertexID) {
	e, ok := n.sub.m[v]
	if !ok {
		return
	}
	if r := s.runs[e.by]; r != nil && !r.canceled {
		s.commit(r)
		return
	}
	// The submission that asked for it first has ended: it may be for any other.
	for _, r := range n.runs {
		s.commit(r)
	}
}

// commit ends the time in which a submission may be recalled.
func (s *queues) commit(r *run) {
	if r != nil && r.waits {
		r.waits = false
		r.n.waiting--
		s.touch(r.n)
	}
}

// hold records that n has v.
func (s *queues) hold(n *node, v VertexID) {
	if n.held.has(v) {
		return
	}
	n.held.set(v)
	n.all.hold(v)
	n.sub.hold(v)
	s.noteStop(n, v)
	s.touch(n)
}

// noteStop forgets that v runs on n.
func (s *queues) noteStop(n *node, v VertexID) {
	if i := slices.IndexFunc(n.running, func(r running) bool { return r.v == v }); i >= 0 {
		n.running = slices.Delete(n.running, i, i+1)
		s.seen++
		s.learned.stop(v, n.id)
	}
}

// forgetStray forgets the steps that run on n while nothing is submitted to it. The status of a
// submission may show the start of a step after its end, and then never the step's own end: n
// would count as busy from then on.
func (s *queues) forgetStray(n *node) {
	for len(n.runs) == 0 && len(n.running) > 0 {
		s.noteStop(n, n.running[0].v)
	}
}

// holdAll records that n has v and what it needed for it: with a result that it fetches come
// the layers below, and nothing else that the step has read. A step that it has executed
// after all is reported by itself.
func (s *queues) holdAll(n *node, v VertexID) {
	// First what, then that it is held: what n neither holds nor needs any more has no owner.
	var list []VertexID
	s.mark()
	for todo := []VertexID{v}; len(todo) > 0; {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if s.stamp[v] == s.epoch || n.held.has(v) {
			continue
		}
		s.stamp[v] = s.epoch
		list = append(list, v)
		way, _ := s.way(n, v)
		todo = append(todo, n.all.follows(v, way)...)
	}
	slices.Sort(list)
	for _, v := range list {
		s.hold(n, v)
	}
}

func (s *Scheduler) unitBuilt(e UnitBuilt) {
	r, i := s.find(e.Partition, e.Unit)
	if r == nil || r.units[i].st != building {
		return
	}
	u := &s.units[e.Unit]
	s.holdAll(r.n, s.cfg.Units[e.Unit].Root)
	if s.stopping || r.canceled || u.state == granted {
		s.advance(r, i, denied)
		return
	}
	u.granted = r
	s.turn(e.Unit, granted)
	if s.defers(e.Unit) {
		s.advance(r, i, deferred)
		s.emit(Defer{Partition: r.id, Unit: e.Unit})
		return
	}
	s.advance(r, i, exporting)
	s.emit(Export{Partition: r.id, Unit: e.Unit})
}

func (s *Scheduler) unitExported(e UnitExported) {
	r, i := s.find(e.Partition, e.Unit)
	if r == nil {
		return
	}
	s.holdAll(r.n, s.cfg.Units[e.Unit].Root)
	s.advance(r, i, settled)
	u := &s.units[e.Unit]
	u.out.State, u.out.Node = Built, r.n.id
	s.conclude(e.Unit)
}

func (s *Scheduler) unitFailed(e UnitFailed) {
	r, i := s.find(e.Partition, e.Unit)
	if r == nil {
		return
	}
	r.blamed = true
	u := &s.units[e.Unit]
	s.advance(r, i, retry)
	if e.Again {
		return
	}
	f := final
	switch {
	case e.Execution > 0 && s.validVertex(e.Vertex) && (s.cfg.Options.RetrySteps > 0 || s.cfg.Units[e.Unit].OnDemand):
		f = s.flaw(e, r.n)
	case e.Elsewhere:
		f = misplaced
	case e.Retryable:
		f = passing
	}
	u.flunked = u.flunked || f == final || f == flawed
	yes, ending := s.mayRetry(e.Unit, r.n, f)
	if yes {
		return
	}
	u.out.Vertex = NoVertex
	if s.validVertex(e.Vertex) {
		u.out.Vertex = e.Vertex
	}
	s.fail(e.Unit, r.n.id, e.Err+ending)
}

// doomed reports whether something the unit depends on failed or was skipped.
func (s *fleet) doomed(id UnitID) bool {
	return slices.ContainsFunc(s.deps[id], func(d UnitID) bool {
		u := &s.units[d]
		return u.state == over && u.out.State != Built && u.out.State != Unpublished
	})
}

func (s *Scheduler) partitionEnded(e PartitionEnded) {
	r := s.runs[e.Partition]
	if r == nil {
		return
	}
	n := r.n
	r.again = e.Again
	for _, p := range slices.Backward(s.close(r, ending{reason: e.Err, retryable: e.Retryable})) { // each goes to the front
		if p.why = Retried; r.conceded {
			p.why = Recalled
		} else if s.allowsAll(p.units, n) && n.state == up && !p.pooled && !n.drains {
			s.enqueue(&n.lane, p.units, true, p)
			s.wake(n)
			continue
		}
		s.place(p)
	}
}

// owns reports whether there may be something to take from n.
func (n *node) owns() bool { return n.state != lost && (len(n.parts) > 0 || n.waiting > 0) }
