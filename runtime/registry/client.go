package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/sirupsen/logrus"

	"github.com/dbake/dbake/internal/dockerconfig"
)

// Credentials returns the login for a registry. An empty user with a secret is an identity
// token; two empty strings are no login.
type Credentials func(host string) (user, secret string, err error)

// Options configure a [Client].
type Options struct {
	// Credentials may be nil; see [DockerCredentials]. They are asked for one
	// at a time.
	Credentials Credentials
	// Hosts describes how to reach registries, by host with port, as it stands in names:
	// "docker.io", "10.0.0.5:5000". Hosts not listed are reached over TLS.
	Hosts map[string]Host
	// Plain reports whether a registry that Hosts does not list, and that turned out to
	// speak plain HTTP, may be asked over that, by a repository in it; nil is no.
	Plain func(ctx context.Context, repo string) bool
	// Patience is how long to wait for registries.
	Patience Patience
	// Notify shows a line to the user while a registry is waited for; may be nil.
	Notify func(line string)
	// Dial makes connections; nil is the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Insecure returns o with these hosts taken as insecure too.
func (o Options) Insecure(hosts ...string) Options {
	all := maps.Clone(o.Hosts)
	if all == nil {
		all = map[string]Host{}
	}
	for _, name := range hosts {
		h := all[name]
		h.Insecure = true
		all[name] = h
	}
	o.Hosts = all
	return o
}

// Host describes how to reach one registry.
type Host struct {
	// Mirrors are asked first when reading, in this order. Each is a host with
	// port, with its own entry in [Options].Hosts if it needs one.
	Mirrors []string
	// PlainHTTP leaves TLS out.
	PlainHTTP bool
	// Insecure trusts any certificate, and asks over plain HTTP where a registry
	// speaks nothing else.
	Insecure bool
	// RootCAs are further authorities to trust, in PEM.
	RootCAs [][]byte
}

// Client reads from and writes to registries.
type Client struct {
	creds    Credentials
	hosts    map[string]Host
	quiet    *log.Entry
	patience Patience
	notify   func(string)
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	plain    func(ctx context.Context, repo string) bool
	health   health

	mu       sync.Mutex                     // guards made
	made     map[string]docker.RegistryHost // by host
	credsOne sync.Mutex                     // keychains do not like to be asked twice at once; guards known
	known    map[string]login               // by host
}

// login is the answer of a keychain.
type login struct {
	user, secret string
	err          error // that it did not answer
}

// dockerHub is docker.io's own name for its registry, and hubKey the key that its
// credentials have in docker's configuration.
const (
	dockerHub = "registry-1.docker.io"
	hubKey    = "https://index.docker.io/v1/"
)

// HelperTimeout is how long a credential helper may take. Some ask a person.
const HelperTimeout = 60 * time.Second

// HelperError reports that the credential helper of docker's configuration has not answered
// for a host within [HelperTimeout].
type HelperError struct{ Host string }

func (e *HelperError) Error() string {
	return fmt.Sprintf("credentials for %s: the credential helper of the Docker configuration has not answered for %s", e.Host, HelperTimeout)
}

// askHelper looks up the login for a host. A helper that does not answer is given up: its
// process cannot be ended from here, and is left to itself.
func askHelper(cfg interface {
	GetAuthConfig(host string) (types.AuthConfig, error)
}, host string) (types.AuthConfig, error) {
	type answer struct {
		auth types.AuthConfig
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		auth, err := cfg.GetAuthConfig(host)
		answered <- answer{auth, err}
	}()
	late := time.NewTimer(HelperTimeout)
	defer late.Stop()
	select {
	case a := <-answered:
		return a.auth, a.err
	case <-late.C:
		return types.AuthConfig{}, &HelperError{Host: host}
	}
}

// configKey is the key that the credentials for a registry have in docker's
// configuration.
func configKey(host string) string {
	if host == dockerHub || host == "docker.io" {
		return hubKey
	}
	return host
}

// NoCredentials is the error for credentials that could not be had from docker's
// configuration: it names the registry and the helper that was asked.
func NoCredentials(cfg *configfile.ConfigFile, host string, err error) error {
	var hangs *HelperError
	if err == nil || errors.As(err, &hangs) { // which says it all
		return err
	}
	if helper := dockerconfig.Helper(cfg, configKey(host)); helper != "" {
		err = fmt.Errorf("credential helper %s: %w", helper, err)
	}
	return fmt.Errorf("credentials for %s: %w", host, err)
}

// DockerCredentials returns the credentials of a Docker configuration. It is read, and
// credential helpers are run, when a registry asks for credentials, not before. A helper
// that does not answer gives a [HelperError].
func DockerCredentials(config *dockerconfig.Config) Credentials {
	return func(host string) (string, string, error) {
		cfg, err := config.File()
		if err != nil {
			return "", "", err
		}
		a, err := askHelper(cfg, configKey(host))
		if err != nil {
			return "", "", NoCredentials(cfg, configKey(host), err)
		}
		if a.IdentityToken != "" {
			return "", a.IdentityToken, nil
		}
		return a.Username, a.Password, nil
	}
}

// New returns a client.
func New(o Options) *Client {
	// The libraries below log what this package returns as an error.
	silent := logrus.New()
	silent.SetOutput(io.Discard)
	return &Client{
		creds: o.Credentials, hosts: o.Hosts, quiet: logrus.NewEntry(silent),
		patience: o.Patience.withDefaults(), notify: o.Notify, dial: o.Dial, plain: o.Plain,
		made: map[string]docker.RegistryHost{}, known: map[string]login{},
	}
}

// Close gives up idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.made {
		h.Client.CloseIdleConnections()
	}
}

