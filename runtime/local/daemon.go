package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/dbake/dbake/internal/pause"
)

// daemonConfig is the configuration that all daemons of a cluster have in common.
type daemonConfig struct {
	registry     string
	parallelism  int
	nodes        int
	entitlements []string // sorted
	programs     programs
}

// daemon is one running buildkitd.
type daemon struct {
	node     Node
	stateDir string
	pid      int // of the first process of its namespace
	started  uint64

	exited  chan struct{} // closed when the process has been waited for
	waitErr error         // valid once exited is closed
}

// startDaemon starts a buildkitd that keeps everything it writes below the
// directory of its node, its sockets apart.
func startDaemon(stateDir string, node Node, conf daemonConfig) (*daemon, error) {
	fail := func(err error) (*daemon, error) {
		return nil, fmt.Errorf("start node %s: %w", node.Name, err)
	}
	dir := nodeDir(stateDir, node.Name)
	for _, d := range []string{"root", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o711); err != nil {
			return fail(err)
		}
	}
	toml, err := conf.toml(dir)
	if err != nil {
		return fail(err)
	}
	tomlFile := filepath.Join(dir, "buildkitd.toml")
	if err := os.WriteFile(tomlFile, []byte(toml), 0o644); err != nil {
		return fail(err)
	}
	// The log of the run before is often the one somebody asks for.
	if err := os.Rename(node.LogFile, node.LogFile+".old"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	logFile, err := os.OpenFile(node.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fail(err)
	}
	defer logFile.Close()

	// Paths travel as flags, which unlike TOML strings can hold any byte.
	command := daemonCommand(conf.programs.buildkitd,
		"--config", tomlFile,
		"--root", filepath.Join(dir, "root"),
		"--addr", node.Addr,
		"--otel-socket-path", traceSocket(stateDir, node.Name),
		"--oci-worker-binary", conf.programs.runc,
	)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Env = daemonEnv(os.Environ(), dir)
	cmd.SysProcAttr = daemonProcAttr()

	d := &daemon{node: node, stateDir: stateDir, exited: make(chan struct{})}
	startErr := make(chan error)
	go func() {
		// The signal at the death of the parent is sent when the parent's thread
		// dies, so this thread must live as long as the daemon.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		startErr <- err
		if err != nil {
			return
		}
		d.waitErr = cmd.Wait()
		close(d.exited)
	}()
	if err := <-startErr; err != nil {
		return fail(err)
	}
	d.pid = cmd.Process.Pid
	// An error means that it died already, which is reported by awaitReady.
	d.started, _ = processStart(d.pid)
	return d, nil
}

// daemonEnv returns the environment of a daemon. Temporary files, among which are
// mount points and secrets, go where sweep finds them.
func daemonEnv(env []string, dir string) []string {
	out := make([]string, 0, len(env)+1)
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		// Meant for this process's own service manager, tracing and log level.
		case "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "TRACEPARENT", "TRACESTATE", "BUILDKITD_LOG_LEVEL", "TMPDIR":
			continue
		}
		if strings.HasPrefix(name, "OTEL_") {
			continue
		}
		out = append(out, kv)
	}
	return append(out, "TMPDIR="+filepath.Join(dir, "tmp"))
}

// toml returns the daemon's configuration.
func (conf daemonConfig) toml(dir string) (string, error) {
	keep, err := cacheLimit(dir, conf.nodes)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(conf.registry)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	insecure := make([]string, len(conf.entitlements))
	for i, e := range conf.entitlements {
		insecure[i] = strconv.Quote(e)
	}
	fmt.Fprintf(&b, `# Written by dbake at every start.
insecure-entitlements = [%s]

[cdi]
  disabled = true

[history]
  maxEntries = 500

[worker.containerd]
  enabled = false

[worker.oci]
  enabled = true
  networkMode = "host"
  max-parallelism = %d
  gc = true
  reservedSpace = "%d"
  maxUsedSpace = "%d"
  minFreeSpace = "%d"

[registry."docker.io"]
  mirrors = ["%s"]
`, strings.Join(insecure, ", "), conf.parallelism, keep/10, keep, keep/20, conf.registry)
	for _, host := range []string{conf.registry, net.JoinHostPort("localhost", port)} {
		fmt.Fprintf(&b, "\n[registry.%q]\n  http = true\n", host)
	}
	return b.String(), nil
}

