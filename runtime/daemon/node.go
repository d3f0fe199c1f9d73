package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/platforms"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/moby/buildkit/util/apicaps"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/nodeset/dockerengine"
	"github.com/dbake/dbake/runtime/watchdog"
)

const (
	// redialFirst and redialMost are the pauses between attempts to reach a node
	// that is away: the first, which each further one doubles, and the longest.
	redialFirst = 100 * time.Millisecond
	redialMost  = 5 * time.Second
)

// DialOptions choose how nodes are reached. The zero value is usable.
type DialOptions struct {
	// Timeout is how long a node may be silent, when it is dialled and later;
	// 0 = DefaultNodeTimeout.
	Timeout time.Duration
	// Silent is called while a node does not answer, every few seconds with the time that
	// this has lasted, and with 0 when it is heard again. It may be called from several
	// goroutines at once.
	Silent func(node string, d time.Duration)
	// Patience is how long to wait for a node when none answers at first; 0 = not at all.
	Patience time.Duration
}

// Pool is the set of BuildKit nodes that a command talks to. It looks after each of
// them from Dial to Close: it notices one that breaks off or falls silent, and
// reaches for it again. It is safe for concurrent use.
type Pool struct {
	timeout time.Duration
	began   time.Time
	cancel  context.CancelFunc
	keepers sync.WaitGroup
	came    chan struct{} // a node has come up since it was looked at last

	mu       sync.Mutex
	nodes    []*node         // those that are planned for, then the others; guarded by mu
	ready    int             // how many of them are there; guarded by mu
	expected int             // how many of the others are planned for; guarded by mu
	caps     *apicaps.CapSet // what the build is compiled for, once asked; guarded by mu
}

// NodeInfo is a node's description of itself.
type NodeInfo struct {
	nodeset.Spec
	// Platforms are the platforms whose steps the node can run, its default
	// one first.
	Platforms []ocispecs.Platform
	// Native is the platform of its machine; it emulates others.
	Native ocispecs.Platform
	// ID is that of its worker, which it keeps as long as its root.
	ID string
	// Version is the version of its BuildKit, "" when it does not say.
	Version string
	// EngineID is the ID of the Docker engine that contains the node, "" for others. OwnStore is
	// set when the engine keeps images in a store of its own, not in that of containerd. Then it
	// cannot write archives of type oci, caches, indexes and attestations.
	EngineID string
	OwnStore bool
	// Drains says that it is to go.
	Drains bool
	// HostGateway is the address under which containers of a Docker engine reach its
	// machine, "" when the node does not say.
	HostGateway string
}

// node is one daemon, connected or not.
type node struct {
	spec    nodeset.Spec
	timeout time.Duration
	tag     string // of the run that uses it, see tenants.go; "" = none

	mu      sync.Mutex
	link    *link         // nil while there is none; guarded by mu
	info    NodeInfo      // of the last link; guarded by mu
	err     error         // why there is no link; guarded by mu
	changed chan struct{} // closed when one of these changes; guarded by mu
	// silent takes reports of silence; guarded by mu.
	silent func(time.Duration)
	// up is called with each link. first is when the first link came, zero before; guarded by mu.
	up    func()
	first time.Time
}

// NodeError records an operation that failed on a node.
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

// keep holds a link to the node until ctx ends. It calls tried when the first
// attempt has succeeded or failed.
func (n *node) keep(ctx context.Context, tried func()) {
	defer tried()
	wait, first := redialFirst, true
	for {
		l, info, err := n.dial(ctx, first)
		first = false
		if err == nil {
			wait = redialFirst
			n.set(l, info, nil)
			tried()
			select {
			case <-l.ctx.Done():
			case <-ctx.Done():
			}
			err = l.reason(errLinkClosed)
			n.set(nil, info, err)
			l.close()
		} else {
			n.set(nil, NodeInfo{Spec: n.spec}, err)
			tried()
		}
		if pause.For(ctx, wait) != nil {
			return
		}
		wait = min(2*wait, redialMost)
	}
}

