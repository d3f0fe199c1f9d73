package sched

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fan is one base of 60 s under units of 10 s each.
func fan(units int) ([]Vertex, []Unit) {
	vs := []Vertex{{Cost: 60 * time.Second}}
	var us []Unit
	for i := range units {
		vs = append(vs, Vertex{Cost: 10 * time.Second, Inputs: []VertexID{0}})
		us = append(us, Unit{Name: string(rune('a' + i)), Root: VertexID(i + 1)})
	}
	return vs, us
}

func TestFirstStep(t *testing.T) {
	vs, us := fan(2)
	s, err := New(Config{
		Vertices: vs, Units: us, Nodes: []Node{{Name: "n1"}},
		Plan: [][]Partition{{{0}, {1}}},
	})
	require.NoError(t, err)
	require.Equal(t, []Command{Submit{Partition: 1, Node: 0, Units: []UnitID{0}}}, s.Step(NodeUp{Node: 0}))
	require.Empty(t, s.Step(VertexDone{At: time.Minute, Vertex: 0, Took: time.Minute}))
	require.Equal(t, []Command{
		Export{Partition: 1, Unit: 0},
		Submit{Partition: 2, Node: 0, Units: []UnitID{1}},
	}, s.Step(UnitBuilt{At: 70 * time.Second, Partition: 1, Unit: 0}))
	require.Empty(t, s.Step(UnitExported{Partition: 1, Unit: 0}))
	require.Empty(t, s.Step(PartitionEnded{Partition: 1}))
	s.Step(UnitBuilt{At: 80 * time.Second, Partition: 2, Unit: 1})
	s.Step(UnitExported{Partition: 2, Unit: 1})
	cmds := s.Step(PartitionEnded{Partition: 2})
	require.Len(t, cmds, 1)
	for _, o := range cmds[0].(Finish).Outcomes {
		require.Equal(t, Built, o.State)
	}
}

func TestNewErrors(t *testing.T) {
	good := func() Config {
		vs, us := fan(2)
		return Config{Vertices: vs, Units: us, Nodes: []Node{{Name: "n1"}}, Plan: [][]Partition{{{0, 1}}}}
	}
	_, err := New(good())
	require.NoError(t, err)
	for _, c := range []struct {
		want   string
		change func(*Config)
	}{
		{"vertex 0: input 1 is not an earlier vertex", func(c *Config) { c.Vertices[0].Inputs = []VertexID{1} }},
		{"vertex 1: negative cost or size", func(c *Config) { c.Vertices[1].Bytes = -1 }},
		{"registry: unknown vertex 9", func(c *Config) { c.Network.Cached = []VertexID{9} }},
		{"node 0 (n1): speed NaN, slots 0", func(c *Config) { c.Nodes[0].Speed = math.NaN() }},
		{"node 0 (n1): unknown vertex -1", func(c *Config) { c.Nodes[0].Warm = []VertexID{NoVertex} }},
		{"unit 1 (b): unknown vertex 7", func(c *Config) { c.Units[1].Root = 7 }},
		{"unit 1 (b): unknown node 3", func(c *Config) { c.Units[1].Nodes = []NodeID{3} }},
		{"unit 1 (b): bad dependency 1", func(c *Config) { c.Units[1].After = []UnitID{1} }},
		{"network: negative bandwidth or latency", func(c *Config) { c.Network.Latency = -1 }},
		{"options: negative value", func(c *Config) { c.Options.Jobs = -1 }},
		{"plan: 2 nodes planned, 1 given", func(c *Config) { c.Plan = append(c.Plan, nil) }},
		{"plan: unknown unit 5", func(c *Config) { c.Plan[0][0] = append(c.Plan[0][0], 5) }},
		{"plan: unit 0 (a) is planned twice", func(c *Config) { c.Pool = []Partition{{0}} }},
		{"plan: unit 1 (b) is not planned", func(c *Config) { c.Plan[0][0] = c.Plan[0][0][:1] }},
		{"plan: unit 0 (a) may not run on node n1", func(c *Config) {
			c.Nodes[0].Platforms = []string{"linux/amd64"}
			c.Units[0].Platforms = []string{"linux/arm64"}
		}},
		{"units wait for each other: a, b", func(c *Config) {
			c.Units[0].After = []UnitID{1}
			c.Units[1].After = []UnitID{0}
		}},
	} {
		cfg := good()
		c.change(&cfg)
		_, err := New(cfg)
		require.EqualError(t, err, "sched: "+c.want)
	}
}