// cacheLimit returns how many bytes one of n daemons may keep: an even share of
// 60 % of the file system, and never more than 50 GB, which is far beyond what a
// local build needs.
func cacheLimit(dir string, n int) (int64, error) {
	total, err := diskSize(dir)
	if err != nil {
		return 0, fmt.Errorf("size of the file system of %s: %w", dir, err)
	}
	return min(total/10*6/int64(max(n, 1)), 50e9), nil
}

// awaitReady waits until the daemon answers and has a worker.
func (d *daemon) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("no answer within %s", readyTimeout))
	defer cancel()
	polled := make(chan error, 1)
	pollCtx, stopPolling := context.WithCancel(ctx)
	go func() {
		_, err := awaitWorkers(pollCtx, d.node.Addr)
		polled <- err
	}()
	select {
	case err := <-polled:
		stopPolling()
		if err == nil {
			return d.err()
		}
		if exitErr := d.err(); exitErr != nil {
			return exitErr
		}
		return fmt.Errorf("start node %s: %w%s", d.node.Name, err, logTail(d.node.LogFile))
	case <-d.exited:
		stopPolling()
		<-polled
		return d.err()
	}
}

// awaitWorkers asks the daemon at addr for its workers until it answers.
func awaitWorkers(ctx context.Context, addr string) ([]*client.WorkerInfo, error) {
	for {
		workers, err := listWorkers(ctx, addr)
		if err == nil {
			return workers, nil
		}
		if ended := pause.For(ctx, 50*time.Millisecond); ended != nil {
			return nil, errors.Join(ended, err)
		}
	}
}

func listWorkers(ctx context.Context, addr string) ([]*client.WorkerInfo, error) {
	// gRPC would back off for seconds after a refused connection; a plain
	// connection shows at once whether anybody listens.
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", strings.TrimPrefix(addr, "unix://"))
	if err != nil {
		return nil, err
	}
	conn.Close()
	c, err := client.New(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	workers, err := c.ListWorkers(ctx)
	if err != nil {
		return nil, err
	}
	if len(workers) == 0 {
		return nil, errors.New("the daemon has no worker")
	}
	return workers, nil
}

// err returns nil while the daemon runs.
func (d *daemon) err() error {
	select {
	case <-d.exited:
	default:
		return nil
	}
	how := "exit status 0"
	if d.waitErr != nil {
		how = d.waitErr.Error()
	}
	// A shell stands between, and gives the number of the signal that ended its child.
	var exit *exec.ExitError
	if errors.As(d.waitErr, &exit) && exit.ExitCode() > 128 {
		how = "signal: " + syscall.Signal(exit.ExitCode()-128).String()
	}
	return fmt.Errorf("node %s: buildkitd ended: %s%s", d.node.Name, how, logTail(d.node.LogFile))
}

// endedItself reports whether the daemon has ended without a signal.
func (d *daemon) endedItself() bool {
	select {
	case <-d.exited:
	default:
		return false
	}
	var exit *exec.ExitError
	return errors.As(d.waitErr, &exit) && exit.Exited() && exit.ExitCode() < 128
}

// stop ends the daemon and removes its leftovers. With ctx done it kills at once.
func (d *daemon) stop(ctx context.Context) error {
	if ctx.Err() == nil {
		if err := terminate(d.pid); err != nil {
			return fmt.Errorf("stop node %s: %w", d.node.Name, err)
		}
		grace := time.NewTimer(stopGrace)
		defer grace.Stop()
		select {
		case <-d.exited:
		case <-ctx.Done():
		case <-grace.C:
		}
	}
	select {
	case <-d.exited:
	default:
		if err := kill(d.pid); err != nil {
			return fmt.Errorf("kill node %s: %w", d.node.Name, err)
		}
		<-d.exited
	}
	if err := sweep(d.stateDir, d.node.Name); err != nil {
		return fmt.Errorf("remove the leftovers of node %s: %w", d.node.Name, err)
	}
	return nil
}

// logTail returns the last lines of a log, indented, to be appended to an error.
func logTail(path string) string {
	const maxBytes, maxLines = 4096, 10
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > maxBytes {
		if _, err := f.Seek(-maxBytes, io.SeekEnd); err != nil {
			return ""
		}
	}
	b, err := io.ReadAll(f)
	if err != nil || len(b) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	lines = lines[max(0, len(lines)-maxLines):]
	return "\nlast lines of " + path + ":\n  " + strings.Join(lines, "\n  ")
}
