package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"
)

const (
	// readyTimeout bounds how long a daemon may take until it answers. A first
	// start creates databases, and the disk may take tens of milliseconds for
	// each of several hundred flushes.
	readyTimeout = 60 * time.Second

	// stopGrace is how long a daemon may take to end by itself.
	stopGrace = 10 * time.Second
)

// ErrInUse is returned by [Cluster.Start], [Cluster.StartRegistry] and [Up] when
// another process runs a cluster in the foreground on the same state directory.
var ErrInUse = errors.New("state directory in use")

// ErrNotRunning is returned by [Down] when there was nothing to stop.
var ErrNotRunning = errors.New("no cluster is running")

// Options says where a cluster keeps its state and how large it is.
type Options struct {
	// StateDir is created when missing; "" = [DefaultStateDir].
	StateDir string

	// Nodes is the number of daemons; 0 = 1, or all of those that run already
	// when the state directory holds a detached cluster.
	Nodes int

	// Buildkitd is the daemon's executable; "" = beside this executable, then PATH.
	Buildkitd string

	// Parallelism is how many steps one daemon runs at once; 0 = no limit.
	Parallelism int

	// Notify is told, one line at a time, what the user should know although it is
	// no error, such as a port that had to change. It may be nil.
	Notify func(line string) `json:"-"`
}

// Node is one daemon of a cluster.
type Node struct {
	Name    string // n1, n2, ...
	Addr    string // tcp://127.0.0.1:port
	LogFile string
}

// Cluster is a registry and some daemons on this machine. Start, StartRegistry
// and Stop must not overlap; the other methods may be called at any time, from
// any goroutine.
type Cluster struct {
	opts     Options
	dir      string
	attached bool

	mu       sync.Mutex // guards what follows
	state    state
	lock     *flock.Flock // held from Start or StartRegistry to Stop
	registry *Registry
	daemons  []*daemon
}

// DefaultStateDir returns $XDG_DATA_HOME/dbake, or ~/.local/share/dbake.
func DefaultStateDir() (string, error) {
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "dbake"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the local cluster's state: %w (give --state-dir)", err)
	}
	return filepath.Join(home, ".local", "share", "dbake"), nil
}

// Open settles the addresses of a cluster without starting anything. If a
// detached cluster runs on the state directory, the result is attached to it.
func Open(ctx context.Context, opts Options) (*Cluster, error) {
	return open(ctx, opts, true)
}

// open is Open; attach = false is for the supervisor, which must own its cluster.
func open(ctx context.Context, opts Options, attach bool) (*Cluster, error) {
	dir, err := stateDir(opts.StateDir)
	if err != nil {
		return nil, err
	}
	if opts.Nodes < 0 {
		return nil, fmt.Errorf("local cluster: %d nodes make no sense", opts.Nodes)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create state directory: %w", err)
	}
	c := &Cluster{opts: opts, dir: dir}

	lock, st, err := lockOrOwner(ctx, dir)
	if err != nil {
		return nil, err
	}
	if lock == nil {
		c.attached = attach && st.Owner.Detached
		if c.attached && opts.Nodes > st.Owner.Nodes {
			return nil, fmt.Errorf("the cluster running on %s has %d of the %d nodes asked for: stop it first with `dbake cluster down`",
				dir, st.Owner.Nodes, opts.Nodes)
		}
		n := opts.Nodes
		if n == 0 {
			n = st.Owner.Nodes
		}
		// A foreground owner may run fewer nodes than are asked for here. The others
		// get addresses all the same, so that a plan can be made; Start will report
		// the owner, unless it has ended by then.
		for len(st.Nodes) < n {
			if err := st.addNode(); err != nil {
				return nil, err
			}
		}
		st.Nodes = st.Nodes[:n]
		c.opts.Nodes = n
		c.state = *st
		return c, nil
	}
	defer lock.Unlock()
	if opts.Nodes == 0 {
		opts.Nodes = 1
		c.opts = opts
	}
	if err := st.reserve(opts.Nodes, c.notify); err != nil {
		return nil, err
	}
	if err := st.save(dir); err != nil {
		return nil, err
	}
	c.state = *st
	return c, nil
}

// Registry returns the registry's host:port.
func (c *Cluster) Registry() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Registry
}

// Nodes returns the daemons in order of their names. A port that was taken
// between Open and Start changes in Start.
func (c *Cluster) Nodes() []Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	nodes := make([]Node, c.opts.Nodes)
	for i := range nodes {
		nodes[i] = c.state.Nodes[i].node(c.dir)
	}
	return nodes
}

// Attached reports whether the cluster belongs to a supervisor, so that it is
// neither started nor stopped here.
func (c *Cluster) Attached() bool { return c.attached }

// StateDir returns the absolute path of the state directory.
func (c *Cluster) StateDir() string { return c.dir }

// StartRegistry starts the registry alone. It does nothing when the registry
// answers already, whoever runs it.
func (c *Cluster) StartRegistry(ctx context.Context) error {
	if err := pingRegistry(ctx, c.Registry()); err == nil {
		return nil
	}
	if c.attached {
		return fmt.Errorf("the cluster running on %s has no registry at %s: restart it with `dbake cluster down` and `dbake cluster up`", c.dir, c.Registry())
	}
	if err := c.acquire(ctx, false); err != nil {
		return err
	}
	if err := c.openRegistry(); err != nil {
		return errors.Join(err, c.Stop(ctx))
	}
	return nil
}

// Start starts the registry and the daemons and returns when all of them answer.
// When it fails, or ctx ends before, nothing is left running. Once it has
// returned, ctx has no say any more: call Stop.
func (c *Cluster) Start(ctx context.Context) error {
	if c.attached {
		return c.awaitAttached(ctx)
	}
	return c.start(ctx, false)
}

