package engine

import (
	"context"
	"fmt"
	goruntime "runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/entitlement"
	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/local"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/nodeset/dockerengine"
)

// stopTimeout bounds how long a command waits for its own daemons to end.
const stopTimeout = 30 * time.Second

// registryVar is the variable in which a bake file finds the local registry.
const registryVar = "DBAKE_REGISTRY"

// nodes are the nodes of a session, those on this machine perhaps still to be
// started.
type nodes struct {
	specs   []nodeset.Spec
	cluster *local.Cluster // nil when no node is local
	started bool
	dial    daemon.DialOptions
	warn    func(string)
	note    func(string)
	choice  Nodes

	entitlements []string // insecure ones that local daemons must allow
}

// findNodes says which nodes are used, without contacting any.
func (e *Engine) findNodes(ctx context.Context, choice Nodes) (*nodes, error) {
	specs := choice.Specs
	var err error
	switch {
	case len(specs) > 0:
	case choice.Builder != "":
		specs, err = nodeset.FromBuilder(ctx, choice.Builder, e.Docker)
	default:
		specs, err = e.defaultNodes(ctx, choice)
	}
	if err == nil {
		err = nodeset.Resolve(specs, e.Docker)
	}
	if err != nil {
		return nil, err
	}
	if m := choice.Max; m > 0 {
		specs = slices.Clone(specs)
		for i := range specs {
			specs[i].Local = min(specs[i].Local, m) // more are not started
		}
	}
	n := &nodes{
		warn: e.Report.Warn, note: e.Report.Note, choice: choice,
		dial: daemon.DialOptions{Timeout: choice.Timeout, Patience: choice.patience(), Silent: func(node string, d time.Duration) {
			if d == 0 {
				e.Report.Note(fmt.Sprintf("node %s answers again", node))
				return
			}
			e.Report.Note(fmt.Sprintf("node %s has not answered for %s", node, d.Round(time.Second)))
		}},
	}
	count := 0
	for _, s := range specs {
		count += s.Local
	}
	if count > 0 {
		n.cluster, err = local.Open(ctx, local.Options{
			StateDir: choice.StateDir, Nodes: count, Buildkitd: choice.Buildkitd,
			Supervisor: e.Supervisor, Command: e.Command,
			Notify: e.Report.Note,
		})
		if err != nil {
			return nil, err
		}
	}
	n.specs = n.expand(specs)
	if choice.Drained {
		return n, nil
	}
	return n, n.spare()
}

// defaultNodes are the nodes of a command that names none: those that "cluster up"
// keeps running, unless the environment names a builder; else those of the builder;
// else one on this machine; where none can run, the BuildKit inside the Docker engine,
// if there is one.
func (e *Engine) defaultNodes(ctx context.Context, choice Nodes) ([]nodeset.Spec, error) {
	if choice.EngineFirst {
		if specs, ok, err := nodeset.Default(ctx, e.Docker); err != nil || ok {
			return specs, err
		}
		if addr, ok := e.answeringEngine(ctx); ok {
			return e.ownEngine(addr)
		}
	}
	if e.Env["BUILDX_BUILDER"] == "" {
		// A state that cannot be read has no cluster; opening it gives the warning.
		if kept, err := local.CountKept(ctx, choice.StateDir); err == nil && kept > 0 {
			e.Report.Note(fmt.Sprintf("using the %s that \"dbake cluster up\" keeps running", count(kept, "local node")))
			return nodeset.Parse([]string{fmt.Sprintf("local:%d", kept)})
		}
	}
	specs, ok, err := nodeset.Default(ctx, e.Docker)
	if err != nil || ok {
		return specs, err
	}
	if cannot := local.Possible(choice.Buildkitd); cannot != nil {
		if addr, ok := e.answeringEngine(ctx); ok {
			return e.ownEngine(addr)
		}
	}
	return nodeset.Parse([]string{"local:1"})
}

// ownEngine returns the Docker engine that the docker command would use, as a node.
func (e *Engine) ownEngine(addr string) ([]nodeset.Spec, error) {
	e.Report.Note(fmt.Sprintf("using the BuildKit inside the Docker engine at %s", addr))
	return nodeset.Parse([]string{"docker://"})
}

// engineTimeout bounds how long a Docker engine that nobody named may take to answer.
const engineTimeout = 2 * time.Second

