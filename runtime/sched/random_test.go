package sched

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// choices are where a random run takes its decisions from: a generator, or the
// bytes of a fuzzer.
type choices interface{ Intn(n int) int }

// byteChoices reads decisions from bytes, and from a generator when they run out, so
// that the run ends.
type byteChoices struct {
	data []byte
	then *rand.Rand
}

func (b *byteChoices) Intn(n int) int {
	if len(b.data) == 0 {
		return b.then.Intn(n)
	}
	x := int(b.data[0])
	b.data = b.data[1:]
	if n > 256 && len(b.data) > 0 {
		x = x<<8 | int(b.data[0])
		b.data = b.data[1:]
	}
	return x % n
}

// randomConfig is a small problem with everything in it.
func randomConfig(r choices) Config {
	var cfg Config
	platforms, mounts := []string{"amd64", "arm64"}, []string{"go", "npm"}
	nv := 1 + r.Intn(20)
	for v := range nv {
		x := Vertex{Cost: time.Duration(r.Intn(60)) * time.Second, Bytes: int64(r.Intn(1000))}
		for range r.Intn(3) {
			if v > 0 {
				x.Inputs = append(x.Inputs, VertexID(r.Intn(v)))
			}
		}
		if r.Intn(8) == 0 {
			x.Platform = platforms[r.Intn(2)]
		}
		if r.Intn(4) == 0 {
			x.Mounts, x.Cold = mounts[r.Intn(2):], float64(1+r.Intn(5))
		}
		cfg.Vertices = append(cfg.Vertices, x)
	}
	vertices := func(n int) []VertexID {
		var vs []VertexID
		for range n {
			vs = append(vs, VertexID(r.Intn(nv)))
		}
		return vs
	}
	for i := range 1 + r.Intn(5) {
		n := Node{Name: fmt.Sprintf("n%d", i), Speed: float64(r.Intn(3)), Slots: r.Intn(4), SlotsAssumed: r.Intn(3) == 0, Warm: vertices(r.Intn(2))}
		n.Platforms = [][]string{nil, platforms, platforms[:1], platforms[1:]}[r.Intn(4)]
		if r.Intn(3) == 0 {
			n.Emulates = map[string]float64{platforms[r.Intn(2)]: float64(1 + r.Intn(8))}
		}
		n.Filled = mounts[r.Intn(3):]
		cfg.Nodes = append(cfg.Nodes, n)
	}
	cfg.Network = Network{Bandwidth: int64(r.Intn(1000)), Latency: time.Duration(r.Intn(3)) * time.Second, Cached: vertices(r.Intn(3))}
	cfg.Options = Options{
		Ahead: r.Intn(2), Jobs: r.Intn(4), MaxAttempts: r.Intn(3),
		KeepGoing: r.Intn(2) == 0, Steal: r.Intn(4) > 0, Backoff: time.Duration(r.Intn(2)) * time.Second,
	}
	cfg.Options.DeferOutput = r.Intn(4) == 0
	cfg.Options.RetrySteps = max(0, r.Intn(8)-4)
	cfg.Plan = make([][]Partition, len(cfg.Nodes))
	nu := r.Intn(16)
	for u := range nu {
		x := Unit{Name: fmt.Sprintf("u%d", u), Root: VertexID(r.Intn(nv)), Early: r.Intn(6) == 0}
		for range r.Intn(2) {
			if u > 0 {
				x.After = append(x.After, UnitID(r.Intn(u)))
			}
		}
		for range r.Intn(3) / 2 {
			if u > 0 {
				x.After = append(x.After, UnitID(r.Intn(u)))
			}
		}
		if u > 0 && !x.Early && r.Intn(4) == 0 {
			x.Gates = []UnitID{UnitID(r.Intn(u))}
		}
		x.Shut = !x.Early && r.Intn(40) == 0
		if r.Intn(4) == 0 {
			x.Platforms = platforms[:1]
		}
		if r.Intn(6) == 0 {
			x.Nodes = []NodeID{NodeID(r.Intn(len(cfg.Nodes)))}
		}
		cfg.Units = append(cfg.Units, x)
		var may []NodeID
		for n := range cfg.Nodes {
			if cfg.allows(UnitID(u), NodeID(n)) {
				may = append(may, NodeID(n))
			}
		}
		if len(may) == 0 || r.Intn(4) == 0 {
			if k := len(cfg.Pool); k > 0 && r.Intn(3) == 0 {
				cfg.Pool[k-1] = append(cfg.Pool[k-1], UnitID(u))
			} else {
				cfg.Pool = append(cfg.Pool, Partition{UnitID(u)})
			}
			continue
		}
		n := may[r.Intn(len(may))]
		if k := len(cfg.Plan[n]); k > 0 && r.Intn(2) == 0 {
			cfg.Plan[n][k-1] = append(cfg.Plan[n][k-1], UnitID(u))
		} else {
			cfg.Plan[n] = append(cfg.Plan[n], Partition{UnitID(u)})
		}
	}
	for _, ps := range cfg.Plan {
		slices.Reverse(ps)
	}
	for v := range nv {
		if cfg.Vertices[v].Once = r.Intn(4) == 0; cfg.Vertices[v].Once && r.Intn(8) > 0 {
			cfg.Units = append(cfg.Units, Unit{Name: fmt.Sprintf("send v%d", v), Root: VertexID(v), Early: true, OnDemand: true})
		}
		if r.Intn(3) == 0 {
			cfg.Units = append(cfg.Units, Unit{Name: fmt.Sprintf("stage v%d", v), Root: VertexID(v), Early: true, OnDemand: true, Stage: true})
		}
	}
	if r.Intn(2) == 0 {
		for range cfg.Units {
			cfg.Begin = append(cfg.Begin, Begin{At: time.Duration(r.Intn(60)) * time.Second, Step: VertexID(r.Intn(nv))})
		}
		for n := range cfg.Nodes {
			cfg.Nodes[n].Fetches = vertices(r.Intn(3))
		}
	}
	return cfg
}