func (c *Cluster) start(ctx context.Context, detached bool) (err error) {
	programs, err := findPrograms(c.opts.Buildkitd)
	if err != nil {
		return err
	}
	if err := c.acquire(ctx, detached); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop(ctx))
		}
	}()
	if err := c.openRegistry(); err != nil {
		return err
	}

	c.mu.Lock()
	if err := c.state.reserveNodes(c.opts.Nodes, c.notify); err != nil {
		c.mu.Unlock()
		return err
	}
	conf := daemonConfig{
		registry:    c.state.Registry,
		parallelism: c.opts.Parallelism,
		nodes:       c.opts.Nodes,
		programs:    programs,
	}
	nodes := c.state.Nodes[:c.opts.Nodes]
	daemons := make([]*daemon, len(nodes))
	c.daemons = daemons
	c.mu.Unlock()

	eg, egCtx := errgroup.WithContext(ctx)
	for i, n := range nodes {
		eg.Go(func() error {
			d, err := startDaemon(n.node(c.dir), nodeDir(c.dir, n.Name), conf)
			if err != nil {
				return err
			}
			c.mu.Lock()
			daemons[i] = d
			c.mu.Unlock()
			return d.awaitReady(egCtx)
		})
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	return c.saveRunning()
}

// acquire takes the state directory for this process and clears away what a
// crashed predecessor left. It does nothing when this cluster holds it already.
func (c *Cluster) acquire(ctx context.Context, detached bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lock != nil {
		return nil
	}
	lock, st, err := lockOrOwner(ctx, c.dir)
	if err != nil {
		return err
	}
	if lock == nil {
		what := "a dbake"
		if st.Owner.Detached {
			what = "the detached cluster"
		}
		return fmt.Errorf("%w: %s is run by %s with process id %d; wait for it, or choose another --state-dir",
			ErrInUse, c.dir, what, st.Owner.PID)
	}
	if err := st.clearLeftovers(ctx, c.dir); err != nil {
		lock.Unlock()
		return err
	}
	// The file may have been rewritten by another process since Open; what was
	// promised to our caller stands.
	st.Registry = c.state.Registry
	for i := range c.state.Nodes {
		if i == len(st.Nodes) {
			st.Nodes = append(st.Nodes, c.state.Nodes[i])
		}
		st.Nodes[i].Addr = c.state.Nodes[i].Addr
	}
	self, err := processStart(os.Getpid())
	if err != nil {
		lock.Unlock()
		return err
	}
	st.Owner = &owner{PID: os.Getpid(), Started: self, Detached: detached, Nodes: c.opts.Nodes}
	if err := st.save(c.dir); err != nil {
		lock.Unlock()
		return err
	}
	c.lock, c.state = lock, *st
	return nil
}

func (c *Cluster) openRegistry() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.registry != nil {
		return nil
	}
	r, err := listenRegistry(filepath.Join(c.dir, "registry"), c.state.Registry)
	if err != nil {
		return err
	}
	c.registry = r
	return nil
}

// saveRunning records the daemons' process ids, for whoever must clear them away
// should this process die.
func (c *Cluster) saveRunning() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, d := range c.daemons {
		c.state.Nodes[i].PID, c.state.Nodes[i].Started = d.pid, d.started
	}
	return c.state.save(c.dir)
}

// awaitAttached waits until the daemons of the supervisor answer.
func (c *Cluster) awaitAttached(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	eg, ctx := errgroup.WithContext(ctx)
	for _, n := range c.Nodes() {
		eg.Go(func() error {
			if _, err := awaitWorkers(ctx, n.Addr); err != nil {
				return fmt.Errorf("node %s of the cluster running on %s does not answer at %s: %w%s",
					n.Name, c.dir, n.Addr, err, logTail(n.LogFile))
			}
			return nil
		})
	}
	return eg.Wait()
}

// Err returns nil while the named daemon runs, and otherwise an error with the end
// of its log. It knows nothing about daemons of an attached cluster.
func (c *Cluster) Err(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.daemons {
		if d != nil && d.node.Name == name {
			return d.err()
		}
	}
	return nil
}

// Stop ends what Start and StartRegistry started, waits for it, and removes what
// the daemons could not remove themselves. It always runs to its end: when ctx is
// done the daemons are killed instead of asked. A stopped cluster can be started
// again.
func (c *Cluster) Stop(ctx context.Context) error {
	c.mu.Lock()
	daemons, registry, lock := c.daemons, c.registry, c.lock
	c.daemons, c.registry, c.lock = nil, nil, nil
	c.mu.Unlock()
	if lock == nil {
		return nil
	}

	errs := make([]error, len(daemons))
	var wg sync.WaitGroup
	for i, d := range daemons {
		if d != nil {
			wg.Go(func() { errs[i] = d.stop(ctx) })
		}
	}
	wg.Wait()
	err := errors.Join(errs...)
	if registry != nil {
		err = errors.Join(err, registry.Close())
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Owner = nil
	for i := range c.state.Nodes {
		c.state.Nodes[i].PID, c.state.Nodes[i].Started = 0, 0
	}
	return errors.Join(err, c.state.save(c.dir), lock.Unlock())
}

func (c *Cluster) notify(format string, args ...any) {
	if c.opts.Notify != nil {
		c.opts.Notify(fmt.Sprintf(format, args...))
	}
}

func stateDir(dir string) (string, error) {
	if dir == "" {
		return DefaultStateDir()
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("state directory: %w", err)
	}
	return abs, nil
}

func nodeDir(stateDir, name string) string {
	return filepath.Join(stateDir, "nodes", name)
}
