package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// protocol is the version of the messages on the control socket.
	protocol = 1

	// heartbeat is how often a working supervisor gives a sign of life, and silence is how
	// long its users wait for one.
	heartbeat = 2 * time.Second
	silence   = 15 * time.Second

	// greeting is how long either side may take for its first words.
	greeting = 5 * time.Second
)

// A user keeps one connection to the supervisor for as long as it uses the nodes, so
// that the kernel reports its end, however it ends. Both sides write JSON values.

// request is a message of a user.
type request struct {
	Op    string // join, leave, keep, save, down
	User  User   // who asks
	Wants Wants  // of join
	Nodes int    // of keep
}

// reply is a message of a supervisor: a greeting at first; then, for each request, any
// number of notes and empty replies, and one that is done.
type reply struct {
	Protocol int    `json:",omitempty"` // of the greeting
	PID      int    `json:",omitempty"` // of the greeting
	Note     string `json:",omitempty"`

	Done     bool   `json:",omitempty"`
	Error    string `json:",omitempty"`
	Ending   bool   `json:",omitempty"` // the cluster stops
	Users    []User `json:",omitempty"` // because of whom it does not stop
	Registry string `json:",omitempty"`

	Buildkitd string `json:",omitempty"` // the executable of the daemons
}

// User is somebody who uses a cluster.
type User struct {
	PID     int
	Command string // as "dbake build"
}

func (u User) String() string {
	if u.Command == "" {
		return fmt.Sprintf("process %d", u.PID)
	}
	return fmt.Sprintf("%s (process %d)", u.Command, u.PID)
}

// server answers the users of a host.
type server struct {
	host     *host
	listener net.Listener
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

// serve listens on the control socket.
func serve(h *host) (*server, error) {
	path := controlSocket(h.dir)
	if err := os.RemoveAll(path); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{host: h, listener: l, cancel: cancel}
	s.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					h.log("control socket: %v", err)
				}
				return
			}
			s.wg.Go(func() { s.attend(ctx, conn) })
		}
	})
	return s, nil
}

// close ends all connections, from which the users see that the host has ended.
func (s *server) close() error {
	err := s.listener.Close()
	s.cancel()
	s.wg.Wait()
	return err
}

// attend serves one user until it hangs up.
func (s *server) attend(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hangUp := context.AfterFunc(ctx, func() { conn.Close() })
	defer hangUp()
	defer conn.Close()

	var mu sync.Mutex // guards the encoder
	enc := json.NewEncoder(conn)
	send := func(r reply) {
		mu.Lock()
		defer mu.Unlock()
		conn.SetWriteDeadline(time.Now().Add(greeting))
		if enc.Encode(r) != nil {
			cancel()
		}
	}
	send(reply{Protocol: protocol, PID: os.Getpid()})

	requests := make(chan request)
	s.wg.Go(func() {
		defer cancel()
		dec := json.NewDecoder(conn)
		for {
			var r request
			if err := dec.Decode(&r); err != nil {
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	})

	u := &user{}
	defer func() {
		if _, err := s.host.leave(context.Background(), u); err != nil {
			s.host.log("%v", err)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-requests:
			send(s.answer(ctx, u, r, send))
		}
	}
}

// answer carries out a request, and gives signs of life meanwhile.
func (s *server) answer(ctx context.Context, u *user, r request, send func(reply)) reply {
	stop := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() {
		t := time.NewTicker(heartbeat)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				send(reply{})
			case <-stop:
				return
			}
		}
	})
	defer beating.Wait()
	defer close(stop)

	done := reply{Done: true, Registry: s.host.registry.Addr, Buildkitd: s.host.programs.buildkitd}
	var err error
	switch r.Op {
	case "join":
		u.User = r.User
		err = s.host.join(ctx, u, r.Wants, func(line string) { send(reply{Note: line}) })
	case "keep":
		err = s.host.keep(ctx, r.Nodes, func(line string) { send(reply{Note: line}) })
	case "leave":
		done.Ending, err = s.host.leave(ctx, u)
	case "save":
		s.host.save()
	case "down":
		done.Users = s.host.endUnused()
	default:
		err = fmt.Errorf("unknown request %q", r.Op)
	}
	if err != nil {
		done.Error, done.Ending = err.Error(), errors.Is(err, errEnding)
	}
	return done
}

// UsedError names the users of a cluster that was to be stopped.
type UsedError struct{ Users []User }

func (e *UsedError) Error() string {
	return fmt.Sprintf("the cluster is used by %s: wait for the end, or end it, and try again", describe(e.Users))
}

// member is a user's end of a connection to a supervisor. Its methods must not
// overlap, gone apart.
type member struct {
	conn    net.Conn
	enc     *json.Encoder
	replies chan reply
	gone    chan struct{} // closed when the supervisor hung up
}

// errNoSupervisor means that nobody listens on the control socket.
var errNoSupervisor = errors.New("no supervisor")

// connect greets the supervisor of a state directory.
func connect(ctx context.Context, dir string) (*member, error) {
	conn, err := (&net.Dialer{Timeout: greeting}).DialContext(ctx, "unix", controlSocket(dir))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSupervisor, err)
	}
	m := &member{conn: conn, enc: json.NewEncoder(conn), replies: make(chan reply), gone: make(chan struct{})}
	go func() {
		defer close(m.gone)
		dec := json.NewDecoder(conn)
		for {
			var r reply
			if dec.Decode(&r) != nil {
				return
			}
			select {
			case m.replies <- r:
			case <-time.After(silence): // nobody wants to know
				return
			}
		}
	}()
	r, err := m.next(ctx, greeting)
	if err == nil && r.Protocol != protocol {
		err = fmt.Errorf("it is of another version of dbake: stop it first (dbake cluster down)")
	}
	if err != nil {
		m.close()
		return nil, fmt.Errorf("the supervisor of the cluster on %s: %w", dir, err)
	}
	return m, nil
}

// next returns the supervisor's next message within a limit. The error is io.EOF when it
// hung up.
func (m *member) next(ctx context.Context, limit time.Duration) (reply, error) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case r := <-m.replies:
		return r, nil
	case <-m.gone:
		return reply{}, io.EOF
	case <-t.C:
		return reply{}, fmt.Errorf("no word from it within %s", limit)
	case <-ctx.Done():
		return reply{}, context.Cause(ctx)
	}
}

// call sends a request and returns the final reply, whose Error is returned as an
// error. It ends with errEnding when the supervisor is about to end.
func (m *member) call(ctx context.Context, r request, notify func(string)) (reply, error) {
	m.conn.SetWriteDeadline(time.Now().Add(greeting))
	if err := m.enc.Encode(r); err != nil {
		return reply{}, errEnding
	}
	for {
		got, err := m.next(ctx, silence)
		switch {
		case errors.Is(err, io.EOF):
			return reply{}, errEnding
		case err != nil:
			return reply{}, fmt.Errorf("the cluster's supervisor: %w", err)
		case got.Note != "":
			notify(got.Note)
		case got.Done && got.Error != "" && got.Ending:
			return got, errEnding
		case got.Done && got.Error != "":
			return got, errors.New(got.Error)
		case got.Done && len(got.Users) > 0:
			return got, &UsedError{got.Users}
		case got.Done:
			return got, nil
		}
	}
}

func (m *member) close() {
	m.conn.Close()
	<-m.gone
}
