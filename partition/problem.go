package partition

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Seconds is a span of predicted time.
//
// It is a float and not a time.Duration on purpose. Costs are divided by node
// speeds, and list scheduling is decided by comparing sums of those quotients:
// rounding them to nanoseconds would make some comparisons fall the other way
// and end in another schedule. The arithmetic is IEEE double in one fixed order,
// hence as reproducible as integers.
type Seconds float64

// Duration rounds s to a time.Duration, for people and logs.
func (s Seconds) Duration() time.Duration {
	return time.Duration(math.Round(float64(s) * float64(time.Second)))
}

// SecondsOf converts a measured duration.
func SecondsOf(d time.Duration) Seconds { return Seconds(d.Seconds()) }

// VertexID, TargetID and NodeID are indices into the slices of a Problem.
type (
	VertexID int
	TargetID int
	NodeID   int
)

// Registry is the place a Fetch names when the registry holds the vertex already.
const Registry NodeID = -1

// Vertex is one build step or stage.
type Vertex struct {
	Name string
	// Cost is the execution time on a node of speed 1; >= 0.
	Cost Seconds
	// Bytes is the size of the vertex's own layers; >= 0.
	Bytes int64
	// Inputs are the vertices this one needs, each with a smaller id, none twice.
	// Inputs[0] is the layer parent: a fetched result is usable only where its
	// layer parent is held too.
	Inputs []VertexID
	// Platform restricts who may execute the vertex; "" = every node. Any node may hold it.
	Platform string
	// Once is set when two executions may end in different results, so that a plan contains
	// at most one: when several nodes come to hold the vertex, all of them but one fetch
	// it, and all of them where some node that needs it is warm with it or the registry is
	// what they fetch from. What is fetched only because the layers of something fetched
	// stand on it travels with that, without a latency of its own.
	Once bool
	// Mounts name the cache mounts that the vertex works with, none twice. On a node that has
	// not filled all of them it takes Cold times as long, >= 1; 0 where there are none.
	Mounts []string
	Cold   float64
}

// Node is one builder.
type Node struct {
	Name string
	// Speed divides costs; > 0.
	Speed float64
	// Slots is the number of vertices that run at once, each at full speed; >= 1.
	Slots int
	// Machine names what the node shares with others that name it; "" = nobody. Of
	// these no more than Shared vertices run at once, the same number for each.
	Machine   string
	Shared    int
	Platforms []string
	// Emulates holds those of Platforms that the node runs by emulation, with the
	// factor, >= 1, by which a vertex takes longer for it.
	Emulates map[string]float64
	// Warm lists what the node holds at time 0.
	Warm []VertexID
	// Filled names the cache mounts that the node has filled at time 0. Those that are filled
	// while the plan is carried out save nothing in it, see the documentation of the package.
	Filled []string
	// From is the time from which the node is there; before, it does nothing and holds
	// nothing.
	From Seconds
}

// Network is the one registry, or client, that all nodes exchange results through. Each node has
// its own full-duplex link to it.
type Network struct {
	// Bandwidth of one link and direction, in bytes per second; > 0.
	Bandwidth float64
	// Latency is paid once per transfer and direction.
	Latency Seconds
	// Links is how many transfers, each at full Bandwidth, the registry or the client carries at
	// once in each direction, for all nodes together; the others wait. 0 = no limit.
	Links int
	// Cached lists what the registry holds at time 0.
	Cached []VertexID
}

// Target is one image of one platform.
type Target struct {
	Name string
	Root VertexID
	// Platforms must all be offered by the node the target is assigned to.
	Platforms []string
	// After lists targets whose roots must be held, each on its own node, before
	// the task that produces this target's root may start. It is for order beyond
	// what vertices say; an edge between targets of one root says nothing.
	After []TargetID
}

// Problem is everything a strategy may look at. It is never modified.
type Problem struct {
	Vertices []Vertex // topological order
	Nodes    []Node
	Targets  []Target
	Network  Network
}

// Assignment is a plan: everything that decides a schedule.
type Assignment struct {
	// Node is indexed by TargetID; len == len(Problem.Targets).
	Node []NodeID
	// Shares is indexed by NodeID; nil or len == len(Problem.Nodes).
	Shares []Share
}

// Share is how a node's work differs from building all it needs in default order.
type Share struct {
	// Fetch lists vertices taken from another place instead of executed, by
	// ascending vertex. All fetches of one vertex name the same place.
	Fetch []Fetch
	// Build lists vertices the node holds although none of its targets needs
	// them, so that others can fetch them; ascending.
	Build []VertexID
	// Order lists vertices whose tasks go first, in this order; the others follow
	// with the longest remaining path first.
	Order []VertexID
}

// Fetch is a vertex that a node takes from elsewhere.
type Fetch struct {
	Vertex VertexID
	From   NodeID // another node, or Registry
}

