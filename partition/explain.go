package partition

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// Reason is why a target is on its node.
type Reason struct {
	Target TargetID
	Node   NodeID
	// Why is the rule that applied, see the Because constants.
	Why Because
	// Shared lists vertices the target needs that other targets of its node need
	// too, the most expensive first. Warm ones are not among them.
	Shared []VertexID
	// Warm lists what the target needs and its node holds from the start, the most
	// expensive first.
	Warm []VertexID
	// Filled lists what the node executes for the target with cache mounts that it has filled
	// and some other node that could build the target has not, the most expensive first.
	Filled []VertexID
	// Alternatives has one entry for each node considered, the chosen one
	// included: by makespan, then executed work, then node.
	Alternatives []Alternative
}

// Because names why a node was chosen.
type Because string

const (
	// BecauseOnly: no other node may build the target.
	BecauseOnly Because = "only node with its platforms"
	// BecauseSooner: on every other node the whole build would end later.
	BecauseSooner Because = "the build would end later with it on any other node"
	// BecauseWarm: the build would end no sooner elsewhere, and the node already
	// holds part of the target.
	BecauseWarm Because = "the node already holds part of it, and the build ends no sooner elsewhere"
	// BecauseFilled: the build would end no sooner elsewhere, and the node has filled
	// cache mounts of its vertices.
	BecauseFilled Because = "the node has filled cache mounts of its steps, and the build ends no sooner elsewhere"
	// BecauseShared: the build would end no sooner elsewhere, and the node builds
	// part of the target for others anyway.
	BecauseShared Because = "the node builds part of it for other targets anyway, and the build ends no sooner elsewhere"
	// BecauseEqual: nothing but the order of nodes or an earlier plan speaks for it.
	BecauseEqual Because = "no node is better"
	// BecauseStrategy: the strategy does not look for the shortest makespan, and
	// some other node would end the build sooner.
	BecauseStrategy Because = "the strategy put it there; another node would end the build sooner"
)

// Alternative is the prediction with the target on Node and all else as planned.
type Alternative struct {
	Node NodeID
	// Makespan is when the whole build would end, Done when the target would.
	Makespan Seconds
	Done     Seconds
	// Executed is the work of the whole plan, at speed 1, relative to the plan as
	// it is: negative = less.
	Executed Seconds
	// Fetches is the number of fetches in the whole plan.
	Fetches int
}

// maxAlternatives bounds the work of Explain on large clusters.
const maxAlternatives = 32

// String returns the reason as lines of text without the alternatives.
func (r Reason) String() string {
	if len(r.Filled) == 0 || r.Why == BecauseFilled || r.Why == BecauseOnly {
		return string(r.Why)
	}
	steps := "one of its steps"
	if len(r.Filled) > 1 {
		steps = fmt.Sprintf("%d of its steps", len(r.Filled))
	}
	return fmt.Sprintf("%s; the node has filled cache mounts of %s", r.Why, steps)
}

// Explain compares the node of target t in a with the others that may build it: at
// most 32, those that hold or build part of it first. The error wraps ErrProblem,
// ErrInfeasible, or is ctx's.
func Explain(ctx context.Context, p Problem, a Assignment, t TargetID) (Reason, error) {
	m, err := compile(p)
	if err != nil {
		return Reason{}, err
	}
	if t < 0 || int(t) >= m.nt {
		return Reason{}, fmt.Errorf("%w: no target %d", ErrProblem, t)
	}
	sim := newSimulator(m)
	now, err := sim.evaluate(a)
	if err != nil {
		return Reason{}, err
	}
	e := explainer{m: m, sim: sim, base: sim.draftOf(a), t: int(t)}
	e.list = slices.Clone(newClosure(m).of(int(m.root[t])))
	r := Reason{Target: t, Node: a.Node[t]}
	r.Warm, r.Shared = e.holdings(int(r.Node))
	r.Filled = e.withMounts(now, r.Node)
	r.Alternatives = append(r.Alternatives, Alternative{
		Node: r.Node, Makespan: now.Makespan, Done: now.Done[t], Fetches: fetches(now),
	})
	for _, n := range e.others() {
		if err := context.Cause(ctx); err != nil {
			return Reason{}, fmt.Errorf("explain target %s: %w", p.Targets[t].Name, err)
		}
		r.Alternatives = append(r.Alternatives, e.with(n, now))
	}
	r.Why = because(r, countBits(m.allowedSet(int(t))) == 1, now.Makespan)
	slices.SortStableFunc(r.Alternatives, func(x, y Alternative) int {
		return cmp.Or(cmp.Compare(x.Makespan, y.Makespan), cmp.Compare(x.Executed, y.Executed), cmp.Compare(x.Node, y.Node))
	})
	return r, nil
}

func because(r Reason, only bool, now Seconds) Because {
	later, sooner := true, false
	for _, x := range r.Alternatives[1:] {
		later = later && x.Makespan > now*(1+1e-9)
		sooner = sooner || x.Makespan < now*(1-1e-9)
	}
	switch {
	case only:
		return BecauseOnly
	case sooner:
		return BecauseStrategy
	case later:
		return BecauseSooner
	case len(r.Warm) > 0:
		return BecauseWarm
	case len(r.Filled) > 0:
		return BecauseFilled
	case len(r.Shared) > 0:
		return BecauseShared
	}
	return BecauseEqual
}

func fetches(s Schedule) int {
	n := 0
	for _, load := range s.Nodes {
		n += load.Fetched
	}
	return n
}

type explainer struct {
	m    *model
	sim  *simulator
	base *draft
	t    int
	list []int32 // all the target needs
}