// chaos drives a scheduler with the events that its commands ask for, in any order,
// and with some that nobody asked for, and checks every command.
type chaos struct {
	cfg      Config
	r        choices
	s        *Scheduler
	bad      map[VertexID]bool // steps that fail everywhere
	calm     bool              // no losses, no transient failures, no cancel
	now      time.Duration
	up       []bool
	gone     []bool // will not come back
	subs     []*submission
	last     PartitionID
	built    map[UnitID]bool // exported, accepted
	released map[UnitID]bool // built, and given up
	stop     bool
	finish   *Finish
}

type submission struct {
	Submit
	units  []chaosUnit
	cancel bool
	failed bool
	begun  bool            // for sure
	waited map[UnitID]bool // deferred
}

type chaosUnit int

const (
	chaosBuilding chaosUnit = iota
	chaosDeferred
	chaosExporting
	chaosDenied
	chaosDone
	chaosRecalled
	chaosFailed
)

func newChaos(cfg Config, r choices) (*chaos, error) {
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	return &chaos{
		cfg: cfg, r: r, s: s, bad: map[VertexID]bool{}, built: map[UnitID]bool{}, released: map[UnitID]bool{},
		up: make([]bool, len(cfg.Nodes)), gone: make([]bool, len(cfg.Nodes)),
	}, nil
}

func (c *chaos) step(ev Event) error {
	cmds := c.s.Step(ev)
	if c.finish != nil && len(cmds) > 0 {
		return errors.New("a command after Finish")
	}
	for _, cmd := range cmds {
		if err := c.command(ev, cmd); err != nil {
			return fmt.Errorf("%T%+v on %T%+v: %w", cmd, cmd, ev, ev, err)
		}
	}
	if err := errors.Join(checkDemands(c.s), checkUnits(c.s)); err != nil {
		return fmt.Errorf("after %T%+v: %w", ev, ev, err)
	}
	return nil
}

// checkDemands counts again what the scheduler keeps count of.
func checkDemands(s *Scheduler) error {
	for _, n := range s.nodes {
		queued, submitted := map[VertexID]int32{}, map[VertexID]int32{}
		live, waits := 0, 0
		for _, p := range n.parts {
			for _, u := range p.units {
				queued[s.cfg.Units[u].Root]++
			}
		}
		for _, r := range n.runs {
			builds := 0
			if r.waits {
				waits++
			}
			for _, m := range r.units {
				if m.st == building {
					builds++
					submitted[s.cfg.Units[m.id].Root]++
					queued[s.cfg.Units[m.id].Root]++
				}
				if m.st == building || m.st == exporting {
					live++
				}
			}
			if builds != r.building {
				return fmt.Errorf("%s: partition %d builds %d units, not %d", n.name, r.id, builds, r.building)
			}
		}
		for _, r := range n.running {
			if n.held.has(r.v) {
				return fmt.Errorf("%s runs vertex %d, which it holds", n.name, r.v)
			}
		}
		if live != n.live || waits != n.waiting {
			return fmt.Errorf("%s: %d live, %d waiting, counted %d and %d", n.name, n.live, n.waiting, live, waits)
		}
		if err := errors.Join(checkDemand(&n.all, queued), checkDemand(&n.sub, submitted)); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		if owns := n.owns(); !s.stopping && (n.isTouched || owns != (n.owner >= 0)) {
			return fmt.Errorf("%s: %d parts, state %d, touched %v, place %d among the owners", n.name, len(n.parts), n.state, n.isTouched, n.owner)
		}
		for _, p := range n.parts {
			in := n.ready
			if p.watch != 0 {
				in = n.parked
			}
			if p.heap >= len(in) || p.heap >= 0 && in[p.heap] != p || p.heap < 0 && p.watch != 0 {
				return fmt.Errorf("%s: part %v at %d, watches %d", n.name, p.units, p.heap, p.watch)
			}
		}
	}
	return nil
}

