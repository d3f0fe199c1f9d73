package daemon

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	bkclient "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/dockerconfig"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/watchdog"
)

// Gateway lets the compile stage use the nodes of a pool for work that it cannot do itself,
// such as running another frontend. Env is the environment that secrets are read from.
type Gateway struct {
	Pool *Pool
	Env  map[string]string
	// Docker holds the credentials for registries.
	Docker *dockerconfig.Config
	// Path returns a file name of the user's as an absolute one.
	Path func(string) string
	// Notify shows a line while something is waited for; may be nil.
	Notify func(line string)
}

var _ frontend.Gateway = (*Gateway)(nil)

// Build implements frontend.Gateway. It prefers a node that can run the unit's
// platform, and takes another when one breaks off. The error is that of fn when fn
// has failed, with what was printed on the node.
func (g *Gateway) Build(ctx context.Context, s frontend.Session, fn func(context.Context, gateway.Client) error) error {
	in := Inputs{Dirs: s.Locals, Layouts: s.OCIStores, Env: g.Env, Docker: g.Docker, Secrets: SecretSources(s.Secrets, g.Env, g.Path), SSH: map[string][]string{}}
	for id, a := range s.SSH {
		in.SSH[id] = a.Paths
	}
	return g.Pool.anywhere(ctx, s.Platform, func(name string, l *link) error {
		var sent Transfers
		offer, err := in.services(&sent)
		if err != nil {
			return err
		}
		return l.gatewayFollowed(ctx, offer.attachables(nil), fetchWait{note: g.Notify}, func(ctx context.Context, c gateway.Client) error {
			return fn(ctx, namedClient{c, name})
		})
	})
}

// namedClient is a client that knows its node.
type namedClient struct {
	gateway.Client
	node string
}

var _ frontend.Named = namedClient{}

// Node implements frontend.Named.
func (c namedClient) Node() string { return c.node }

// anywhere calls f with the name of a node and its link, for one node after the other, until
// one has not broken off meanwhile. Nodes that can run the platform come first. The error is a
// [*NodeError] when none was left.
func (p *Pool) anywhere(ctx context.Context, pl ocispecs.Platform, f func(name string, l *link) error) error {
	var errs []error
	for _, n := range p.preferring(pl) {
		l, err := n.current()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		err = f(n.spec.Name, l)
		if err == nil || ctx.Err() != nil || l.ctx.Err() == nil {
			return err
		}
		errs = append(errs, &NodeError{Node: n.spec.Name, Addr: n.spec.Addr, Op: "lost", Err: l.reason(err)})
	}
	return errors.Join(errs...)
}

// preferring returns the nodes, first those that can run the platform.
func (p *Pool) preferring(pl ocispecs.Platform) []*node {
	nodes, _ := p.members()
	order := slices.Clone(nodes)
	runs := func(n *node) int {
		if slices.ContainsFunc(n.lastInfo().Platforms, func(have ocispecs.Platform) bool { return platforms.Only(have).Match(pl) }) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(order, func(a, b *node) int { return cmp.Compare(runs(a), runs(b)) })
	return order
}

// gatewayLog is how many of the last lines that a node printed are shown with an
// error.
const gatewayLog = 20

// GatewayError is a failure on a node before the build began, with the last lines of output
// there.
type GatewayError struct {
	Log []string
	Err error
}

func (e *GatewayError) Error() string {
	return e.Err.Error() + "\nlast output:\n  " + strings.Join(e.Log, "\n  ")
}

// Unwrap returns the cause.
func (e *GatewayError) Unwrap() error { return e.Err }

// gateway calls fn with the client of a build whose session offers attach. A call
// that does not end soon after ctx breaks the link.
func (l *link) gateway(ctx context.Context, attach []session.Attachable, fn func(context.Context, gateway.Client) error) error {
	return l.gatewayFollowed(ctx, attach, fetchWait{}, fn)
}

// gatewayFollowed is gateway that has w follow what the node is doing.
func (l *link) gatewayFollowed(ctx context.Context, attach []session.Attachable, w fetchWait, fn func(context.Context, gateway.Client) error) error {
	return beginAgain(ctx, fn, func(fn func(context.Context, gateway.Client) error) error {
		return l.callGateway(ctx, attach, w, fn)
	})
}

// gatewayAttempts is how often a build is begun that a node gives up before it has begun. A
// starved node does so after 3 s.
const gatewayAttempts = 5

// beginAgain has call begin a build that calls fn until fn has been called, within reason. A
// node may also say that it knows no such build when it is asked for the status of one that
// is over already.
func beginAgain(ctx context.Context, fn func(context.Context, gateway.Client) error, call func(func(context.Context, gateway.Client) error) error) (err error) {
	for range gatewayAttempts {
		begun := false
		var cause error
		err = call(func(ctx context.Context, c gateway.Client) error {
			begun = true
			cause = fn(ctx, c)
			return cause
		})
		switch {
		case err == nil || !fault.Unregistered(err):
			return err
		case begun && cause == nil:
			return nil
		case begun || ctx.Err() != nil:
			return err
		}
	}
	return err
}

// callGateway calls fn at most once.
func (l *link) callGateway(ctx context.Context, attach []session.Attachable, w fetchWait, fn func(context.Context, gateway.Client) error) error {
	defer l.hurry(ctx)()
	both, stop := l.within(ctx)
	defer stop()
	// A session that the client opens by itself is closed with a word from the node,
	// which a silent one does not give.
	own, leave, err := l.openSession(ctx, "", attach)
	if err != nil {
		return err
	}
	defer leave()
	both, giveUp := context.WithCancelCause(both)
	defer giveUp(nil)
	w.giveUp = giveUp
	status := make(chan *bkclient.SolveStatus)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		w.follow(status)
		for range status { // it was given up
		}
	}()
	var cause error
	_, err = l.client.Build(l.workers.recall(both), bkclient.SolveOpt{SharedSession: own, SessionPreInitialized: true, Internal: true}, product,
		func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
			cause = fn(ctx, c)
			return gateway.NewResult(), cause
		}, status)
	<-drained
	var gaveUp *fault.Rejected
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errors.Join(context.Cause(ctx), err)
	case l.ctx.Err() != nil:
		return errors.Join(l.reason(nil), err)
	case errors.As(context.Cause(both), &gaveUp):
		return gaveUp
	case cause != nil:
		err = cause // what the node makes of it is only its text
	}
	if lines := w.complaints(); len(lines) > 0 {
		return &GatewayError{Log: lines, Err: err}
	}
	return err
}

// hurry breaks the link off when ctx ends and the function that it returns is not called soon
// after.
func (l *link) hurry(ctx context.Context) (done func()) {
	return watchdog.Hurry(ctx, func() { l.fail(ErrHungUp) })
}

// SecretSources returns the sources of secrets, by id. As upstream, an id alone is the name
// of an environment variable, or else of a file.
func SecretSources(secrets map[string]frontend.Secret, env map[string]string, path func(string) string) map[string]SecretSource {
	sources := map[string]SecretSource{}
	for id, s := range secrets {
		source := SecretSourceOf(s.Secret, env, path)
		source.Prefix = s.Prefix
		sources[id] = source
	}
	return sources
}

// SecretSourceOf returns the source of one secret.
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
