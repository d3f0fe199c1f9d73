package daemon

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/runtime/nodeset"
)

const (
	// graceLeast and graceMost bound how much longer than the first nodes may take to answer:
	// twice what that took. Nodes that answer later join the run.
	graceLeast = 500 * time.Millisecond
	graceMost  = time.Second
)

// Dial connects to the nodes and asks for their descriptions. It returns when each has
// answered or failed, but no later than a moment after the first answer, unless a node of
// this machine is still to come. Those that have not answered are left out, and tried again
// until the pool is closed; see [Pool.Absent] and [Pool.Muster]. When none answers, the
// error names each, as a [*NodeError].
func Dial(ctx context.Context, specs []nodeset.Spec, opts DialOptions) (*Pool, error) {
	p := &Pool{timeout: cmp.Or(opts.Timeout, DefaultNodeTimeout), began: time.Now(), came: make(chan struct{}, 1)}
	keep, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel = cancel
	tried := make(chan nodeset.Spec, len(specs))
	tag := newTag()
	for _, s := range specs {
		n := &node{spec: s, timeout: p.timeout, tag: tag, info: NodeInfo{Spec: s}, changed: make(chan struct{}), up: p.comes}
		if opts.Silent != nil {
			n.silent = func(d time.Duration) { opts.Silent(s.Name, d) }
		}
		p.nodes = append(p.nodes, n)
		p.keepers.Go(func() { n.keep(keep, sync.OnceFunc(func() { tried <- s })) })
	}
	err := p.gather(ctx, specs, tried, opts.Patience)
	if err == nil {
		err = p.sort()
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// sort puts the nodes first that can be reached. The error says why none can.
func (p *Pool) sort() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var up, away []*node
	var errs []error
	for _, n := range p.nodes {
		if _, err := n.current(); err != nil {
			errs, away = append(errs, err), append(away, n)
		} else {
			up = append(up, n)
		}
	}
	p.nodes, p.ready = append(up, away...), len(up)
	if p.ready == 0 {
		return errors.Join(errs...)
	}
	return nil
}

// comes notes that a node has come up.
func (p *Pool) comes() {
	select {
	case p.came <- struct{}{}:
	default:
	}
}

// gather waits until enough is known of the nodes to begin, or ctx ends. tried gets the nodes
// whose first attempt has ended.
func (p *Pool) gather(ctx context.Context, specs []nodeset.Spec, tried <-chan nodeset.Spec, patience time.Duration) error {
	pending, beside := len(specs), 0
	for _, s := range specs {
		beside += min(1, s.Beside)
	}
	var grace, over <-chan time.Time
	late := false
	for {
		if grace == nil && p.anyUp() {
			t := time.NewTimer(min(max(2*p.Age(), graceLeast), graceMost))
			defer t.Stop()
			grace = t.C
		}
		switch {
		case pending == 0 && (grace != nil || patience <= p.Age()), late && beside == 0:
			return nil
		case pending == 0 && over == nil:
			t := time.NewTimer(patience - p.Age())
			defer t.Stop()
			over = t.C
		}
		select {
		case s := <-tried:
			pending--
			beside -= min(1, s.Beside)
		case <-p.came:
		case <-grace:
			late = true
		case <-over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// anyUp reports whether a node can be reached.
func (p *Pool) anyUp() bool {
	nodes, _ := p.members()
	return slices.ContainsFunc(nodes, func(n *node) bool { _, err := n.current(); return err == nil })
}

// members returns the nodes. The first are there and planned for: ready is their number.
func (p *Pool) members() (nodes []*node, ready int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes, p.ready
}

// answers asks every node that is there, all at once. The answers are in the order of All,
// zero for the others.
func answers[T any](p *Pool, ask func(*link) T) []T {
	nodes, _ := p.members()
	list := make([]T, len(nodes))
	var eg errgroup.Group
	for i, n := range nodes {
		eg.Go(func() error {
			if l, err := n.current(); err == nil {
				list[i] = ask(l)
			}
			return nil
		})
	}
	_ = eg.Wait() // it says nothing
	return list
}

// Muster adds nodes to those that are planned for. It adds those that have answered since Dial,
// or the last Muster, if they support what the build was compiled for and suit it. It returns
// them. It is not to be called while the pool runs a build.
func (p *Pool) Muster(ctx context.Context, suits func(NodeInfo) bool) []NodeInfo {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	nodes, ready := p.members()
	fit := make([]bool, len(nodes))
	var eg errgroup.Group
	for i, n := range nodes {
		eg.Go(func() error {
			l, err := n.current()
			fit[i] = i < ready || err == nil && suits(n.lastInfo()) && p.check(ctx, l, nil) == nil
			return nil
		})
	}
	_ = eg.Wait() // it says which are fit
	var list, away []*node
	for i, n := range nodes {
		if fit[i] {
			list = append(list, n)
		} else {
			away = append(away, n)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes, p.ready, p.expected = append(list, away...), len(list), 0
	return infos(p.nodes[:p.ready])[ready:]
}

// Expect says which nodes are not there yet and are planned for. They follow those that are
// there, in the order given. It is not to be called while the pool runs a build.
func (p *Pool) Expect(names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	place := func(n *node) int {
		if i := slices.Index(names, n.spec.Name); i >= 0 {
			return i
		}
		return len(names)
	}
	list := slices.Clone(p.nodes)
	slices.SortStableFunc(list[p.ready:], func(a, b *node) int { return cmp.Compare(place(a), place(b)) })
	p.nodes, p.expected = list, len(names)
}

// Nodes returns the descriptions of the nodes that answered to Dial, in the order of the
// request, and then of those that [Pool.Muster] added.
func (p *Pool) Nodes() []NodeInfo {
	nodes, ready := p.members()
	return infos(nodes[:ready])
}

// All returns what Nodes does, followed by the other nodes, as far as they are known. One
// that has answered since has an ID.
func (p *Pool) All() []NodeInfo {
	nodes, _ := p.members()
	return infos(nodes)
}

// Absent returns, for each node that is not planned for and does not answer, why.
func (p *Pool) Absent() []error {
	p.mu.Lock()
	rest := p.nodes[p.ready+p.expected:]
	p.mu.Unlock()
	var errs []error
	for _, n := range rest {
		if _, err := n.current(); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// Age is the time since the pool was dialled.
func (p *Pool) Age() time.Duration { return time.Since(p.began) }

// Arrivals returns, for each node in the order of All, how long after the pool was dialled
// it answered first; -1 if it has not.
func (p *Pool) Arrivals() []time.Duration {
	nodes, _ := p.members()
	list := make([]time.Duration, len(nodes))
	for i, n := range nodes {
		list[i] = -1
		if at := n.since(); !at.IsZero() {
			list[i] = at.Sub(p.began)
		}
	}
	return list
}

// since returns when the node answered first; zero if it has not.
func (n *node) since() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.first
}
