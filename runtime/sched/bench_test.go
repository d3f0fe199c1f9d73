package sched

import (
	"container/heap"
	"fmt"
	"math/rand"
	"testing"
	"time"
)

// wide is a problem of families of 20 units on a base and some shared steps, with a
// quarter of the families planned badly, so that there is something to steal.
func wide(units, nodes int) Config {
	r := rand.New(rand.NewSource(1))
	cfg := Config{Options: Options{Steal: true, KeepGoing: true}, Network: Network{Bandwidth: 100e6, Latency: time.Second}}
	for i := range nodes {
		cfg.Nodes = append(cfg.Nodes, Node{Name: fmt.Sprintf("n%d", i), Slots: 2})
	}
	cfg.Plan = make([][]Partition, nodes)
	add := func(in ...VertexID) VertexID {
		cfg.Vertices = append(cfg.Vertices, Vertex{Cost: time.Duration(1+r.Intn(60)) * time.Second, Bytes: 10e6, Inputs: in})
		return VertexID(len(cfg.Vertices) - 1)
	}
	for f := 0; len(cfg.Units) < units; f++ {
		base := add(add())
		node := f * 20 * nodes / units % nodes
		if r.Intn(4) == 0 {
			node = r.Intn(nodes)
		}
		for range min(20, units-len(cfg.Units)) {
			u := UnitID(len(cfg.Units))
			cfg.Units = append(cfg.Units, Unit{Name: fmt.Sprintf("u%d", u), Root: add(add(base))})
			n := (node + r.Intn(max(1, nodes*20/units))) % nodes
			cfg.Plan[n] = append(cfg.Plan[n], Partition{u})
		}
	}
	return cfg
}

// BenchmarkRun plays whole runs in virtual time: New, and every Step.
//
//	go test ./runtime/sched -run '^$' -bench Run -benchtime 3x
func BenchmarkRun(b *testing.B) {
	for _, size := range [][2]int{{100, 10}, {1000, 100}, {10000, 1000}, {10000, 10}} {
		b.Run(fmt.Sprintf("units=%d/nodes=%d", size[0], size[1]), func(b *testing.B) {
			cfg := wide(size[0], size[1])
			b.ReportAllocs()
			steps, moves := 0, 0
			for b.Loop() {
				c, err := newFastCluster(cfg)
				if err != nil {
					b.Fatal(err)
				}
				if err := c.run(); err != nil {
					b.Fatal(err)
				}
				steps += c.steps
				moves = len(c.finish.Moves)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(steps), "ns/step")
			b.ReportMetric(float64(moves), "moves")
		})
	}
}

// fastCluster does as little as possible besides calling Step: on each node the
// steps of a submission run one after the other, whatever the slots.
type fastCluster struct {
	cfg    Config
	s      *Scheduler
	now    time.Duration
	seq    int
	queue  eventHeap
	held   []bits
	free   []time.Duration
	ended  map[PartitionID]bool
	finish *Finish
	steps  int
}

func newFastCluster(cfg Config) (*fastCluster, error) {
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	c := &fastCluster{cfg: cfg, s: s, free: make([]time.Duration, len(cfg.Nodes)), ended: map[PartitionID]bool{}}
	for range cfg.Nodes {
		c.held = append(c.held, newBits(len(cfg.Vertices)))
	}
	return c, nil
}

func (c *fastCluster) at(t time.Duration, call func()) {
	c.seq++
	heap.Push(&c.queue, simEvent{t, c.seq, call})
}

func (c *fastCluster) run() error {
	for i := range c.cfg.Nodes {
		c.step(NodeUp{Node: NodeID(i)})
	}
	for c.finish == nil && len(c.queue) > 0 {
		e := heap.Pop(&c.queue).(simEvent)
		c.now = e.at
		e.call()
	}
	if c.finish == nil {
		return fmt.Errorf("the run never finished")
	}
	return nil
}

func (c *fastCluster) step(ev Event) {
	c.steps++
	for _, cmd := range c.s.Step(ev) {
		switch cmd := cmd.(type) {
		case Submit:
			t := max(c.now, c.free[cmd.Node])
			for _, u := range cmd.Units {
				t = c.build(cmd.Node, c.cfg.Units[u].Root, t)
				c.at(t, func() {
					if !c.ended[cmd.Partition] {
						c.step(UnitBuilt{At: c.now, Partition: cmd.Partition, Unit: u})
					}
				})
			}
			c.free[cmd.Node] = t
		case Export:
			c.at(c.now, func() { c.step(UnitExported{At: c.now, Partition: cmd.Partition, Unit: cmd.Unit}) })
			c.at(c.now, func() { c.end(cmd.Partition) })
		case CancelPartition:
			c.at(c.now, func() { c.end(cmd.Partition) })
		case Finish:
			c.finish = &cmd
		}
	}
}

func (c *fastCluster) end(p PartitionID) {
	if !c.ended[p] {
		c.ended[p] = true
		c.step(PartitionEnded{At: c.now, Partition: p})
	}
}

func (c *fastCluster) build(n NodeID, v VertexID, t time.Duration) time.Duration {
	if c.held[n].has(v) {
		return t
	}
	c.held[n].set(v)
	for _, in := range c.cfg.Vertices[v].Inputs {
		t = c.build(n, in, t)
	}
	took := c.cfg.Vertices[v].Cost
	c.at(t, func() { c.step(VertexStarted{At: c.now, Node: n, Vertex: v}) })
	t += took
	c.at(t, func() { c.step(VertexDone{At: c.now, Node: n, Vertex: v, Took: took}) })
	return t
}
