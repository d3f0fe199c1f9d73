package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/local"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/registry"
)

// standby reaches the nodes of a session for what needs one before the build, such as a
// definition or a Dockerfile in a git repository. It starts none before that.
type standby struct {
	engine *Engine
	choice Nodes
	atomic bool // nothing is published before all is built

	mu         sync.Mutex // guards what follows
	nodes      *nodes     // nil until they are needed
	pool       *daemon.Pool
	clients    []*registry.Client
	url        string // of the definition, if it was read from one
	definition *pb.Definition
	resting    bool  // nodes are to be left alone until something is to be built
	away       error // why they could not be reached while they rested
	// peeked is the pool of those that run while nodes rest, and silent why there is none.
	peeked *daemon.Pool
	silent error
	// plain are registries that speak plain HTTP, and whether a node is configured for that.
	plain map[string]bool
	// registry is that of local nodes while they rest; nil when it runs, or none does.
	registry *local.Resting
}

var (
	_ frontend.Gateway      = (*standby)(nil)
	_ compiler.RemoteReader = (*standby)(nil)
)

// choose says which nodes are used.
func (s *standby) choose(ctx context.Context) (err error) {
	if s.choice.Late {
		return nil
	}
	s.nodes, err = s.engine.findNodes(ctx, s.choice)
	return err
}

// Build implements frontend.Gateway.
func (s *standby) Build(ctx context.Context, session frontend.Session, fn func(context.Context, gateway.Client) error) error {
	pool, err := s.start(ctx)
	if err != nil {
		return err
	}
	gw := &daemon.Gateway{Pool: pool, Env: s.engine.Env, Docker: s.engine.Docker, Path: s.engine.path, Notify: s.engine.Report.Note}
	return gw.Build(ctx, session, fn)
}

// ReadDefinition implements compiler.RemoteReader.
func (s *standby) ReadDefinition(ctx context.Context, url string, names []string, optional bool) (*compiler.RemoteDefinition, error) {
	pool, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	d := &daemon.Definitions{Pool: pool, Env: s.engine.Env, Docker: s.engine.Docker, Path: s.engine.path, Notify: s.engine.Report.Note}
	def, err := d.ReadDefinition(ctx, url, names, optional)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.url, s.definition = url, d.Tree()
	return def, nil
}

// tree is what the definition was read from, nil if that has no directories.
func (s *standby) tree() *pb.Definition {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.definition
}

// withAccess gives the targets of p that read from where the definition lies the
// credentials that it was read with. What a target declares itself counts.
func (s *standby) withAccess(p *ir.Project) *ir.Project {
	s.mu.Lock()
	url := s.url
	s.mu.Unlock()
	if url == "" {
		return p
	}
	repository := ir.ParseGit(url)
	secrets := daemon.GitSecrets(url, s.engine.Env)
	agent, ssh := daemon.GitAgent(url, s.engine.Env)
	out := *p
	out.Targets = slices.Clone(p.Targets)
	for i, t := range p.Targets {
		sameHost := repository != nil && t.Context.Git != nil && t.Context.Git.Host == repository.Host
		if !t.FromTree() && !sameHost {
			continue
		}
		reading := *t
		reading.Secrets = slices.Clone(t.Secrets)
		for _, secret := range secrets {
			if !slices.ContainsFunc(t.Secrets, func(have ir.Secret) bool { return have.ID == secret.ID }) {
				reading.Secrets = append(reading.Secrets, secret)
			}
		}
		// The agent has been granted only to those whose context is read with it.
		if ssh && len(t.SSH) == 0 && t.Context.Git.SSH() {
			reading.SSH = []ir.SSH{agent}
		}
		out.Targets[i] = &reading
	}
	return &out
}

// start starts the nodes, if they have not been.
func (s *standby) start(ctx context.Context) (*daemon.Pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool != nil {
		return s.pool, s.nodes.regrant(ctx)
	}
	var err error
	if s.nodes == nil {
		if s.nodes, err = s.engine.findNodes(ctx, s.choice); err != nil {
			return nil, err
		}
	}
	if s.resting && s.away != nil {
		return nil, s.away // once is enough to know
	}
	if s.registry != nil { // the nodes come with it
		if err := s.registry.Close(); err != nil {
			return nil, err
		}
		s.registry = nil
	}
	if s.pool, err = s.nodes.start(ctx); err != nil && s.resting && ctx.Err() == nil {
		s.away = err
	}
	return s.pool, err
}

// narrow leaves out the nodes that the request does not want for a project.
func (s *standby) narrow(ctx context.Context, p *ir.Project, ask bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes == nil || !s.nodes.choice.narrowed() {
		return nil
	}
	if err := s.nodes.narrow(ctx, p, ask); err != nil {
		return err
	}
	if s.pool != nil {
		// Definitions were read through all of them.
		s.pool.Close()
		s.pool = nil
	}
	return nil
}

// rest says whether nodes are left alone as far as possible.
func (s *standby) rest(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resting, s.away, s.silent = on, nil, nil
	s.closePeeked()
}

func (s *standby) closePeeked() {
	if s.peeked != nil {
		s.peeked.Close()
		s.peeked = nil
	}
}

// peekTimeout is how long nodes may take to answer while they rest: what is remembered may
// do.
const peekTimeout = 2 * time.Second

// peek reaches the nodes that run without starting any; once they rest no more, it starts
// them.
func (s *standby) peek(ctx context.Context) (*daemon.Pool, error) {
	s.mu.Lock()
	if !s.resting || s.pool != nil {
		s.mu.Unlock()
		return s.start(ctx)
	}
	defer s.mu.Unlock()
	if s.peeked != nil || s.silent != nil {
		return s.peeked, s.silent
	}
	soon, cancel := context.WithTimeoutCause(ctx, peekTimeout, fmt.Errorf("no node has answered within %s", peekTimeout))
	defer cancel()
	pool, err := daemon.Dial(soon, s.nodes.specs, s.nodes.dial)
	if err != nil {
		if ctx.Err() == nil {
			s.silent = err // once is enough to know
		}
		return nil, err
	}
	s.peeked = pool
	return pool, nil
}

// leaveOut keeps the nodes of these names from being used.
func (s *standby) leaveOut(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes.specs = slices.DeleteFunc(slices.Clone(s.nodes.specs), func(spec nodeset.Spec) bool { return slices.Contains(names, spec.Name) })
	if s.pool != nil {
		s.pool.Close()
		s.pool = nil
	}
}

// close ends what was started.
func (s *standby) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		c.Close()
	}
	var err error
	if s.registry != nil {
		err = s.registry.Close()
	}
	s.closePeeked()
	if s.pool != nil {
		s.pool.Close()
	}
	if s.nodes != nil {
		err = errors.Join(err, s.nodes.stop())
	}
	return err
}
