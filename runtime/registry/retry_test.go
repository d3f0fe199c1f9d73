package registry

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// pipes is a network in memory, for tests whose clock is not real. What is
// behind a name is a server over plain HTTP, or a function that is given the
// connection.
type pipes struct {
	mu    sync.Mutex
	dials []time.Duration // since the start, guarded by mu
	start time.Time
	serve func(dial int, conn net.Conn) // takes the other end; nil error
	fail  func(dial int) error
	wg    sync.WaitGroup
}

func (p *pipes) dial(_ context.Context, _, _ string) (net.Conn, error) {
	p.mu.Lock()
	n := len(p.dials)
	p.dials = append(p.dials, time.Since(p.start))
	p.mu.Unlock()
	if p.fail != nil {
		if err := p.fail(n); err != nil {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		}
	}
	ours, theirs := net.Pipe()
	p.wg.Go(func() {
		defer theirs.Close()
		p.serve(n, theirs)
	})
	return ours, nil
}

// listener gives an http.Server the connections of pipes.
type oneConn struct {
	conn chan net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// answer serves one connection with a handler.
func answer(h http.HandlerFunc) func(int, net.Conn) {
	return func(_ int, conn net.Conn) {
		l := &oneConn{conn: make(chan net.Conn, 1), done: make(chan struct{})}
		closed := make(chan struct{})
		var once sync.Once
		s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ConnState: func(_ net.Conn, st http.ConnState) {
			if st == http.StateClosed {
				once.Do(func() { close(closed) })
			}
		}}
		l.conn <- conn
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Serve(l) })
		<-closed
		close(l.done)
		wg.Wait()
	}
}

// silent takes what is sent and says nothing.
func silent(_ int, conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

const far = "registry.far.test" // not loopback: nothing is assumed of it

// client returns a client whose network is p, and the lines that it shows.
func (p *pipes) client(t *testing.T, o Options) (c *Client, shown func() []string) {
	t.Helper()
	p.start = time.Now()
	var mu sync.Mutex
	var lines []string // guarded by mu
	o.Dial = p.dial
	if o.Hosts == nil {
		o.Hosts = map[string]Host{far: {PlainHTTP: true}}
	}
	o.Notify = func(line string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, fmt.Sprintf("%s: %s", time.Since(p.start).Round(time.Second), line))
	}
	return New(o), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return lines
	}
}

// within runs f in a bubble and returns how long it took there.
func within(t *testing.T, p *pipes, o Options, f func(c *Client) error) (took time.Duration, lines []string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, shown := p.client(t, o)
		err = f(c)
		took = time.Since(p.start)
		c.Close()
		p.wg.Wait()
		lines = shown()
	})
	return took, lines, err
}

