package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/watchdog"
)

const (
	// DefaultNodeTimeout is how long a node may be silent although it is asked.
	DefaultNodeTimeout = 10 * time.Second
)

var (
	errLinkClosed = errors.New("the connection was closed")
	// ErrHungUp is why a link was broken off: its node did not end its work.
	ErrHungUp    = errors.New("the node did not end its work in time")
	errLinkEnded = errors.New("the node is shutting down")
)

// link is one connection to a daemon. It is never mended: when it has ended, all calls
// through it fail, and users of the node take another link.
type link struct {
	spec   nodeset.Spec
	client *bkclient.Client
	info   NodeInfo // set before the link is used
	tag    string   // of the run that it is for, see tenants.go; "" = none; set before the link is used
	// workers is what the daemon said of its workers.
	workers workersTold
	// ctx ends with the link; its cause says why.
	ctx  context.Context
	fail context.CancelCauseFunc
	wire *wire
	done chan struct{} // closed when the watch has ended
}

// wire is the connection below gRPC. It notes signs of life.
type wire struct {
	net.Conn
	received atomic.Int64 // bytes
	broke    func(error)

	mu    sync.Mutex
	first []byte // what was heard first; guarded by mu
	err   error  // how reading ended; guarded by mu
}

// firstBytes is how much of a daemon's first bytes is kept: enough to recognise a protocol.
const firstBytes = 16

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if before := w.received.Add(int64(n)) - int64(n); before < firstBytes || err != nil {
		w.mu.Lock()
		w.first = append(w.first, p[:min(n, firstBytes-len(w.first))]...)
		if err != nil && w.err == nil {
			w.err = err
		}
		w.mu.Unlock()
	}
	if err != nil {
		w.broke(fmt.Errorf("the connection broke: %w", err))
	}
	return n, err
}

// Write breaks the link when what is sent goes nowhere any more. gRPC leaves that to
// reading: until reading ends, it would try each call again and again without a pause.
// Before anything was heard, what is still to be read may say what the peer is.
func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil && w.received.Load() > 0 {
		w.broke(fmt.Errorf("the connection broke: %w", err))
	}
	return n, err
}

func (w *wire) Close() error {
	w.broke(errLinkClosed)
	return w.Conn.Close()
}

// heard returns what came first through the connection and how reading it ended.
func (w *wire) heard() ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.first, w.err
}

// openLink connects to a node. ctx bounds the dial; the link lives until it breaks,
// is silent for timeout or is closed. silent is called while nothing is heard, with
// the time that this has lasted, and with 0 when the node is heard again.
func openLink(ctx context.Context, s nodeset.Spec, timeout time.Duration, silent func(time.Duration)) (*link, error) {
	conn, err := s.Dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{spec: s, wire: &wire{Conn: conn}, done: make(chan struct{})}
	l.ctx, l.fail = context.WithCancelCause(context.WithoutCancel(ctx))
	l.wire.broke = l.fail
	var taken atomic.Bool
	l.client, err = bkclient.New(l.ctx, s.Addr,
		bkclient.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if taken.Swap(true) {
				// The daemon said that it takes no more calls here.
				l.fail(errLinkEnded)
				return nil, errLinkEnded
			}
			return l.wire, nil
		}),
		// The connection is there; a proxy for web traffic has no part in it.
		bkclient.WithGRPCDialOption(grpc.WithNoProxy()),
		bkclient.WithGRPCDialOption(grpc.WithChainUnaryInterceptor(l.workers.intercept)))
	if err != nil {
		l.fail(err)
		return nil, errors.Join(err, conn.Close())
	}
	go func() {
		defer close(l.done)
		w := watchdog.Watch{
			Timeout: timeout, Received: l.wire.received.Load, Silent: silent, Fail: l.fail,
			// Info costs the daemon nothing, where listing its workers would make
			// it try out every platform again.
			Probe: func(ctx context.Context) { _, _ = l.client.Info(ctx) }, // any byte counts
		}
		w.Run(l.ctx)
		// The raw connection first: a client that hangs on it would wait to say
		// goodbye.
		_ = conn.Close()     // its users know the cause
		_ = l.client.Close() // as above
	}()
	return l, nil
}

// close ends the link and waits for it.
func (l *link) close() {
	l.fail(errLinkClosed)
	<-l.done
}

// reason returns why the link has ended, or err when it has not.
func (l *link) reason(err error) error {
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	return err
}

// within returns a context that ends with ctx or with the link.
func (l *link) within(ctx context.Context) (context.Context, func()) { return endWith(ctx, l.ctx) }

// ping reports whether the daemon answers.
func (l *link) ping(ctx context.Context) error {
	// A daemon too old to know the question answers all the same.
	if _, err := l.client.Info(ctx); err != nil && status.Code(err) != codes.Unimplemented {
		return l.reason(err)
	}
	return nil
}

// endWith returns a context that has the values of ctx and ends with either.
func endWith(ctx, other context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}
