package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/cli/cli/connhelper"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/localfile"
)

// dockerEngine is the local Docker engine, as far as images are loaded into it.
type dockerEngine struct {
	addr   string // as errors name it
	base   string // URL
	client *http.Client
}

// answerTimeout bounds how long an engine may take to answer before a build starts.
const answerTimeout = 20 * time.Second

// defaultEngine is where the docker command looks for an engine by itself.
const defaultEngine = "unix:///var/run/docker.sock"

// isLoad reports whether an output goes to the local Docker engine.
func isLoad(o ir.Output) bool {
	if o.Type != "docker" || o.Dest != "" {
		return false
	}
	tar, err := strconv.ParseBool(o.Attrs["tar"])
	return err != nil || tar
}

// prepareLoad returns what starts to load one archive of the images that p loads into the engine, nil when
// there are none, and p with these outputs in the form that the engine reads. The
// engine has answered: a build whose results nobody takes is not worth starting.
func (a *app) prepareLoad(ctx context.Context, p *ir.Project) (*ir.Project, func(context.Context) (io.WriteCloser, error), error) {
	first := slices.IndexFunc(p.Targets, func(t *ir.Target) bool { return slices.ContainsFunc(t.Outputs, isLoad) })
	if first < 0 {
		return p, nil, nil
	}
	e, err := newDockerEngine(a.env)
	if err != nil {
		return nil, nil, err
	}
	indexes, err := e.takesIndexes(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("target %s is to be loaded into the Docker engine at %s, which does not answer: %w", p.Targets[first].Name, e.addr, err)
	}
	loaded := *p
	loaded.Targets = slices.Clone(p.Targets)
	for i, t := range p.Targets {
		if loaded.Targets[i], err = loadable(t, indexes); err != nil {
			return nil, nil, err
		}
	}
	return &loaded, e.load, nil
}

// loadable returns t with the outputs that are loaded in the form of an OCI archive
// if the engine takes indexes: only such an archive can hold one.
func loadable(t *ir.Target, indexes bool) (*ir.Target, error) {
	out := *t
	out.Outputs = slices.Clone(t.Outputs)
	for i, o := range t.Outputs {
		if !isLoad(o) {
			continue
		}
		if name := o.Attrs["context"]; name != "" && name != "default" {
			return nil, &ir.SourceError{
				Range:   t.Origin("output"),
				Summary: fmt.Sprintf("target %s is to be loaded into docker context %s", t.Name, name),
				Detail:  "all images are loaded into one engine; choose it with DOCKER_CONTEXT or DOCKER_HOST",
			}
		}
		if !indexes {
			if len(t.PlatformList()) > 1 || slices.ContainsFunc(t.Attest, func(a ir.Attest) bool { return !a.Disabled }) {
				return nil, &ir.SourceError{
					Range:   t.Origin("output"),
					Summary: fmt.Sprintf("target %s: docker exporter does not currently support exporting manifest lists", t.Name),
					Detail:  "the Docker engine stores several platforms and attestations only with the containerd image store",
				}
			}
			continue
		}
		attrs := maps.Clone(o.Attrs)
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs["prefer-image-digest"] = "true"
		out.Outputs[i] = ir.Output{Type: "oci", Attrs: attrs}
	}
	return &out, nil
}

// newDockerEngine returns the engine that the environment names, without contacting it.
func newDockerEngine(env map[string]string) (*dockerEngine, error) {
	host, err := engineHost(env)
	if err != nil {
		return nil, err
	}
	scheme, rest, ok := strings.Cut(host, "://")
	if !ok {
		scheme, rest, host = "tcp", host, "tcp://"+host
	}
	e := &dockerEngine{addr: host, base: "http://docker"}
	transport := &http.Transport{DisableCompression: true}
	e.client = &http.Client{Transport: transport}
	switch scheme {
	case "unix":
		if rest == "" {
			rest = strings.TrimPrefix(defaultEngine, "unix://")
		}
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", rest)
		}
	case "tcp", "http", "https":
		config, err := engineTLS(env)
		if err != nil {
			return nil, err
		}
		e.base = "http://" + rest
		if config != nil || scheme == "https" {
			e.base = "https://" + rest
			transport.TLSClientConfig = config
		}
		e.base = strings.TrimRight(e.base, "/")
	case "ssh":
		helper, err := connhelper.GetConnectionHelper(host)
		if err != nil {
			return nil, fmt.Errorf("docker engine %s: %w", host, err)
		}
		transport.DialContext = helper.Dialer
	default:
		return nil, fmt.Errorf("docker engine %s: unknown kind of address %s; known are unix, tcp and ssh", host, scheme)
	}
	return e, nil
}

