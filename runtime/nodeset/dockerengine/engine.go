package dockerengine

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/docker/cli/cli/connhelper"

	"github.com/dbake/dbake/internal/dockerconfig"
)

// Engine is a Docker engine that may be asked.
type Engine struct {
	// Addr is its address, as errors name it.
	Addr string

	base   string // URL
	host   string // of TLS
	tls    *tls.Config
	raw    func(ctx context.Context) (net.Conn, error)
	client *http.Client
}

// New returns the engine at an endpoint, without contacting it.
func New(at Endpoint) (*Engine, error) {
	host := at.Host
	scheme, rest, ok := strings.Cut(host, "://")
	if !ok {
		scheme, rest, host = "tcp", host, "tcp://"+host
	}
	e := &Engine{Addr: host, base: "http://docker"}
	switch scheme {
	case "unix":
		if rest == "" {
			rest = strings.TrimPrefix(DefaultHost, "unix://")
		}
		e.raw = func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", rest)
		}
	case "tcp", "http", "https":
		config, err := at.config()
		if err != nil {
			return nil, err
		}
		e.base, e.tls = "http://"+rest, config
		if config != nil || scheme == "https" {
			if e.tls == nil {
				e.tls = &tls.Config{MinVersion: tls.VersionTLS12}
			}
			e.base = "https://" + rest
		}
		e.base = strings.TrimRight(e.base, "/")
		u, err := url.Parse(e.base)
		if err != nil || u.Hostname() == "" {
			return nil, fmt.Errorf("docker engine %s: not an address", host)
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "2375", "https": "2376"}[u.Scheme]
		}
		e.host = u.Hostname()
		place := net.JoinHostPort(u.Hostname(), port)
		e.raw = func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", place)
		}
	case "ssh":
		helper, err := connhelper.GetConnectionHelper(host)
		if err != nil {
			return nil, fmt.Errorf("docker engine %s: %w", host, err)
		}
		e.raw = func(ctx context.Context) (net.Conn, error) { return helper.Dialer(ctx, "", "") }
	default:
		return nil, fmt.Errorf("docker engine %s: unknown kind of address %s; known are unix, tcp and ssh", host, scheme)
	}
	e.client = &http.Client{Transport: &http.Transport{
		DisableCompression: true,
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return e.raw(ctx) },
		DialTLSContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return e.dial(ctx) },
	}}
	return e, nil
}

// Open returns the engine that the docker command would use.
func Open(c *dockerconfig.Config) (*Engine, error) {
	at, err := FromConfig(c)
	if err != nil {
		return nil, err
	}
	return New(at)
}

// dial opens a connection, secured if the engine is reached so.
func (e *Engine) dial(ctx context.Context) (net.Conn, error) {
	conn, err := e.raw(ctx)
	if err != nil || e.tls == nil {
		return conn, err
	}
	config := e.tls.Clone()
	if config.ServerName == "" {
		config.ServerName = e.host
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the handshake's error is the one to report
		return nil, err
	}
	return secured, nil
}

// Info is an engine's description of itself.
type Info struct {
	ID              string
	ServerVersion   string
	OSType          string
	Architecture    string
	NCPU            int
	CgroupDriver    string
	SecurityOptions []string
	DriverStatus    [][]string
}

// TakesIndexes reports whether the engine keeps images as they are in registries, in
// the image store of containerd, so that an image may be an index.
func (i Info) TakesIndexes() bool {
	return slices.ContainsFunc(i.DriverStatus, func(s []string) bool {
		return slices.Equal(s, []string{"driver-type", "io.containerd.snapshotter.v1"})
	})
}

// Info asks the engine what it is.
func (e *Engine) Info(ctx context.Context) (Info, error) {
	var info Info
	return info, e.get(ctx, "/info", &info)
}

// get asks for JSON.
func (e *Engine) get(ctx context.Context, path string, v any) (err error) {
	resp, err := e.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return fmt.Errorf("read its answer: %w", err)
	}
	return nil
}

// post sends JSON and returns once the engine has taken it; answer, if it is not nil,
// takes what comes back.
func (e *Engine) post(ctx context.Context, path string, v, answer any) (err error) {
	var body io.Reader
	if v != nil {
		dt, err := json.Marshal(v)
		if err != nil {
			return err
		}
		body = bytes.NewReader(dt)
	}
	resp, err := e.do(ctx, http.MethodPost, path, body, http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if answer == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// do sends a request and returns the answer, which is a success and is to be closed.
func (e *Engine) do(ctx context.Context, method, path string, body io.Reader, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, e.base+path, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, cause(err)
	}
	if err := answerError(resp); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp, nil
}

// Close gives back idle connections.
func (e *Engine) Close() { e.client.CloseIdleConnections() }

// cause drops what the HTTP client says about the URL: it is not the user's.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// StatusError is an answer of an engine that is not a success.
type StatusError struct {
	Code    int
	Message string
}

func (e *StatusError) Error() string { return e.Message }

// IsNotFound reports whether an engine said that it has no such thing.
func IsNotFound(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code == http.StatusNotFound
}

// maxAnswer bounds what is read of an error message.
const maxAnswer = 64 << 10

// answerError returns the engine's message when its answer is not a success.
func answerError(resp *http.Response) error {
	if resp.StatusCode < 300 || resp.StatusCode == http.StatusNotModified {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	var body struct{ Message string }
	if json.Unmarshal(data, &body) == nil && body.Message != "" {
		return &StatusError{resp.StatusCode, body.Message}
	}
	return &StatusError{resp.StatusCode, fmt.Sprintf("%s: %s", resp.Status, bytes.TrimSpace(data))}
}

// Hijack opens a connection to a service behind a path of the engine that speaks another
// protocol: /grpc is the BuildKit inside it, /session takes sessions for it. ctx bounds the
// dial, not the connection.
func (e *Engine) Hijack(ctx context.Context, path, proto string, meta map[string][]string) (net.Conn, error) {
	conn, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // what waits for it fails
	up, err := e.upgrade(ctx, conn, path, proto, meta)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close() // the first error counts
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return up, nil
}

func (e *Engine) upgrade(ctx context.Context, conn net.Conn, path, proto string, meta map[string][]string) (net.Conn, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.base+path, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range meta {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", proto)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		err := answerError(resp)
		if err == nil {
			err = errors.New("it does not switch to " + proto)
		}
		return nil, errors.Join(fmt.Errorf("the Docker engine at %s has no BuildKit: %w", e.Addr, err), resp.Body.Close())
	}
	return &hijacked{Conn: conn, r: r}, nil
}

// hijacked is a connection with what has been read ahead of it.
type hijacked struct {
	net.Conn
	r *bufio.Reader
}

func (h *hijacked) Read(p []byte) (int, error) { return h.r.Read(p) }
