package sim

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/sched"
)

// World is how a run differs from what was planned.
type World struct {
	// Factor multiplies the estimated cost of each vertex, indexed by VertexID;
	// nil = the estimates are right.
	Factor []float64
	// Slow multiplies the time of every transfer; 0 = 1.
	Slow float64
	// Links is how many transfers are carried at full bandwidth in each direction, for all nodes
	// together; more of them share it. 0 = no limit.
	Links int
	// Lost nodes go away for good at these times.
	Lost []Loss
	// Slowed nodes become slow for good at these times.
	Slowed []Slowdown
	// From is when each node comes; nil = all are there.
	From []time.Duration
	// Replan plans what is left when a node has come; nil = nobody does.
	Replan partition.Strategy
	// Assumed is set when the scheduler does not keep to the slots of the nodes, which do
	// so themselves.
	Assumed bool
}

// Loss is a node that goes away.
type Loss struct {
	Node partition.NodeID
	At   time.Duration
}

// Run is what became of a plan.
type Run struct {
	Makespan                time.Duration
	Steals, Hedges, Rescues int
	// Executed and Duplicated are in true seconds at speed 1; work that was cut off
	// does not count.
	Executed   float64
	Duplicated float64
	// Alone is how long slowed nodes worked while no other node did.
	Alone time.Duration
	// Node is where each target was built.
	Node []partition.NodeID
}

// Cluster is a set of nodes in virtual time that carries out what a scheduler
// commands.
//
// A node runs the ready steps of its submissions in the order of the plan, as many
// at once as it has slots. It fetches a step when the registry holds it at the time
// of submission and that is sooner than executing it or planned. Transfers go one
// at a time in each direction, and may share links with those of others. Steps that the plan sends are units of their own,
// see plan.Exchange.
type Cluster struct {
	p       partition.Problem
	plan    partition.Plan
	world   World
	sched   *sched.Scheduler
	config  sched.Config
	came    bool // what is left is to be planned anew, as nodes have come
	arrived int  // how many nodes have come late

	now    time.Duration
	queue  happenings
	seq    int
	inbox  []sched.Event
	done   bool
	finish sched.Finish

	roots    []partition.VertexID // per unit
	targets  int                  // units from here on are intermediate steps
	sent     [][]int              // by each of those
	nodes    []*machine
	registry map[partition.VertexID]bool
	up, down carrier
	planned  map[site]bool          // fetches of the plan
	starts   map[site]time.Duration // planned starts
	first    []time.Duration        // per vertex: its first planned start
	ran      map[partition.VertexID]int
	out      Run
}

type site struct {
	node   partition.NodeID
	vertex partition.VertexID
}

type machine struct {
	id       partition.NodeID
	lost     bool
	slowed   float64 // by which factor it became slower; 0 = not
	held     map[partition.VertexID]bool
	want     map[partition.VertexID]*want
	list     []partition.VertexID // keys of want, by priority
	busy     int
	pulling  bool
	pushing  bool
	outgoing []push
	parts    []*submission
}

type want struct {
	fetch bool
	token int // of its happening while it runs, 0 = not started
	began time.Duration
	ends  time.Duration
}

type push struct {
	part sched.PartitionID
	unit sched.UnitID
}

type submission struct {
	id    sched.PartitionID
	units []sched.UnitID
	built map[sched.UnitID]bool
	open  map[sched.UnitID]bool // not exported yet
}

// happening is something that comes to pass at a time.
type happening struct {
	at    time.Duration
	token int
	do    func()
}

type happenings []happening

