package dockerengine

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/localfile"
)

// DefaultHost is where the docker command looks for an engine by itself.
const DefaultHost = "unix:///var/run/docker.sock"

// DefaultContext is the docker context that is not stored.
const DefaultContext = "default"

// Endpoint says where an engine is and how to reach it.
type Endpoint struct {
	// Host is an address, as unix:///var/run/docker.sock.
	Host string
	// CACert, Cert and Key are files for TLS, "" for none; TLS asks for it without
	// any, and SkipVerify takes every certificate.
	CACert, Cert, Key string
	TLS, SkipVerify   bool
}

// FromEnv returns the engine that the docker command would use.
func FromEnv(env map[string]string) (Endpoint, error) {
	if host := strings.TrimSpace(env["DOCKER_HOST"]); host != "" {
		return FromHost(env, host), nil
	}
	dir := ConfigDir(env)
	if dir == "" {
		return FromHost(env, DefaultHost), nil
	}
	name := env["DOCKER_CONTEXT"]
	if name == "" {
		var config struct {
			CurrentContext string `json:"currentContext"`
		}
		if err := ReadJSON(filepath.Join(dir, "config.json"), &config); err != nil && !errors.Is(err, os.ErrNotExist) {
			return Endpoint{}, fmt.Errorf("find the Docker engine: %w", err)
		}
		name = config.CurrentContext
	}
	return FromContext(env, name)
}

// FromHost returns the engine at an address, with the TLS that the environment asks
// for.
func FromHost(env map[string]string, host string) Endpoint {
	e := Endpoint{Host: host}
	verify := env["DOCKER_TLS_VERIFY"] != ""
	if !verify && env["DOCKER_TLS"] == "" {
		return e
	}
	dir := env["DOCKER_CERT_PATH"]
	if dir == "" {
		dir = ConfigDir(env)
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
func FromContext(env map[string]string, name string) (Endpoint, error) {
	if name == "" || name == DefaultContext {
		if host := strings.TrimSpace(env["DOCKER_HOST"]); host != "" {
			return FromHost(env, host), nil
		}
		return FromHost(env, DefaultHost), nil
	}
	dir := filepath.Join(ConfigDir(env), "contexts")
	var meta struct {
		Endpoints map[string]struct {
			Host          string
			SkipTLSVerify bool
		}
	}
	if err := ReadJSON(filepath.Join(dir, "meta", ContextID(name), "meta.json"), &meta); err != nil {
		return Endpoint{}, fmt.Errorf("find the Docker engine: docker context %s: %w", name, err)
	}
	at := meta.Endpoints["docker"]
	e := Endpoint{Host: at.Host, SkipVerify: at.SkipTLSVerify}
	if e.Host == "" {
		e.Host = DefaultHost
	}
	certs := filepath.Join(dir, "tls", ContextID(name), "docker")
	for name, file := range map[string]*string{"ca.pem": &e.CACert, "cert.pem": &e.Cert, "key.pem": &e.Key} {
		path := filepath.Join(certs, name)
		if _, err := os.Stat(path); err == nil {
			*file, e.TLS = path, true
		}
	}
	return e, nil
}

// HasContext reports whether there is a docker context of that name.
func HasContext(env map[string]string, name string) bool {
	if name == DefaultContext {
		return true
	}
	dir := ConfigDir(env)
	_, err := os.Stat(filepath.Join(dir, "contexts", "meta", ContextID(name), "meta.json"))
	return dir != "" && err == nil
}

// ConfigDir is the directory of the docker configuration, "" when there is none.
func ConfigDir(env map[string]string) string {
	home := env["HOME"]
	if home == "" {
		home = env["USERPROFILE"]
	}
	if dir := env["DOCKER_CONFIG"]; dir != "" || home == "" {
		return dir
	}
	return filepath.Join(home, ".docker")
}

// ContextID is the name under which a docker context is stored.
func ContextID(name string) string { return digest.FromString(name).Encoded() }

// maxConfig bounds a file of the Docker configuration.
const maxConfig = 16 << 20

// ReadJSON decodes a file of the Docker configuration.
func ReadJSON(path string, v any) error {
	data, err := localfile.Read(path, maxConfig)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
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
