package cachepolicy

import (
	"slices"

	"github.com/dbake/dbake/compiler/ir"
)

// Writer decides what is written of the clusters' caches, and when, while a build is under way.
// It is for clusters whose parts can be joined afterwards; of the others, [Writer.Rest] says
// what is left for [Decide].
//
// Of each cluster, a node writes what it has built in waves: one whenever the results that it
// has not written yet are large, and one when it has nothing of the cluster left to build. What
// it takes from others after that is written when it is large, or when all of the cluster is
// built: a node that steals would else write a wave for each unit. So large layers are
// compressed and sent while the nodes still build, and what remains at the end is little. Every
// wave asks the registry for the shared layers again, so small ones are not worth it.
//
// What a ref of the cluster is known to hold already is not written again: what was built anew
// is joined to it.
//
// A Writer is used by one goroutine.
type Writer struct {
	in       Input
	clusters []*writing
	of       map[ir.UnitID]*writing
}

// wave is the size, in bytes, of results that are written before the rest of their cluster is
// built on a node: to compress them takes the better part of a second.
const wave = 32 << 20

// anyNode is the node of a unit that is planned on none.
const anyNode = -1

// writing is a cluster that is being written.
type writing struct {
	Cluster
	name string
	// base is the ref of the whole that is there and that all is joined to; "" is none.
	base   string
	units  map[ir.UnitID]*writtenUnit
	parts  []Export // written
	number int      // of the next part
	failed bool     // a wave failed: nothing more is tried before the end
	under  map[int]bool
	ended  map[int]bool         // nodes that have written all that they had to build
	sent   map[int]map[int]bool // records that a node has written, or is about to
}

// writtenUnit is the state of a unit.
type writtenUnit struct {
	node  int
	state unitState
	base  bool // its cluster's base holds its results
}

type unitState int

const (
	unbuilt unitState = iota
	held              // built, and nothing of it is new to the base
	ready             // built, and to be written
	underway
	written
)

// NewWriter returns a writer for the clusters of in whose parts can be joined: those
// in a repository whose tags are known, small enough to be read as a whole. in.Nodes
// says where units are planned. holds reports whether a ref holds all results of a
// unit.
func NewWriter(in Input, holds func(ref string, u ir.UnitID) bool) *Writer {
	w := &Writer{in: in, of: map[ir.UnitID]*writing{}}
	d := newDecider(in)
	tags, asked := d.tags(in.Repo.Name)
	if in.Repo.IsZero() || !asked {
		return w
	}
	for _, c := range d.clusters {
		if d.records(c.Units) > d.limits.records {
			continue
		}
		x := &writing{Cluster: c, name: c.Name(), units: map[ir.UnitID]*writtenUnit{}, under: map[int]bool{}, ended: map[int]bool{}, sent: map[int]map[int]bool{}}
		ref := in.Repo.Name + ":" + in.Repo.tag(x.name, -1)
		there := slices.Contains(tags, in.Repo.tag(x.name, -1))
		for _, u := range c.Units {
			unit := &writtenUnit{node: anyNode}
			if n, ok := in.Nodes[u]; ok {
				unit.node = n
			}
			if there && holds(ref, u) {
				unit.base, x.base = true, ref
			}
			x.units[u], w.of[u] = unit, x
		}
		w.clusters = append(w.clusters, x)
	}
	return w
}

// Rest returns what is left to [Decide]: in with only those units built, on nodes,
// that belong to no cluster of w.
func (w *Writer) Rest(nodes map[ir.UnitID]int) Input {
	rest := w.in
	rest.More = nil // see [Input.Elsewhere]
	rest.Nodes = map[ir.UnitID]int{}
	for u, n := range nodes {
		if w.of[u] == nil {
			rest.Nodes[u] = n
		}
	}
	return rest
}

// NoteBuilt notes that a unit was built on a node; fresh says that a step of it was run.
func (w *Writer) NoteBuilt(u ir.UnitID, node int, fresh bool) {
	x := w.of[u]
	if x == nil {
		return
	}
	unit := x.units[u]
	switch {
	case unit.state == unbuilt && unit.base && !fresh:
		unit.node, unit.state = node, held
	case unit.state == unbuilt, unit.state == held && fresh:
		unit.node, unit.state = node, ready
	}
}

// Begin returns the waves that are to begin now, each to be followed by NoteEnd. can
// reports whether a node can write one more.
func (w *Writer) Begin(can func(node int) bool) []Export {
	var list []Export
	for _, x := range w.clusters {
		if x.failed {
			continue
		}
		byNode, left, all := map[int][]ir.UnitID{}, map[int]int{}, 0
		var nodes []int
		for _, u := range x.Units {
			unit := x.units[u]
			switch {
			case unit.state == unbuilt:
				left[unit.node]++
				all++
			case unit.state == ready && !x.under[unit.node]:
				if byNode[unit.node] == nil {
					nodes = append(nodes, unit.node)
				}
				byNode[unit.node] = append(byNode[unit.node], u)
			}
		}
		for _, n := range nodes {
			// A unit that has no node yet may come to any.
			units, last := byNode[n], left[n]+left[anyNode] == 0
			due := last && (!x.ended[n] || all == 0) || w.bytes(x, n, units) >= wave
			if due && can(n) {
				x.ended[n] = x.ended[n] || last
				list = append(list, w.part(x, n, units))
			}
		}
	}
	return list
}

