package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/dbake/dbake/internal/pause"
)

const (
	// readyTimeout bounds how long a daemon may take until it answers. A first
	// start creates databases, and the disk may take tens of milliseconds for
	// each of several hundred flushes.
	readyTimeout = 60 * time.Second

	// stopGrace is how long a daemon may take to end by itself.
	stopGrace = 10 * time.Second

	// handover bounds how long a cluster that stops is waited for, or one whose
	// supervisor is just starting.
	handover = 30 * time.Second

	// farewell is how long Stop waits for a supervisor to end, which it does by
	// itself as well.
	farewell = 4 * time.Second
)

// ErrInUse is returned by [Cluster.Start], [Up] and [Down] when a process that shares
// no cluster runs one on the same state directory.
var ErrInUse = errors.New("state directory in use")

// ErrNotRunning is returned by [Down] when there was nothing to stop.
var ErrNotRunning = errors.New("no cluster is running")

// Options choose where a cluster keeps its state and how large it is.
type Options struct {
	// StateDir is created when missing; "" = [DefaultStateDir].
	StateDir string

	// Nodes is the number of daemons; 0 = all those that are kept running, else 1.
	Nodes int

	// Buildkitd is the daemon's executable; "" = that of the cluster that runs, else
	// beside this executable, then PATH.
	Buildkitd string

	// Parallelism is how many steps one daemon runs at once; 0 = no limit.
	Parallelism int

	// Supervisor is a command line that ends in a call of [Supervise], normally this
	// executable with a hidden subcommand. With it the daemons are shared with other
	// processes that use the same state directory. Without, they are those of this
	// process alone and die with it.
	Supervisor []string `json:"-"`

	// Command is how other users see this one, as "dbake build".
	Command string `json:"-"`

	// Notify takes remarks for the user, one line at a time, such as a port that had to
	// change. It may be nil.
	Notify func(line string) `json:"-"`
}

// Node is one daemon of a cluster.
type Node struct {
	Name    string // n1, n2, ...
	Addr    string // unix://path
	LogFile string
}

// Cluster is a registry and some daemons on this machine. Start and Stop must not
// overlap; the other methods may be called at any time, from any goroutine.
type Cluster struct {
	opts Options
	dir  string
	kept int

	mu        sync.Mutex // guards what follows
	registry  string
	host      *host // of this process; nil when not started, or shared
	user      *user // of host
	member    *member
	wants     Wants
	buildkitd string // of the supervisor that was joined last
	unwatch   func() // ends the watch over member, and waits for it
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

// CountKept returns how many nodes [Up] keeps running on a state directory ("" =
// [DefaultStateDir]); 0 = none.
func CountKept(ctx context.Context, dir string) (int, error) {
	dir, err := stateDir(dir)
	if err != nil {
		return 0, err
	}
	st, err := readState(ctx, dir)
	if err != nil {
		return 0, err
	}
	if by := st.alive(); by != nil {
		return by.Kept, nil
	}
	return 0, nil
}

// Open settles the addresses of a cluster without starting anything.
func Open(ctx context.Context, opts Options) (*Cluster, error) {
	dir, err := stateDir(opts.StateDir)
	if err != nil {
		return nil, err
	}
	if opts.Nodes < 0 {
		return nil, fmt.Errorf("local cluster: %d nodes make no sense", opts.Nodes)
	}
	c := &Cluster{opts: opts, dir: dir}
	if err := makeStateDir(dir, c.notify); err != nil {
		return nil, err
	}
	lock, st, err := lockOrOwner(ctx, dir)
	if err != nil {
		return nil, err
	}
	if lock == nil {
		c.kept = st.Owner.Kept
	} else {
		defer lock.Unlock()
		if st.lost != "" {
			c.say(st.lost)
		}
		if err := st.reserve(c.notify); err != nil {
			return nil, err
		}
		if err := st.save(dir); err != nil {
			return nil, err
		}
	}
	if c.opts.Nodes == 0 {
		c.opts.Nodes = max(c.kept, 1)
	}
	c.registry = st.Registry
	return c, nil
}

// Registry returns the registry's host:port. A port that was taken between Open and
// Start changes in Start.
func (c *Cluster) Registry() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.registry
}

// Nodes returns the daemons in order of their names.
func (c *Cluster) Nodes() []Node {
	nodes := make([]Node, c.opts.Nodes)
	for i := range nodes {
		nodes[i] = nodeOf(c.dir, i)
	}
	return nodes
}

// KeptNodes returns how many nodes were kept running on the state directory by [Up] when
// the cluster was opened.
func (c *Cluster) KeptNodes() int { return c.kept }

// StateDir returns the absolute path of the state directory.
func (c *Cluster) StateDir() string { return c.dir }

