package sched

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Indices into the slices of a Config.
type (
	// VertexID indexes Config.Vertices.
	VertexID int
	// UnitID indexes Config.Units.
	UnitID int
	// NodeID indexes Config.Nodes.
	NodeID int
	// PartitionID numbers submissions from 1, in order.
	PartitionID int
)

// NoVertex, NoUnit and NoNode stand for "none".
const (
	NoVertex VertexID = -1
	NoUnit   UnitID   = -1
	NoNode   NodeID   = -1
)

// Config is the problem and the plan. New copies what it changes; the slices inside
// must not be changed during the run.
type Config struct {
	// Vertices are the build steps in topological order: inputs are earlier.
	Vertices []Vertex
	Units    []Unit
	Nodes    []Node
	// Plan holds, for each node, its partitions in order; it may be shorter than
	// Nodes. Every unit is in exactly one partition of Plan or Pool.
	Plan [][]Partition
	// Begin is when the plan begins each unit, and with which step; nil when it does
	// not say.
	Begin []Begin
	// Pool holds partitions that belong to no node: a node that has a free slot
	// and nothing of its own takes the first it is allowed to run.
	Pool    []Partition
	Network Network
	Options Options
}

// Begin is the first step of a unit that no unit before it brings to its node.
type Begin struct {
	At   time.Duration
	Step VertexID
}

// Partition is a list of units to submit as one solve. Units that are not ready
// when it is submitted stay behind and follow on their own.
type Partition []UnitID

// Vertex is one build step.
type Vertex struct {
	Cost  time.Duration // predicted execution time at speed 1
	Bytes int64         // size of its own layers; 0 = unknown
	// Memory is the most that it holds while it runs, in bytes; 0 = unknown.
	Memory int64
	// Inputs are the vertices it needs; Inputs[0] is its layer parent.
	Inputs []VertexID
	// Platform is what a node must have to execute it; "" is any.
	Platform string
	// Output says that it writes what is there: a unit of which a node has nothing
	// else left to do is not stolen from it.
	Output bool
	// Once says that two executions may have different results, so that the run
	// has one: other nodes take that of the node which executed it.
	Once bool
}

// Unit is one target on one platform.
type Unit struct {
	Name string // for reasons shown to people
	Root VertexID
	// Platforms are those a node needs, all of them, to be given the unit.
	Platforms []string
	// Nodes restricts the unit to these nodes; empty is no restriction.
	Nodes []NodeID
	After []UnitID // must be finished before this unit is submitted
	// Early says that other nodes wait for what it exports: with
	// [Options.DeferOutput] it is exported all the same.
	Early bool
	// OnDemand says that it sends its root, a vertex with Once, to other nodes and is
	// only built when one waits for it, where the result is. It is in no partition,
	// nothing depends on it, and its failure fails nothing.
	OnDemand bool
}

// Node is one daemon.
type Node struct {
	Name  string
	Speed float64 // relative to 1; 0 = 1
	Slots int     // steps at once that are counted on; 0 = 1
	// SlotsAssumed says that Slots is a guess. It serves predictions, and holds no
	// submission back: the daemon knows its limits itself.
	SlotsAssumed bool
	// Memory is what its steps may hold together, in bytes; 0 = unknown, no limit.
	Memory int64
	// Platforms it can execute; empty is any.
	Platforms []string
	// Emulates holds those of Platforms that it runs by emulation, with the factor,
	// >= 1, by which a step takes longer for it.
	Emulates map[string]float64
	Warm     []VertexID // vertices it holds at the start
	// Fetches are vertices that are sent to it during the run: it is not expected
	// to execute them.
	Fetches []VertexID
}

// Network describes the registry that nodes fetch results from.
type Network struct {
	Bandwidth int64         // bytes per second; 0 = unlimited
	Latency   time.Duration // for each transfer
	Cached    []VertexID    // vertices the registry holds at the start
}

// Options are the rules of a run. The zero value is fail-fast, without stealing.
type Options struct {
	// Ahead is the number of ready steps kept submitted beyond the slots, to hide
	// the time a submission takes.
	Ahead int
	// Jobs limits the units submitted at once, on all nodes; 0 = no limit.
	Jobs int
	// MaxAttempts is the number of submissions of a unit that may end in a lost node
	// or a retryable failure before the unit fails; 0 = 3.
	MaxAttempts int
	// Backoff is the delay of the second attempt after a retryable failure; each
	// further one doubles it. 0 = at once.
	Backoff time.Duration
	// KeepGoing builds everything that does not depend on a failed unit.
	KeepGoing bool
	// DeferOutput writes outputs only once every unit is built, or has failed where
	// KeepGoing lets the others go on: see [Defer].
	DeferOutput bool
	// Steal lets idle nodes take what others have not submitted.
	Steal bool
	// NoHedge keeps a node that was stolen from from starting the same units as
	// well: for nodes that share a machine, where the one slows the other down.
	NoHedge bool
}