// bytes returns about how large the results of units are that a node has not written.
func (w *Writer) bytes(x *writing, n int, units []ir.UnitID) int64 {
	var sum int64
	seen := map[int]bool{}
	for _, u := range units {
		for _, r := range w.in.Records[u] {
			if r < len(w.in.Bytes) && !seen[r] && !x.sent[n][r] {
				seen[r] = true
				sum += w.in.Bytes[r]
			}
		}
	}
	return sum
}

// part makes a part of a cluster of units that are ready on a node.
func (w *Writer) part(x *writing, n int, units []ir.UnitID) Export {
	tag := w.in.Repo.tag(x.name, x.number)
	e := Export{Cluster: x.name, Node: n, Units: units, Rule: "cluster-part", Reason: count(len(units), "unit") + " built so far"}
	if len(units) == len(x.Units) {
		tag = w.in.Repo.tag(x.name, -1)
		e.Rule, e.Reason = "cluster", "one export for "+count(len(units), "unit")
	} else {
		x.number++
	}
	e.Entry, e.Required = w.in.exportEntry(tag), w.in.Required
	if x.sent[n] == nil {
		x.sent[n] = map[int]bool{}
	}
	for _, u := range units {
		x.units[u].state = underway
		for _, r := range w.in.Records[u] {
			x.sent[n][r] = true
		}
	}
	x.under[n] = true
	return e
}

// Outcome is how a wave ended.
type Outcome int

// The outcomes. Empty is that of results without layers: BuildKit makes no cache
// of them.
const (
	Wrote Outcome = iota
	Empty
	Failed
)

// NoteEnd notes how a wave ended. What could not be written is tried once more at the end.
// Exports that are none of w's are ignored.
func (w *Writer) NoteEnd(e Export, how Outcome) {
	x := w.of[e.Units[0]]
	if x == nil || !x.under[e.Node] {
		return
	}
	delete(x.under, e.Node)
	state := written
	switch how {
	case Failed:
		state, x.failed = ready, true
	case Wrote:
		x.parts = append(x.parts, e)
	}
	for _, u := range e.Units {
		x.units[u].state = state
	}
}

// Finish returns what is still to be written when the build is over. nodes says where units
// were built. Each export is to be followed by NoteEnd.
func (w *Writer) Finish(nodes map[ir.UnitID]int) []Export {
	var list []Export
	for _, x := range w.clusters {
		byNode := map[int][]ir.UnitID{}
		for _, u := range x.Units {
			unit := x.units[u]
			if n, ok := nodes[u]; ok && (unit.state == ready || unit.state == unbuilt && !unit.base) {
				unit.node = n
				byNode[n] = append(byNode[n], u)
			}
		}
		for _, n := range sortedNodes(byNode) {
			list = append(list, w.part(x, n, byNode[n]))
		}
	}
	return list
}

// Again returns the parts of a join's cluster as if nothing had been written of it. It is for a
// base that has become too large to be joined to. It is to be followed by NoteEnd and Joins.
func (w *Writer) Again(j Join, nodes map[ir.UnitID]int) []Export {
	for _, x := range w.clusters {
		if x.name != j.Cluster || x.base == "" {
			continue
		}
		x.base, x.parts = "", nil
		for _, unit := range x.units {
			if unit.base = false; unit.state != unbuilt {
				unit.state = ready
			}
		}
		byNode := map[int][]ir.UnitID{}
		for _, u := range x.Units {
			if n, ok := nodes[u]; ok {
				byNode[n] = append(byNode[n], u)
			}
		}
		var list []Export
		for _, n := range sortedNodes(byNode) {
			list = append(list, w.part(x, n, byNode[n]))
		}
		return list
	}
	return nil
}

// Joins returns the parts to join. A cluster that lacks a part is left in parts, and one
// without anything new as it is.
func (w *Writer) Joins() []Join {
	var list []Join
	for _, x := range w.clusters {
		var units []ir.UnitID // that the join holds
		missing := false
		for _, u := range x.Units {
			switch unit := x.units[u]; unit.state {
			case ready, underway:
				missing = true
			case written:
				units = append(units, u)
			default:
				if unit.base {
					units = append(units, u)
				}
			}
		}
		whole := w.in.Repo.Name + ":" + w.in.Repo.tag(x.name, -1)
		if missing || len(x.parts) == 0 || len(x.parts) == 1 && x.parts[0].Entry.Attrs["ref"] == whole {
			continue
		}
		j := Join{Ref: whole, Required: w.in.Required, Cluster: x.name, Units: units}
		if x.base != "" {
			j.Base, j.Parts = x.base, []string{x.base}
		} else if len(units) < len(x.Units) {
			// What is built of a cluster has a ref of its own: that of the whole may
			// hold the rest.
			j.Ref = w.in.Repo.Name + ":" + w.in.Repo.tag(Name(units), -1)
		}
		for _, p := range x.parts {
			if ref := p.Entry.Attrs["ref"]; !slices.Contains(j.Parts, ref) {
				j.Parts = append(j.Parts, ref)
			}
		}
		j.Reason = count(len(j.Parts), "part")
		list = append(list, j)
	}
	return list
}

func sortedNodes(byNode map[int][]ir.UnitID) []int {
	nodes := make([]int, 0, len(byNode))
	for n := range byNode {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	return nodes
}