// checkUnits checks the invariants of units, and counts them again.
func checkUnits(s *Scheduler) error {
	left, inflight, waiting := 0, 0, 0
	for id := range s.units {
		u := &s.units[id]
		if u.state != over {
			left++
		}
		want := idle
		switch {
		case u.granted != nil:
			want = granted
		case len(u.runs) > 0:
			want = submitted
		case u.part != nil:
			want = queued
		}
		if u.state != want && (u.state != over || want != idle) {
			return fmt.Errorf("u%d is in state %d, and should be in %d", id, u.state, want)
		}
		switch {
		case u.part != nil && len(u.runs) > 0 || len(u.runs) > 2:
			return fmt.Errorf("u%d is queued %v and in %d submissions", id, u.part != nil, len(u.runs))
		}
		found := false
		for _, x := range u.runs {
			st := x.r.units[x.i].st
			if x.r.units[x.i].id != UnitID(id) || !st.lives() || s.runs[x.r.id] != x.r {
				return fmt.Errorf("u%d is not in submission %d", id, x.r.id)
			}
			if (st == deferred || st == exporting) != (u.granted == x.r) {
				return fmt.Errorf("u%d is in state %d in submission %d, granted %v", id, st, x.r.id, u.granted == x.r)
			}
			found = found || u.granted == x.r
			inflight += st.busy()
			if st == deferred {
				waiting++
			}
		}
		if u.granted != nil && !found {
			return fmt.Errorf("u%d is granted to a submission that it is not in", id)
		}
	}
	for id, r := range s.runs {
		live := 0
		for _, m := range r.units {
			if m.st.lives() {
				live++
			}
		}
		if live != r.live {
			return fmt.Errorf("submission %d is at %d units, counted %d", id, r.live, live)
		}
	}
	if left != s.left || inflight != s.inflight || waiting != s.deferred {
		return fmt.Errorf("left %d, in flight %d, deferred %d; counted %d, %d and %d", s.left, s.inflight, s.deferred, left, inflight, waiting)
	}
	return nil
}

func checkDemand(d *demand, refs map[VertexID]int32) error {
	var load [ways]int64
	ready := 0
	for v, e := range d.m {
		load[e.way] += e.work
		missing := int32(0)
		for _, in := range d.follows(v, e.way) {
			if !d.n.held.has(in) {
				refs[in]++
				missing++
			}
		}
		if missing != e.missing && d.track {
			return fmt.Errorf("vertex %d misses %d inputs, not %d", v, missing, e.missing)
		}
		if missing == 0 {
			ready++
		}
	}
	for v, n := range refs {
		if d.n.held.has(v) {
			n = 0
		}
		if d.m[v].refs != n {
			return fmt.Errorf("vertex %d is needed %d times, not %d", v, n, d.m[v].refs)
		}
	}
	for v := range d.m {
		if refs[v] == 0 || d.n.held.has(v) {
			return fmt.Errorf("vertex %d is not needed", v)
		}
	}
	if load != d.load || d.track && ready != d.ready {
		return fmt.Errorf("load %v, ready %d; counted %v and %d", d.load, d.ready, load, ready)
	}
	return nil
}

func (c *chaos) sub(id PartitionID) *submission {
	for _, s := range c.subs {
		if s.Partition == id {
			return s
		}
	}
	return nil
}

func (c *chaos) liveOn(u UnitID, n NodeID) bool {
	for _, s := range c.subs {
		if i := slices.Index(s.Units, u); i >= 0 && s.Node == n && s.units[i] <= chaosExporting && !s.superseded() {
			return true
		}
	}
	return false
}

// superseded reports whether s was cancelled, as its units were finished elsewhere, and has not
// ended. If what was finished is lost meanwhile, the units are submitted anew.
func (s *submission) superseded() bool { return s.cancel }

