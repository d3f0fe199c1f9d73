package daemon

import (
	"context"
	"errors"
	"sync"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	apicapspb "github.com/moby/buildkit/util/apicaps/pb"
	"golang.org/x/sync/errgroup"
)

// LLBCaps asks the nodes for their capabilities and returns those that all have: any node
// may be given any step. Only a build reports them, so each node is sent an empty one. A
// node whose connection breaks meanwhile does not count.
func (p *Pool) LLBCaps(ctx context.Context) (*apicaps.CapSet, error) {
	var mu sync.Mutex
	var sets []apicaps.CapSet
	var lost []error
	eg, ctx := errgroup.WithContext(ctx)
	nodes, ready := p.members()
	for _, n := range nodes[:ready] {
		eg.Go(func() error {
			l, err := n.current()
			var set apicaps.CapSet
			if err == nil {
				set, err = l.caps(ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				sets = append(sets, set)
			case ctx.Err() == nil && (l == nil || l.ctx.Err() != nil):
				lost = append(lost, &NodeError{Node: n.spec.Name, Addr: n.spec.Addr, Op: "lost", Err: err})
			default:
				return &NodeError{Node: n.spec.Name, Addr: n.spec.Addr, Op: "ask for capabilities", Err: err}
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	if len(sets) == 0 {
		return nil, errors.Join(lost...)
	}
	common := commonCaps(sets)
	p.SetCaps(&common)
	return &common, nil
}

// SetCaps says which capabilities all nodes that are planned for have, where that is known
// without asking them.
func (p *Pool) SetCaps(set *apicaps.CapSet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.caps = set
}

// caps asks the daemon for its capabilities.
func (l *link) caps(ctx context.Context) (set apicaps.CapSet, err error) {
	err = l.gateway(ctx, nil, func(_ context.Context, c gateway.Client) error {
		set = c.BuildOpts().LLBCaps
		return nil
	})
	return set, err
}

// sayCaps returns the capabilities of the daemon, nil when it does not report them in time.
func (l *link) sayCaps(ctx context.Context) *apicaps.CapSet {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	set, err := l.caps(ctx)
	if err != nil {
		return nil
	}
	return &set
}

// CommonCaps returns the capabilities that all nodes have in common, nil when none reported
// any.
func CommonCaps(answers []Answer) *apicaps.CapSet {
	var sets []apicaps.CapSet
	for _, a := range answers {
		if a.Caps != nil {
			sets = append(sets, *a.Caps)
		}
	}
	if len(sets) == 0 {
		return nil
	}
	common := commonCaps(sets)
	return &common
}

// lacks returns a capability that the build was compiled for and that set does not
// have, "" when there is none.
func (p *Pool) lacks(set apicaps.CapSet) apicaps.CapID {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.caps == nil {
		return ""
	}
	for _, c := range pb.Caps.All() {
		if id := apicaps.CapID(c.ID); p.caps.Supports(id) == nil && set.Supports(id) != nil {
			return id
		}
	}
	return ""
}

// commonCaps returns the capabilities that every one of some nodes supports.
func commonCaps(sets []apicaps.CapSet) apicaps.CapSet {
	var common []*apicapspb.APICap
caps:
	for _, c := range pb.Caps.All() {
		for _, s := range sets {
			if s.Supports(apicaps.CapID(c.ID)) != nil {
				continue caps
			}
		}
		common = append(common, c)
	}
	return pb.Caps.CapSet(common)
}