// parseRef parses a reference; a name without tag and digest gets the tag latest.
func parseRef(op, ref string) (reference.Named, error) {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, &Error{Op: op, Ref: ref, Err: fmt.Errorf("not the name of an image: %w", err)}
	}
	return reference.TagNameOnly(n), nil
}

// resolver returns a new resolver. One is good for one operation: it remembers
// what it has pushed by digest alone, so that a second tag would seem pushed.
func (c *Client) resolver() remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Hosts: c.registryHosts, Headers: http.Header{"User-Agent": {"dbake"}}})
}

// registryHosts lists where to look for a registry's content, mirrors first.
func (c *Client) registryHosts(host string) ([]docker.RegistryHost, error) {
	var list []docker.RegistryHost
	for _, m := range c.hosts[host].Mirrors {
		h, err := c.endpoint(m)
		if err != nil {
			return nil, err
		}
		h.Capabilities = docker.HostCapabilityPull | docker.HostCapabilityResolve
		list = append(list, h)
	}
	h, err := c.endpoint(host)
	if err != nil {
		return nil, err
	}
	return append(list, h), nil
}

// endpoint returns the access to one registry, which is made once.
func (c *Client) endpoint(host string) (docker.RegistryHost, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, ok := c.made[host]; ok {
		return h, nil
	}
	o, listed := c.hosts[host]
	tlsConfig, err := o.tlsConfig()
	if err != nil {
		return docker.RegistryHost{}, fmt.Errorf("registry %s: %w", host, err)
	}
	network := docker.DefaultHTTPTransport(tlsConfig)
	network.ResponseHeaderTimeout = 0 // ours knows writes from reads
	if c.dial != nil {
		network.DialContext = c.dial
	}
	var secured http.RoundTripper = network
	loopback, err := docker.MatchLocalhost(host)
	if err != nil {
		return docker.RegistryHost{}, fmt.Errorf("registry %s: %w", host, err)
	}
	if loopback && !listed || o.Insecure {
		secured = docker.NewHTTPFallback(network)
	}
	watched := func(next http.RoundTripper) *transport {
		return &transport{next: next, network: network, silence: c.patience.Silence, waiting: func(d time.Duration) {
			c.note(host, fmt.Sprintf("waiting for registry %s, which has not answered for %s", host, d))
		}}
	}
	client := &http.Client{Transport: watched(secured)}
	if c.plain != nil && !listed && !loopback {
		client.Transport = &learning{transport: watched(secured), either: watched(docker.NewHTTPFallback(network)), host: host, may: c.plain}
	}
	h := docker.RegistryHost{
		Client:       client,
		Authorizer:   newAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(c.credentials))),
		Host:         host,
		Scheme:       "https",
		Path:         "/v2",
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve | docker.HostCapabilityPush,
	}
	if host == "docker.io" {
		h.Host = dockerHub
	}
	if o.PlainHTTP {
		h.Scheme = "http"
	}
	c.made[host] = h
	return h, nil
}

func (o Host) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{InsecureSkipVerify: o.Insecure}
	if len(o.RootCAs) == 0 {
		return cfg, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // only the given ones, then
	}
	for _, pem := range o.RootCAs {
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.New("no certificate in the PEM of its authority")
		}
	}
	cfg.RootCAs = pool
	return cfg, nil
}

func (c *Client) credentials(host string) (string, string, error) {
	if c.creds == nil {
		return "", "", nil
	}
	c.credsOne.Lock()
	defer c.credsOne.Unlock()
	if l, ok := c.known[host]; ok {
		return l.user, l.secret, l.err
	}
	user, secret, err := c.creds(host)
	var hangs *HelperError
	if err == nil || errors.As(err, &hangs) { // who has not answered is not asked again
		c.known[host] = login{user, secret, err}
	}
	return user, secret, err
}

// prepare returns ctx with the libraries silenced.
func (c *Client) prepare(ctx context.Context) context.Context {
	// The libraries name uploads by media type and know none for attestations.
	ctx = remotes.WithMediaTypeKeyPrefix(ctx, "application/vnd.in-toto+json", "intoto")
	ctx = remotes.WithMediaTypeKeyPrefix(ctx, "application/vnd.oci.empty.v1+json", "empty")
	return log.WithLogger(ctx, c.quiet)
}

// hostOf is the registry of a name, for messages.
func hostOf(ref string) string {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		host, _, _ := strings.Cut(ref, "/")
		return host
	}
	return reference.Domain(n)
}