func (c *chaos) command(ev Event, cmd Command) error {
	switch cmd := cmd.(type) {
	case Submit:
		if cmd.Partition <= c.last {
			return errors.New("number used twice")
		}
		c.last = cmd.Partition
		if !c.up[cmd.Node] {
			return errors.New("the node is down")
		}
		if c.stop {
			return errors.New("the run is over")
		}
		if len(cmd.Units) == 0 {
			return errors.New("no units")
		}
		if missing := c.s.missing(c.s.nodes[cmd.Node], cmd.Units); len(missing) > 0 {
			return fmt.Errorf("another node owns v%d", missing[0])
		}
		for i, u := range cmd.Units {
			unit := c.cfg.Units[u]
			if unit.OnDemand {
				delete(c.built, u) // sent once more
			}
			switch {
			case c.built[u]:
				return fmt.Errorf("u%d is built", u)
			case !c.cfg.allows(u, cmd.Node):
				return fmt.Errorf("u%d may not run there", u)
			case c.liveOn(u, cmd.Node) || slices.Contains(cmd.Units[:i], u):
				return fmt.Errorf("u%d runs there already", u)
			}
			for _, s := range c.subs {
				if j := slices.Index(s.Units, u); j >= 0 && s.units[j] <= chaosExporting && cmd.Why != Hedged && !s.superseded() {
					return fmt.Errorf("u%d runs already", u)
				}
			}
			for _, d := range unit.After {
				if !c.there(d) && !c.waived(u, d) {
					return fmt.Errorf("u%d comes after u%d", u, d)
				}
			}
		}
		if m := c.idler(cmd); m != nil {
			return fmt.Errorf("the node lags, and %s, which would do it sooner, has nothing to do", m.name)
		}
		s := &submission{Submit: cmd, units: make([]chaosUnit, len(cmd.Units))}
		c.subs = append(c.subs, s)
		if jobs := c.cfg.Options.Jobs; jobs > 0 && c.inFlight() > jobs {
			return fmt.Errorf("%d units are submitted", c.inFlight())
		}
	case Export:
		s := c.sub(cmd.Partition)
		i := slices.Index(s.Units, cmd.Unit)
		e, ok := ev.(UnitBuilt)
		now := ok && e.Unit == cmd.Unit && e.Partition == cmd.Partition
		defers, gated := c.cfg.Options.DeferOutput && !c.cfg.Units[cmd.Unit].Early, len(c.cfg.Units[cmd.Unit].Gates) > 0
		if !defers && !gated && !now {
			return errors.New("not in answer to UnitBuilt")
		} else if (defers || !now) && s.units[i] != chaosDeferred {
			return errors.New("was not deferred")
		} else if open, _ := c.gates(cmd.Unit); !open {
			return errors.New("before its gates are open")
		} else if defers && slices.ContainsFunc(c.s.units, func(u unit) bool { return u.state < granted }) {
			return errors.New("before all is built")
		}
		if c.built[cmd.Unit] || c.stop {
			return errors.New("too late")
		}
		for _, s := range c.subs {
			if i := slices.Index(s.Units, cmd.Unit); i >= 0 && s.units[i] == chaosExporting {
				return errors.New("exported twice")
			}
		}
		s.units[i] = chaosExporting
	case Defer:
		if e, ok := ev.(UnitBuilt); !ok || e.Unit != cmd.Unit || e.Partition != cmd.Partition || c.there(cmd.Unit) {
			return errors.New("not in answer to the first UnitBuilt")
		}
		s := c.sub(cmd.Partition)
		s.units[slices.Index(s.Units, cmd.Unit)] = chaosDeferred
		if s.waited == nil {
			s.waited = map[UnitID]bool{}
		}
		s.waited[cmd.Unit] = true
	case Release:
		s := c.sub(cmd.Partition)
		i := slices.Index(s.Units, cmd.Unit)
		if _, shut := c.gates(cmd.Unit); !shut || s.units[i] != chaosDeferred {
			return errors.New("its gates have not failed, or it was not deferred")
		}
		s.units[i] = chaosDenied
		c.released[cmd.Unit] = true
	case CancelPartition:
		s := c.sub(cmd.Partition)
		if s == nil || s.cancel {
			return errors.New("not running")
		}
		s.cancel = true
		_, missed := ev.(VertexMissed)
		for i := range s.units {
			if !cmd.Recalled {
				break
			}
			switch {
			case c.built[s.Units[i]] || s.units[i] > chaosExporting:
			case missed && s.units[i] == chaosBuilding:
				s.units[i] = chaosRecalled
			case missed:
			case s.units[i] == chaosExporting || s.begun:
				return fmt.Errorf("u%d has begun", s.Units[i])
			default:
				s.units[i] = chaosRecalled
			}
		}
	case Abandon:
		if c.sub(cmd.Partition) == nil {
			return errors.New("not running")
		}
		c.subs = slices.DeleteFunc(c.subs, func(s *submission) bool { return s.Partition == cmd.Partition })
	case Reopen:
		for _, u := range cmd.Units {
			if !c.built[u] || c.cfg.Units[u].OnDemand {
				return fmt.Errorf("u%d is not finished", u)
			}
			delete(c.built, u)
		}
	case Finish:
		if c.finish != nil || len(c.subs) > 0 {
			return fmt.Errorf("%d submissions run", len(c.subs))
		}
		c.finish = &cmd
		return c.checkFinish()
	}
	return nil
}

