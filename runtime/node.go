package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/platforms"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/grpchijack"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dbake/dbake/runtime/nodeset"
)

const (
	// dialTimeout bounds the first answer of a node: a daemon behind ssh or one
	// that is just starting may need some seconds.
	dialTimeout = 20 * time.Second
	// pingInterval and pingTimeout drive the health watch. A node is lost only
	// after a ping failed that had pingTimeout to succeed: a machine that is
	// starved for seconds is slow, not dead.
	pingInterval = 5 * time.Second
	pingTimeout  = 60 * time.Second
)

// Pool is the set of BuildKit nodes that a command talks to, one connection each.
// It is safe for concurrent use.
type Pool struct {
	nodes []*node
}

// NodeInfo is what a node said of itself when it was dialled.
type NodeInfo struct {
	nodeset.Spec
	// Platforms are the platforms whose steps the node can run, its default
	// one first.
	Platforms []ocispecs.Platform
	// ID is that of its worker, which it keeps as long as its root.
	ID string
	// Version is the version of its BuildKit, "" when it does not tell.
	Version string
}

// node is one connected daemon.
type node struct {
	info   NodeInfo
	client *bkclient.Client
}

// NodeError says which node could not do what.
type NodeError struct {
	Node, Addr string
	Op         string
	Err        error
}

func (e *NodeError) Error() string {
	return fmt.Sprintf("node %s (%s): %s: %v", e.Node, e.Addr, e.Op, e.Err)
}

// Unwrap returns the cause.
func (e *NodeError) Unwrap() error { return e.Err }

// Dial connects to every node and asks what it can do. All nodes must answer;
// the error names each that did not, as a [*NodeError].
func Dial(ctx context.Context, specs []nodeset.Spec) (*Pool, error) {
	p := &Pool{nodes: make([]*node, len(specs))}
	errs := make([]error, len(specs))
	var eg errgroup.Group
	for i, s := range specs {
		eg.Go(func() error {
			p.nodes[i], errs[i] = dial(ctx, s)
			return nil
		})
	}
	_ = eg.Wait() // the goroutines report through errs
	if err := errors.Join(errs...); err != nil {
		_ = p.Close() // nothing was started on the nodes that did answer
		return nil, err
	}
	return p, nil
}

func dial(ctx context.Context, s nodeset.Spec) (*node, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no answer within %s", dialTimeout))
	defer cancel()
	opts, err := s.ClientOpts()
	if err != nil {
		return nil, &NodeError{Node: s.Name, Addr: s.Addr, Op: "connect", Err: err}
	}
	c, err := bkclient.New(ctx, s.Addr, opts...)
	if err != nil {
		return nil, &NodeError{Node: s.Name, Addr: s.Addr, Op: "connect", Err: err}
	}
	n := &node{info: NodeInfo{Spec: s}, client: c}
	if err := n.probe(ctx); err != nil {
		_ = c.Close() // the probe's error is the one to tell
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, &NodeError{Node: s.Name, Addr: s.Addr, Op: "cannot be reached", Err: err}
	}
	return n, nil
}

// probe asks the daemon for its platforms and version.
func (n *node) probe(ctx context.Context) error {
	workers, err := n.client.ListWorkers(ctx)
	if err != nil {
		return err
	}
	if len(workers) == 0 {
		return errors.New("the daemon has no worker")
	}
	n.info.ID = workers[0].ID
	for _, p := range workers[0].Platforms {
		n.info.Platforms = append(n.info.Platforms, platforms.Normalize(p))
	}
	if len(n.info.Spec.Platforms) > 0 {
		// What the user says of a node counts, as with buildx: it may be meant
		// for less than it can do, or be able to do more than it knows.
		n.info.Platforms = nil
		for _, name := range n.info.Spec.Platforms {
			p, err := platforms.Parse(name)
			if err != nil {
				return fmt.Errorf("platform %q: %w", name, err)
			}
			n.info.Platforms = append(n.info.Platforms, platforms.Normalize(p))
		}
	}
	// Daemons before 0.11 do not implement Info; its absence is no failure.
	if info, err := n.client.Info(ctx); err == nil {
		n.info.Version = info.BuildkitVersion.Version
	}
	return nil
}

// Nodes returns what the nodes said of themselves, in the order of the request.
func (p *Pool) Nodes() []NodeInfo {
	infos := make([]NodeInfo, len(p.nodes))
	for i, n := range p.nodes {
		infos[i] = n.info
	}
	return infos
}

// Close ends every connection.
func (p *Pool) Close() error {
	var errs []error
	for _, n := range p.nodes {
		if n != nil {
			errs = append(errs, n.client.Close())
		}
	}
	return errors.Join(errs...)
}

// ping reports whether the daemon answers.
func (n *node) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, pingTimeout, fmt.Errorf("no answer within %s", pingTimeout))
	defer cancel()
	// Info costs the daemon nothing, where listing its workers would make it try
	// out every platform again. A daemon too old to know it answers all the same.
	if _, err := n.client.Info(ctx); err != nil && status.Code(err) != codes.Unimplemented {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return nil
}

// openSession starts a session on n. It lives until ctx ends or stop is called;
// stop waits for it.
func (n *node) openSession(ctx context.Context, sharedKey string, attach []session.Attachable) (s *session.Session, stop func(), err error) {
	s, err = session.NewSession(ctx, sharedKey)
	if err != nil {
		return nil, nil, fmt.Errorf("open session on %s: %w", n.info.Name, err)
	}
	for _, a := range attach {
		s.Allow(a)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A broken session shows as a failure of the solves that need it.
		_ = s.Run(ctx, grpchijack.Dialer(n.client.ControlClient()))
	}()
	return s, func() {
		cancel()
		_ = s.Close()
		<-done
	}, nil
}
