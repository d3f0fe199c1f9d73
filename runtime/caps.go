package runtime

import (
	"context"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	apicapspb "github.com/moby/buildkit/util/apicaps/pb"
	"golang.org/x/sync/errgroup"
)

// LLBCaps asks the nodes what they support and returns what all of them do: any
// node may be given any step. Only a build tells, so that each node is sent an
// empty one.
func (p *Pool) LLBCaps(ctx context.Context) (*apicaps.CapSet, error) {
	sets := make([]apicaps.CapSet, len(p.nodes))
	eg, ctx := errgroup.WithContext(ctx)
	for i, n := range p.nodes {
		eg.Go(func() error {
			err := n.gateway(ctx, nil, func(_ context.Context, c gateway.Client) error {
				sets[i] = c.BuildOpts().LLBCaps
				return nil
			})
			if err != nil {
				return &NodeError{Node: n.info.Name, Addr: n.info.Addr, Op: "ask for capabilities", Err: err}
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	common := commonCaps(sets)
	return &common, nil
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
