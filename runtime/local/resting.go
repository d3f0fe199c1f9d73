package local

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"
)

// Resting is the registry of a cluster that does not run, for this process alone: it
// answers from the files, on no port. Another process may start the cluster meanwhile.
type Resting struct {
	registry *Registry
	inner    *innerListener
}

// Resting opens the registry of a cluster that does not run. It must be closed.
func (c *Cluster) Resting() (*Resting, error) {
	dir := filepath.Join(c.dir, "registry")
	if err := makeRegistryDir(dir); err != nil {
		return nil, err
	}
	inner := &innerListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	// The log file belongs to the process that runs the cluster.
	registry, err := serveRegistry(dir, c.Registry(), []net.Listener{inner}, unread{io.Discard})
	if err != nil {
		return nil, err
	}
	return &Resting{registry: registry, inner: inner}, nil
}

// unread is a log that nobody reads.
type unread struct{ io.Writer }

// Close implements io.Closer.
func (unread) Close() error { return nil }

// Addr is the host:port that the registry is known by, and would be reached at.
func (r *Resting) Addr() string { return r.registry.Addr }

// Dial connects to the registry.
func (r *Resting) Dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case r.inner.conns <- &innerConn{there}:
		return here, nil
	case <-r.inner.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Close ends the access.
func (r *Resting) Close() error { return r.registry.Close() }

// innerConn is a connection within this process, which is its owner's.
type innerConn struct{ net.Conn }

// innerListener takes connections within this process.
type innerListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *innerListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *innerListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (*innerListener) Addr() net.Addr { return &net.UnixAddr{Name: "resting", Net: "unix"} }
