package runtime

import (
	"time"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/sched"
)

// Schedule returns a plan as the scheduler takes it. Its units are the jobs of b.
func Schedule(p *plan.Plan, opts sched.Options) sched.Config {
	c := sched.Config{Options: opts}
	for _, v := range p.Problem.Vertices {
		sv := sched.Vertex{Cost: v.Cost.Duration(), Bytes: v.Bytes, Platform: v.Platform}
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
	for _, n := range p.Problem.Nodes {
		node := sched.Node{Name: n.Name, Speed: n.Speed, Slots: n.Slots, Platforms: n.Platforms}
		for _, v := range n.Warm {
			node.Warm = append(node.Warm, sched.VertexID(v))
		}
		c.Nodes = append(c.Nodes, node)
	}
	for _, v := range p.Problem.Network.Cached {
		c.Network.Cached = append(c.Network.Cached, sched.VertexID(v))
	}
	c.Network.Bandwidth = int64(p.Problem.Network.Bandwidth)
	c.Network.Latency = min(p.Problem.Network.Latency.Duration(), time.Hour)
	if p.Pooled {
		for i := range p.Jobs {
			c.Pool = append(c.Pool, sched.Partition{sched.UnitID(i)})
		}
		return c
	}
	c.Plan = make([][]sched.Partition, len(p.Nodes))
	for n, s := range p.Shares {
		for _, part := range s.Partitions {
			var units sched.Partition
			for _, j := range part {
				units = append(units, sched.UnitID(j))
			}
			c.Plan[n] = append(c.Plan[n], units)
		}
	}
	return c
}

// image is what an exporter needs of a unit.
func (r *run) image(u *frontend.Unit) (image, error) {
	img := image{
		definition: u.Definition, platform: u.ExportPlatform,
		metadata:     map[string][]byte{},
		attestations: u.Attestations,
	}
	if len(u.Definition.GetDef()) > 0 {
		// The merged graph's form of the unit: its digests are those that were
		// evaluated.
		def, err := r.Graph.Slice(string(u.ID))
		if err != nil {
			return image{}, err
		}
		img.definition = def
	}
	for k, v := range u.Metadata {
		img.metadata[k] = v
	}
	if u.Config != nil {
		img.metadata[imageConfigKey] = u.Config
	}
	return img, nil
}
