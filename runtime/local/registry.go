package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the one storage driver in use
	"github.com/sirupsen/logrus"
)

// Registry is an OCI registry served over plain HTTP on a loopback port.
type Registry struct {
	Addr string // host:port

	server  *http.Server
	app     *handlers.App
	logFile io.Closer
	served  chan struct{} // closed when the server's goroutine has ended
}

// StartRegistry serves a registry that keeps its content below dir, on a port that
// is free now. The registry runs until Close.
func StartRegistry(ctx context.Context, dir string) (*Registry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	addr, err := freeAddr(nil)
	if err != nil {
		return nil, err
	}
	return listenRegistry(dir, addr)
}

func listenRegistry(dir, addr string) (_ *Registry, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create registry storage: %w", err)
	}
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("start registry: port %s was taken by another process a moment ago; run again to get a new one", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	logFile, err := os.Create(filepath.Join(dir, "registry.log"))
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("start registry: %w", err)
	}
	logger := logrus.New()
	logger.SetOutput(logFile)
	logger.SetLevel(logrus.WarnLevel)
	entry := logrus.NewEntry(logger)

	app, err := newRegistryApp(loggedContext{context.Background(), entry}, dir)
	if err != nil {
		l.Close()
		logFile.Close()
		return nil, fmt.Errorf("start registry: %w", err)
	}
	r := &Registry{
		Addr:    addr,
		app:     app,
		logFile: logFile,
		served:  make(chan struct{}),
		server: &http.Server{
			Handler:           app,
			ReadHeaderTimeout: time.Minute,
			ErrorLog:          log.New(logFile, "", log.LstdFlags),
			BaseContext: func(net.Listener) context.Context {
				return loggedContext{context.Background(), entry}
			},
		},
	}
	go func() {
		defer close(r.served)
		if err := r.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			entry.WithError(err).Error("registry stopped serving")
		}
	}()
	return r, nil
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
	<-r.served
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