// Start starts the registry and the daemons, or joins those who use them already, and
// returns when they answer. Entitlements are the insecure ones that the daemons must allow:
// network.host, security.insecure. When it fails, or ctx ends before, this process uses
// nothing. Once it has returned, ctx no longer matters: call Stop. A cluster that was
// started may be started again, with other entitlements.
func (c *Cluster) Start(ctx context.Context, entitlements ...string) error {
	wants := Wants{
		Nodes: c.opts.Nodes, Entitlements: slices.Compact(slices.Sorted(slices.Values(entitlements))),
		Parallelism: c.opts.Parallelism,
	}
	if c.opts.Buildkitd != "" {
		var err error
		if wants.Buildkitd, err = findBuildkitd(c.opts.Buildkitd); err != nil {
			return err
		}
	}
	if len(c.opts.Supervisor) == 0 {
		return c.startAlone(ctx, wants)
	}
	c.mu.Lock()
	c.wants = wants
	m, unwatch := c.member, c.unwatch
	c.member, c.unwatch = nil, nil
	c.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}
	if m == nil {
		return c.joinAndWatch(ctx)
	}
	r, err := m.call(ctx, request{Op: "join", User: c.self(), Wants: wants}, c.say)
	if err != nil {
		m.close()
		if errors.Is(err, errEnding) {
			return c.joinAndWatch(ctx)
		}
		return err
	}
	c.addMember(m, r)
	return nil
}

// startAlone runs the daemons in this process.
func (c *Cluster) startAlone(ctx context.Context, wants Wants) error {
	c.mu.Lock()
	h, u := c.host, c.user
	c.mu.Unlock()
	if h == nil {
		var err error
		if h, err = newHost(ctx, c.dir, c.opts, false, c.notify); err != nil {
			return err
		}
		u = &user{User: c.self()}
	}
	if err := h.join(ctx, u, wants, c.say); err != nil {
		c.mu.Lock()
		c.host, c.user = nil, nil
		c.mu.Unlock()
		return errors.Join(err, h.close(ctx))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.host, c.user, c.registry = h, u, h.registry.Addr
	return nil
}

func (c *Cluster) self() User { return User{PID: os.Getpid(), Command: c.opts.Command} }

// joinAndWatch joins the supervisor's users, and does so again whenever the
// supervisor dies.
func (c *Cluster) joinAndWatch(ctx context.Context) error {
	m, r, err := c.join(ctx, c.say)
	if err != nil {
		return err
	}
	c.addMember(m, r)
	return nil
}

func (c *Cluster) addMember(m *member, r reply) {
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.member, c.registry, c.buildkitd = m, r.Registry, r.Buildkitd
	c.unwatch = func() {
		cancel()
		<-watched
	}
	go func() {
		defer close(watched)
		c.watch(ctx, m)
	}()
}

// watch joins again when the supervisor is gone, until ctx ends.
func (c *Cluster) watch(ctx context.Context, m *member) {
	for backoff := minBackoff; ; {
		select {
		case <-m.gone:
		case <-ctx.Done():
			return
		}
		m.close()
		next, _, err := c.join(ctx, func(string) {})
		if err == nil {
			m, backoff = next, minBackoff
			c.mu.Lock()
			c.member = m
			c.mu.Unlock()
			continue
		}
		if pause.For(ctx, backoff) != nil {
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// join starts a supervisor unless there is one, and asks it for the nodes.
func (c *Cluster) join(ctx context.Context, notify func(string)) (*member, reply, error) {
	c.mu.Lock()
	wants := c.wants
	c.mu.Unlock()
	var m *member
	var joined reply
	err := withSupervisor(ctx, c.dir, c.options(wants), func(found *member) (err error) {
		m = found
		joined, err = m.call(ctx, request{Op: "join", User: c.self(), Wants: wants}, notify)
		return err
	})
	return m, joined, err
}

func (c *Cluster) options(w Wants) Options {
	opts := c.opts
	opts.StateDir, opts.Buildkitd = c.dir, w.Buildkitd
	if opts.Buildkitd == "" {
		// One that takes the place of another that died does as that did.
		c.mu.Lock()
		defer c.mu.Unlock()
		opts.Buildkitd = c.buildkitd
	}
	return opts
}

// Err returns nil while the named daemon answers, and otherwise an error with the end
// of its log. It knows nothing about daemons that are shared.
func (c *Cluster) Err(name string) error {
	c.mu.Lock()
	h := c.host
	c.mu.Unlock()
	if h == nil {
		return nil
	}
	return h.err(name)
}

// Stop ends the use of what Start started or joined. When nobody else uses it and it
// is not kept, it ends: Stop waits for that, and removes what the daemons could not
// remove themselves. A stopped cluster can be started again.
//
// Daemons of this process end in any case; when ctx is done they are killed instead
// of asked. A supervisor that takes longer than some seconds ends them by itself.
func (c *Cluster) Stop(ctx context.Context) error {
	c.mu.Lock()
	h, unwatch := c.host, c.unwatch
	c.host, c.user, c.unwatch = nil, nil, nil
	c.mu.Unlock()
	if h != nil {
		return h.close(ctx)
	}
	if unwatch == nil {
		return nil
	}
	unwatch()
	c.mu.Lock()
	m := c.member
	c.member = nil
	c.mu.Unlock()
	defer m.close() // which is as good as a farewell
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	r, err := m.call(ctx, request{Op: "leave"}, c.say)
	if err != nil || !r.Ending {
		return nil // it is gone, or others stay
	}
	select {
	case <-m.gone:
	case <-ctx.Done():
	}
	return nil
}

func (c *Cluster) say(line string) {
	if c.opts.Notify != nil {
		c.opts.Notify(line)
	}
}

func (c *Cluster) notify(format string, args ...any) { c.say(fmt.Sprintf(format, args...)) }

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