// holdings returns the vertices of the target that are warm on n, and those that others on
// n need too.
func (e *explainer) holdings(n int) (warm, shared []VertexID) {
	d := e.base.clone()
	d.node = slices.Delete(d.node, e.t, e.t+1)
	m := *e.m
	m.root = slices.Delete(slices.Clone(m.root), e.t, e.t+1)
	m.nt--
	sim := newSimulator(&m)
	sim.derive(d)
	for _, v := range e.list {
		switch {
		case m.isWarm(int(v), n):
			warm = append(warm, VertexID(v))
		case hasBit(m.set(sim.need, int(v)), n):
			shared = append(shared, VertexID(v))
		}
	}
	dearestFirst(&m, warm)
	dearestFirst(&m, shared)
	return warm, shared
}

func dearestFirst(m *model, list []VertexID) {
	slices.SortStableFunc(list, func(a, b VertexID) int { return cmp.Compare(m.cost[b], m.cost[a]) })
}

// withMounts returns the vertices of the target that n executes with mounts which are cold on
// some other node that is allowed.
func (e *explainer) withMounts(now Schedule, n NodeID) []VertexID {
	m := e.m
	var list []VertexID
	for _, t := range now.Tasks {
		v := int(t.Vertex)
		if t.Kind != Exec || t.Node != n || m.work(v, int(n)) > m.cost[v] || !slices.Contains(e.list, int32(v)) {
			continue
		}
		for o := range m.nn {
			if m.allows(e.t, o) && m.work(v, o) > m.cost[v] {
				list = append(list, t.Vertex)
				break
			}
		}
	}
	dearestFirst(m, list)
	return list
}

// others returns the other nodes to consider.
func (e *explainer) others() []int {
	m := e.m
	here := int(e.base.node[e.t])
	e.sim.derive(e.base)
	share := make([]float64, m.nn) // cost of what a node holds of the target
	for _, v := range e.list {
		set, warm := m.set(e.sim.need, int(v)), m.set(m.warm, int(v))
		for n := range m.nn {
			if hasBit(set, n) || hasBit(warm, n) {
				share[n] += m.cost[v]
			}
		}
	}
	var out []int
	for n := range m.nn {
		if n != here && m.allows(e.t, n) {
			out = append(out, n)
		}
	}
	if len(out) > maxAlternatives-1 {
		slices.SortStableFunc(out, func(a, b int) int {
			return cmp.Or(cmp.Compare(share[b], share[a]), cmp.Compare(m.capacity(b), m.capacity(a)))
		})
		out = out[:maxAlternatives-1]
	}
	return out
}

// with moves the target to n: once with everything missing there built, once with
// what exists elsewhere fetched. The shorter plan counts.
func (e *explainer) with(n int, now Schedule) Alternative {
	m := e.m
	best := Alternative{Node: NodeID(n)}
	for _, fetch := range []bool{false, true} {
		d := e.base.clone()
		d.node[e.t] = int32(n)
		e.sim.derive(d)
		if fetch {
			for _, v := range e.list {
				set := m.set(e.sim.need, int(v))
				if countBits(set) > 1 && !hasBit(m.set(m.warm, int(v)), n) && 2*m.xfer[v] < m.exec(int(v), n) {
					setBit(m.set(d.fetch, int(v)), n)
				}
			}
		}
		s, err := e.sim.evaluate(e.sim.assignment(d))
		if err != nil { // e.g. a vertex that can be had from nowhere
			continue
		}
		if !fetch || s.Makespan < best.Makespan {
			best.Makespan, best.Done = s.Makespan, s.Done[e.t]
			best.Executed, best.Fetches = s.Executed-now.Executed, fetches(s)
		}
	}
	return best
}

// draftOf is the inverse of assignment.
func (s *simulator) draftOf(a Assignment) *draft {
	m := s.m
	d := m.newDraft()
	for t, n := range a.Node {
		d.node[t] = int32(n)
	}
	for n, share := range a.Shares {
		for _, f := range share.Fetch {
			setBit(m.set(d.fetch, int(f.Vertex)), n)
			d.src[f.Vertex] = int32(f.From)
		}
		if len(share.Order) > 0 && d.order == nil {
			d.order = make([][]int32, m.nn)
		}
		for _, v := range share.Order {
			d.order[n] = append(d.order[n], int32(v))
		}
	}
	// Builds that a fetch calls for come back by themselves; the others are wishes.
	s.derive(d)
	for n, share := range a.Shares {
		for _, v := range share.Build {
			if !hasBit(m.set(s.need, int(v)), n) {
				if d.build == nil {
					d.build = make([]uint64, m.nv*m.w)
				}
				setBit(m.set(d.build, int(v)), n)
			}
		}
	}
	return d
}

// String returns one line per node: its targets, fetches and builds.
func (a Assignment) String() string {
	var b strings.Builder
	nodes := len(a.Shares)
	for _, n := range a.Node {
		nodes = max(nodes, int(n)+1)
	}
	targets := make([][]int, nodes)
	for t, n := range a.Node {
		targets[n] = append(targets[n], t)
	}
	for n := range nodes {
		fmt.Fprintf(&b, "n%d: targets %v", n, targets[n])
		if n < len(a.Shares) {
			for _, f := range a.Shares[n].Fetch {
				fmt.Fprintf(&b, " fetch %d<-n%d", f.Vertex, f.From)
			}
			if len(a.Shares[n].Build) > 0 {
				fmt.Fprintf(&b, " build %v", a.Shares[n].Build)
			}
			if len(a.Shares[n].Order) > 0 {
				fmt.Fprintf(&b, " order %v", a.Shares[n].Order)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