// idler returns a node without any work that would do what a lagging one was given in a
// fraction of the time, even one step after the other; nil when there is none.
func (c *chaos) idler(cmd Submit) *node {
	n := c.s.nodes[cmd.Node]
	if cmd.Why == Hedged || !c.cfg.Options.Steal || !c.s.lags(n) {
		return nil
	}
	for _, u := range cmd.Units {
		if c.s.units[u].moves >= maxMoves || c.s.once.reaches[u] {
			return nil
		}
	}
	here := c.work(n, cmd.Units, true)
	for _, m := range c.s.nodes {
		busy := len(m.runs) > 0 || len(m.parts) > 0 || m.state != up || m.drains || c.s.lags(m) || len(c.cfg.Nodes[m.id].Fetches) > 0
		allowed := !slices.ContainsFunc(cmd.Units, func(u UnitID) bool { return !c.s.cfg.allows(u, m.id) })
		// What n does anyway, for another unit, is not taken from it.
		if m != n && !busy && allowed && 2*c.work(m, cmd.Units, false) < here && c.s.relief(n, cmd.Units) > 0 {
			return m
		}
	}
	return nil
}

// work is how long units take on a node: with chain set their longest chain of steps, less
// those under way, else all of them one after the other.
func (c *chaos) work(n *node, units []UnitID, chain bool) float64 {
	done := map[VertexID]float64{}
	all := 0.
	var walk func(v VertexID) float64
	walk = func(v VertexID) float64 {
		if t, ok := done[v]; ok || n.held.has(v) {
			return t
		}
		longest := 0.
		for _, in := range c.cfg.Vertices[v].Inputs {
			longest = max(longest, walk(in))
		}
		t := c.s.exec(n, v)
		if !c.s.cfg.executes(c.cfg.Vertices[v].Platform, n.id) {
			t = math.Inf(1)
		}
		if slices.ContainsFunc(n.running, func(r running) bool { return r.v == v }) || chain && (n.fetches.has(v) || c.s.cached.has(v)) {
			t = 0
		}
		all += t
		done[v] = longest + t
		return done[v]
	}
	longest := 0.
	for _, u := range units {
		longest = max(longest, walk(c.cfg.Units[u].Root))
	}
	if chain {
		return longest
	}
	return all
}

// gates reports whether all gates of a unit are finished, and whether one has failed.
func (c *chaos) gates(u UnitID) (open, shut bool) {
	open, shut = !c.cfg.Units[u].Shut, c.cfg.Units[u].Shut
	for _, g := range c.cfg.Units[u].Gates {
		open = open && c.built[g]
		shut = shut || c.s.units[g].state == over && !c.built[g]
	}
	return open, shut
}

// there reports whether the results of a unit are there for others.
func (c *chaos) there(u UnitID) bool {
	return c.built[u] || c.released[u] || slices.ContainsFunc(c.subs, func(s *submission) bool {
		i := slices.Index(s.Units, u)
		return i >= 0 && (s.units[i] == chaosDeferred || s.units[i] == chaosExporting && s.waited[u])
	})
}

// waived reports whether a unit waits no longer for what it is sent too late. Only what may have more
// than one result is executed instead.
func (c *chaos) waived(u, d UnitID) bool {
	root := c.cfg.Units[d].Root
	return c.cfg.Units[d].Early && !slices.Contains(c.s.deps[u], d) && (!c.cfg.Vertices[root].Once || c.s.once.free.has(root))
}

// inFlight counts live units. Those that the scheduler has given up in a
// submission without a word, because they are finished elsewhere, count for
// nothing.
func (c *chaos) inFlight() int {
	n := 0
	for _, s := range c.subs {
		for i, u := range s.Units {
			if s.units[i] <= chaosExporting && s.units[i] != chaosDeferred && !c.built[u] && !c.released[u] && !(c.cfg.Units[u].Early && c.s.isOver(u)) {
				n++
			}
		}
	}
	return n
}

