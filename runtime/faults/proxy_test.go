package faults

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mode is what a proxy does with what passes.
type mode int

const (
	pass      mode = iota
	refuse         // new connections are reset at once
	blackhole      // nothing passes, and nothing is said
	slow           // each piece is held back for a while
)

// lag is how long a slow proxy holds back each piece.
const lag = 100 * time.Millisecond

// proxy passes TCP connections on to an address, and misbehaves on command.
type proxy struct {
	listener      net.Listener
	network, addr string
	wg            sync.WaitGroup

	mu      sync.Mutex // guards what follows
	mode    mode
	changed chan struct{} // closed and replaced when mode changes
	links   map[*link]struct{}
	closed  bool
}

// link is one connection that is passed on.
type link struct{ client, server net.Conn }

// newProxy listens on a free port of this machine.
func newProxy(network, addr string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, network: network, addr: addr, changed: make(chan struct{}), links: map[*link]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.now() == refuse {
			reset(client)
			continue
		}
		p.wg.Go(func() { p.connect(client) })
	}
}

// connect passes a connection on until both directions have ended.
func (p *proxy) connect(client net.Conn) {
	server, err := (&net.Dialer{}).DialContext(context.Background(), p.network, p.addr)
	if err != nil {
		reset(client)
		return
	}
	l := &link{client, server}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		reset(client)
		server.Close()
		return
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pump(server, client) })
	both.Go(func() { p.pump(client, server) })
	both.Wait()
	client.Close()
	server.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// pump passes one direction on.
func (p *proxy) pump(dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			p.hold()
			if _, err := dst.Write(buf[:n]); err != nil {
				reset(src)
				return
			}
		}
		if errors.Is(err, io.EOF) {
			p.hold()
			closeWrite(dst)
			return
		}
		if err != nil {
			reset(dst)
			return
		}
	}
}

// hold waits as long as nothing passes.
func (p *proxy) hold() {
	for {
		p.mu.Lock()
		m, changed, closed := p.mode, p.changed, p.closed
		p.mu.Unlock()
		switch {
		case m == slow && !closed:
			select {
			case <-time.After(lag):
				return
			case <-changed:
			}
		case m == blackhole && !closed:
			<-changed
		default:
			return
		}
	}
}

func (p *proxy) now() mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

func (p *proxy) set(m mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	close(p.changed)
	p.changed = make(chan struct{})
}

// reset breaks all connections.
func (p *proxy) reset() { p.each(func(l *link) { reset(l.client); reset(l.server) }) }

// halfClose ends the server's side of connections, and listens on.
func (p *proxy) halfClose() { p.each(func(l *link) { closeWrite(l.client) }) }

func (p *proxy) each(fn func(*link)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		fn(l)
	}
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	p.listener.Close()
	p.reset()
	p.wg.Wait()
}

// reset ends a connection so that the other side sees a failure.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // it may be closed already
	}
	c.Close()
}

func closeWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite() // it may be closed already
	}
}

// echo answers with what it hears.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func TestProxy(t *testing.T) {
	addr := echo(t)
	p, err := newProxy("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(p.close)
	dial := func() net.Conn {
		c, err := net.Dial("tcp", p.listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	say := func(c net.Conn, text string) error {
		if _, err := io.WriteString(c, text); err != nil {
			return err
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
		require.Equal(t, text, string(got))
		return nil
	}
	c := dial()
	require.NoError(t, say(c, "hello"))
	p.set(slow)
	require.NoError(t, say(c, "slowly"))

	// What is said into the void is heard when it ends.
	p.set(blackhole)
	_, err = io.WriteString(c, "void")
	require.NoError(t, err)
	heard := make(chan error, 1)
	go func() {
		got := make([]byte, 4)
		_, err := io.ReadFull(c, got)
		heard <- err
	}()
	p.set(pass)
	require.NoError(t, <-heard)

	p.halfClose()
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)

	c = dial()
	require.NoError(t, say(c, "again"))
	p.reset()
	require.Error(t, say(c, "broken"))
	p.set(refuse)
	// The refusal may be seen as early as that.
	if refused, err := net.Dial("tcp", p.listener.Addr().String()); err == nil {
		require.Error(t, say(refused, "refused"))
		require.NoError(t, refused.Close())
	}
	p.set(pass)
	require.NoError(t, say(dial(), "back"))

	// It ends although nothing passes.
	c = dial()
	require.NoError(t, say(c, "last"))
	p.set(blackhole)
	_, err = io.WriteString(c, "lost")
	require.NoError(t, err)
}
