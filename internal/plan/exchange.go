package plan

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/dbake/dbake/partition"
)

// Exchange is an assignment in which nodes take results from each other, in the
// terms of a scheduler: units that are built and exported, and wait for others.
//
// A step that a node sends to others is a unit of its own there, whose export is the transfer;
// the units that fetch it wait for it. What such a unit needs before the last of its transfers
// is there need not wait for all of them, and is a unit as well.
type Exchange struct {
	// Steps are the units beyond the targets: unit u is Steps[u-targets].
	Steps []Intermediate
	// After are the units that each unit waits for, because it fetches what they
	// send.
	After [][]int
	// Begin holds when each unit is planned to begin, and its first step: that which no
	// unit before it has brought to its node. It is the order of a node's queue.
	Begin []Begin
}

// Begin is the start of a step; Step is a vertex of the problem.
type Begin struct {
	At   time.Duration
	Step int
}

// Intermediate is a step that is built without being a target's result.
type Intermediate struct {
	Vertex int // index into the problem
	// Node is an index into the problem, -1 for a step that is built when a node turns
	// out to need it, where its result is: it is sent on demand.
	Node int
	// Sent are the steps that other nodes fetch by it: the vertex and those below
	// it that its layers stand on, the lowest first. None when it is only built
	// early.
	Sent []int
}

// exchanger is an assignment, by node.
type exchanger struct {
	p       partition.Problem
	warm    []map[partition.VertexID]bool
	fetches []map[partition.VertexID]partition.NodeID // where from
	// starts are those of the executions and fetches that take place.
	starts []map[partition.VertexID]time.Duration
}

func newExchanger(p partition.Problem, a partition.Assignment, s partition.Schedule) exchanger {
	x := exchanger{p: p}
	for n, node := range p.Nodes {
		warm, fetches := map[partition.VertexID]bool{}, map[partition.VertexID]partition.NodeID{}
		for _, v := range node.Warm {
			warm[v] = true
		}
		if a.Shares != nil {
			for _, f := range a.Shares[n].Fetch {
				fetches[f.Vertex] = f.From
			}
		}
		x.warm, x.fetches = append(x.warm, warm), append(x.fetches, fetches)
		x.starts = append(x.starts, map[partition.VertexID]time.Duration{})
	}
	for _, t := range s.Tasks {
		if t.Kind != partition.Export {
			x.starts[t.Node][t.Vertex] = t.Start.Duration()
		}
	}
	return x
}

// NewExchange returns the builds and transfers that assignment a of p, with schedule s, asks
// for beyond the targets.
func NewExchange(p partition.Problem, a partition.Assignment, s partition.Schedule) Exchange {
	x := newExchanger(p, a, s)
	b := exchangeBuilder{exchanger: x}
	for i, t := range p.Targets {
		b.unit(a.Node[i], t.Root, 1<<62)
	}
	sender := b.send(a, s)
	b.wait(sender)
	b.begin()
	return b.Exchange
}

// AddOnDemand adds the steps that are sent on demand.
func (x *Exchange) AddOnDemand(steps []Intermediate) {
	for _, s := range steps {
		x.Steps = append(x.Steps, s)
		x.After = append(x.After, nil)
		x.Begin = append(x.Begin, Begin{Step: s.Vertex})
	}
}

// exchangeBuilder is the state of one NewExchange.
type exchangeBuilder struct {
	exchanger
	Exchange
	on    []partition.NodeID   // by unit
	roots []partition.VertexID // by unit
	lists [][]partition.VertexID
}

// unit adds a unit that begins at the given time at the latest.
func (b *exchangeBuilder) unit(n partition.NodeID, root partition.VertexID, begin time.Duration) int {
	b.on, b.roots = append(b.on, n), append(b.roots, root)
	b.Begin = append(b.Begin, Begin{begin, int(root)})
	b.lists = append(b.lists, b.closure(n, root))
	b.After = append(b.After, nil)
	return len(b.on) - 1
}

// send makes units of the steps that are sent, and returns them by step. A step
// that others need only because the layers of a further one stand on it goes with
// that one.
func (b *exchangeBuilder) send(a partition.Assignment, s partition.Schedule) map[partition.VertexID]int {
	apart := map[partition.VertexID]bool{}
	for n := range b.p.Nodes {
		b.apart(partition.NodeID(n), a, apart)
	}
	sent := map[partition.VertexID]bool{}
	for _, t := range s.Tasks {
		sent[t.Vertex] = sent[t.Vertex] || t.Kind == partition.Export
	}
	sender := map[partition.VertexID]int{}
	for _, t := range s.Tasks {
		if t.Kind != partition.Export || !apart[t.Vertex] {
			continue
		}
		step := Intermediate{Vertex: int(t.Vertex), Node: int(t.Node), Sent: []int{int(t.Vertex)}}
		for v := t.Vertex; len(b.p.Vertices[v].Inputs) > 0; {
			if v = b.p.Vertices[v].Inputs[0]; !sent[v] || apart[v] {
				break
			}
			step.Sent = append(step.Sent, int(v))
		}
		slices.Reverse(step.Sent)
		b.Steps = append(b.Steps, step)
		sender[t.Vertex] = b.unit(t.Node, t.Vertex, t.Start.Duration())
	}
	return sender
}

