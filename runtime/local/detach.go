package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"golang.org/x/sync/errgroup"
)

// readyFD is the descriptor on which a supervisor tells Up how its start went.
const readyFD = 3

// readyMark is the report of a supervisor whose cluster runs. Any other report is
// the text of an error, and none at all means that the supervisor died.
const readyMark = "ready\n"

// Up starts a cluster that stays when this process ends, and returns when it
// answers. Argv is a command line that ends in a call of [Supervise], normally
// this executable with a hidden subcommand. A cluster that runs already, and has
// at least the nodes asked for, is left as it is.
func Up(ctx context.Context, opts Options, argv []string) (*Status, error) {
	dir, err := stateDir(opts.StateDir)
	if err != nil {
		return nil, err
	}
	opts.StateDir = dir
	// Settles the ports, so that notices about them reach the user and not a log.
	c, err := Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	if c.Attached() {
		if err := c.Start(ctx); err != nil {
			return nil, err
		}
		return ReadStatus(ctx, dir)
	}
	opts.Nodes = len(c.Nodes())
	found, err := findPrograms(opts.Buildkitd)
	if err != nil {
		return nil, err
	}
	opts.Buildkitd = found.buildkitd
	if err := startSupervisor(ctx, opts, argv); err != nil {
		return nil, err
	}
	return ReadStatus(ctx, dir)
}

func startSupervisor(ctx context.Context, opts Options, argv []string) error {
	if len(argv) == 0 {
		return errors.New("start the cluster's supervisor: no command given")
	}
	input, err := json.Marshal(opts)
	if err != nil {
		return fmt.Errorf("start the cluster's supervisor: %w", err)
	}
	logPath := filepath.Join(opts.StateDir, "supervisor.log")
	logFile, err := os.Create(logPath)
	if err != nil {
		return fmt.Errorf("start the cluster's supervisor: %w", err)
	}
	defer logFile.Close()
	ready, report, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the cluster's supervisor: %w", err)
	}
	defer ready.Close()
	defer report.Close()
	stdin, options, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the cluster's supervisor: %w", err)
	}
	defer stdin.Close()
	// Far below what a pipe holds, so nobody needs to read it yet.
	_, err = options.Write(input)
	if err := errors.Join(err, options.Close()); err != nil {
		return fmt.Errorf("start the cluster's supervisor: %w", err)
	}

	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = opts.StateDir
	cmd.Stdin = stdin
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{report} // becomes readyFD
	cmd.SysProcAttr = detachedProcAttr()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the cluster's supervisor: %w", err)
	}
	// From here on the supervisor holds the only writing end: its death is an end of file.
	report.Close()

	type result struct {
		report []byte
		err    error
	}
	read := make(chan result, 1)
	go func() {
		b, err := io.ReadAll(ready)
		read <- result{b, err}
	}()
	var r result
	select {
	case r = <-read:
	case <-ctx.Done():
		// It stops its daemons itself, and they die with it if it cannot.
		err := terminate(cmd.Process.Pid)
		grace := time.AfterFunc(2*stopGrace, func() { cmd.Process.Kill() })
		defer grace.Stop()
		<-read
		cmd.Wait() // its exit status says no more than our context
		return errors.Join(context.Cause(ctx), err)
	}
	if r.err == nil && string(r.report) == readyMark {
		return cmd.Process.Release()
	}
	waitErr := cmd.Wait()
	if len(r.report) > 0 {
		return errors.New(string(r.report))
	}
	return fmt.Errorf("the cluster's supervisor ended before the cluster was ready: %w%s",
		errors.Join(r.err, waitErr), logTail(logPath))
}

// Supervise runs a detached cluster until the process is asked to end or ctx is
// done. It is the other half of [Up], which gives it its options on standard input.
func Supervise(ctx context.Context) error {
	closeOnExec(readyFD)
	report := os.NewFile(readyFD, "ready")
	defer report.Close()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	c, err := startSupervised(ctx)
	if err != nil {
		fmt.Fprint(report, err)
		return err
	}
	if _, err := io.WriteString(report, readyMark); err != nil {
		return errors.Join(fmt.Errorf("report to the starting process: %w", err), c.Stop(ctx))
	}
	if err := report.Close(); err != nil {
		return errors.Join(fmt.Errorf("report to the starting process: %w", err), c.Stop(ctx))
	}
	<-ctx.Done()
	// The context that ended is the order to stop, not to hurry.
	return c.Stop(context.WithoutCancel(ctx))
}

