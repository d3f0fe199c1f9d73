package runtime

import (
	"context"
	"errors"
	"slices"

	"github.com/containerd/platforms"
	bkclient "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
)

// Gateway lets the compile stage use the nodes of a pool for what it cannot do
// itself, as running another frontend. Env is the environment that secrets are
// read from.
type Gateway struct {
	Pool *Pool
	Env  map[string]string
	// Path returns a file name of the user's as an absolute one.
	Path func(string) string
}

var _ frontend.Gateway = (*Gateway)(nil)

// Build implements frontend.Gateway. It prefers a node that can run the unit's
// platform.
func (g *Gateway) Build(ctx context.Context, s frontend.Session, fn func(context.Context, gateway.Client) error) error {
	n := g.Pool.nodeFor(s.Platform)
	in := Inputs{Dirs: s.Locals, Layouts: s.OCIStores, Env: g.Env, Secrets: SecretSources(s.Secrets, g.Env, g.Path), SSH: map[string][]string{}}
	for id, a := range s.SSH {
		in.SSH[id] = a.Paths
	}
	var sent transfers
	offer, err := in.services(&sent)
	if err != nil {
		return err
	}
	return n.gateway(ctx, offer.attachables(nil), fn)
}

// gateway calls fn with the client of a build on n whose session offers attach.
func (n *node) gateway(ctx context.Context, attach []session.Attachable, fn func(context.Context, gateway.Client) error) error {
	status := make(chan *bkclient.SolveStatus)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for range status {
			// What happens on the way to a definition is not shown.
		}
	}()
	_, err := n.client.Build(ctx, bkclient.SolveOpt{Session: attach, Internal: true}, product,
		func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
			return gateway.NewResult(), fn(ctx, c)
		}, status)
	<-drained
	if err != nil && ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}

// nodeFor returns a node that can run the platform, else the first.
func (p *Pool) nodeFor(pl ocispecs.Platform) *node {
	i := slices.IndexFunc(p.nodes, func(n *node) bool {
		return slices.ContainsFunc(n.info.Platforms, func(have ocispecs.Platform) bool { return platforms.Only(have).Match(pl) })
	})
	return p.nodes[max(i, 0)]
}

// SecretSources says where the values of secrets are, by id. As upstream, an id
// alone is the name of an environment variable, or else of a file.
func SecretSources(secrets map[string]frontend.Secret, env map[string]string, path func(string) string) map[string]SecretSource {
	sources := map[string]SecretSource{}
	for id, s := range secrets {
		source := SecretSourceOf(s.Secret, env, path)
		source.Prefix = s.Prefix
		sources[id] = source
	}
	return sources
}

// SecretSourceOf says where the value of one secret is.
func SecretSourceOf(s ir.Secret, env map[string]string, path func(string) string) SecretSource {
	switch _, set := env[s.ID]; {
	case s.Src != "":
		return SecretSource{File: path(s.Src)}
	case s.Env != "":
		return SecretSource{Env: s.Env}
	case set:
		return SecretSource{Env: s.ID}
	default:
		return SecretSource{File: path(s.ID)}
	}
}
