package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	bkclient "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/layout"
)

// Connection is a daemon for as long as it can be reached without a break: one session
// through one link.
type Connection struct {
	Daemon
	// Witness reports what the node finds; nil when it cannot be asked.
	Witness Witness
	Info    NodeInfo
	// Ended ends with the connection; its cause says why.
	Ended context.Context
	// HangUp ends it.
	HangUp context.CancelCauseFunc
	// Stop ends the session, and waits.
	Stop func()
}

// Broken reports whether the connection has ended.
func (c *Connection) Broken() bool { return c.Ended.Err() != nil }

// Within returns a context that has the values of ctx, and ends with it or with the
// connection.
func (c *Connection) Within(ctx context.Context) (context.Context, func()) {
	return endWith(c.Ended, ctx)
}

// Witness answers for a node what only the node can see.
type Witness interface {
	// Silent returns the servers that do not answer the node in time. probes are the
	// sources that it asks for, by server.
	Silent(ctx context.Context, probes map[string]string) []string
	// LeaveOut has the node read no caches from a server any more, and write none there. It
	// reports whether that is new.
	LeaveOut(server string) bool
	// Drains reports whether the node says that it is to go.
	Drains(ctx context.Context) (bool, error)
	// Records returns the results that the node keeps.
	Records(ctx context.Context) (warm.Records, error)
	// Tenants returns how many others build on the node: runs of dbake, and other clients.
	Tenants(ctx context.Context) (int, error)
	// Unreadable returns the index in chain of the first result that the node cannot read,
	// len(chain) when it can read all. Each result contains the one before. observe receives the
	// status: the node executes what it does not hold.
	Unreadable(ctx context.Context, chain []*pb.Definition, imports []ir.CacheEntry, observe func(*bkclient.SolveStatus)) int
}

// SessionOptions are what a session on a node offers to the node, and how it solves.
type SessionOptions struct {
	Inputs Inputs
	// Sent records what the node was sent, in all sessions.
	Sent *Transfers
	// Stores are those of caches in directories, by the id under which the node asks.
	Stores map[string]content.Store
	// Entitlements are those that the user granted and some step needs.
	Entitlements []string
	// RetrySteps has steps that fail executed again.
	RetrySteps bool
	// Locks keep exports apart that write into one directory.
	Locks *layout.Locks
	// Tracing has the node record what it does; nil is not wanted.
	Tracing *Tracing
	// Unheard is called when a cache is left out because its server does not answer.
	Unheard func(server string)
}

// open starts a session through l.
func (l *link) open(o SessionOptions) (*Connection, error) {
	offer, err := o.Inputs.services(o.Sent)
	if err != nil {
		return nil, err
	}
	maps.Copy(offer.stores, o.Stores)
	ctx, cancel := context.WithCancel(l.ctx)
	s := &solver{
		link: l, life: ctx, services: offer, sharedKey: o.Inputs.SharedKey, entitlements: o.Entitlements, dirs: o.Locks,
		tracing: o.Tracing, retrySteps: o.RetrySteps, unheard: o.Unheard,
	}
	s.asks = s.Silent
	var stop func()
	if s.session, stop, err = l.openSession(ctx, o.Inputs.SharedKey, offer.attachables(nil)); err != nil {
		cancel()
		return nil, err
	}
	return &Connection{Daemon: s, Witness: s, Info: l.info, Ended: ctx, HangUp: l.fail, Stop: func() {
		cancel()
		stop()
	}}, nil
}

var _ Witness = (*solver)(nil)

// Silent implements Witness.
func (s *solver) Silent(ctx context.Context, probes map[string]string) []string {
	return s.link.silent(ctx, s.services.attachables(nil), probes)
}

// LeaveOut implements Witness.
func (s *solver) LeaveOut(server string) bool { return s.silent.add(server) }