// Without units the run is over with the first event.
func TestNothingToDo(t *testing.T) {
	s, err := New(Config{Nodes: []Node{{}}})
	require.NoError(t, err)
	require.Equal(t, []Command{Finish{Outcomes: []Outcome{}}}, s.Step(NodeUp{}))
	require.True(t, s.Done())
	require.Empty(t, s.Step(Tick{}))
}

// When the only node was never reached, every unit says so.
func TestNoNode(t *testing.T) {
	vs, us := fan(2)
	s, err := New(Config{
		Vertices: vs, Units: us, Nodes: []Node{{Name: "n1"}},
		Plan: [][]Partition{{{0}, {1}}}, Options: Options{KeepGoing: true},
	})
	require.NoError(t, err)
	cmds := s.Step(NodeLost{Err: "connection refused"})
	require.Len(t, cmds, 1)
	for _, o := range cmds[0].(Finish).Outcomes {
		require.Equal(t, Failed, o.State)
		require.Equal(t, "no node left that may build it; n1: connection refused", o.Reason)
	}
}

// A new plan says how much nodes do whose slots are a guess, and no more of the others.
func TestReplanSlots(t *testing.T) {
	s, err := New(Config{
		Nodes:    []Node{{Slots: 4, SlotsAssumed: true}, {Slots: 4}, {Slots: 4, SlotsAssumed: true}},
		Vertices: []Vertex{{}}, Units: []Unit{{}}, Plan: [][]Partition{{{0}}},
	})
	require.NoError(t, err)
	s.Step(NewPlan{Slots: []int{2, 2, 0}})
	for i, want := range []int{2, 4, 4} {
		require.Equal(t, want, s.nodes[i].slots, "node %d", i)
	}
}

// Nothing is left to plan for a run that is being stopped, whatever its nodes do.
func TestOutlookOfAStoppedRun(t *testing.T) {
	s, err := New(Config{
		Nodes:    []Node{{}, {}},
		Vertices: []Vertex{{}, {}, {}}, Units: []Unit{{Root: 0}, {Root: 1}, {Root: 2}}, Plan: [][]Partition{{{0}, {1}}, {{2}}},
	})
	require.NoError(t, err)
	for i := range 2 {
		s.Step(NodeUp{Node: NodeID(i)})
		s.Step(VertexStarted{Node: NodeID(i), Vertex: VertexID(2 * i)})
	}
	require.Equal(t, []UnitID{1}, s.Outlook().Queued)
	s.Step(Cancel{})
	s.Step(NodeLost{Node: 0})
	require.Empty(t, s.Outlook().Queued)
}

// A step that could not be sent is waited for only until it is known whether the node that was
// told to execute it, and is no longer, has begun it. Nobody asks for it meanwhile: that changes
// nothing, and went on for ever.
func TestUnsendableStepThatMayHaveBegun(t *testing.T) {
	s, err := New(Config{
		Nodes:    []Node{{}, {}},
		Vertices: []Vertex{{Once: true}, {Inputs: []VertexID{0}}}, Units: []Unit{{Root: 1}, {Root: 0, Early: true, OnDemand: true}}, Plan: [][]Partition{nil, {{0}}},
	})
	require.NoError(t, err)
	s.nodes[0].held.set(0)
	s.once.by[0], s.once.open[0], s.once.sends[0] = 0, opening{node: 0, runs: 1}, maxSends
	s.unsent(0)
	for i := range 2 {
		s.Step(NodeUp{Node: NodeID(i)})
	}
	p := s.units[0].part
	s.markDirty(p)
	s.refresh()
	require.Same(t, p, s.units[0].part, "it waits")
	delete(s.once.open, 0)
	s.reconsider()
	require.IsType(t, Submit{}, s.Step(Tick{})[0])
}
