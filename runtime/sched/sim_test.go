package sched

import (
	"container/heap"
	"fmt"
	"slices"
	"time"
)

// cluster carries commands out in virtual time. A node runs, of what was submitted
// to it and has its inputs, the steps submitted first; a step it does not hold is
// fetched when the registry has it and that is predicted to be faster.
type cluster struct {
	cfg    Config
	s      *Scheduler
	factor []float64 // true cost / predicted cost, by vertex
	slow   []float64 // true slowness beyond the configured speed, by node
	loseAt map[NodeID]time.Duration
	quiet  bool // report no VertexStarted and no VertexDone

	tick time.Duration // between Ticks; 0 = none

	now    time.Duration
	seq    int
	queue  eventHeap
	nodes  []simNode
	parts  map[PartitionID]*simPart
	finish *Finish
	ran    int           // steps executed
	busy   time.Duration // time they took
	last   time.Duration // when the last unit was exported
	steps  int
}

type simNode struct {
	down    bool
	held    map[VertexID]bool
	waiting []VertexID // wanted, in order of submission
	running map[VertexID]int
	used    int
	epoch   int
}

type simPart struct {
	Submit
	building map[UnitID]bool
	ended    bool
}

type simEvent struct {
	at   time.Duration
	seq  int
	call func()
}

type eventHeap []simEvent

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(simEvent)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