// set notes a change.
func (n *node) set(l *link, info NodeInfo, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link, n.err = l, err
	if info.ID != "" {
		n.info = info
	}
	if l != nil && n.first.IsZero() {
		n.first = time.Now()
	}
	if l != nil && n.up != nil {
		n.up()
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

// state returns the link, nil with an error when there is none, and a channel that
// is closed when that changes.
func (n *node) state() (*link, <-chan struct{}, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.link == nil {
		err := n.err
		if err == nil {
			err = errors.New("it has not answered yet")
		}
		return nil, n.changed, &NodeError{Node: n.spec.Name, Addr: n.spec.Addr, Op: "cannot be reached", Err: err}
	}
	return n.link, n.changed, nil
}

// current returns the link to the node, or a [*NodeError].
func (n *node) current() (*link, error) {
	l, _, err := n.state()
	return l, err
}

// await returns the link to the node as soon as there is one.
func (n *node) await(ctx context.Context) (*link, error) {
	for {
		l, changed, err := n.state()
		if err == nil {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// lastInfo returns the node's last description of itself.
func (n *node) lastInfo() NodeInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.info
}

// onSilence sets the function that takes reports of silence and returns the one before.
func (n *node) onSilence(f func(time.Duration)) (before func(time.Duration)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before, n.silent = n.silent, f
	return before
}

func (n *node) reportSilence(d time.Duration) {
	n.mu.Lock()
	f := n.silent
	n.mu.Unlock()
	if f != nil {
		f(d)
	}
}

// dial opens a link and asks the daemon for its description. It does not report the silence of
// a node that was away before, since nobody waits for that node.
func (n *node) dial(ctx context.Context, first bool) (*link, NodeInfo, error) {
	silence := &watchdog.SilenceError{For: n.timeout}
	ctx, cancel := context.WithTimeoutCause(ctx, n.timeout, silence)
	defer cancel()
	report := func(d time.Duration) {
		if _, err := n.current(); err == nil || first {
			n.reportSilence(d)
		}
	}
	connected := elapsing(ctx, report)
	l, err := openLink(ctx, n.spec, n.timeout, report)
	connected()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, NodeInfo{}, err
	}
	l.tag = n.tag
	asking, stop := l.within(ctx)
	defer stop()
	info, err := l.probe(asking, n.spec)
	if err == nil {
		return l, info, nil
	}
	heard, broke := l.wire.heard()
	l.close()
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case status.Code(err) == codes.Unimplemented:
		err = &nodeset.Refusal{Reason: "something else than BuildKit answers there", Err: err}
	case broke != nil:
		err = n.spec.Explain(ctx, heard, broke)
	default:
		err = n.spec.Explain(ctx, heard, err)
	}
	return nil, NodeInfo{}, err
}

// elapsing reports how long something has taken, every few seconds, until ctx ends or
// the function that it returns is called, which waits.
func elapsing(ctx context.Context, report func(time.Duration)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := time.Duration(1); pause.For(ctx, watchdog.ReportInterval) == nil; i++ {
			report(i * watchdog.ReportInterval)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// probe asks the daemon for its platforms and version.
func (l *link) probe(ctx context.Context, s nodeset.Spec) (NodeInfo, error) {
	info := NodeInfo{Spec: s}
	workers, err := l.client.ListWorkers(ctx)
	if err != nil {
		return info, err
	}
	if len(workers) == 0 {
		return info, errors.New("the daemon has no worker")
	}
	info.ID, info.Drains = workers[0].ID, drainsBy(workers[0].Labels)
	for _, p := range workers[0].Platforms {
		info.Platforms = append(info.Platforms, platforms.Normalize(p))
	}
	if len(info.Platforms) > 0 {
		info.Native = info.Platforms[0]
	}
	if s.Engine != nil && s.Container == nil {
		_, containerd := workers[0].Labels[snapshotterLabel]
		info.OwnStore = !containerd
		info.HostGateway = workers[0].Labels[hostGatewayLabel]
		engine, err := dockerengine.New(*s.Engine)
		if err != nil {
			return info, err
		}
		defer engine.Close()
		said, err := engine.Info(ctx)
		if err != nil {
			return info, err
		}
		info.EngineID = said.ID
		info.Version = "docker " + said.ServerVersion
	}
	prefers, err := ParsePlatforms(s.Prefers)
	if err != nil {
		return info, err
	}
	info.Platforms = with(info.Platforms, prefers)
	if len(s.Platforms) > 0 {
		// What the user says of a node counts, as with buildx: it may be meant
		// for less than it can do, or be able to do more than it knows.
		if info.Platforms, err = ParsePlatforms(s.Platforms); err != nil {
			return info, err
		}
	}
	// An engine's worker has a version of its own.
	if v := workers[0].BuildkitVersion.Version; v != "" && s.Engine == nil {
		info.Version = v
	} else if said, err := l.client.Info(ctx); err == nil {
		// Daemons before 0.11 do not implement Info; its absence is no failure.
		info.Version = said.BuildkitVersion.Version
	}
	l.info = info
	return info, nil
}

const (
	// snapshotterLabel is a label of workers that keep results in containerd.
	snapshotterLabel = "org.mobyproject.buildkit.worker.snapshotter"
	// hostGatewayLabel is a label of the worker of a Docker engine: an IP address.
	hostGatewayLabel = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"
)

// DrainLabel is the label of a worker whose node is to go.
const DrainLabel = "dbake.drain"

// drainsBy reports whether labels say that their node is to go.
func drainsBy(labels map[string]string) bool {
	on, err := strconv.ParseBool(labels[DrainLabel])
	return err == nil && on
}

// ParsePlatforms returns the named platforms in their normal form.
func ParsePlatforms(names []string) ([]ocispecs.Platform, error) {
	var list []ocispecs.Platform
	for _, name := range names {
		p, err := platforms.Parse(name)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w", name, err)
		}
		list = append(list, platforms.Normalize(p))
	}
	return list, nil
}

func infos(nodes []*node) []NodeInfo {
	list := make([]NodeInfo, len(nodes))
	for i, n := range nodes {
		list[i] = n.lastInfo()
	}
	allot(list)
	return list
}

// Close ends every connection and waits.
func (p *Pool) Close() {
	p.cancel()
	p.keepers.Wait()
}

// openSession starts a session through l. It lives until ctx ends or stop is called;
// stop waits for it. A session that ends by itself ends the link: nothing that needs
// it would end well.
func (l *link) openSession(ctx context.Context, sharedKey string, attach []session.Attachable) (s *session.Session, stop func(), err error) {
	s, err = session.NewSession(ctx, sharedKey)
	if err != nil {
		return nil, nil, fmt.Errorf("open a session: %w", err)
	}
	for _, a := range attach {
		s.Allow(a)
	}
	ctx, cancel := l.within(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := s.Run(ctx, sessionDialer(l.client.ControlClient()))
		if ctx.Err() == nil {
			l.fail(errors.Join(errors.New("the session ended"), err))
		}
	}()
	return s, func() {
		cancel()
		_ = s.Close() // it ends with its context
		<-done
	}, nil
}

// sessionDialer opens the connection of a session. To close it does not wait for a word of the
// node, which a silent one does not give; by then the session has ended, and all that is left of
// it on this side.
func sessionDialer(api controlapi.ControlClient) session.Dialer {
	dial := grpchijack.Dialer(api)
	return func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		conn, err := dial(ctx, proto, meta)
		if err != nil {
			cancel()
			return nil, err
		}
		return &sessionConn{Conn: conn, cancel: cancel}, nil
	}
}

// sessionConn is the connection of a session.
type sessionConn struct {
	net.Conn
	cancel context.CancelFunc // ends the stream under it
}

// Close implements net.Conn.
func (c *sessionConn) Close() error {
	c.cancel()
	return c.Conn.Close()
}
