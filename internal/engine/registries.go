package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/registry"
)

// baseAway is how long a base image is asked for in vain of a registry that cannot
// be reached. A mistyped name must not cost a minute.
const baseAway = 15 * time.Second

// restingAway is baseAway as long as nodes rest.
const restingAway = time.Second

const (
	// localTimeout is how long the registry of local nodes may take to accept a
	// connection, and dialTimeout others.
	localTimeout = 300 * time.Millisecond
	dialTimeout  = 30 * time.Second
	// trustTimeout is how long a node may take to try a registry.
	trustTimeout = 10 * time.Second
)

// restRegistry makes the registry of local nodes answer while these rest: if nobody runs it,
// its files are read.
func (s *standby) restRegistry(ctx context.Context) bool {
	n := s.nodes
	if n.cluster == nil {
		return true
	}
	d := net.Dialer{Timeout: localTimeout}
	if c, err := d.DialContext(ctx, "tcp", n.cluster.Registry()); err == nil {
		return c.Close() == nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.registry == nil {
		var err error
		if s.registry, err = n.cluster.Resting(); err != nil {
			return false // whoever starts it reports what is wrong
		}
	}
	return true
}

// dial connects to a registry; to that of local nodes, while these rest, within this
// process.
func (s *standby) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	s.mu.Lock()
	resting := s.registry
	s.mu.Unlock()
	if resting != nil && addr == resting.Addr() {
		return resting.Dial(ctx)
	}
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: dialTimeout}
	return d.DialContext(ctx, network, addr)
}

// registries returns the options of this machine's access to registries: the user's
// credentials, and with local nodes their registry, which answers for docker.io as
// it does for the nodes.
func (s *standby) registries() registry.Options {
	o := registry.Options{
		Credentials: registry.DockerCredentials(s.engine.Docker),
		Hosts:       map[string]registry.Host{},
		Plain:       s.trustsPlainHTTP,
		Notify:      s.engine.Report.Note,
	}
	if n := s.nodes; n != nil && n.cluster != nil {
		o.Dial = s.dial
		local := n.cluster.Registry()
		o.Hosts["docker.io"] = registry.Host{Mirrors: []string{local}}
		o.Hosts[local] = registry.Host{PlainHTTP: true}
		o.Hosts[strings.Replace(local, "127.0.0.1", "localhost", 1)] = registry.Host{PlainHTTP: true, Mirrors: []string{local}}
	}
	return o
}

// trustsPlainHTTP reports whether a node is configured to reach the registry of a repository
// although it speaks plain HTTP only. It has a node try: an answer of the registry counts,
// whatever it is. Each registry is tried once.
func (s *standby) trustsPlainHTTP(ctx context.Context, repo string) bool {
	ref, err := reference.ParseNormalizedNamed(repo + ":" + cachepolicy.DefaultPrefix)
	if err != nil {
		return false
	}
	host := reference.Domain(ref)
	s.mu.Lock()
	trusts, known := s.plain[host]
	s.mu.Unlock()
	if known {
		return trusts
	}
	limited, cancel := context.WithTimeout(ctx, trustTimeout)
	defer cancel()
	_, err = s.image(limited, frontend.ImageRequest{Ref: ref, Platform: platforms.DefaultSpec()})
	var node *daemon.NodeError
	trusts = err == nil || errors.As(err, &node) && fault.AnsweredByRegistry(err)
	if !trusts && (ctx.Err() != nil || !errors.As(err, &node)) {
		return false // no node has said anything
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plain == nil {
		s.plain = map[string]bool{}
	}
	s.plain[host] = trusts
	return trusts
}

// client returns a client that is closed with s.
func (s *standby) client(o registry.Options) *registry.Client {
	c := registry.New(o)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = append(s.clients, c)
	return c
}

// resolver returns the resolver of base images: this machine, and the nodes where this machine
// gets no image. maxAge is how old the answer for a tag may be; offline asks nobody. others is
// what others know of base images.
func (s *standby) resolver(maxAge time.Duration, offline bool, others frontend.Recollections) *frontend.RegistryResolver {
	o := s.registries()
	o.Plain = nil // the nodes are asked for the image itself
	o.Patience.Away = baseAway
	if s.resting {
		o.Patience.Away = restingAway // what is remembered may do
	}
	opts := frontend.RegistryOptions{
		Client: s.client(o), CacheDir: s.engine.memory.Dir("images"), MaxAge: maxAge, Offline: offline,
		Warn: s.engine.memory.Forgets,
		// Nodes that rest may be off, and then nothing is wrong if nothing is to be built.
		Recall: s.resting,
		Others: others,
	}
	if !offline {
		opts.Node = s.image
	}
	return frontend.NewRegistryResolver(opts)
}

// image asks the nodes for an image. Those on this machine reach no more than it
// does, and are not started for it.
func (s *standby) image(ctx context.Context, req frontend.ImageRequest) (*frontend.Image, error) {
	s.mu.Lock()
	idle := s.pool == nil && (s.nodes == nil || s.nodes.cluster != nil)
	s.mu.Unlock()
	if idle {
		return nil, frontend.ErrNoNode
	}
	pool, err := s.peek(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", frontend.ErrNodesAway, err)
	}
	images := daemon.Images{
		Pool: pool, Env: s.engine.Env, Docker: s.engine.Docker,
		Skip:   func(i daemon.NodeInfo) bool { return s.nodes.mayRest(i.Spec) },
		Notify: s.engine.Report.Note,
	}
	return images.Resolve(ctx, req)
}