// wait makes units wait for what they fetch, and makes units of what need not wait
// with them.
func (b *exchangeBuilder) wait(sender map[partition.VertexID]int) {
	early := make([]map[partition.VertexID]bool, len(b.p.Nodes))
	for n := range early {
		early[n] = map[partition.VertexID]bool{}
	}
	for u := range len(b.on) {
		fetched := b.after(u, sender)
		if len(fetched) == 0 {
			continue
		}
		n := b.on[u]
		for _, v := range b.stages(n, b.lists[u], fetched) {
			start, takesPlace := b.starts[n][v]
			if !takesPlace || v == b.roots[u] || early[n][v] {
				continue
			}
			early[n][v] = true
			b.Steps = append(b.Steps, Intermediate{Vertex: int(v), Node: int(n)})
			b.after(b.unit(n, v, start), sender)
		}
	}
}

// after makes u wait for what it fetches, and returns that.
func (b *exchangeBuilder) after(u int, sender map[partition.VertexID]int) []partition.VertexID {
	var fetched []partition.VertexID
	for _, v := range b.lists[u] {
		if from, ok := sender[v]; ok && from != u && b.fetched(b.on[u], v) {
			b.After[u] = append(b.After[u], from)
			fetched = append(fetched, v)
		}
	}
	return fetched
}

// begin finds out when each unit begins what no unit before it brings to its node.
func (b *exchangeBuilder) begin() {
	users := make([]map[partition.VertexID][]int, len(b.p.Nodes))
	for n := range users {
		users[n] = map[partition.VertexID][]int{}
	}
	for u, n := range b.on {
		for _, v := range b.lists[u] {
			at, takesPlace := b.starts[n][v]
			if !takesPlace {
				continue
			}
			users[n][v] = append(users[n][v], u)
			if v == b.roots[u] {
				b.Begin[u].At = min(b.Begin[u].At, at)
			}
		}
	}
	// Backwards, so that each step goes to the unit that is first by all that comes
	// after it.
	for n, starts := range b.starts {
		steps := slices.Collect(maps.Keys(starts))
		slices.SortFunc(steps, func(v, w partition.VertexID) int {
			return cmp.Or(cmp.Compare(starts[w], starts[v]), cmp.Compare(w, v))
		})
		for _, v := range steps {
			first := -1
			for _, u := range users[n][v] {
				if first < 0 || b.Begin[u].At < b.Begin[first].At {
					first = u
				}
			}
			if first >= 0 && starts[v] < b.Begin[first].At {
				b.Begin[first] = Begin{starts[v], int(v)}
			}
		}
	}
}

// fetched reports whether n takes v from another node.
func (x *exchanger) fetched(n partition.NodeID, v partition.VertexID) bool {
	_, takesPlace := x.starts[n][v]
	from, ok := x.fetches[n][v]
	return takesPlace && ok && from != partition.Registry
}

// takes reports whether n takes v from anywhere instead of building it.
func (x *exchanger) takes(n partition.NodeID, v partition.VertexID) bool {
	_, ok := x.fetches[n][v]
	return ok
}

// follows returns the inputs that n needs to come to hold v.
func (x *exchanger) follows(n partition.NodeID, v partition.VertexID) []partition.VertexID {
	in := x.p.Vertices[v].Inputs
	switch {
	case x.warm[n][v]:
		return nil
	case x.takes(n, v):
		return in[:min(1, len(in))]
	}
	return in
}

// closure returns root and what n needs for it, ascending.
func (x *exchanger) closure(n partition.NodeID, root partition.VertexID) []partition.VertexID {
	list := []partition.VertexID{root}
	seen := map[partition.VertexID]bool{root: true}
	for i := 0; i < len(list); i++ {
		for _, u := range x.follows(n, list[i]) {
			if !seen[u] {
				seen[u] = true
				list = append(list, u)
			}
		}
	}
	slices.Sort(list)
	return list
}

// apart adds to set the steps that n fetches for more than the layers of other steps that it
// fetches.
func (x *exchanger) apart(n partition.NodeID, a partition.Assignment, set map[partition.VertexID]bool) {
	if len(x.fetches[n]) == 0 {
		return
	}
	needed := map[partition.VertexID]bool{}
	var list []partition.VertexID
	need := func(v partition.VertexID, alone bool) {
		if !needed[v] {
			needed[v] = true
			list = append(list, v)
		}
		if alone && x.takes(n, v) {
			set[v] = true
		}
	}
	for i, t := range x.p.Targets {
		if a.Node[i] == n {
			need(t.Root, true)
		}
	}
	for _, v := range a.Shares[n].Build {
		need(v, true)
	}
	for i := 0; i < len(list); i++ {
		for _, u := range x.follows(n, list[i]) {
			need(u, !x.takes(n, list[i]))
		}
	}
}

// stages returns the steps of list, a closure on n, above which n waits for more of what is
// fetched. A run that began them with the rest would not begin them when the plan does.
func (x *exchanger) stages(n partition.NodeID, list, fetched []partition.VertexID) []partition.VertexID {
	words := (len(fetched) + 63) / 64
	bit := map[partition.VertexID]int{}
	for i, v := range fetched {
		bit[v] = i
	}
	waits := make(map[partition.VertexID][]uint64, len(list))
	last := map[partition.VertexID]bool{}
	for _, v := range list {
		set := make([]uint64, words)
		if i, ok := bit[v]; ok {
			set[i/64] |= 1 << (i % 64)
		}
		inputs := x.follows(n, v)
		for _, u := range inputs {
			for w, bits := range waits[u] {
				set[w] |= bits
			}
		}
		for _, u := range inputs {
			if waits[u] != nil && !slices.Equal(waits[u], set) {
				last[u] = true
			}
		}
		waits[v] = set
	}
	return slices.DeleteFunc(slices.Clone(list), func(v partition.VertexID) bool {
		_, sent := bit[v]
		return !last[v] || !sent && x.fetched(n, v) // comes with what stands on it
	})
}