func (c *chaos) checkFinish() error {
	for i, o := range c.finish.Outcomes {
		u := UnitID(i)
		if c.cfg.Units[u].OnDemand {
			continue
		}
		if o.State == Unpublished && c.cfg.Units[u].Early && !c.released[u] && o.Reason != "" {
			continue // it was sent too late
		}
		if (o.State == Built) != c.built[u] {
			return fmt.Errorf("u%d: %s, exported %v", u, o.State, c.built[u])
		}
		if o.State != Built && o.Reason == "" {
			return fmt.Errorf("u%d: %s without a reason", u, o.State)
		}
		if (o.State == Unpublished) != c.released[u] {
			return fmt.Errorf("u%d: %s, released %v", u, o.State, c.released[u])
		}
		if o.State != Unpublished && (o.State == Skipped) != (o.Because != NoUnit) {
			return fmt.Errorf("u%d: %s because of %d", u, o.State, o.Because)
		}
		if o.State == Skipped && c.finish.Outcomes[o.Because].State != Failed {
			return fmt.Errorf("u%d: skipped because of u%d, which is %s", u, o.Because, c.finish.Outcomes[o.Because].State)
		}
		if o.State == NotStarted && c.finish.Reason == "" {
			return fmt.Errorf("u%d: not started, but nothing stopped the run", u)
		}
	}
	return nil
}

func (c *chaos) usesBad(v VertexID) VertexID {
	if c.bad[v] {
		return v
	}
	for _, in := range c.cfg.Vertices[v].Inputs {
		if b := c.usesBad(in); b != NoVertex {
			return b
		}
	}
	return NoVertex
}

// unitBad returns the step that makes a unit fail, or NoVertex.
func (c *chaos) unitBad(u UnitID) VertexID {
	if b := c.usesBad(c.cfg.Units[u].Root); b != NoVertex {
		return b
	}
	return NoVertex
}

// run plays until the scheduler finishes. Nothing may be owed for ever: when no
// event is left to give and the run is not over, that is a deadlock.
func (c *chaos) run() error {
	for steps := 0; c.finish == nil; steps++ {
		if steps > 20000 {
			return errors.New("the run does not end")
		}
		c.now += time.Duration(c.r.Intn(10)) * time.Second
		if err := c.random(steps); err != nil {
			return err
		}
	}
	return nil
}

func (c *chaos) random(steps int) error {
	// Disturbances become rarer, so that every run ends.
	quiet := c.calm || steps > 300
	n := NodeID(c.r.Intn(len(c.cfg.Nodes)))
	switch k := c.r.Intn(20); {
	case k < 4:
		if c.up[n] || c.gone[n] {
			return nil
		}
		c.up[n] = true
		up := NodeUp{At: c.now, Node: n}
		for range c.r.Intn(3) {
			up.Holds = append(up.Holds, VertexID(c.r.Intn(len(c.cfg.Vertices)+2)-1))
		}
		if c.last%4 == 3 {
			up.Emulates = map[string]float64{"arm64": float64(1 + len(c.subs))}
		}
		return c.step(up)
	case k == 4:
		if quiet || c.gone[n] || c.r.Intn(3) > 0 {
			return nil
		}
		c.up[n] = false
		again := c.r.Intn(2) == 0
		c.gone[n] = !again
		return c.step(NodeLost{At: c.now, Node: n, Err: "lost", Reconnecting: again})
	case k == 5:
		v := VertexID(c.r.Intn(len(c.cfg.Vertices)+2) - 1)
		c.start(n, v)
		return c.step(VertexStarted{At: c.now, Node: n, Vertex: v})
	case k == 6:
		return c.step(VertexDone{
			At: c.now, Node: n, Vertex: VertexID(c.r.Intn(len(c.cfg.Vertices)+2) - 1),
			Took: time.Duration(c.r.Intn(100)) * time.Second, Cached: c.r.Intn(2) == 0,
		})
	case k == 7:
		switch c.r.Intn(40) {
		case 7, 8:
			for _, u := range c.s.Outlook().Queued {
				if c.s.units[u].part.lane.n == nil {
					return fmt.Errorf("u%d is in no queue of a node", u)
				}
			}
			return c.step(c.newPlan())
		case 6:
			return c.step(NodeShared{At: c.now, Node: n, Tenants: c.r.Intn(4) - 1})
		case 4, 5:
			return c.step(NodeDrain{At: c.now, Node: n, On: c.r.Intn(3) > 0})
		case 0:
			if !c.calm {
				c.stop = true
				return c.step(Cancel{At: c.now})
			}
		case 1:
			return c.step(VertexCached{At: c.now, Vertex: VertexID(c.r.Intn(len(c.cfg.Vertices)+2) - 1)})
		case 3:
			if !c.calm {
				return c.step(VertexMissed{At: c.now, Node: n, Vertex: VertexID(c.r.Intn(len(c.cfg.Vertices)+2) - 1)})
			}
		case 2: // stale or made up
			p, u := PartitionID(c.r.Intn(1000)+100000), UnitID(c.r.Intn(20)-1)
			return errors.Join(
				c.step(UnitBuilt{At: c.now, Partition: p, Unit: u}),
				c.step(UnitExported{At: c.now, Partition: p, Unit: u}),
				c.step(UnitFailed{At: c.now, Partition: p, Unit: u}),
				c.step(PartitionEnded{At: c.now, Partition: p}),
				c.step(NodeUp{At: c.now, Node: -1}), c.step(NodeLost{At: c.now, Node: 99}),
			)
		}
		return c.step(Tick{At: c.now})
	}
	if len(c.subs) == 0 {
		return nil
	}
	return c.advance(c.subs[c.r.Intn(len(c.subs))], quiet)
}