func (h happenings) Len() int { return len(h) }
func (h happenings) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].token < h[j].token
}
func (h happenings) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *happenings) Push(x any)   { *h = append(*h, x.(happening)) }
func (h *happenings) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// Execute runs a plan for p, whose costs are the estimates, in the given world.
func Execute(p partition.Problem, plan partition.Plan, world World, steal bool) (Run, error) {
	c := &Cluster{
		p: p, plan: plan, world: world, targets: len(p.Targets),
		registry: map[partition.VertexID]bool{}, planned: map[site]bool{}, starts: map[site]time.Duration{},
		first: make([]time.Duration, len(p.Vertices)), ran: map[partition.VertexID]int{},
	}
	c.up, c.down = carrier{c: c, links: world.Links}, carrier{c: c, links: world.Links}
	c.config = c.configure(sched.Options{Steal: steal, Ahead: 1})
	s, err := sched.New(c.config)
	if err != nil {
		return Run{}, fmt.Errorf("simulate: %w", err)
	}
	c.sched = s
	for n, node := range p.Nodes {
		m := &machine{id: partition.NodeID(n), held: map[partition.VertexID]bool{}, want: map[partition.VertexID]*want{}}
		for _, v := range node.Warm {
			m.held[v] = true
		}
		c.nodes = append(c.nodes, m)
		if world.From == nil || world.From[n] == 0 {
			c.tell(sched.NodeUp{Node: sched.NodeID(n)})
			continue
		}
		c.after(world.From[n], func() {
			c.tell(sched.NodeUp{At: c.now, Node: sched.NodeID(n)})
			c.arrived++
			if last := c.arrived; world.Replan != nil {
				c.after(runtime.Gathering, func() { c.came = last == c.arrived }) // one plan for all that come together
			}
		})
	}
	for _, v := range p.Network.Cached {
		c.registry[v] = true
	}
	for _, l := range world.Lost {
		c.after(l.At, func() { c.lose(l.Node) })
	}
	for _, l := range world.Slowed {
		c.after(l.At, func() { c.slow(l.Node, l.Factor) })
	}
	c.tick()
	return c.loop()
}

// tickEvery is how often the scheduler gets the time.
const tickEvery = 5 * time.Second

func (c *Cluster) tick() {
	c.after(tickEvery, func() {
		c.tell(sched.Tick{At: c.now})
		c.tick()
	})
}

func (c *Cluster) loop() (Run, error) {
	// A run that needs this much longer than its plan will not end.
	deadline := 200*c.plan.Schedule.Makespan.Duration() + time.Hour
	for {
		for len(c.inbox) > 0 && !c.done {
			ev := c.inbox[0]
			c.inbox = c.inbox[1:]
			commands := c.sched.Step(ev)
			for _, cmd := range commands {
				c.carryOut(cmd)
			}
			// No Export in the answer means that another node publishes the unit.
			if b, ok := ev.(sched.UnitBuilt); ok && !slices.Contains(commands, sched.Command(sched.Export{Partition: b.Partition, Unit: b.Unit})) {
				c.leave(b.Partition, b.Unit)
			}
		}
		if c.done {
			return c.result()
		}
		if c.came {
			if err := c.replan(); err != nil {
				return Run{}, err
			}
			continue
		}
		if len(c.queue) == 0 || c.now > deadline {
			return Run{}, errors.New("simulate: the scheduler waits for something that does not come")
		}
		next := heap.Pop(&c.queue).(happening)
		if c.alone() {
			c.out.Alone += next.at - c.now
		}
		c.now = next.at
		next.do()
	}
}

// replan plans what is left, if somebody does.
func (c *Cluster) replan() error {
	c.came = false
	left := c.sched.Outlook()
	if len(left.Queued) == 0 {
		return nil
	}
	p, steps, err := runtime.Replan(context.Background(), &c.config, left, c.now, c.world.Replan)
	if err != nil {
		return fmt.Errorf("simulate: %w", err)
	}
	for _, t := range steps {
		if t.Kind != partition.Export {
			here := site{t.Node, t.Vertex}
			c.starts[here], c.planned[here] = t.Start.Duration(), t.Kind == partition.Pull
		}
	}
	for _, m := range c.nodes {
		c.arrange(m)
	}
	p.At = c.now
	c.tell(p)
	return nil
}

func (c *Cluster) result() (Run, error) {
	c.out.Node = make([]partition.NodeID, c.targets)
	for u, o := range c.finish.Outcomes {
		if u >= c.targets {
			continue
		}
		if o.State != sched.Built {
			return Run{}, fmt.Errorf("simulate: target %s was not built: %s", c.p.Targets[u].Name, o.Reason)
		}
		c.out.Node[u] = partition.NodeID(o.Node)
		c.out.Makespan = max(c.out.Makespan, o.At)
	}
	for _, m := range c.finish.Moves {
		switch m.Why {
		case sched.Stolen:
			c.out.Steals++
		case sched.Hedged:
			c.out.Hedges++
		case sched.Rescued:
			c.out.Rescues++
		}
	}
	return c.out, nil
}