func newCluster(cfg Config) (*cluster, error) {
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	c := &cluster{cfg: cfg, s: s, parts: map[PartitionID]*simPart{}}
	for i := range cfg.Nodes {
		n := simNode{held: map[VertexID]bool{}, running: map[VertexID]int{}}
		for _, v := range cfg.Nodes[i].Warm {
			n.held[v] = true
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

func (c *cluster) after(d time.Duration, call func()) {
	c.seq++
	heap.Push(&c.queue, simEvent{c.now + d, c.seq, call})
}

// run plays the whole run and returns the time at which the last unit was exported.
func (c *cluster) run() (time.Duration, error) {
	for i := range c.nodes {
		c.after(0, func() { c.step(NodeUp{At: c.now, Node: NodeID(i)}) })
	}
	ids := make([]NodeID, 0, len(c.loseAt))
	for id := range c.loseAt {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		c.after(c.loseAt[id], func() { c.lose(id) })
	}
	var tick func()
	tick = func() {
		if len(c.queue) > 0 { // else nothing will ever happen
			c.after(c.tick, tick)
			c.step(Tick{At: c.now})
		}
	}
	if c.tick > 0 {
		c.after(c.tick, tick)
	}
	for c.finish == nil && len(c.queue) > 0 {
		e := heap.Pop(&c.queue).(simEvent)
		c.now = e.at
		e.call()
	}
	if c.finish == nil {
		return 0, fmt.Errorf("the run never finished: %d units left", c.s.left)
	}
	return c.last, nil
}

func (c *cluster) step(ev Event) {
	c.steps++
	for _, cmd := range c.s.Step(ev) {
		switch cmd := cmd.(type) {
		case Submit:
			c.submit(cmd)
		case Export:
			c.after(0, func() {
				if p := c.parts[cmd.Partition]; p != nil && !p.ended {
					c.last = c.now
					c.step(UnitExported{At: c.now, Partition: cmd.Partition, Unit: cmd.Unit})
				}
			})
		case CancelPartition:
			c.after(0, func() { c.end(cmd.Partition, "canceled") })
		case Abandon:
			c.parts[cmd.Partition].ended = true
		case Finish:
			c.finish = &cmd
		}
	}
}

func (c *cluster) lose(id NodeID) {
	n := &c.nodes[id]
	n.down = true
	n.epoch++
	n.waiting, n.running, n.used = nil, map[VertexID]int{}, 0
	c.step(NodeLost{At: c.now, Node: id, Err: "gone"})
}

func (c *cluster) submit(cmd Submit) {
	p := &simPart{Submit: cmd, building: map[UnitID]bool{}}
	c.parts[cmd.Partition] = p
	n := &c.nodes[cmd.Node]
	for _, u := range cmd.Units {
		p.building[u] = true
		c.want(n, cmd.Node, c.cfg.Units[u].Root)
	}
	c.after(0, func() { c.progress(cmd.Node) })
}

func (c *cluster) fetches(id NodeID, v VertexID) (time.Duration, bool) {
	if !slices.Contains(c.cfg.Network.Cached, v) {
		return 0, false
	}
	t := c.cfg.Network.Latency
	if bw := c.cfg.Network.Bandwidth; bw > 0 {
		t += time.Duration(float64(c.cfg.Vertices[v].Bytes) / float64(bw) * float64(time.Second))
	}
	exec := time.Duration(float64(c.cfg.Vertices[v].Cost) / c.speed(id))
	return t, t < exec
}

func (c *cluster) speed(id NodeID) float64 {
	if s := c.cfg.Nodes[id].Speed; s > 0 {
		return s
	}
	return 1
}

// want adds v and what it needs, inputs first.
func (c *cluster) want(n *simNode, id NodeID, v VertexID) {
	if _, runs := n.running[v]; runs || n.held[v] || slices.Contains(n.waiting, v) {
		return
	}
	in := c.cfg.Vertices[v].Inputs
	if _, ok := c.fetches(id, v); ok {
		in = in[:min(1, len(in))]
	}
	for _, u := range in {
		c.want(n, id, u)
	}
	n.waiting = append(n.waiting, v)
}

// progress starts what can start and reports units that are built.
func (c *cluster) progress(id NodeID) {
	n := &c.nodes[id]
	if n.down {
		return
	}
	slots := max(1, c.cfg.Nodes[id].Slots)
	for i := 0; i < len(n.waiting); i++ {
		v := n.waiting[i]
		in := c.cfg.Vertices[v].Inputs
		took, fetched := c.fetches(id, v)
		if fetched {
			in = in[:min(1, len(in))]
		} else if n.used >= slots {
			continue
		}
		if slices.ContainsFunc(in, func(u VertexID) bool { return !n.held[u] }) {
			continue
		}
		if !fetched {
			f := 1.
			if c.factor != nil {
				f = c.factor[v]
			}
			if c.slow != nil {
				f *= c.slow[id]
			}
			took = time.Duration(float64(c.cfg.Vertices[v].Cost) / c.speed(id) * f)
			n.used++
			c.ran++
		}
		n.waiting = slices.Delete(n.waiting, i, i+1)
		i--
		c.seq++
		token := c.seq
		n.running[v] = token
		if !c.quiet {
			c.after(0, func() { c.step(VertexStarted{At: c.now, Node: id, Vertex: v}) })
		}
		c.after(took, func() {
			if n.running[v] != token {
				return // lost or canceled
			}
			delete(n.running, v)
			if !fetched {
				n.used--
				c.busy += took
			}
			n.held[v] = true
			if !c.quiet {
				c.step(VertexDone{At: c.now, Node: id, Vertex: v, Took: took, Cached: fetched})
			}
			c.progress(id)
		})
	}
	var ids []PartitionID
	for pid, p := range c.parts {
		if p.Node == id && !p.ended {
			ids = append(ids, pid)
		}
	}
	slices.Sort(ids)
	for _, pid := range ids {
		p := c.parts[pid]
		for _, u := range p.Units {
			if p.building[u] && n.held[c.cfg.Units[u].Root] && !p.ended {
				delete(p.building, u)
				c.step(UnitBuilt{At: c.now, Partition: pid, Unit: u})
			}
		}
		if len(p.building) == 0 && !p.ended {
			c.after(0, func() { c.end(pid, "") })
		}
	}
}

// end ends a submission; what it alone wanted is stopped.
func (c *cluster) end(pid PartitionID, err string) {
	p := c.parts[pid]
	if p.ended {
		return
	}
	p.ended = true
	n := &c.nodes[p.Node]
	if err != "" {
		n.waiting = nil
		keep := map[VertexID]bool{}
		running := n.running
		n.running = map[VertexID]int{}
		var ids []PartitionID
		for id, q := range c.parts {
			if q.Node == p.Node && !q.ended {
				ids = append(ids, id)
			}
		}
		slices.Sort(ids)
		for _, id := range ids {
			for _, u := range c.parts[id].Units {
				if c.parts[id].building[u] {
					c.want(n, p.Node, c.cfg.Units[u].Root)
				}
			}
		}
		for _, v := range n.waiting {
			keep[v] = true
		}
		n.waiting = slices.DeleteFunc(n.waiting, func(v VertexID) bool { _, ok := running[v]; return ok })
		for v, token := range running {
			if keep[v] {
				n.running[v] = token
			} else if _, f := c.fetches(p.Node, v); !f {
				n.used--
			}
		}
	}
	c.step(PartitionEnded{At: c.now, Partition: pid, Err: err})
	c.after(0, func() { c.progress(p.Node) })
}