// newPlan is another plan, which need not make sense.
func (c *chaos) newPlan() NewPlan {
	e := NewPlan{At: c.now, Plan: make([][]Partition, c.r.Intn(len(c.cfg.Nodes)+2))}
	for u := range len(c.cfg.Units) + 1 {
		if n := c.r.Intn(len(e.Plan) + 1); n < len(e.Plan) {
			if k := len(e.Plan[n]); k > 0 && c.r.Intn(2) == 0 {
				e.Plan[n][k-1] = append(e.Plan[n][k-1], UnitID(u-1))
			} else {
				e.Plan[n] = append(e.Plan[n], Partition{UnitID(u - 1)})
			}
		}
	}
	return e
}

// start notes which submission has begun with a step that only one on the node needs.
func (c *chaos) start(n NodeID, v VertexID) {
	if _, needed := c.s.nodes[n].sub.m[v]; !needed {
		return
	}
	var users []*submission
	for _, s := range c.subs {
		if s.Node == n && slices.ContainsFunc(s.Units, func(u UnitID) bool { return c.reads(c.cfg.Units[u].Root, v) }) {
			users = append(users, s)
		}
	}
	if len(users) == 1 && !slices.ContainsFunc(c.s.nodes[n].running, func(r running) bool { return r.v == v }) {
		users[0].begun = true
	}
}

// reads reports whether v is below root.
func (c *chaos) reads(root, v VertexID) bool {
	return root == v || slices.ContainsFunc(c.cfg.Vertices[root].Inputs, func(in VertexID) bool { return c.reads(in, v) })
}

// advance lets the next thing happen to a submission.
func (c *chaos) advance(s *submission, quiet bool) error {
	end := func(err string, retryable bool) error {
		c.subs = slices.DeleteFunc(c.subs, func(x *submission) bool { return x == s })
		return c.step(PartitionEnded{At: c.now, Partition: s.Partition, Err: err, Retryable: retryable})
	}
	if s.cancel && c.r.Intn(2) == 0 {
		return end("canceled", false)
	}
	if !quiet && c.r.Intn(30) == 0 {
		return end([]string{"", "transport closed", "something broke"}[c.r.Intn(3)], c.r.Intn(2) == 0)
	}
	var todo []int
	waits := false
	for i := range s.Units {
		if s.units[i] == chaosDeferred {
			waits = true
		} else if s.units[i] <= chaosExporting {
			todo = append(todo, i)
		}
	}
	if len(todo) == 0 && waits && !s.failed {
		return nil // its solve is kept open
	}
	// A broken solve ends once all who use the step have heard of it.
	if len(todo) == 0 || s.failed && !slices.ContainsFunc(todo, func(i int) bool {
		return c.unitBad(s.Units[i]) != NoVertex
	}) {
		if s.failed {
			return end("a step failed", false)
		}
		return end("", false)
	}
	i := todo[c.r.Intn(len(todo))]
	u := s.Units[i]
	if !quiet && c.r.Intn(20) == 0 {
		s.units[i] = chaosFailed
		retry := c.r.Intn(4) > 0
		elsewhere := slices.ContainsFunc(c.subs, func(x *submission) bool {
			j := slices.Index(x.Units, u)
			return j >= 0 && x.units[j] <= chaosExporting
		})
		if !retry && !c.cfg.Options.KeepGoing && !elsewhere && !c.built[u] && !c.cfg.Units[u].OnDemand { // else the other one decides
			c.stop = true
		}
		return c.step(UnitFailed{At: c.now, Partition: s.Partition, Unit: u, Vertex: NoVertex, Err: "failed", Retryable: retry, Again: retry && c.r.Intn(4) == 0})
	}
	if bad := c.unitBad(u); bad != NoVertex {
		s.units[i] = chaosFailed
		s.failed = true
		return c.step(UnitFailed{At: c.now, Partition: s.Partition, Unit: u, Vertex: bad, Err: "exit code 1", Execution: int(s.Partition), Way: []string{"one", "another"}[c.r.Intn(2)]})
	}
	if s.units[i] == chaosBuilding {
		s.units[i] = chaosDenied // unless the answer says Export or Defer
		return c.step(UnitBuilt{At: c.now, Partition: s.Partition, Unit: u})
	}
	s.units[i] = chaosDone
	if c.built[u] {
		return errors.New("exported twice")
	}
	c.built[u] = true
	if unit := c.cfg.Units[u]; unit.OnDemand && !unit.Stage {
		var err error
		switch c.r.Intn(8) {
		case 0: // without a word
		case 1:
			err = c.step(VertexUnsent{At: c.now, Vertex: unit.Root})
		default:
			err = c.step(VertexCached{At: c.now, Vertex: unit.Root})
		}
		if err != nil {
			return err
		}
	}
	return c.step(UnitExported{At: c.now, Partition: s.Partition, Unit: u})
}