func (c *Cluster) after(d time.Duration, do func()) int {
	c.seq++
	heap.Push(&c.queue, happening{c.now + d, c.seq, do})
	return c.seq
}

func (c *Cluster) tell(ev sched.Event) { c.inbox = append(c.inbox, ev) }

// configure returns what the scheduler of a build with this plan is given, and notes
// what the nodes of the simulation have to know of it.
func (c *Cluster) configure(options sched.Options) sched.Config {
	nodes := make([]plan.Node, len(c.p.Nodes))
	for n, node := range c.p.Nodes {
		nodes[n] = plan.Node{Name: node.Name, Speed: node.Speed, Slots: node.Slots, SlotsAssumed: c.world.Assumed}
	}
	p := plan.FromSolution(c.p, c.plan, nodes)
	p.Exchange.AddOnDemand(slices.Concat(onDemand(c.p), plan.Stages(c.p)))
	config := runtime.Schedule(p, options)
	for _, u := range config.Units {
		c.roots = append(c.roots, partition.VertexID(u.Root))
	}
	for _, s := range p.Exchange.Steps {
		c.sent = append(c.sent, s.Sent)
	}
	for v := range c.first {
		c.first[v] = 1 << 62
	}
	for _, t := range c.plan.Schedule.Tasks {
		c.first[t.Vertex] = min(c.first[t.Vertex], t.Start.Duration())
		if t.Kind != partition.Export {
			c.starts[site{t.Node, t.Vertex}] = t.Start.Duration()
		}
	}
	for n, share := range c.plan.Assignment.Shares {
		for _, f := range share.Fetch {
			c.planned[site{partition.NodeID(n), f.Vertex}] = true
		}
	}
	return config
}

// onDemand returns the steps that a node sends when another one turns out to need them, as the
// plan of a build has them: those with one result, each with those that its layers stand on.
func onDemand(p partition.Problem) (steps []plan.Intermediate) {
	for v, vertex := range p.Vertices {
		if !vertex.Once || len(p.Nodes) < 2 {
			continue
		}
		step := plan.Intermediate{Vertex: v, Node: -1}
		for u := v; p.Vertices[u].Once; u = int(p.Vertices[u].Inputs[0]) {
			step.Sent = append(step.Sent, u)
			if len(p.Vertices[u].Inputs) == 0 {
				break
			}
		}
		slices.Reverse(step.Sent)
		steps = append(steps, step)
	}
	return steps
}

func (c *Cluster) carryOut(cmd sched.Command) {
	switch cmd := cmd.(type) {
	case sched.Submit:
		c.after(cmd.Delay, func() { c.submit(cmd) })
	case sched.Export:
		c.export(cmd)
	case sched.CancelPartition:
		c.cancel(cmd.Partition)
	case sched.Abandon:
		// The node is lost, and all of its submissions with it.
	case sched.Finish:
		c.finish, c.done = cmd, true
	}
}

func (c *Cluster) submit(cmd sched.Submit) {
	m := c.nodes[cmd.Node]
	if m.lost {
		return
	}
	s := &submission{id: cmd.Partition, units: cmd.Units, built: map[sched.UnitID]bool{}, open: map[sched.UnitID]bool{}}
	for _, u := range cmd.Units {
		s.open[u] = true
	}
	m.parts = append(m.parts, s)
	for _, u := range cmd.Units {
		c.need(m, c.roots[u])
	}
	c.arrange(m)
	c.advance(m)
}

// need makes m come to hold v.
func (c *Cluster) need(m *machine, v partition.VertexID) {
	if m.held[v] || m.want[v] != nil {
		return
	}
	w := &want{}
	if c.registry[v] {
		here := site{m.id, v}
		_, planned := c.starts[here]
		w.fetch = c.planned[here] || !c.runs(m, v) || c.p.Vertices[v].Once || !planned && c.transfer(v) < c.exec(m, v, false)
	}
	m.want[v] = w
	for k, u := range c.p.Vertices[v].Inputs {
		if k > 0 && w.fetch {
			break
		}
		c.need(m, u)
	}
}

