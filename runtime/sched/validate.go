package sched

import (
	"errors"
	"fmt"
	"slices"
)

// checking is a configuration with everything that is found to be wrong with it.
type checking struct {
	*Config
	errs []error
}

func (c *checking) bad(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// validate reports everything that is wrong with the configuration.
func (c *Config) validate() error {
	x := &checking{Config: c}
	x.steps()
	x.checkKnown("registry", c.Network.Cached)
	x.nodes()
	x.units()
	x.rules()
	if len(x.errs) == 0 {
		x.plan()
	}
	return errors.Join(x.errs...)
}

// checkKnown checks that vertices exist.
func (c *checking) checkKnown(what string, ids []VertexID) {
	for _, v := range ids {
		if v < 0 || int(v) >= len(c.Vertices) {
			c.bad("%s: unknown vertex %d", what, v)
		}
	}
}

func (c *checking) steps() {
	for i, v := range c.Vertices {
		for _, in := range v.Inputs {
			if in < 0 || int(in) >= i {
				c.bad("vertex %d: input %d is not an earlier vertex", i, in)
			}
		}
		if v.Cost < 0 || v.Bytes < 0 {
			c.bad("vertex %d: negative cost or size", i)
		}
		if len(v.Mounts) == 0 && v.Cold != 0 || len(v.Mounts) > 0 && (!(v.Cold >= 1) || v.Cold > 1e9) {
			c.bad("vertex %d: slower by a factor of %v with %d cold mounts", i, v.Cold, len(v.Mounts))
		}
	}
}

func (c *checking) nodes() {
	for i, n := range c.Nodes {
		if !(n.Speed >= 0) || n.Speed > 1e9 || n.Slots < 0 {
			c.bad("node %d (%s): speed %v, slots %d", i, n.Name, n.Speed, n.Slots)
		}
		if n.Memory < 0 {
			c.bad("node %d (%s): memory %d", i, n.Name, n.Memory)
		}
		for name, factor := range n.Emulates {
			if !(factor >= 1) || factor > 1e9 {
				c.bad("node %d (%s): emulation of %s by a factor of %v", i, n.Name, name, factor)
			}
		}
		c.checkKnown(fmt.Sprintf("node %d (%s)", i, n.Name), slices.Concat(n.Warm, n.Fetches))
	}
}

func (c *checking) units() {
	for i, u := range c.Units {
		c.checkKnown(fmt.Sprintf("unit %d (%s)", i, u.Name), []VertexID{u.Root})
		for _, n := range u.Nodes {
			if n < 0 || int(n) >= len(c.Nodes) {
				c.bad("unit %d (%s): unknown node %d", i, u.Name, n)
			}
		}
		for _, d := range u.After {
			if d < 0 || int(d) >= len(c.Units) || int(d) == i {
				c.bad("unit %d (%s): bad dependency %d", i, u.Name, d)
			}
		}
		for _, g := range u.Gates {
			if g < 0 || int(g) >= len(c.Units) || int(g) == i {
				c.bad("unit %d (%s): bad gate %d", i, u.Name, g)
			}
		}
	}
}

// rules checks numbers and lengths.
func (c *checking) rules() {
	if c.Network.Bandwidth < 0 || c.Network.Latency < 0 {
		c.bad("network: negative bandwidth or latency")
	}
	if o := c.Options; o.Ahead < 0 || o.Jobs < 0 || o.MaxAttempts < 0 || o.Backoff < 0 {
		c.bad("options: negative value")
	}
	if len(c.Plan) > len(c.Nodes) {
		c.bad("plan: %d nodes planned, %d given", len(c.Plan), len(c.Nodes))
	}
	if c.Begin != nil && len(c.Begin) != len(c.Units) {
		c.bad("plan: %d units, %d times to begin them", len(c.Units), len(c.Begin))
	}
	for _, b := range c.Begin {
		c.checkKnown("plan", []VertexID{b.Step})
	}
}

// plan checks that every unit is planned once, where it may run. All else is right.
func (c *checking) plan() {
	planned := make([]bool, len(c.Units))
	for u := range c.Units {
		planned[u] = c.Units[u].OnDemand
	}
	assign := func(p Partition, n NodeID) {
		for _, u := range p {
			switch {
			case u < 0 || int(u) >= len(c.Units):
				c.bad("plan: unknown unit %d", u)
			case c.Units[u].OnDemand:
				c.bad("plan: unit %d (%s) is built on demand", u, c.Units[u].Name)
			case planned[u]:
				c.bad("plan: unit %d (%s) is planned twice", u, c.Units[u].Name)
			case n != NoNode && !c.allows(u, n):
				c.bad("plan: unit %d (%s) may not run on node %s", u, c.Units[u].Name, c.Nodes[n].Name)
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
		if !ok && len(c.errs) == 0 {
			c.bad("plan: unit %d (%s) is not planned", u, c.Units[u].Name)
		}
	}
}
