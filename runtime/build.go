package runtime

import (
	"cmp"
	"slices"
	"time"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/sched"
)

// Schedule returns a plan as the scheduler takes it. Its units are the jobs of b,
// then the steps of the plan's exchange.
func Schedule(p *plan.Plan, opts sched.Options) sched.Config {
	c := sched.Config{Options: opts}
	for _, v := range p.Problem.Vertices {
		sv := sched.Vertex{Cost: v.Cost.Duration(), Bytes: v.Bytes, Platform: v.Platform, Once: v.Once, Mounts: v.Mounts, Cold: v.Cold}
		for _, in := range v.Inputs {
			sv.Inputs = append(sv.Inputs, sched.VertexID(in))
		}
		c.Vertices = append(c.Vertices, sv)
	}
	for _, t := range p.Problem.Targets {
		u := sched.Unit{Name: t.Name, Root: sched.VertexID(t.Root), Platforms: t.Platforms}
		for _, a := range t.After {
			u.After = append(u.After, sched.UnitID(a))
		}
		c.Units = append(c.Units, u)
	}
	parts := p.Parts()
	for i, n := range p.Problem.Nodes {
		planned := p.Nodes[i]
		node := sched.Node{Name: n.Name, Speed: planned.Speed, Tenants: planned.Tenants, Slots: parts[i], SlotsAssumed: planned.SlotsAssumed, Memory: planned.Memory, Platforms: n.Platforms, Emulates: n.Emulates, Filled: n.Filled, From: n.From.Duration(), Machine: planned.Machine, Shared: planned.Shared}
		for _, v := range n.Warm {
			node.Warm = append(node.Warm, sched.VertexID(v))
		}
		if p.Assignment.Shares != nil {
			for _, f := range p.Assignment.Shares[i].Fetch {
				node.Fetches = append(node.Fetches, sched.VertexID(f.Vertex))
			}
		}
		c.Nodes = append(c.Nodes, node)
	}
	for _, v := range p.Problem.Network.Cached {
		c.Network.Cached = append(c.Network.Cached, sched.VertexID(v))
	}
	c.Network.Bandwidth = int64(p.Problem.Network.Bandwidth)
	c.Network.Latency = p.Problem.Network.Latency.Duration()
	c.Network.Links = p.Problem.Network.Links
	if p.Pooled {
		for i := range p.Problem.Targets {
			c.Pool = append(c.Pool, sched.Partition{sched.UnitID(i)})
		}
		for _, s := range p.Exchange.Steps {
			c.Units = append(c.Units, stepUnit(p, s))
		}
		return c
	}
	c.Plan = make([][]sched.Partition, len(p.Nodes))
	for n, list := range p.Partitions {
		for _, part := range list {
			var units sched.Partition
			for _, j := range part {
				units = append(units, sched.UnitID(j))
			}
			c.Plan[n] = append(c.Plan[n], units)
		}
	}
	addSteps(&c, p)
	return c
}

// stepUnit is the unit of a step that nodes build for each other.
func stepUnit(p *plan.Plan, s plan.Intermediate) sched.Unit {
	return sched.Unit{Name: p.Problem.Vertices[s.Vertex].Name, Root: sched.VertexID(s.Vertex), Early: true, OnDemand: s.Node < 0, Stage: s.Node < 0 && len(s.Sent) == 0}
}

// addSteps adds the steps that nodes build for each other, and orders everything by its
// planned start.
func addSteps(c *sched.Config, p *plan.Plan) {
	x := p.Exchange
	for _, b := range x.Begin {
		c.Begin = append(c.Begin, sched.Begin{At: b.At, Step: sched.VertexID(b.Step)})
	}
	for i, s := range x.Steps {
		u := sched.UnitID(len(c.Units))
		c.Units = append(c.Units, stepUnit(p, s))
		if s.Node >= 0 {
			c.Plan[s.Node] = append(c.Plan[s.Node], sched.Partition{u})
		}
		for _, d := range x.After[len(p.Problem.Targets)+i] {
			c.Units[u].After = append(c.Units[u].After, sched.UnitID(d))
		}
	}
	for j := range p.Problem.Targets {
		for _, d := range x.After[j] {
			c.Units[j].After = append(c.Units[j].After, sched.UnitID(d))
		}
	}
	begin := func(part sched.Partition) time.Duration {
		first := x.Begin[part[0]].At
		for _, u := range part {
			first = min(first, x.Begin[u].At)
		}
		return first
	}
	for _, parts := range c.Plan {
		slices.SortStableFunc(parts, func(a, b sched.Partition) int { return cmp.Compare(begin(a), begin(b)) })
	}
}