func startSupervised(ctx context.Context) (*Cluster, error) {
	var opts Options
	if err := json.NewDecoder(os.Stdin).Decode(&opts); err != nil {
		return nil, fmt.Errorf("read the cluster's options: %w (this command is started by `dbake cluster up`)", err)
	}
	opts.Notify = func(line string) { fmt.Fprintln(os.Stderr, line) }
	c, err := open(ctx, opts, false)
	if err != nil {
		return nil, err
	}
	return c, c.start(ctx, true)
}

// Down stops the detached cluster of a state directory ("" = [DefaultStateDir])
// and waits for its end. It also removes what a crashed cluster left there. It
// returns [ErrNotRunning] when no cluster ran.
func Down(ctx context.Context, dir string) error {
	dir, err := stateDir(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "cluster.json")); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w on %s", ErrNotRunning, dir)
	}
	lock, st, err := lockOrOwner(ctx, dir)
	if err != nil {
		return err
	}
	running := lock == nil
	if running {
		if !st.Owner.Detached {
			return fmt.Errorf("%w: the cluster on %s belongs to a running dbake with process id %d and ends with it", ErrInUse, dir, st.Owner.PID)
		}
		// Twice the grace: the supervisor gives that much to each daemon.
		if err := endProcess(ctx, st.Owner.PID, st.Owner.Started, 2*stopGrace); err != nil {
			return fmt.Errorf("stop the cluster on %s: %w", dir, err)
		}
		if lock, st, err = lockOrOwner(ctx, dir); err != nil {
			return err
		}
		if lock == nil {
			return fmt.Errorf("%w: another cluster was started on %s meanwhile", ErrInUse, dir)
		}
	}
	defer lock.Unlock()
	if err := st.clearLeftovers(ctx, dir); err != nil {
		return err
	}
	if err := st.save(dir); err != nil {
		return err
	}
	if !running {
		return fmt.Errorf("%w on %s", ErrNotRunning, dir)
	}
	return nil
}

// Status is what can be seen of a cluster from outside.
type Status struct {
	StateDir string
	Running  bool // somebody runs it; the daemons may be dead all the same
	Detached bool // it is run by a supervisor, not by a build in the foreground
	PID      int  // of whoever runs it; 0 = nobody
	Registry RegistryStatus
	Nodes    []NodeStatus // in order of their names
}

// RegistryStatus is the registry's part of a Status.
type RegistryStatus struct {
	Addr  string // host:port; "" = no cluster was ever started here
	Alive bool
}

// NodeStatus is one daemon's part of a Status.
type NodeStatus struct {
	Node
	PID       int
	Alive     bool
	Problem   string   // why Alive is false
	Version   string   // of buildkitd
	Platforms []string // the native one first
	CacheSize int64    // bytes in the node's build cache
}

// ReadStatus looks at the cluster of a state directory ("" = [DefaultStateDir]).
func ReadStatus(ctx context.Context, dir string) (*Status, error) {
	dir, err := stateDir(dir)
	if err != nil {
		return nil, err
	}
	st, err := loadState(dir)
	if err != nil {
		return nil, err
	}
	s := &Status{StateDir: dir, Registry: RegistryStatus{Addr: st.Registry}}
	nodes := st.Nodes
	if st.Owner != nil && processAlive(st.Owner.PID, st.Owner.Started) {
		s.Running, s.Detached, s.PID = true, st.Owner.Detached, st.Owner.PID
		nodes = nodes[:min(st.Owner.Nodes, len(nodes))]
		s.Registry.Alive = pingRegistry(ctx, st.Registry) == nil
	}
	s.Nodes = make([]NodeStatus, len(nodes))
	var eg errgroup.Group
	for i, n := range nodes {
		s.Nodes[i] = NodeStatus{Node: n.node(dir), PID: n.PID, Problem: "not running"}
		if s.Running {
			eg.Go(func() error {
				s.Nodes[i].look(ctx)
				return nil
			})
		}
	}
	return s, errors.Join(eg.Wait(), ctx.Err())
}

// look asks the daemon for what only it knows.
func (n *NodeStatus) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	workers, err := listWorkers(ctx, n.Addr)
	if err != nil {
		n.Problem = err.Error()
		return
	}
	n.Version = workers[0].BuildkitVersion.Version
	for _, p := range workers[0].Platforms {
		n.Platforms = append(n.Platforms, platforms.Format(p))
	}
	c, err := client.New(ctx, n.Addr)
	if err != nil {
		n.Problem = err.Error()
		return
	}
	defer c.Close()
	usage, err := c.DiskUsage(ctx)
	if err != nil {
		n.Problem = err.Error()
		return
	}
	for _, u := range usage {
		n.CacheSize += u.Size
	}
	n.Alive, n.Problem = true, ""
}