func (c *Cluster) arrange(m *machine) {
	m.list = m.list[:0]
	for v := range m.want {
		m.list = append(m.list, v)
	}
	slices.SortFunc(m.list, func(a, b partition.VertexID) int {
		return cmp.Or(cmp.Compare(c.priority(m, a), c.priority(m, b)), cmp.Compare(a, b))
	})
}

func (c *Cluster) priority(m *machine, v partition.VertexID) time.Duration {
	if at, ok := c.starts[site{m.id, v}]; ok {
		return at
	}
	return c.first[v]
}

func (c *Cluster) runs(m *machine, v partition.VertexID) bool {
	pf := c.p.Vertices[v].Platform
	return pf == "" || slices.Contains(c.p.Nodes[m.id].Platforms, pf)
}

// exec is the true or the estimated time of v on m.
func (c *Cluster) exec(m *machine, v partition.VertexID, really bool) time.Duration {
	node := c.p.Nodes[m.id]
	cost := c.p.Vertices[v].Cost / partition.Seconds(node.Speed)
	if factor, ok := node.Emulates[c.p.Vertices[v].Platform]; ok {
		cost *= partition.Seconds(factor)
	}
	cost *= partition.Seconds(node.Chill(c.p.Vertices[v]))
	if really && c.world.Factor != nil {
		cost *= partition.Seconds(c.world.Factor[v])
	}
	if really && m.slowed > 0 {
		cost *= partition.Seconds(m.slowed)
	}
	return cost.Duration()
}

func (c *Cluster) transfer(v partition.VertexID) time.Duration {
	x := c.p.Network.Latency + partition.Seconds(float64(c.p.Vertices[v].Bytes)/c.p.Network.Bandwidth)
	if c.world.Slow > 0 {
		x *= partition.Seconds(c.world.Slow)
	}
	return x.Duration()
}

// advance starts what can start on m and reports units that are built.
func (c *Cluster) advance(m *machine) {
	for _, v := range m.list {
		w := m.want[v]
		if w == nil || w.token != 0 {
			continue
		}
		inputs := c.p.Vertices[v].Inputs
		if w.fetch {
			inputs = inputs[:min(1, len(inputs))]
		}
		if slices.ContainsFunc(inputs, func(u partition.VertexID) bool { return !m.held[u] }) {
			continue
		}
		if w.fetch {
			if m.pulling {
				continue
			}
			m.pulling = true
			c.down.fetch(m, v, w)
		} else {
			if m.busy >= c.p.Nodes[m.id].Slots || !c.runs(m, v) {
				continue
			}
			m.busy++
			c.begin(m, v, w, c.exec(m, v, true))
			c.tell(sched.VertexStarted{At: c.now, Node: sched.NodeID(m.id), Vertex: sched.VertexID(v)})
		}
		w.began = c.now
	}
	for _, s := range m.parts {
		for _, u := range s.units {
			if !s.built[u] && m.held[c.roots[u]] {
				s.built[u] = true
				c.tell(sched.UnitBuilt{At: c.now, Partition: s.id, Unit: u})
			}
		}
	}
}

// begin lets w, which is v on m, end after d.
func (c *Cluster) begin(m *machine, v partition.VertexID, w *want, d time.Duration) {
	var token int
	token = c.after(d, func() {
		if w.token == token {
			c.endVertex(m, v, w)
		}
	})
	w.token, w.ends = token, c.now+d
}

func (c *Cluster) endVertex(m *machine, v partition.VertexID, w *want) {
	if m.lost || m.want[v] != w {
		return // cancelled since
	}
	if w.fetch {
		m.pulling = false
	} else {
		m.busy--
		cost := float64(c.p.Vertices[v].Cost)
		if c.world.Factor != nil {
			cost *= c.world.Factor[v]
		}
		c.out.Executed += cost
		if c.ran[v]++; c.ran[v] > 1 {
			c.out.Duplicated += cost
		}
	}
	delete(m.want, v)
	m.held[v] = true
	c.tell(sched.VertexDone{At: c.now, Node: sched.NodeID(m.id), Vertex: sched.VertexID(v), Took: c.now - w.began, Cached: w.fetch})
	c.arrange(m)
	c.advance(m)
}