var manifest = []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`)

func giveManifest(w http.ResponseWriter) {
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(manifest).String())
	w.Header().Set("Content-Length", fmt.Sprint(len(manifest)))
	_, _ = w.Write(manifest)
}

// busy answers n times with status before it is well.
func busy(n, status int, header ...string) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if n--; n < 0 {
			giveManifest(w)
			return
		}
		for _, h := range header {
			k, v, _ := strings.Cut(h, ": ")
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, `{"errors":[{"code":"X","message":"in its own words"}]}`)
	}
}

func resolve(c *Client) error {
	_, err := c.Resolve(context.Background(), far+"/app:1")
	return err
}

func TestRetries(t *testing.T) {
	for _, tc := range []struct {
		name  string
		serve func(int, net.Conn)
		fail  func(int) error
		call  func(*Client) error
		o     Options
		want  string // "" = it succeeds
		kind  error
		took  time.Duration
		lines []string
	}{
		{
			name: "503 once", serve: answer(busy(1, 503)), took: 500 * time.Millisecond,
			lines: []string{"0s: registry registry.far.test answered 503 Service Unavailable; trying again in 500ms"},
		},
		{name: "500 three times", serve: answer(busy(3, 500)), took: 3500 * time.Millisecond,
			lines: []string{"0s: registry registry.far.test answered 500 Internal Server Error; trying again in 500ms"}},
		{name: "429 says when", serve: answer(busy(1, 429, "Retry-After: 7")), took: 7 * time.Second,
			lines: []string{"0s: registry registry.far.test answered 429 Too Many Requests; trying again in 7s"}},
		{name: "429 says when, by the clock", serve: answer(busy(1, 429, "Retry-After: Sat, 01 Jan 2000 00:00:09 GMT")), took: 9 * time.Second,
			lines: []string{"0s: registry registry.far.test answered 429 Too Many Requests; trying again in 9s"}},
		{name: "429 says too late", serve: answer(busy(1, 429, "Retry-After: 3600")), kind: ErrBusy,
			want: "read registry.far.test/app:1: registry registry.far.test answered 429 Too Many Requests; it asks to come again in 1h0m0s only"},
		{name: "503 for ever", serve: answer(busy(1000, 503)), kind: ErrBusy, took: 55500 * time.Millisecond,
			want: "read registry.far.test/app:1: registry registry.far.test answered 503 Service Unavailable; given up after 11 tries in 56s"},
		{name: "away for ten seconds", serve: answer(busy(0, 0)), took: 15500 * time.Millisecond, fail: func(n int) error {
			if n < 5 {
				return syscall.ECONNREFUSED
			}
			return nil
		}},
		{name: "refused, and no patience", fail: func(int) error { return syscall.ECONNREFUSED }, o: Options{Patience: Patience{Away: -1}}, kind: ErrUnreachable,
			want: "read registry.far.test/app:1: registry registry.far.test cannot be reached: dial tcp: connection refused"},
		{name: "no such name", fail: func(int) error { return &net.DNSError{Err: "no such host", Name: far, IsNotFound: true} }, kind: ErrUnreachable,
			want: "read registry.far.test/app:1: registry registry.far.test cannot be reached: dial tcp: lookup registry.far.test: no such host"},
		{name: "a name server that is ill", serve: answer(busy(0, 0)), took: 500 * time.Millisecond, fail: func(n int) error {
			if n == 0 {
				return &net.DNSError{Err: "server misbehaving", Name: far, IsTemporary: true}
			}
			return nil
		}},
		{name: "accepts and says nothing", serve: silent, o: Options{Patience: Patience{Away: 25 * time.Second}}, kind: ErrUnreachable,
			want: "read registry.far.test/app:1: registry registry.far.test did not answer within 10s; given up after 4 tries in 34s", took: 43500 * time.Millisecond,
			lines: []string{
				"10s: registry registry.far.test did not answer within 10s; trying again in 500ms",
				"21s: registry registry.far.test did not answer within 10s; trying again in 1s",
				"32s: registry registry.far.test did not answer within 10s; trying again in 2s",
			}},
		{name: "one word and then nothing", serve: func(_ int, conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nDocker-Content-Digest: %s\r\nContent-Length: %d\r\n\r\n{", ocispec.MediaTypeImageManifest, digest.FromBytes(manifest), len(manifest))
			_, _ = io.Copy(io.Discard, conn)
		}, call: func(c *Client) error {
			_, err := c.Blob(context.Background(), far+"/app", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}, MaxManifest)
			return err
		}, o: Options{Patience: Patience{Away: -1}}, kind: ErrUnreachable, took: 10 * time.Second,
			want: "read registry.far.test/app: registry registry.far.test did not answer within 10s"},
		{name: "a byte now and then", serve: func(_ int, conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
			for {
				time.Sleep(9 * time.Second) // in the test's own time
				if _, err := conn.Write([]byte(" ")); err != nil {
					return
				}
			}
		}, call: func(c *Client) error { _, err := c.Tags(context.Background(), far+"/app"); return err },
			o: Options{Patience: Patience{Away: -1}}, kind: ErrUnreachable, took: 30 * time.Second,
			want: "list tags of registry.far.test/app: registry registry.far.test did not answer within 30s"},
		{name: "a body that breaks off", serve: func(_ int, conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
		}, call: func(c *Client) error { _, err := c.Tags(context.Background(), far+"/app"); return err },
			o: Options{Patience: Patience{Away: -1}}, kind: ErrUnreachable,
			want: "list tags of registry.far.test/app: registry registry.far.test broke off its answer"},
		{name: "a web page in place of a manifest", serve: answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, "<html>please log in</html>")
		}), want: "read registry.far.test/app:1: the answer is a web page: is a login page or a proxy in the way?"},
		{name: "a web page in place of tags", serve: answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>please log in</html>")
		}), call: func(c *Client) error { _, err := c.Tags(context.Background(), far+"/app"); return err },
			want: "list tags of registry.far.test/app: the answer is a web page: is a login page or a proxy in the way?"},
		{name: "401 for ever", serve: answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}), o: Options{Credentials: func(string) (string, string, error) { return "me", "canary", nil }}, kind: ErrDenied,
			want: "read registry.far.test/app:1: access denied by registry registry.far.test; log in with 'docker login registry.far.test', or the account lacks the right"},
		{name: "plain HTTP, not allowed", serve: answer(busy(0, 0)), o: Options{Hosts: map[string]Host{"other": {}}}, kind: ErrUnreachable,
			want: "read registry.far.test/app:1: registry registry.far.test speaks plain HTTP, which must be allowed for it: http: server gave HTTP response to HTTPS client"},
		{name: "plain HTTP, allowed", serve: answer(busy(0, 0)), o: Options{Hosts: map[string]Host{far: {Insecure: true}}}},
		{name: "a write that is answered late", serve: answer(func(w http.ResponseWriter, r *http.Request) {
			switch r.Method {
			case http.MethodHead:
				w.WriteHeader(http.StatusNotFound)
			case http.MethodPut:
				_, _ = io.Copy(io.Discard, r.Body)
				time.Sleep(25 * time.Second) // in the test's own time
				w.Header().Set("Docker-Content-Digest", digest.FromBytes(manifest).String())
				w.WriteHeader(http.StatusCreated)
			}
		}), call: push, took: 25 * time.Second, lines: []string{
			"10s: waiting for registry registry.far.test, which has not answered for 10s",
			"20s: waiting for registry registry.far.test, which has not answered for 20s",
		}},
		{name: "a write that is refused once", serve: func() func(int, net.Conn) {
			well, ill := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodHead {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Docker-Content-Digest", digest.FromBytes(manifest).String())
				w.WriteHeader(http.StatusCreated)
			}), busy(1, 502)
			var once sync.Once
			return answer(func(w http.ResponseWriter, r *http.Request) {
				served := false
				if r.Method == http.MethodPut {
					once.Do(func() { served = true; ill(w, r) })
				}
				if !served {
					well(w, r)
				}
			})
		}(), call: push, took: 500 * time.Millisecond, lines: []string{"0s: registry registry.far.test answered 502 Bad Gateway (in its own words); trying again in 500ms"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.call == nil {
				tc.call = resolve
			}
			took, lines, err := within(t, &pipes{serve: tc.serve, fail: tc.fail}, tc.o, tc.call)
			if tc.want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, tc.want)
			}
			if tc.kind != nil {
				require.ErrorIs(t, err, tc.kind)
			}
			require.Equal(t, tc.took, took.Round(50*time.Millisecond))
			if tc.lines != nil {
				require.Equal(t, tc.lines, lines)
			}
		})
	}
}

func push(c *Client) error {
	return c.Push(context.Background(), far+"/app:1", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}, manifest)
}

// A registry on which all patience was spent is asked once more, not a minute.
func TestPatienceIsSpentOnce(t *testing.T) {
	p := &pipes{fail: func(int) error { return syscall.ECONNREFUSED }}
	took, _, _ := within(t, p, Options{Patience: Patience{Away: 3 * time.Second}}, func(c *Client) error {
		require.ErrorIs(t, resolve(c), ErrUnreachable)
		require.ErrorIs(t, resolve(c), ErrUnreachable)
		return nil
	})
	require.Equal(t, 1500*time.Millisecond, took)
	require.Len(t, p.dials, 4)
}

// Whoever gives up while a registry is waited for is answered at once.
func TestCancelledWhileWaiting(t *testing.T) {
	cause := errors.New("the user gave up")
	for name, p := range map[string]*pipes{
		"for an answer":    {serve: silent},
		"for the next try": {fail: func(int) error { return syscall.ECONNREFUSED }},
	} {
		t.Run(name, func(t *testing.T) {
			took, _, err := within(t, p, Options{}, func(c *Client) error {
				ctx, cancel := context.WithTimeoutCause(context.Background(), 300*time.Millisecond, cause)
				defer cancel()
				_, err := c.Resolve(ctx, far+"/app:1")
				return err
			})
			require.ErrorIs(t, err, cause)
			require.Equal(t, 300*time.Millisecond, took)
		})
	}
}