var (
	seedFlag  = flag.Int64("seed", 0, "the first seed of TestRandomInterleavings")
	seedsFlag = flag.Int64("seeds", 3000, "how many seeds TestRandomInterleavings tries")
)

func TestRandomInterleavings(t *testing.T) {
	runs := *seedsFlag
	if testing.Short() {
		runs = min(runs, 300)
	}
	for seed := *seedFlag; seed < *seedFlag+runs; seed++ {
		r := rand.New(rand.NewSource(seed))
		c, err := newChaos(randomConfig(r), r)
		require.NoError(t, err, "seed %d", seed)
		for range r.Intn(2) {
			c.bad[VertexID(r.Intn(len(c.cfg.Vertices)))] = true
		}
		assert.NoError(t, c.run(), "seed %d", seed)
	}
}

// What becomes of every unit under KeepGoing follows from the graph alone.
func TestOutcomeWhateverTheOrder(t *testing.T) {
	for seed := range int64(400) {
		r := rand.New(rand.NewSource(seed))
		cfg := randomConfig(r)
		cfg.Options.KeepGoing = true
		for i := range cfg.Units { // some node can build everything
			cfg.Units[i].Platforms, cfg.Units[i].Nodes = nil, nil
		}
		bad := VertexID(r.Intn(len(cfg.Vertices)))
		var want []State
		var because []UnitID
		for order := range int64(4) {
			c, err := newChaos(cfg, rand.New(rand.NewSource(seed*10+order)))
			require.NoError(t, err)
			c.calm = true
			c.bad[bad] = true
			require.NoError(t, c.run(), "seed %d order %d", seed, order)
			var states []State
			var blame []UnitID
			for u, o := range c.finish.Outcomes {
				if cfg.Units[u].OnDemand {
					continue // nobody asked for it
				}
				states = append(states, o.State)
				blame = append(blame, o.Because)
				if o.State == Failed {
					require.NotEqual(t, NoVertex, c.unitBad(UnitID(u)))
				}
			}
			if order == 0 {
				want, because = states, blame
			}
			require.Equal(t, want, states, "seed %d order %d", seed, order)
			require.Equal(t, because, blame, "seed %d order %d", seed, order)
		}
	}
}

// The same events give the same commands.
func TestDeterministic(t *testing.T) {
	for seed := range int64(50) {
		var logs [2]string
		for i := range logs {
			r := rand.New(rand.NewSource(seed))
			c, err := newChaos(randomConfig(r), r)
			require.NoError(t, err)
			require.NoError(t, c.run())
			logs[i] = fmt.Sprintf("%+v", *c.finish)
		}
		require.Equal(t, logs[0], logs[1])
	}
}

func FuzzStep(f *testing.F) {
	for seed := range int64(20) {
		b := make([]byte, 50+20*seed)
		rand.New(rand.NewSource(seed)).Read(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &byteChoices{data, rand.New(rand.NewSource(1))}
		c, err := newChaos(randomConfig(r), r)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.run(); err != nil {
			t.Fatal(err)
		}
	})
}