// find returns the submission and its node, nil if it has ended.
func (c *Cluster) find(id sched.PartitionID) (*machine, *submission) {
	for _, m := range c.nodes {
		for _, s := range m.parts {
			if s.id == id {
				return m, s
			}
		}
	}
	return nil, nil
}

func (c *Cluster) export(cmd sched.Export) {
	m, s := c.find(cmd.Partition)
	if s == nil {
		return
	}
	if int(cmd.Unit) < c.targets || len(c.unsent(cmd.Unit)) == 0 {
		c.endExport(m, s, cmd.Unit)
		return
	}
	m.outgoing = append(m.outgoing, push{cmd.Partition, cmd.Unit})
	c.send(m)
}

// unsent returns what a step sends and the registry has not.
func (c *Cluster) unsent(u sched.UnitID) []partition.VertexID {
	var list []partition.VertexID
	for _, v := range c.sent[int(u)-c.targets] {
		if v := partition.VertexID(v); !c.registry[v] {
			list = append(list, v)
		}
	}
	return list
}

// send takes the next step up m's link.
func (c *Cluster) send(m *machine) {
	if m.pushing || len(m.outgoing) == 0 || m.lost {
		return
	}
	next := m.outgoing[0]
	m.outgoing = m.outgoing[1:]
	m.pushing = true
	var took time.Duration
	list := c.unsent(next.unit)
	for _, v := range list {
		took += c.transfer(v)
	}
	c.up.carry(m, took, func() {
		m.pushing = false
		if m.lost {
			return
		}
		for _, v := range list {
			c.registry[v] = true
			c.tell(sched.VertexCached{At: c.now, Vertex: sched.VertexID(v)})
		}
		if _, s := c.find(next.part); s != nil {
			c.endExport(m, s, next.unit)
		}
		c.send(m)
	})
}

func (c *Cluster) endExport(m *machine, s *submission, u sched.UnitID) {
	c.tell(sched.UnitExported{At: c.now, Partition: s.id, Unit: u})
	c.close(m, s, u)
}

// leave ends a unit that is not exported here.
func (c *Cluster) leave(id sched.PartitionID, u sched.UnitID) {
	if m, s := c.find(id); s != nil {
		c.close(m, s, u)
	}
}

func (c *Cluster) close(m *machine, s *submission, u sched.UnitID) {
	delete(s.open, u)
	if len(s.open) == 0 {
		c.end(m, s, "")
	}
}

func (c *Cluster) end(m *machine, s *submission, err string) {
	m.parts = slices.DeleteFunc(m.parts, func(x *submission) bool { return x == s })
	c.tell(sched.PartitionEnded{At: c.now, Partition: s.id, Err: err})
}

// cancel ends a submission and stops what nobody else on its node needs.
func (c *Cluster) cancel(id sched.PartitionID) {
	m, s := c.find(id)
	if s == nil {
		return
	}
	c.end(m, s, "canceled")
	still := map[partition.VertexID]bool{}
	var keep func(v partition.VertexID)
	keep = func(v partition.VertexID) {
		w := m.want[v]
		if w == nil || still[v] {
			return
		}
		still[v] = true
		for k, u := range c.p.Vertices[v].Inputs {
			if k > 0 && w.fetch {
				break
			}
			keep(u)
		}
	}
	for _, s := range m.parts {
		for _, u := range s.units {
			keep(c.roots[u])
		}
	}
	for _, v := range m.list {
		if w := m.want[v]; w != nil && !still[v] {
			if w.token != 0 {
				if w.fetch {
					m.pulling = false
					c.down.drop(m)
				} else {
					m.busy--
				}
			}
			delete(m.want, v)
		}
	}
	c.arrange(m)
	c.advance(m)
}

func (c *Cluster) lose(n partition.NodeID) {
	m := c.nodes[n]
	m.lost = true
	m.parts, m.outgoing = nil, nil
	m.want, m.list = map[partition.VertexID]*want{}, nil
	c.up.drop(m)
	c.down.drop(m)
	c.tell(sched.NodeLost{At: c.now, Node: sched.NodeID(n), Err: "simulated loss"})
}