// Drains implements Witness. What the node said a moment ago counts.
func (s *solver) Drains(ctx context.Context) (bool, error) {
	if age, ok := s.link.workers.age(); ok && age < workersFresh {
		ctx = s.link.workers.recall(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	workers, err := s.link.client.ListWorkers(ctx)
	if err != nil {
		return false, err
	}
	return len(workers) > 0 && drainsBy(workers[0].Labels), nil
}

// Records implements Witness.
func (s *solver) Records(ctx context.Context) (warm.Records, error) { return s.link.records(ctx) }

// Tenants implements Witness.
func (s *solver) Tenants(ctx context.Context) (int, error) { return s.link.tenants(ctx) }

// Unreadable implements Witness.
func (s *solver) Unreadable(ctx context.Context, chain []*pb.Definition, imports []ir.CacheEntry, observe func(*bkclient.SolveStatus)) int {
	first := len(chain)
	from := cacheentry.ForGateway(s.heard(imports))
	w := fetchWait{observe: func(st *bkclient.SolveStatus) { observe(s.standIns.restore(st)) }}
	_ = s.link.gatewayFollowed(ctx, s.services.attachables(nil), w, func(ctx context.Context, c gateway.Client) error {
		first = searchLost(len(chain), func(i int) bool {
			res, err := c.Solve(ctx, gateway.SolveRequest{Definition: chain[i], Evaluate: true, CacheImports: from})
			if err == nil {
				var ref gateway.Reference
				if ref, err = res.SingleRef(); err == nil && ref != nil {
					_, err = ref.ReadDir(ctx, gateway.ReadDirRequest{Path: "/"})
				}
			}
			_, gone := fault.LostBlob(err)
			return gone
		})
		return nil
	}) // what it cannot say is not lost
	return first
}

// searchLost returns the first of n results that is gone. All results after it must be gone,
// too.
func searchLost(n int, gone func(int) bool) int {
	low, high := 0, n
	for low < high {
		if mid := (low + high) / 2; gone(mid) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

// ErrUnfit reports that a node cannot be used for a build, however often it is asked.
var ErrUnfit = errors.New("it cannot be used for this build")

// Connect starts a session on a node, by its number in All, as soon as the node can be
// reached.
func (p *Pool) Connect(ctx context.Context, node int, o SessionOptions) (*Connection, error) {
	l, err := p.node(node).await(ctx)
	if err != nil {
		return nil, err
	}
	return l.open(o)
}

// ConnectLate is Connect for a node that was not there when the build was compiled. It must run
// the platforms in assumed, and support what the build was compiled for; else the error wraps
// [ErrUnfit].
func (p *Pool) ConnectLate(ctx context.Context, node int, assumed []ocispecs.Platform, o SessionOptions) (*Connection, error) {
	l, err := p.node(node).await(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.check(ctx, l, assumed); err != nil {
		return nil, err
	}
	return l.open(o)
}

// check checks that a node is fit for a build that was compiled without it.
func (p *Pool) check(ctx context.Context, l *link, assumed []ocispecs.Platform) error {
	for _, want := range assumed {
		if !l.info.Runs(want) {
			return fmt.Errorf("%w: it does not run %s", ErrUnfit, platforms.FormatAll(want))
		}
	}
	set, err := l.caps(ctx)
	if err != nil {
		return err
	}
	if id := p.lacks(set); id != "" {
		return fmt.Errorf("%w: its BuildKit (%s) does not support %s, which the other nodes do", ErrUnfit, l.info.Version, id)
	}
	return nil
}

// Late returns why a node, by its number in All, was not there for the plan; nil when it
// was.
func (p *Pool) Late(node int) error {
	nodes, ready := p.members()
	if node < ready {
		return nil
	}
	if _, err := nodes[node].current(); err != nil {
		return err
	}
	return errors.New("it answered too late for the plan")
}

// node returns a node by its number in All.
func (p *Pool) node(i int) *node {
	nodes, _ := p.members()
	return nodes[i]
}

// Timeout is how long a node may be silent.
func (p *Pool) Timeout() time.Duration { return p.timeout }

// OnSilence has f take the reports of a node's silence, by its number in All, until the
// function that it returns is called.
func (p *Pool) OnSilence(node int, f func(time.Duration)) (restore func()) {
	n := p.node(node)
	before := n.onSilence(f)
	return func() { n.onSilence(before) }
}
