package cachepolicy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// maxSlug bounds the readable part of a cluster's name.
const maxSlug = 40

// Name returns the name of the cluster of these units, in any order: the target
// of the first unit, for people, and a hash of all unit ids.
func Name(units []ir.UnitID) string {
	sorted := slices.Sorted(slices.Values(units))
	h := sha256.New()
	for _, u := range sorted {
		h.Write([]byte(u))
		h.Write([]byte{'\n'})
	}
	slug := "empty"
	if len(sorted) > 0 {
		slug = slugOf(sorted[0])
	}
	return slug + "-" + hex.EncodeToString(h.Sum(nil)[:4])
}

// slugOf makes the target of a unit fit into a tag.
func slugOf(u ir.UnitID) string {
	target, _, _ := strings.Cut(string(u), "@")
	slug := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_', r == '.', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, target)
	if slug == "" {
		slug = "_"
	}
	return slug[:min(len(slug), maxSlug)]
}

// Group returns the clusters of units: two units are together when both need an
// expensive vertex, or through others that do. records is as in [Input]. Clusters
// are sorted by name, units within them by id.
//
// Which other units exist changes a cluster only when it joins it.
func Group(units []ir.UnitID, records map[ir.UnitID][]int, expensive func(vertex int) bool) []Cluster {
	parent := make([]int, len(units))
	for i := range parent {
		parent[i] = i
	}
	find := func(i int) int {
		for parent[i] != i {
			parent[i] = parent[parent[i]]
			i = parent[i]
		}
		return i
	}
	owner := map[int]int{} // vertex -> a unit that needs it
	for i, u := range units {
		for _, v := range records[u] {
			if !expensive(v) {
				continue
			}
			if j, ok := owner[v]; ok {
				parent[find(i)] = find(j)
			} else {
				owner[v] = i
			}
		}
	}
	members := map[int][]ir.UnitID{}
	for i, u := range units {
		r := find(i)
		members[r] = append(members[r], u)
	}
	clusters := make([]Cluster, 0, len(members))
	for i := range units {
		m, ok := members[i]
		if !ok {
			continue
		}
		slices.Sort(m)
		m = slices.Compact(m)
		clusters = append(clusters, Cluster{Units: m})
	}
	slices.SortFunc(clusters, func(a, b Cluster) int { return cmp.Compare(a.Name(), b.Name()) })
	return clusters
}

// part is the content of one export of a cluster.
type part struct {
	cluster string
	node    int
	units   []ir.UnitID // sorted
	seen    map[int]bool
	nodes   int  // nodes of the whole cluster
	cut     bool // this node's share was too large for one part
	partly  bool // some units of the cluster were not built
}

// cutCluster returns the parts of a cluster whose units all have nodes, in the
// order of their smallest unit.
func cutCluster(in *Input, c Cluster, limit int) []*part {
	perNode := map[int][]ir.UnitID{}
	for _, u := range c.Units {
		perNode[in.Nodes[u]] = append(perNode[in.Nodes[u]], u)
	}
	var parts []*part
	for _, node := range slices.Sorted(maps.Keys(perNode)) {
		share := pack(in, c.Name(), node, perNode[node], limit)
		for _, p := range share {
			p.nodes = len(perNode)
			p.cut = len(share) > 1
		}
		parts = append(parts, share...)
	}
	slices.SortFunc(parts, func(a, b *part) int { return cmp.Compare(a.units[0], b.units[0]) })
	return parts
}

// pack puts the units of one node into parts of at most limit records: each unit,
// by id, into the part that it adds the fewest records to, since a record that two
// parts hold is written and read twice. A unit that is too large alone has a part
// of its own.
func pack(in *Input, cluster string, node int, units []ir.UnitID, limit int) []*part {
	units = slices.Clone(units)
	slices.Sort(units)
	var parts []*part
	for _, u := range units {
		var best *part
		bestGrowth := 0
		for _, p := range parts {
			g := p.growth(in.Records[u])
			if len(p.seen)+g <= limit && (best == nil || g < bestGrowth) {
				best, bestGrowth = p, g
			}
		}
		if best == nil {
			best = &part{cluster: cluster, node: node, seen: map[int]bool{}}
			parts = append(parts, best)
		}
		best.units = append(best.units, u)
		for _, v := range in.Records[u] {
			best.seen[v] = true
		}
	}
	return parts
}

// growth returns the number of records that p would gain.
func (p *part) growth(records []int) int {
	n := 0
	fresh := map[int]bool{}
	for _, v := range records {
		if !p.seen[v] && !fresh[v] {
			fresh[v] = true
			n++
		}
	}
	return n
}
