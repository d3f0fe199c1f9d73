package simnode

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// errCut is how both ends see a connection that was cut.
var errCut = errors.New("connection reset by peer")

// wires are the connections to one node, which misbehave together.
type wires struct {
	mu      sync.Mutex
	latency time.Duration // of each piece
	silent  bool          // nothing passes
	open    map[*wire]int // the ends that are open
}

// wire is one connection: two directions.
type wire struct {
	of *wires
	ab half
	ba half
}

// half is one direction. What is written never waits, as in a socket with room.
type half struct {
	mu       sync.Mutex
	pieces   []piece
	err      error         // set when it has ended
	left     bool          // who reads it has closed its end
	changed  chan struct{} // closed and replaced when anything changes
	deadline time.Time     // of reads; zero is none
}

type piece struct {
	data []byte
	at   time.Time // when it arrives
}

func newHalf() half { return half{changed: make(chan struct{})} }

// connect returns the two ends of a new connection.
func (w *wires) connect() (client, server net.Conn) {
	c := &wire{of: w, ab: newHalf(), ba: newHalf()}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open = map[*wire]int{}
	}
	w.open[c] = 2
	return &end{c, &c.ba, &c.ab}, &end{c, &c.ab, &c.ba}
}

// silence has nothing pass, in either direction, until it is called with false.
func (w *wires) silence(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = on
	for c := range w.open {
		c.ab.wake()
		c.ba.wake()
	}
}

// cut breaks all connections.
func (w *wires) cut() {
	w.mu.Lock()
	open := w.open
	w.open = nil
	w.mu.Unlock()
	for c := range open {
		c.end(errCut)
	}
}

func (w *wires) state() (silent bool, latency time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.silent, w.latency
}

func (c *wire) end(err error) {
	c.ab.end(err)
	c.ba.end(err)
}

func (h *half) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil || err == errCut {
		h.err = err
	}
	h.signal()
}

func (h *half) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.signal()
}

// signal is called with the lock held.
func (h *half) signal() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// end is one end of a connection.
type end struct {
	wire    *wire
	in, out *half
}

var _ net.Conn = (*end)(nil)

// Read implements net.Conn. What has arrived is read before the end of the connection is
// seen, unless it was cut.
func (e *end) Read(p []byte) (int, error) {
	h := e.in
	for {
		silent, _ := e.wire.of.state()
		h.mu.Lock()
		now, wait := time.Now(), time.Duration(-1)
		switch {
		case h.left:
			h.mu.Unlock()
			return 0, net.ErrClosed
		case h.err == errCut:
			h.mu.Unlock()
			return 0, errCut
		case !h.deadline.IsZero() && !now.Before(h.deadline):
			h.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(h.pieces) > 0 && !silent:
			if first := &h.pieces[0]; !now.Before(first.at) {
				n := copy(p, first.data)
				if first.data = first.data[n:]; len(first.data) == 0 {
					h.pieces = h.pieces[1:]
				}
				h.mu.Unlock()
				return n, nil
			}
			wait = h.pieces[0].at.Sub(now)
		case h.err != nil && len(h.pieces) == 0 && !silent:
			err := h.err
			h.mu.Unlock()
			return 0, err
		}
		if !h.deadline.IsZero() {
			if left := h.deadline.Sub(now); wait < 0 || left < wait {
				wait = left
			}
		}
		changed := h.changed
		h.mu.Unlock()
		await(changed, wait)
	}
}

// await waits for changed, for d at most unless it is negative.
func await(changed <-chan struct{}, d time.Duration) {
	if d < 0 {
		<-changed
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	}
}

// Write implements net.Conn. That the other end is closed shows once all it has sent was
// read, no earlier than to a reader. What is written until then is lost, as in a socket.
func (e *end) Write(p []byte) (int, error) {
	silent, latency := e.wire.of.state()
	e.in.mu.Lock()
	left, unread := e.in.left, silent || len(e.in.pieces) > 0
	e.in.mu.Unlock()
	h := e.out
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.err == errCut:
		return 0, errCut
	case h.err != nil && !left && unread:
		return len(p), nil
	case h.err != nil:
		return 0, io.ErrClosedPipe
	}
	h.pieces = append(h.pieces, piece{append([]byte(nil), p...), time.Now().Add(latency)})
	h.signal()
	return len(p), nil
}

// Close implements net.Conn. The other end learns of it when something passes.
func (e *end) Close() error {
	e.in.mu.Lock()
	again := e.in.left
	e.in.left = true
	e.in.mu.Unlock()
	e.wire.end(io.EOF)
	if again {
		return nil
	}
	w := e.wire.of
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.open[e.wire] {
	case 2:
		w.open[e.wire] = 1
	case 1:
		delete(w.open, e.wire)
	}
	return nil
}

// SetReadDeadline implements net.Conn.
func (e *end) SetReadDeadline(t time.Time) error {
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	e.in.deadline = t
	e.in.signal()
	return nil
}

// SetDeadline implements net.Conn. Writes do not wait, so they need none.
func (e *end) SetDeadline(t time.Time) error { return e.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (e *end) SetWriteDeadline(time.Time) error { return nil }

// LocalAddr implements net.Conn.
func (e *end) LocalAddr() net.Addr { return address{} }

// RemoteAddr implements net.Conn.
func (e *end) RemoteAddr() net.Addr { return address{} }

// address is that of either end.
type address struct{}

// Network implements net.Addr.
func (address) Network() string { return "memory" }

func (address) String() string { return "memory" }

// listener accepts what it is given.
type listener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return address{} }
