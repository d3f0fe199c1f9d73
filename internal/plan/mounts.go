package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/partition"
)

// Cache mounts count as warmth: a step that works with one is faster on a node where an earlier
// step has filled it. A mount is known by its id, by what it begins with, and by the platform of
// the steps: a compiler's cache is of no use to another platform, although the node keeps both in
// one place.
//
// Mounts with private sharing are left out. A step is given one that nobody uses at the
// moment, and where there is none, a new one: on a node that has filled such a mount it may be
// cold all the same, and whether it is depends on what runs beside it.

// cacheMounts returns the cache mounts of a step that can be filled for later ones.
func cacheMounts(v *llbmerge.Vertex) []*pb.Mount {
	var list []*pb.Mount
	for _, m := range v.Op.GetExec().GetMounts() {
		if o := m.GetCacheOpt(); m.GetMountType() == pb.MountType_CACHE && o != nil && o.GetSharing() != pb.CacheSharingOpt_PRIVATE {
			list = append(list, m)
		}
	}
	return list
}

// mountsOf returns the names of the cache mounts of a step, in the order of cacheMounts. result is
// that of an input.
func mountsOf(v *llbmerge.Vertex, result func(in int) warm.ResultID) []warm.MountID {
	var list []warm.MountID
	for _, m := range cacheMounts(v) {
		base, platform := warm.ResultID(""), ""
		if in := int(m.GetInput()); in >= 0 && in < len(v.Inputs) {
			base = result(in)
		}
		if v.Platform != nil {
			platform = PlatformName(*v.Platform)
		}
		list = append(list, warm.MountID(llbmerge.Digest(fmt.Appendf(nil, "mount %q %q %q %q", m.GetCacheOpt().GetID(), base, m.GetSelector(), platform))))
	}
	return list
}

// MountPlaces returns where in its filesystem a step has cache mounts that can be filled.
func MountPlaces(v *llbmerge.Vertex) []string {
	var list []string
	for _, m := range cacheMounts(v) {
		list = append(list, m.GetDest())
	}
	return list
}

// SetMounts notes for each execution of a step whether it found its cache mounts filled: in
// filled, by the address of its node, or by a step that was done there before it began. Of a
// node that filled does not name, nothing is known.
func (n *Names) SetMounts(ms []Measurement, filled map[string]map[warm.MountID]bool) {
	type place struct {
		node  string
		mount warm.MountID
	}
	done := map[place]time.Time{} // the first end of a step with the mount
	for _, m := range ms {
		for _, id := range n.mounts(m) {
			at, end := place{m.Node, id}, m.Start.Add(m.Took)
			if first, ok := done[at]; !ok || end.Before(first) {
				done[at] = end
			}
		}
	}
	for i, m := range ms {
		mounts, known := n.mounts(m), filled[m.Node]
		if len(mounts) == 0 || known == nil {
			continue
		}
		ms[i].Mounts = cost.Filled
		for _, id := range mounts {
			if first := done[place{m.Node, id}]; !known[id] && first.After(m.Start) {
				ms[i].Mounts = cost.Cold
			}
		}
	}
}

// mounts returns the cache mounts of what was measured.
func (n *Names) mounts(m Measurement) []warm.MountID {
	if i, ok := n.graph.index[m.Vertex]; ok {
		return n.list[i].mounts
	}
	return nil
}

// Fills returns the cache mounts that a node's steps have filled, with the traces by which those
// that they made are known.
func (n *Names) Fills(node string, ms []Measurement) map[warm.MountID][]warm.Trace {
	fills := map[warm.MountID][]warm.Trace{}
	for _, m := range ms {
		i, ok := n.graph.index[m.Vertex]
		if !ok || m.Node != node {
			continue
		}
		v := n.graph.Vertices[i]
		for k, mount := range cacheMounts(v) {
			id := n.list[i].mounts[k]
			for _, text := range mountTexts(v, mount) {
				fills[id] = append(fills[id], warm.NewTrace(text, m.Start, m.Start.Add(m.Took)))
			}
		}
	}
	return fills
}

// mountTexts returns the descriptions that versions of BuildKit give to a cache mount that a step
// has made.
func mountTexts(v *llbmerge.Vertex, m *pb.Mount) []string {
	text := fmt.Sprintf("cached mount %s from exec %s", m.GetDest(), strings.Join(v.Op.GetExec().GetMeta().GetArgs(), " "))
	return []string{fmt.Sprintf("%s with id %q", text, m.GetCacheOpt().GetID()), text}
}

// mounts gives the steps whose cache mounts some node has filled the time that they take there,
// and the factor for the others. Where nobody has, a step has the time with cold mounts.
func (t *translation) mounts() {
	t.used = map[string]bool{}
	for i := range t.graph.Vertices {
		c, mounts := t.build.Costs[i], t.build.Names.list[i].mounts
		if c.Filled <= 0 || c.Filled >= c.Duration || !slices.ContainsFunc(t.nodes, func(n Node) bool { return n.hasFilled(mounts) }) {
			continue
		}
		v := &t.Vertices[i]
		v.Cost, v.Cold = partition.SecondsOf(c.Filled), c.Duration.Seconds()/c.Filled.Seconds()
		for _, id := range mounts {
			if name := string(id); !slices.Contains(v.Mounts, name) {
				v.Mounts, t.used[name] = append(v.Mounts, name), true
			}
		}
	}
}

// hasFilled reports whether n is there and has filled all the mounts.
func (n Node) hasFilled(mounts []warm.MountID) bool {
	return n.From == 0 && !slices.ContainsFunc(mounts, func(id warm.MountID) bool { return !n.Holds.Mounts[id] })
}

// mountsOn returns those of the used cache mounts that n has filled, sorted.
func (t *translation) mountsOn(n Node) []string {
	var list []string
	for name := range t.used {
		if n.hasFilled([]warm.MountID{warm.MountID(name)}) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}