// Clone returns a deep copy.
func (a Assignment) Clone() Assignment {
	c := Assignment{Node: append([]NodeID(nil), a.Node...)}
	if a.Shares == nil {
		return c
	}
	c.Shares = make([]Share, len(a.Shares))
	for i, s := range a.Shares {
		c.Shares[i] = Share{
			Fetch: append([]Fetch(nil), s.Fetch...),
			Build: append([]VertexID(nil), s.Build...),
			Order: append([]VertexID(nil), s.Order...),
		}
	}
	return c
}

var (
	// ErrProblem is wrapped by every error about a malformed Problem.
	ErrProblem = errors.New("malformed problem")
	// ErrUnplaceable is wrapped when some target can be built on no node.
	ErrUnplaceable = errors.New("no node can build the target")
	// ErrInfeasible is wrapped by Evaluate when an Assignment breaks a rule.
	ErrInfeasible = errors.New("infeasible assignment")
)

// Validate reports the first thing wrong with p, nil if nothing is.
func (p Problem) Validate() error {
	if len(p.Nodes) == 0 {
		return problemErrorf("no nodes")
	}
	if err := p.checkVertices(); err != nil {
		return err
	}
	shared := map[string]Node{} // by machine: one of its nodes
	for _, n := range p.Nodes {
		if err := p.checkNode(n); err != nil {
			return err
		}
		if n.Machine == "" {
			continue
		}
		if o, ok := shared[n.Machine]; n.Shared < 1 || ok && o.Shared != n.Shared {
			return problemErrorf("node %s: machine %s must run the same number of vertices, at least one, for each of its nodes", n.Name, n.Machine)
		}
		shared[n.Machine] = n
	}
	if !isAmount(p.Network.Bandwidth) || p.Network.Bandwidth == 0 || !isAmount(float64(p.Network.Latency)) {
		return problemErrorf("network: bandwidth must be positive and latency not negative")
	}
	if p.Network.Links < 0 || p.Network.Links > math.MaxInt32 {
		return problemErrorf("network: number of links out of range")
	}
	for _, v := range p.Network.Cached {
		if !p.has(v) {
			return problemErrorf("network: unknown vertex %d cached", v)
		}
	}
	for _, t := range p.Targets {
		if !p.has(t.Root) {
			return problemErrorf("target %s: unknown root %d", t.Name, t.Root)
		}
		for _, d := range t.After {
			if d < 0 || int(d) >= len(p.Targets) {
				return problemErrorf("target %s: after unknown target %d", t.Name, d)
			}
		}
	}
	return nil
}

func problemErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProblem, fmt.Sprintf(format, args...))
}

// isAmount reports whether x is a number, finite and not negative.
func isAmount(x float64) bool { return x >= 0 && !math.IsInf(x, 0) } // false for NaN

func (p Problem) has(v VertexID) bool { return v >= 0 && int(v) < len(p.Vertices) }

// checkVertices checks that each vertex comes after its inputs.
func (p Problem) checkVertices() error {
	seen := make([]int, len(p.Vertices)) // id+1 of the last vertex that named it as an input
	for i, v := range p.Vertices {
		if !isAmount(float64(v.Cost)) || v.Bytes < 0 {
			return problemErrorf("vertex %s: cost or size out of range", v.Name)
		}
		for _, u := range v.Inputs {
			if u < 0 || int(u) >= i {
				return problemErrorf("vertex %s: input %d does not come before it", v.Name, u)
			}
			if seen[u] == i+1 {
				return problemErrorf("vertex %s: input %s twice", v.Name, p.Vertices[u].Name)
			}
			seen[u] = i + 1
		}
		if err := v.checkMounts(); err != nil {
			return err
		}
	}
	return nil
}

// checkMounts checks that v is slower without its mounts, and only if it has any.
func (v Vertex) checkMounts() error {
	for i, name := range v.Mounts {
		if name == "" || slices.Contains(v.Mounts[:i], name) {
			return problemErrorf("vertex %s: mount %q without a name or twice", v.Name, name)
		}
	}
	if len(v.Mounts) == 0 && v.Cold != 0 || len(v.Mounts) > 0 && (!isAmount(v.Cold) || v.Cold < 1) {
		return problemErrorf("vertex %s: it must not be faster with cold mounts, and have some to be slower", v.Name)
	}
	return nil
}

func (p Problem) checkNode(n Node) error {
	if !isAmount(n.Speed) || n.Speed == 0 || n.Slots < 1 {
		return problemErrorf("node %s: speed and slots must be positive", n.Name)
	}
	for name, factor := range n.Emulates {
		if !isAmount(factor) || factor < 1 {
			return problemErrorf("node %s: emulation of %s must not be faster than the real thing", n.Name, name)
		}
	}
	if slices.Contains(n.Filled, "") {
		return problemErrorf("node %s: filled mount without a name", n.Name)
	}
	if !isAmount(float64(n.From)) || n.From > 0 && len(n.Warm)+len(n.Filled) > 0 {
		return problemErrorf("node %s: it must come at a time, and hold nothing at time 0 if that is later", n.Name)
	}
	for _, v := range n.Warm {
		if !p.has(v) {
			return problemErrorf("node %s: warm with unknown vertex %d", n.Name, v)
		}
	}
	return nil
}