// engineHost returns the address of the engine that the docker command would use:
// that of $DOCKER_HOST, else of the docker context in use, else the default.
func engineHost(env map[string]string) (string, error) {
	if host := strings.TrimSpace(env["DOCKER_HOST"]); host != "" {
		return host, nil
	}
	dir := dockerDir(env)
	if dir == "" {
		return defaultEngine, nil
	}
	name := env["DOCKER_CONTEXT"]
	if name == "" {
		var config struct {
			CurrentContext string `json:"currentContext"`
		}
		if err := readJSON(filepath.Join(dir, "config.json"), &config); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("find the Docker engine: %w", err)
		}
		name = config.CurrentContext
	}
	if name == "" || name == "default" {
		return defaultEngine, nil
	}
	var meta struct {
		Endpoints map[string]struct{ Host string }
	}
	if err := readJSON(filepath.Join(dir, "contexts", "meta", contextID(name), "meta.json"), &meta); err != nil {
		return "", fmt.Errorf("find the Docker engine: docker context %s: %w", name, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "contexts", "tls", contextID(name))); err == nil {
		return "", fmt.Errorf("find the Docker engine: docker context %s has certificates of its own, which are not read here; use DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH", name)
	}
	if host := meta.Endpoints["docker"].Host; host != "" {
		return host, nil
	}
	return defaultEngine, nil
}

// contextID is the name under which a docker context is stored.
func contextID(name string) string { return digest.FromString(name).Encoded() }

// maxConfig bounds a file of the Docker configuration.
const maxConfig = 16 << 20

func readJSON(path string, v any) error {
	data, err := localfile.Read(path, maxConfig)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// engineTLS returns the client side of TLS that the environment asks for, nil for
// none.
func engineTLS(env map[string]string) (*tls.Config, error) {
	verify := env["DOCKER_TLS_VERIFY"] != ""
	if !verify && env["DOCKER_TLS"] == "" {
		return nil, nil
	}
	dir := env["DOCKER_CERT_PATH"]
	if dir == "" {
		dir = env["DOCKER_CONFIG"]
	}
	if dir == "" {
		dir = filepath.Join(env["HOME"], ".docker")
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("certificate for the Docker engine: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, InsecureSkipVerify: !verify}
	if verify {
		pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
		if err != nil {
			return nil, fmt.Errorf("certificate of the Docker engine: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificate of the Docker engine: %s holds none", filepath.Join(dir, "ca.pem"))
		}
	}
	return config, nil
}

// takesIndexes asks the engine whether it keeps images as they are in registries,
// so that an image may be an index.
func (e *dockerEngine) takesIndexes(ctx context.Context) (_ bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base+"/info", nil)
	if err != nil {
		return false, err
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return false, cause(err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if err := answered(resp); err != nil {
		return false, err
	}
	var info struct{ DriverStatus [][]string }
	if err := json.NewDecoder(resp.Body).Decode(&info); err != nil {
		return false, fmt.Errorf("read its answer: %w", err)
	}
	return slices.ContainsFunc(info.DriverStatus, func(s []string) bool {
		return slices.Equal(s, []string{"driver-type", "io.containerd.snapshotter.v1"})
	}), nil
}

// cause drops what the HTTP client says about the URL: it is not the user's.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// maxAnswer bounds what is read of an error message.
const maxAnswer = 64 << 10

// answered returns the engine's message when its answer is not a success.
func answered(resp *http.Response) error {
	if resp.StatusCode < 300 {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	var body struct{ Message string }
	if json.Unmarshal(data, &body) == nil && body.Message != "" {
		return errors.New(body.Message)
	}
	return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(data))
}

// load starts to load one archive. The engine takes what is written; Close waits
// for its answer and returns its error.
func (e *dockerEngine) load(ctx context.Context) (io.WriteCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.base+"/images/load?quiet=1", r)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-tar")
	l := &loading{pipe: w, done: make(chan struct{})}
	go func() {
		defer cancel()
		defer close(l.done)
		l.err = e.send(req)
		// What is written from now on fails with the engine's reason.
		_ = r.CloseWithError(l.failure()) // never fails
	}()
	return l, nil
}

// send does a load request and reads the engine's answer to its end.
func (e *dockerEngine) send(req *http.Request) (err error) {
	resp, err := e.client.Do(req)
	if err != nil {
		return fmt.Errorf("load into the Docker engine at %s: %w", e.addr, cause(err))
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if err := answered(resp); err != nil {
		return fmt.Errorf("load into the Docker engine at %s: %w", e.addr, err)
	}
	dec := json.NewDecoder(resp.Body)
	for {
		var message struct {
			Error       string
			ErrorDetail struct{ Message string }
		}
		switch err := dec.Decode(&message); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("load into the Docker engine at %s: read its answer: %w", e.addr, err)
		case message.ErrorDetail.Message != "":
			return fmt.Errorf("load into the Docker engine at %s: %s", e.addr, message.ErrorDetail.Message)
		case message.Error != "":
			return fmt.Errorf("load into the Docker engine at %s: %s", e.addr, message.Error)
		}
	}
}

// loading is an archive on its way to the engine.
type loading struct {
	pipe *io.PipeWriter
	done chan struct{}
	err  error // valid once done is closed
}

var errLoadEnded = errors.New("the Docker engine has ended the load")

func (l *loading) failure() error {
	if l.err != nil {
		return l.err
	}
	return errLoadEnded
}

// Write implements io.Writer.
func (l *loading) Write(p []byte) (int, error) {
	n, err := l.pipe.Write(p)
	if errors.Is(err, errLoadEnded) {
		// The engine has all it wants; archives end in padding.
		return len(p), nil
	}
	return n, err
}

// Close implements io.Closer.
func (l *loading) Close() error {
	err := l.pipe.Close()
	<-l.done
	return errors.Join(err, l.err)
}