// answeringEngine returns the address of the Docker engine that the docker command
// would use, if it answers.
func (e *Engine) answeringEngine(ctx context.Context) (addr string, ok bool) {
	engine, err := dockerengine.Open(e.Docker)
	if err != nil {
		return "", false
	}
	defer engine.Close()
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	_, err = engine.Info(ctx)
	return engine.Addr, err == nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// allow notes which insecure entitlements of the project's targets have been granted:
// local daemons allow no others.
func (n *nodes) allow(p *ir.Project) {
	for _, t := range p.Targets {
		for _, e := range t.Entitlements {
			if e == entitlement.NetworkHost || e == entitlement.SecurityInsecure {
				n.entitlements = append(n.entitlements, e)
			}
		}
	}
}

// expand replaces "local:N" by the nodes of the cluster.
func (n *nodes) expand(specs []nodeset.Spec) []nodeset.Spec {
	if n.cluster == nil {
		return specs
	}
	daemons := n.cluster.Nodes()
	var list []nodeset.Spec
	for _, s := range specs {
		for i := range s.Local {
			one := s
			one.Local, one.Beside = 0, len(n.cluster.Nodes())
			one.Name, one.Addr = daemons[i].Name, daemons[i].Addr
			list = append(list, one)
		}
		if s.Local > 0 {
			daemons = daemons[s.Local:]
		} else {
			list = append(list, s)
		}
	}
	return list
}

// start starts what is to be started and connects to the nodes. Those that do not
// answer soon are left out; they may join the run later.
func (n *nodes) start(ctx context.Context) (*daemon.Pool, error) {
	if n.cluster != nil {
		n.started = true
		if err := n.cluster.Start(ctx, n.entitlements...); err != nil {
			return nil, err
		}
	}
	if err := n.boot(ctx); err != nil {
		return nil, err
	}
	return daemon.Dial(ctx, n.specs, n.dial)
}

const (
	// bootTimeout bounds how long containers of nodes may take to be started; an image
	// may have to be pulled. wakeTimeout is how long BuildKit in one may take to answer.
	bootTimeout = 5 * time.Minute
	wakeTimeout = 30 * time.Second
	wakePause   = 200 * time.Millisecond
)

// boot starts the containers of nodes that stand still and waits until BuildKit in them
// answers. One that cannot be started is left to the dial, which reports it, unless it is the
// only node.
func (n *nodes) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("not ready within %s", bootTimeout))
	defer cancel()
	var eg errgroup.Group
	for _, s := range n.specs {
		eg.Go(func() error {
			booted, err := s.Boot(ctx, func(text string) { n.note(fmt.Sprintf("node %s: %s", s.Name, text)) })
			if err != nil && len(n.specs) > 1 && ctx.Err() == nil {
				n.warn(fmt.Sprintf("node %s: %v", s.Name, err))
				return nil
			}
			if err != nil || !booted {
				return err
			}
			waking, stop := context.WithTimeout(ctx, wakeTimeout)
			defer stop()
			for waking.Err() == nil && daemon.Ask(waking, []nodeset.Spec{s})[0].Err != nil {
				_ = pause.For(waking, wakePause) // its end ends the loop, too
			}
			return nil // the dial reports why it does not answer
		})
	}
	return eg.Wait()
}

// regrant starts local daemons again that were started before it was known what they
// must allow, as for reading a definition from a repository.
func (n *nodes) regrant(ctx context.Context) error {
	if n.cluster == nil || len(n.entitlements) == 0 {
		return nil
	}
	return n.cluster.Start(ctx, n.entitlements...)
}

// stop ends what start started.
func (n *nodes) stop() error {
	if n.cluster == nil || !n.started {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return n.cluster.Stop(ctx)
}

// environment is the environment that bake files see: with local nodes, the
// address of their registry is in it unless the user has set another.
func (n *nodes) environment(env map[string]string) map[string]string {
	if n == nil || n.cluster == nil {
		return env
	}
	out := make(map[string]string, len(env)+1)
	out[registryVar] = n.cluster.Registry()
	for k, v := range env {
		out[k] = v
	}
	return out
}

// mayRest reports whether a node is one of those on this machine, which run only
// while they are used.
func (n *nodes) mayRest(s nodeset.Spec) bool {
	return n.cluster != nil && slices.ContainsFunc(n.cluster.Nodes(), func(d local.Node) bool { return d.Name == s.Name && d.Addr == s.Addr })
}

// assumedSlots is the number of steps that an unknown node is counted on to run at once.
// BuildKit sets no limit of its own, and a run keeps to none. The more a plan counts on, the
// fewer nodes it uses.
const assumedSlots = 4

// localSlots is the number of steps that this machine is counted on to run at once.
func localSlots() int { return max(2, goruntime.NumCPU()) }

// thisMachine is the name of this machine as a plan knows it.
const thisMachine = "this machine"

// machine names what a node runs on, and how many steps that runs at once, as far as its
// spec says so.
func machine(s nodeset.Spec) (name string, shared int) {
	if s.Beside > 0 {
		return thisMachine, localSlots()
	}
	return "", 0
}

// slots returns the number of steps that a node is counted on to run at once until its machine
// is known. assumed is set when the user did not say, and why is then the basis. A node of this
// machine may run all that this bears: see machine for what its nodes run together.
func slots(s nodeset.Spec) (n int, why string, assumed bool) {
	switch {
	case s.Slots > 0:
		return s.Slots, "", false
	case s.Beside > 1:
		return localSlots(), fmt.Sprintf("it is one of %d nodes on this machine (processors: %d)", s.Beside, goruntime.NumCPU()), true
	case s.Beside > 0:
		return max(assumedSlots, localSlots()), "", true
	}
	return assumedSlots, "", true
}
