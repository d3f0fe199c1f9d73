package nodeset

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/docker/cli/cli/connhelper/commandconn"
	"github.com/moby/buildkit/client/connhelper"

	// The schemes that are reached through another program.
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer"
	_ "github.com/moby/buildkit/client/connhelper/kubepod"
	_ "github.com/moby/buildkit/client/connhelper/npipe"
	_ "github.com/moby/buildkit/client/connhelper/ssh"

	"github.com/dbake/dbake/internal/dockerconfig"
	"github.com/dbake/dbake/runtime/nodeset/dockerengine"
)

// programs are those started for the addresses of a scheme.
var programs = map[string]string{
	"ssh":              "ssh",
	"docker-container": "docker",
	"kube-pod":         "kubectl",
}

// Dial opens one connection to the node, with TLS when the node is given with it. ctx
// bounds the dial, not the connection. An error that explains the failure in plain words is
// a [*Refusal]. A program that the connection needs and that is not on PATH is an error at
// once.
func (s Spec) Dial(ctx context.Context) (net.Conn, error) {
	if s.Addr == "" {
		return nil, errors.New("the node has no address: it has not been started")
	}
	u, err := url.Parse(s.Addr)
	if err != nil {
		return nil, fmt.Errorf("address of node %s: %w", s.Name, err)
	}
	if u.Scheme == dockerScheme {
		return s.dialEngine(ctx)
	}
	if program, ok := programs[u.Scheme]; ok {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%s:// needs the program %s on PATH: %w", u.Scheme, program, err)
		}
	}
	conn, err := s.dial(ctx, u)
	if err != nil {
		return nil, s.explainDial(err)
	}
	if s.TLS == nil {
		return conn, nil
	}
	config, err := s.TLS.config(u.Hostname())
	if err != nil {
		_ = conn.Close() // nothing was sent
		return nil, err
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the handshake's error is the one to report
		return nil, s.explainHandshake(err)
	}
	return secured, nil
}

// dialEngine opens a connection to the BuildKit inside a Docker engine.
func (s Spec) dialEngine(ctx context.Context) (net.Conn, error) {
	if s.Engine == nil {
		return nil, errors.New("it has not been found out which Docker engine is meant")
	}
	e, err := dockerengine.New(*s.Engine)
	if err != nil {
		return nil, err
	}
	conn, err := e.Hijack(ctx, "/grpc", "h2c", nil)
	if err == nil {
		return conn, nil
	}
	place := strings.TrimPrefix(strings.TrimPrefix(e.Addr, "tcp://"), "unix://")
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, &Refusal{fmt.Sprintf("there is no socket %s; is the Docker engine running?", place), err}
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, &Refusal{fmt.Sprintf("nothing listens on %s (connection refused); is the Docker engine running?", place), err}
	}
	return nil, s.explainDial(err)
}

// Resolve finds the Docker engines of the nodes that are the BuildKit inside one, or in
// a container of one.
func Resolve(specs []Spec, config *dockerconfig.Config) error {
	for i := range specs {
		u, err := url.Parse(specs[i].Addr)
		if err != nil || u.Scheme != dockerScheme && specs[i].Container == nil {
			continue
		}
		var at dockerengine.Endpoint
		switch host := u.Query().Get("host"); {
		case host != "":
			at = dockerengine.FromHost(config, host)
		case specs[i].Container != nil:
			at, err = dockerengine.FromContext(config, u.Query().Get("context"))
		case u.Hostname() != "":
			at, err = dockerengine.FromContext(config, u.Hostname())
		default:
			at, err = dockerengine.FromConfig(config)
		}
		if err != nil {
			return fmt.Errorf("node %s: %w", specs[i].Name, err)
		}
		specs[i].Engine = &at
	}
	return nil
}

func (s Spec) dial(ctx context.Context, u *url.URL) (net.Conn, error) {
	if argv := commandFor(u); argv != nil {
		// The process lives as long as the connection, not as the dial.
		return commandconn.New(context.WithoutCancel(ctx), argv[0], argv[1:]...)
	}
	helper, err := connhelper.GetConnectionHelper(s.Addr)
	if err != nil {
		return nil, err
	}
	if helper != nil {
		return helper.ContextDialer(ctx, s.Addr)
	}
	var d net.Dialer
	if u.Scheme == "unix" {
		return d.DialContext(ctx, "unix", strings.TrimPrefix(s.Addr, "unix://"))
	}
	return d.DialContext(ctx, "tcp", u.Host)
}

// config returns the TLS configuration for a node on host.
func (t *TLS) config(host string) (*tls.Config, error) {
	c := &tls.Config{ServerName: t.ServerName, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	if c.ServerName == "" {
		c.ServerName = host
	}
	if t.CACert != "" {
		pem, err := os.ReadFile(t.CACert)
		if err != nil {
			return nil, fmt.Errorf("read cacert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cacert %s holds no certificate in PEM form", t.CACert)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("read cert %s and key %s: %w", t.Cert, t.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// commandFor returns the command to talk through for the two things that buildx
// stores and BuildKit's own helpers cannot express: an engine that is given by
// host instead of context, and a kubeconfig of the builder's own. It is nil where
// those helpers do.
func commandFor(u *url.URL) []string {
	q := u.Query()
	switch {
	case u.Scheme == "docker-container" && q.Get("host") != "":
		return []string{"docker", "--host", q.Get("host"), "exec", "-i", u.Hostname(), "buildctl", "dial-stdio"}
	case u.Scheme == "kube-pod" && q.Get("kubeconfig") != "":
		argv := kubectl(q.Get("kubeconfig"), q.Get("context"), q.Get("namespace"))
		argv = append(argv, "exec", "-i")
		if c := q.Get("container"); c != "" {
			argv = append(argv, "--container="+c)
		}
		return append(argv, u.Hostname(), "--", "buildctl", "dial-stdio")
	}
	return nil
}

// kubectl returns the start of a kubectl command line.
func kubectl(kubeconfig, kubeContext, namespace string) []string {
	argv := []string{"kubectl"}
	switch {
	case strings.ContainsRune(kubeconfig, filepath.ListSeparator):
		// Only the variable may hold several files, the flag may not.
		argv = []string{"env", "KUBECONFIG=" + kubeconfig, "kubectl"}
	case kubeconfig != "":
		argv = append(argv, "--kubeconfig="+kubeconfig)
	}
	if kubeContext != "" {
		argv = append(argv, "--context="+kubeContext)
	}
	if namespace != "" {
		argv = append(argv, "--namespace="+namespace)
	}
	return argv
}
