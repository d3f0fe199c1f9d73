package dockerengine

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dbake/dbake/internal/dockerconfig"
)

// DefaultHost is where the docker command looks for an engine by itself.
const DefaultHost = "unix:///var/run/docker.sock"

// Endpoint describes where an engine is and how to reach it.
type Endpoint struct {
	// Host is an address, as unix:///var/run/docker.sock.
	Host string
	// CACert, Cert and Key are files for TLS, "" for none; TLS asks for it without
	// any, and SkipVerify takes every certificate.
	CACert, Cert, Key string
	TLS, SkipVerify   bool
}

// FromConfig returns the engine that the docker command would use.
func FromConfig(c *dockerconfig.Config) (Endpoint, error) {
	if host := strings.TrimSpace(c.Env()["DOCKER_HOST"]); host != "" {
		return FromHost(c, host), nil
	}
	if c.Dir() == "" {
		return FromHost(c, DefaultHost), nil
	}
	name, err := c.ContextName()
	if err != nil {
		return Endpoint{}, fmt.Errorf("find the Docker engine: %w", err)
	}
	return FromContext(c, name)
}

// FromHost returns the engine at an address, with the TLS that the environment asks
// for.
func FromHost(c *dockerconfig.Config, host string) Endpoint {
	env := c.Env()
	e := Endpoint{Host: host}
	verify := env["DOCKER_TLS_VERIFY"] != ""
	if !verify && env["DOCKER_TLS"] == "" {
		return e
	}
	dir := env["DOCKER_CERT_PATH"]
	if dir == "" {
		dir = c.Dir()
	}
	e.TLS, e.SkipVerify = true, !verify
	e.Cert, e.Key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if verify {
		e.CACert = filepath.Join(dir, "ca.pem")
	}
	for name, file := range map[string]*string{"DOCKER_TLS_CACERT": &e.CACert, "DOCKER_TLS_CERT": &e.Cert, "DOCKER_TLS_KEY": &e.Key} {
		if env[name] != "" {
			*file = env[name]
		}
	}
	return e
}

// FromContext returns the engine of a docker context; "" is the default one, which is
// that of $DOCKER_HOST, if it is set, or of this machine.
func FromContext(c *dockerconfig.Config, name string) (Endpoint, error) {
	if name == "" || name == dockerconfig.DefaultContext {
		if host := strings.TrimSpace(c.Env()["DOCKER_HOST"]); host != "" {
			return FromHost(c, host), nil
		}
		return FromHost(c, DefaultHost), nil
	}
	at, err := c.Context(name)
	if err != nil {
		return Endpoint{}, fmt.Errorf("find the Docker engine: %w", err)
	}
	e := Endpoint{Host: at.Host, SkipVerify: at.SkipVerify, CACert: at.CACert, Cert: at.Cert, Key: at.Key}
	e.TLS = e.CACert != "" || e.Cert != "" || e.Key != ""
	if e.Host == "" {
		e.Host = DefaultHost
	}
	return e, nil
}

// config returns the client side of TLS, nil for none.
func (e Endpoint) config() (*tls.Config, error) {
	if !e.TLS {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: e.SkipVerify}
	if e.Cert != "" {
		cert, err := tls.LoadX509KeyPair(e.Cert, e.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate for the Docker engine: %w", err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	if e.CACert != "" && !e.SkipVerify {
		pem, err := os.ReadFile(e.CACert)
		if err != nil {
			return nil, fmt.Errorf("certificate of the Docker engine: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificate of the Docker engine: %s holds none", e.CACert)
		}
	}
	return config, nil
}