// allows reports whether the unit may be given to node n.
func (c *Config) allows(u UnitID, n NodeID) bool {
	unit := &c.Units[u]
	if len(unit.Nodes) > 0 {
		found := false
		for _, m := range unit.Nodes {
			found = found || m == n
		}
		if !found {
			return false
		}
	}
	for _, p := range unit.Platforms {
		if !c.executes(p, n) {
			return false
		}
	}
	return true
}

// executes reports whether node n can run steps of the platform.
func (c *Config) executes(platform string, n NodeID) bool {
	have := c.Nodes[n].Platforms
	if platform == "" || len(have) == 0 {
		return true
	}
	for _, p := range have {
		if p == platform {
			return true
		}
	}
	return false
}

// validate reports everything that is wrong with the configuration.
func (c *Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for i, v := range c.Vertices {
		for _, in := range v.Inputs {
			if in < 0 || int(in) >= i {
				bad("vertex %d: input %d is not an earlier vertex", i, in)
			}
		}
		if v.Cost < 0 || v.Bytes < 0 {
			bad("vertex %d: negative cost or size", i)
		}
	}
	vertices := func(what string, ids []VertexID) {
		for _, v := range ids {
			if v < 0 || int(v) >= len(c.Vertices) {
				bad("%s: unknown vertex %d", what, v)
			}
		}
	}
	vertices("registry", c.Network.Cached)
	for i, n := range c.Nodes {
		if !(n.Speed >= 0) || n.Speed > 1e9 || n.Slots < 0 {
			bad("node %d (%s): speed %v, slots %d", i, n.Name, n.Speed, n.Slots)
		}
		if n.Memory < 0 {
			bad("node %d (%s): memory %d", i, n.Name, n.Memory)
		}
		for name, factor := range n.Emulates {
			if !(factor >= 1) || factor > 1e9 {
				bad("node %d (%s): emulation of %s by a factor of %v", i, n.Name, name, factor)
			}
		}
		vertices(fmt.Sprintf("node %d (%s)", i, n.Name), slices.Concat(n.Warm, n.Fetches))
	}
	for i, u := range c.Units {
		vertices(fmt.Sprintf("unit %d (%s)", i, u.Name), []VertexID{u.Root})
		for _, n := range u.Nodes {
			if n < 0 || int(n) >= len(c.Nodes) {
				bad("unit %d (%s): unknown node %d", i, u.Name, n)
			}
		}
		for _, d := range u.After {
			if d < 0 || int(d) >= len(c.Units) || int(d) == i {
				bad("unit %d (%s): bad dependency %d", i, u.Name, d)
			}
		}
	}
	if c.Network.Bandwidth < 0 || c.Network.Latency < 0 {
		bad("network: negative bandwidth or latency")
	}
	if o := c.Options; o.Ahead < 0 || o.Jobs < 0 || o.MaxAttempts < 0 || o.Backoff < 0 {
		bad("options: negative value")
	}
	if len(c.Plan) > len(c.Nodes) {
		bad("plan: %d nodes planned, %d given", len(c.Plan), len(c.Nodes))
	}
	if c.Begin != nil && len(c.Begin) != len(c.Units) {
		bad("plan: %d units, %d times to begin them", len(c.Units), len(c.Begin))
	}
	for _, b := range c.Begin {
		vertices("plan", []VertexID{b.Step})
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}

	planned := make([]bool, len(c.Units))
	for u := range c.Units {
		planned[u] = c.Units[u].OnDemand
	}
	assign := func(p Partition, n NodeID) {
		for _, u := range p {
			switch {
			case u < 0 || int(u) >= len(c.Units):
				bad("plan: unknown unit %d", u)
			case c.Units[u].OnDemand:
				bad("plan: unit %d (%s) is built on demand", u, c.Units[u].Name)
			case planned[u]:
				bad("plan: unit %d (%s) is planned twice", u, c.Units[u].Name)
			case n != NoNode && !c.allows(u, n):
				bad("plan: unit %d (%s) may not run on node %s", u, c.Units[u].Name, c.Nodes[n].Name)
			default:
				planned[u] = true
			}
		}
	}
	for n, ps := range c.Plan {
		for _, p := range ps {
			assign(p, NodeID(n))
		}
	}
	for _, p := range c.Pool {
		assign(p, NoNode)
	}
	for u, ok := range planned {
		if !ok && len(errs) == 0 {
			bad("plan: unit %d (%s) is not planned", u, c.Units[u].Name)
		}
	}
	return errors.Join(errs...)
}
