package partition

import (
	"fmt"
	"math"
	"slices"
)

// Evaluate predicts the schedule a leads to: list scheduling of every execution
// and transfer on all nodes at once. The error wraps ErrProblem or ErrInfeasible.
//
// A node's slots and both directions of its link each take the ready task with
// the longest path to the end first (ties: the vertex with the smaller id), except
// that the vertices of Share.Order precede all others. Nodes of one machine take from
// the same slots, and transfers of all nodes from Network.Links. Nothing waits while a unit is free, nothing is pre-empted.
// O((V + tasks) log tasks).
func Evaluate(p Problem, a Assignment) (Schedule, error) {
	m, err := compile(p)
	if err != nil {
		return Schedule{}, err
	}
	return newSimulator(m).evaluate(a)
}

func (s *simulator) evaluate(a Assignment) (Schedule, error) {
	if err := s.deriveStrict(a); err != nil {
		return Schedule{}, err
	}
	node := make([]int32, len(a.Node))
	for t, n := range a.Node {
		node[t] = int32(n)
	}
	var order [][]int32
	for n, share := range a.Shares {
		if len(share.Order) == 0 {
			continue
		}
		if order == nil {
			order = make([][]int32, s.m.nn)
		}
		for _, v := range share.Order {
			order[n] = append(order[n], int32(v))
		}
	}
	s.trace = true
	defer func() { s.trace = false }()
	s.list(node)
	s.rank(order)
	s.play(math.Inf(1))
	return s.schedule(node), nil
}

// schedule copies the last played plan out.
func (s *simulator) schedule(node []int32) Schedule {
	m := s.m
	out := Schedule{
		Tasks: make([]Task, len(s.kind)), Nodes: make([]Load, m.nn),
		Done: make([]Seconds, m.nt), before: make([]int, len(s.kind)),
	}
	ran := make([]bool, m.nv)
	for i := range s.kind {
		t := Task{
			Kind: s.kind[i], Vertex: VertexID(s.vert[i]), Node: NodeID(s.where[i]),
			Start: Seconds(s.start[i]), End: Seconds(s.end[i]),
		}
		out.Tasks[i] = t
		out.before[i] = int(s.last[i])
		out.Makespan = max(out.Makespan, t.End)
		load := &out.Nodes[t.Node]
		load.Finish = max(load.Finish, t.End)
		switch t.Kind {
		case Exec:
			load.Executed++
			load.Busy += Seconds(s.dur[i])
			c := Seconds(m.work(int(t.Vertex), int(t.Node)))
			out.Executed += c
			if ran[t.Vertex] {
				out.Duplicated += c
			}
			ran[t.Vertex] = true
		case Export:
			load.Exported++
		case Pull:
			load.Fetched++
		}
	}
	for t, n := range node {
		out.Nodes[n].Targets++
		if i := s.holder(int(m.root[t]), int(n)); i >= 0 {
			out.Done[t] = Seconds(s.end[i])
		}
	}
	return out
}

// Settle returns the assignment nearest to a that p allows: targets stay where they are,
// and what cannot be built or fetched as a says is built or fetched otherwise. The error
// wraps ErrProblem, ErrUnplaceable or, when a target is where it may not be, ErrInfeasible.
func Settle(p Problem, a Assignment) (Assignment, error) {
	m, err := compile(p)
	if err != nil {
		return Assignment{}, err
	}
	if len(a.Node) != m.nt || a.Shares != nil && len(a.Shares) != m.nn {
		return Assignment{}, fmt.Errorf("%w: %d targets and %d shares for %d and %d", ErrInfeasible, len(a.Node), len(a.Shares), m.nt, m.nn)
	}
	d := m.newDraft()
	d.order = make([][]int32, m.nn)
	for t, n := range a.Node {
		if n < 0 || int(n) >= m.nn || !m.allows(t, int(n)) {
			return Assignment{}, fmt.Errorf("%w: target %s cannot run on node %d", ErrInfeasible, p.Targets[t].Name, n)
		}
		d.node[t] = int32(n)
	}
	for n, s := range a.Shares {
		for _, f := range s.Fetch {
			if f.Vertex >= 0 && int(f.Vertex) < m.nv && int(f.From) < m.nn {
				setBit(m.set(d.fetch, int(f.Vertex)), n)
				d.src[f.Vertex] = int32(f.From)
			}
		}
		for _, v := range s.Order {
			if v >= 0 && int(v) < m.nv {
				d.order[n] = append(d.order[n], int32(v))
			}
		}
	}
	sim := newSimulator(m)
	out := sim.assignment(d)
	if sim.broken {
		return Assignment{}, fmt.Errorf("%w: something that is needed can be had from nowhere", ErrInfeasible)
	}
	return out, nil
}

// assignment writes the plan that derive made of d.
func (s *simulator) assignment(d *draft) Assignment {
	m, w := s.m, s.m.w
	s.derive(d)
	a := Assignment{Node: make([]NodeID, m.nt), Shares: make([]Share, m.nn)}
	for t, n := range d.node {
		a.Node[t] = NodeID(n)
	}
	for v := range m.nv {
		if len(d.build) > 0 {
			set := d.build[v*w : v*w+w]
			for n := range m.nn {
				if hasBit(set, n) {
					a.Shares[n].Build = append(a.Shares[n].Build, VertexID(v))
				}
			}
		}
		if s.src[v] == auto {
			continue
		}
		set := s.pull[v*w : v*w+w]
		for n := range m.nn {
			if hasBit(set, n) {
				a.Shares[n].Fetch = append(a.Shares[n].Fetch, Fetch{VertexID(v), NodeID(s.src[v])})
			}
		}
	}
	for _, v := range s.extra {
		list := &a.Shares[s.src[v]].Build
		if !slices.Contains(*list, VertexID(v)) {
			*list = append(*list, VertexID(v))
		}
	}
	for n := range a.Shares {
		slices.Sort(a.Shares[n].Build)
		if n < len(d.order) {
			for _, v := range d.order[n] {
				a.Shares[n].Order = append(a.Shares[n].Order, VertexID(v))
			}
		}
	}
	return a
}
