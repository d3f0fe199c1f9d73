package sched

import (
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
	// Begin holds when the plan begins each unit, and its first step; nil when the plan
	// does not say.
	Begin []Begin
	// Pool holds partitions that belong to no node. A node that has a free slot and nothing of
	// its own takes the first that it may run.
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
	// Platform is that of the nodes that can execute it; "" is any.
	Platform string
	// Output marks an export. A unit with only exports left is never stolen.
	Output bool
	// Once is set when two executions may have different results. The run then has only one:
	// other nodes take that of the node which executed it.
	Once bool
	// Flaky is set when it has failed before, and succeeded with the same inputs.
	Flaky bool
	// Mounts name the cache mounts that it works with. On a node that has not filled all of
	// them it takes Cold times as long, >= 1; 0 where there are none.
	Mounts []string
	Cold   float64
}

// Unit is a job, or a step that a node builds for others.
type Unit struct {
	Name string // for reasons shown to people
	Root VertexID
	// Platforms are those a node needs, all of them, to be given the unit.
	Platforms []string
	// Nodes restricts the unit to these nodes; empty is no restriction.
	Nodes []NodeID
	After []UnitID // must be finished before this unit is submitted
	// Gates must be finished before its outputs are written. If one fails, they are not:
	// see [Unpublished]. Shut is set when one has failed before the run.
	Gates []UnitID
	Shut  bool
	// Early is set when other nodes wait for what it exports. It is exported at once even with
	// [Options.DeferOutput].
	Early bool
	// OnDemand marks a unit that sends its root, a vertex with Once, to other nodes. It is built
	// only when one waits for it, where the result is. It is in no partition, nothing depends on
	// it, and its failure fails nothing.
	OnDemand bool
	// Stage marks a unit on demand that sends nothing. A new plan has a node build its root before
	// what stands on it, which waits for results of other nodes.
	Stage bool
}

// Node is one daemon.
type Node struct {
	Name  string
	Speed float64 // relative to 1; 0 = 1
	Slots int     // steps that it is counted on to run at once; 0 = 1
	// SlotsAssumed is set when Slots is a guess. It serves predictions, and holds no
	// submission back: the daemon knows its limits itself.
	SlotsAssumed bool
	// Memory is how much its steps may hold together, in bytes; 0 = unknown, no limit.
	Memory int64
	// Platforms it can execute; empty is any.
	Platforms []string
	// Emulates holds those of Platforms that it runs by emulation, with how many times
	// longer a step takes; >= 1.
	Emulates map[string]float64
	Warm     []VertexID // vertices it holds at the start
	Filled   []string   // cache mounts it has filled at the start
	// Fetches are vertices that are sent to it during the run: it is not expected
	// to execute them.
	Fetches []VertexID
	// From is when it is expected to come; 0 = at once.
	From time.Duration
	// Tenants is how many others build there.
	Tenants int
	// Machine names what the node runs on when other nodes do, too, and Shared is how many
	// steps that runs at once for all of them: for those who plan anew; "" and 0 otherwise.
	Machine string
	Shared  int
}

// Network describes the registry that nodes fetch results from.
type Network struct {
	Bandwidth int64         // bytes per second; 0 = unlimited
	Latency   time.Duration // for each transfer
	// Links is how many transfers it carries at once in each direction: for those who plan anew; 0
	// = no limit.
	Links  int
	Cached []VertexID // vertices the registry holds at the start
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
	// Whole says that nothing counts before all is finished. What rests on a result that was lost
	// with its node is then always built again with the result, even if only this node could
	// build it.
	Whole bool
	// Steal lets idle nodes take what others have not submitted.
	Steal bool
	// RetrySteps is how often a step that ran and failed is executed again, on another
	// node if there is one; 0 is never.
	RetrySteps int
	// NoHedge keeps the victim of a steal from starting the same units as well. It is for nodes
	// that share a machine, where the one slows the other down.
	NoHedge bool
}

// allows reports whether the unit may be given to node n.
func (c *Config) allows(u UnitID, n NodeID) bool {
	unit := &c.Units[u]
	if len(unit.Nodes) > 0 && !slices.Contains(unit.Nodes, n) {
		return false
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
	return platform == "" || len(have) == 0 || slices.Contains(have, platform)
}
