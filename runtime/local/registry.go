package local

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the one storage driver in use
	"github.com/sirupsen/logrus"
)

// Registry is an OCI registry served over plain HTTP on a loopback port, of both
// versions of IP, so that nobody else can be localhost there. All of the machine may
// read from it. Only processes of its owner, or of root, which is what BuildKit
// nodes and docker engines are, may write: the kernel says whose a connection is, so
// that nobody needs a password.
type Registry struct {
	Addr string // host:port

	server  *http.Server
	app     *handlers.App
	logFile io.Closer
	served  sync.WaitGroup // the server's goroutines
}

// StartRegistry serves a registry that keeps its content below dir, on a port that
// is free now. The registry runs until Close.
func StartRegistry(ctx context.Context, dir string) (*Registry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	return listenRegistry(dir, addr)
}

func listenRegistry(dir, addr string) (_ *Registry, err error) {
	if err := makeRegistryDir(dir); err != nil {
		return nil, err
	}
	listeners, err := listenLoopback(addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("start registry: port %s was taken by another process a moment ago; run again to get a new one", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	defer func() {
		if err != nil {
			closeAll(listeners)
		}
	}()
	logFile, err := os.OpenFile(filepath.Join(dir, "registry.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	r, err := serveRegistry(dir, addr, listeners, logFile)
	if err != nil {
		logFile.Close()
	}
	return r, err
}

func makeRegistryDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create registry storage: %w", err)
	}
	return nil
}

// serveRegistry serves the content of dir on the listeners.
func serveRegistry(dir, addr string, listeners []net.Listener, logFile io.WriteCloser) (*Registry, error) {
	logger := logrus.New()
	logger.SetOutput(logFile)
	logger.SetLevel(logrus.WarnLevel)
	entry := logrus.NewEntry(logger)

	app, err := newRegistryApp(loggedContext{context.Background(), entry}, dir)
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	r := &Registry{
		Addr:    addr,
		app:     app,
		logFile: logFile,
		server: &http.Server{
			Handler:           ownerWrites(app),
			ReadHeaderTimeout: time.Minute,
			ErrorLog:          log.New(logFile, "", log.LstdFlags),
			BaseContext: func(net.Listener) context.Context {
				return loggedContext{context.Background(), entry}
			},
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				if _, within := c.(*innerConn); within {
					return context.WithValue(ctx, writerKey{}, func() error { return nil })
				}
				return context.WithValue(ctx, writerKey{}, sync.OnceValue(func() error { return mayWrite(c) }))
			},
		},
	}
	for _, l := range listeners {
		r.served.Go(func() {
			if err := r.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				entry.WithError(err).Error("registry stopped serving")
			}
		})
	}
	return r, nil
}

// listenLoopback listens on a port of 127.0.0.1, and of ::1 where that exists.
func listenLoopback(addr string) ([]net.Listener, error) {
	four, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(four.Addr().String())
	if err != nil {
		four.Close()
		return nil, err
	}
	six, err := net.Listen("tcp6", net.JoinHostPort("::1", port))
	if errors.Is(err, syscall.EADDRINUSE) {
		four.Close()
		return nil, err
	}
	if err != nil { // the machine has no IPv6
		return []net.Listener{four}, nil
	}
	return []net.Listener{four, six}, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// writerKey is the context key of a function that returns nil if the connection may
// write.
type writerKey struct{}

// ownerWrites answers requests that change the registry only when they come from a
// process of its owner or of root.
func ownerWrites(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions:
			next.ServeHTTP(w, r)
			return
		}
		check, ok := r.Context().Value(writerKey{}).(func() error)
		err := errors.New("its connection is not known")
		if ok {
			err = check()
		}
		if err == nil {
			next.ServeHTTP(w, r)
			return
		}
		var body struct {
			Errors [1]struct {
				Code    string `json:"code"`
				Message string `json:"message"`
			} `json:"errors"`
		}
		body.Errors[0].Code = "DENIED"
		body.Errors[0].Message = "the registry of dbake's local nodes is written by its owner only: " + err.Error()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(body) // nobody may be there any more
	})
}

// mayWrite returns nil when the other end of c is a process of this one's user or of
// root.
func mayWrite(c net.Conn) error {
	peer, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return err
	}
	own, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return err
	}
	uid, err := peerUser(peer, own)
	if err != nil {
		return err
	}
	if uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("user %d is not user %d", uid, os.Geteuid())
	}
	return nil
}

// newRegistryApp builds the registry's handler. The library reports a bad
// configuration by panicking; ours is fixed, but the storage below it is not.
func newRegistryApp(ctx context.Context, dir string) (app *handlers.App, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("registry storage %s: %v", dir, p)
		}
	}()
	conf := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem": {"rootdirectory": dir},
			"delete":     {"enabled": true},
			"redirect":   {"disable": true},
			// Uploads that were never finished are of no use and little weight here,
			// and the purger would be a goroutine that nobody can wait for.
			"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
		},
	}
	conf.HTTP.Secret = rand.Text()
	conf.Catalog.MaxEntries = 1000
	// An index may name blobs that are no manifests: build cache in its index form
	// does. Validation would refuse it.
	conf.Validation.Disabled = true
	return handlers.NewApp(ctx, conf), nil
}

// Close stops serving and waits for the server to end. Requests under way are cut off.
func (r *Registry) Close() error {
	err := r.server.Close()
	r.served.Wait()
	return errors.Join(err, r.app.Shutdown(), r.logFile.Close())
}

// pingRegistry returns nil if a registry answers at addr.
func pingRegistry(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v2/", nil)
	if err != nil {
		return fmt.Errorf("ask registry %s: %w", addr, err)
	}
	// A client of its own: no proxy, and no connection that outlives the question.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask registry %s: %w", addr, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask registry %s: status %s", addr, resp.Status)
	}
	return nil
}

// loggedContext hands the registry library its logger. The library takes it from
// the context under a key of an internal type, and otherwise writes to the
// process-wide logger, which is standard error and not ours to redirect. So the
// key is recognised by its name; should it be renamed one day, the registry
// becomes talkative and a test fails.
type loggedContext struct {
	context.Context
	entry *logrus.Entry
}

func (c loggedContext) Value(key any) any {
	if t := reflect.TypeOf(key); t != nil && t.Name() == "loggerKey" && strings.HasSuffix(t.PkgPath(), "/internal/dcontext") {
		return c.entry
	}
	return c.Context.Value(key)
}
