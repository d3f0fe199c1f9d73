//go:build integration

package local_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/dbake/dbake/runtime/local"
	"github.com/dbake/dbake/runtime/local/localtest"
)

// childEnv makes the test binary play another process instead of running tests.
const childEnv = "DBAKE_LOCAL_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "supervisor":
		if err := local.Supervise(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "builder":
		if err := buildForever(context.Background()); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
}

// buildForever runs a cluster in the foreground, and on it a step that never ends.
func buildForever(ctx context.Context) error {
	c, err := local.Open(ctx, local.Options{StateDir: os.Args[1], Nodes: 2, Buildkitd: os.Args[2]})
	if err != nil {
		return err
	}
	if err := c.Start(ctx); err != nil {
		return err
	}
	return runSteps(ctx, c, "echo running; sleep 100000", func() { fmt.Println("running") })
}

// runSteps runs a shell command on each node and calls running when each has
// written the word to its log.
func runSteps(ctx context.Context, c *local.Cluster, command string, running func()) error {
	eg, ctx := errgroup.WithContext(ctx)
	lines := make(chan struct{})
	for _, n := range c.Nodes() {
		eg.Go(func() error { return runStep(ctx, n.Addr, command, lines) })
	}
	eg.Go(func() error {
		for range c.Nodes() {
			select {
			case <-lines:
			case <-ctx.Done():
				return nil
			}
		}
		running()
		return nil
	})
	return eg.Wait()
}

func runStep(ctx context.Context, addr, command string, line chan<- struct{}) error {
	bk, err := client.New(ctx, addr)
	if err != nil {
		return err
	}
	defer bk.Close()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	root := llb.Scratch().File(llb.Copy(llb.Local("bin", llb.FollowPaths([]string{"busybox"})), "busybox", "/bin/"))
	bin, err := fsutil.NewFS(filepath.Dir(busybox))
	if err != nil {
		return err
	}
	def, err := root.Run(llb.Args([]string{"/bin/busybox", "sh", "-c", command})).Marshal(ctx)
	if err != nil {
		return err
	}
	eg, ctx := errgroup.WithContext(ctx)
	status := make(chan *client.SolveStatus)
	eg.Go(func() error {
		_, err := bk.Solve(ctx, def, client.SolveOpt{LocalMounts: map[string]fsutil.FS{"bin": bin}}, status)
		return err
	})
	eg.Go(func() error {
		for s := range status {
			for _, l := range s.Logs {
				if strings.Contains(string(l.Data), "running") {
					select {
					case line <- struct{}{}:
					case <-ctx.Done():
					}
				}
			}
		}
		return nil
	})
	return eg.Wait()
}

const bundlePattern = "nodes/*/root/runc-*/executor/*/config.json"

// requireNothingLeft checks that nothing on this machine has to do with a state
// directory any more, apart from the state itself, and that the state holds
// nothing volatile.
func requireNothingLeft(t *testing.T, dir string) {
	t.Helper()
	requireNothingRunning(t, dir)
	for _, pattern := range []string{"nodes/*/tmp/*", "nodes/*/trace.sock", bundlePattern} {
		left, err := filepath.Glob(filepath.Join(dir, pattern))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

// requireNothingRunning checks that there are no processes, mounts and containers
// of a state directory.
func requireNothingRunning(t *testing.T, dir string) {
	t.Helper()
	require.Empty(t, processesOf(t, dir), "processes")
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	require.NoError(t, err)
	require.Empty(t, mounts, "mounts")
	states, err := filepath.Glob("/run/runc/*/state.json")
	require.NoError(t, err)
	for _, s := range states {
		if b, err := os.ReadFile(s); err == nil {
			require.NotContains(t, string(b), dir, "container %s", s)
		}
	}
}

// processesOf returns the ids of the processes that name the directory in their
// command line, have it as their working directory, or live in a root below it.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	var found []string
	for _, p := range procs {
		if p == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		cmdline, _ := os.ReadFile(p + "/cmdline")
		cwd, _ := os.Readlink(p + "/cwd")
		mounts, _ := os.ReadFile(p + "/mountinfo")
		if strings.Contains(string(cmdline), dir) || strings.HasPrefix(cwd, dir) ||
			strings.Contains(string(cmdline), "sleep\x00100000") && strings.Contains(string(mounts), dir) {
			found = append(found, filepath.Base(p)+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}

// exitOf returns a function that waits for the end of a process that is not our
// child.
func exitOf(t *testing.T, pid int) func() {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return func() {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
			if err == unix.EINTR {
				continue
			}
			require.NoError(t, err)
			require.Equal(t, 1, n, "process %d did not end", pid)
			return
		}
	}
}

func nodePIDs(t *testing.T, dir string) []int {
	t.Helper()
	s, err := local.ReadStatus(t.Context(), dir)
	require.NoError(t, err)
	var pids []int
	for _, n := range s.Nodes {
		require.NotZero(t, n.PID)
		pids = append(pids, n.PID)
	}
	return pids
}

func child(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), childEnv+"="+role)
	return cmd
}

func TestStartStop(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	opts := local.Options{StateDir: dir, Nodes: 2, Buildkitd: localtest.Buildkitd(t)}
	c, err := local.Open(t.Context(), opts)
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context()))
	ran := false
	require.NoError(t, runSteps(t.Context(), c, "echo running", func() { ran = true }))
	require.True(t, ran)
	for _, n := range c.Nodes() {
		require.NoError(t, c.Err(n.Name))
		require.FileExists(t, n.LogFile)
	}

	s, err := local.ReadStatus(t.Context(), dir)
	require.NoError(t, err)
	require.True(t, s.Running)
	require.False(t, s.Detached)
	require.True(t, s.Registry.Alive)
	require.Len(t, s.Nodes, 2)
	for _, n := range s.Nodes {
		require.True(t, n.Alive, n.Problem)
		require.NotEmpty(t, n.Platforms)
		require.Positive(t, n.CacheSize)
	}

	// While it runs, others see it and are kept out.
	other, err := local.Open(t.Context(), opts)
	require.NoError(t, err)
	require.Equal(t, c.Registry(), other.Registry())
	require.Equal(t, c.Nodes(), other.Nodes())
	err = other.Start(t.Context())
	require.ErrorIs(t, err, local.ErrInUse)
	require.ErrorContains(t, err, fmt.Sprint(os.Getpid()))
	require.ErrorIs(t, local.Down(t.Context(), dir), local.ErrInUse)
	larger, err := local.Open(t.Context(), local.Options{StateDir: dir, Nodes: 3})
	require.NoError(t, err)
	require.Equal(t, c.Nodes(), larger.Nodes()[:2])

	require.NoError(t, c.Stop(t.Context()))
	require.NoError(t, c.Stop(t.Context()))
	requireNothingLeft(t, dir)

	require.NoError(t, other.Start(t.Context()))
	require.NoError(t, other.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

func TestStopInAHurryDuringAStep(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	c, err := local.Open(t.Context(), local.Options{StateDir: dir, Nodes: 2, Buildkitd: localtest.Buildkitd(t)})
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, c.Stop(context.Background())) })

	done := make(chan error, 1)
	running := make(chan struct{})
	go func() {
		done <- runSteps(t.Context(), c, "echo running; sleep 100000", func() { close(running) })
	}()
	select {
	case <-running:
	case err := <-done:
		require.NoError(t, err)
	}
	require.NotEmpty(t, processesOf(t, dir))
	hurry, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, c.Stop(hurry))
	require.Error(t, <-done)
	requireNothingLeft(t, dir)
}

func TestCancelledStart(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	// A daemon that says so when it starts.
	fifo := filepath.Join(t.TempDir(), "started")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	talking := filepath.Join(t.TempDir(), "buildkitd")
	script := fmt.Sprintf("#!/bin/sh\necho started >%q\nexec %q \"$@\"\n", fifo, localtest.Buildkitd(t))
	require.NoError(t, os.WriteFile(talking, []byte(script), 0o755))
	c, err := local.Open(t.Context(), local.Options{StateDir: dir, Nodes: 1, Buildkitd: talking})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	started := make(chan error, 1)
	go func() { started <- c.Start(ctx) }()
	_, err = os.ReadFile(fifo)
	require.NoError(t, err)
	cancel()
	err = <-started
	require.ErrorIs(t, err, context.Canceled)
	requireNothingLeft(t, dir)
}

func TestKilledOwnerTakesItsDaemonsAlong(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	owner := child(t, "builder", dir, localtest.Buildkitd(t))
	out, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "running\n", line)
	var exits []func()
	for _, pid := range nodePIDs(t, dir) {
		exits = append(exits, exitOf(t, pid))
	}
	require.NoError(t, owner.Process.Kill())
	require.Error(t, owner.Wait())
	for _, exit := range exits {
		exit()
	}
	requireNothingRunning(t, dir)

	c, err := local.Open(t.Context(), local.Options{StateDir: dir, Nodes: 2, Buildkitd: localtest.Buildkitd(t)})
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context()))
	require.NoError(t, c.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

func TestStartClearsAwayWhatAKilledDaemonLeft(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	owner := child(t, "builder", dir, localtest.Buildkitd(t))
	out, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	// Daemons that cannot clean up.
	for _, pid := range nodePIDs(t, dir) {
		exit := exitOf(t, pid)
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
		exit()
	}
	rest, err := io.ReadAll(out)
	require.NoError(t, err)
	require.Contains(t, string(rest), "error:")
	require.Error(t, owner.Wait())
	requireNothingRunning(t, dir)
	bundles, err := filepath.Glob(filepath.Join(dir, bundlePattern))
	require.NoError(t, err)
	require.NotEmpty(t, bundles, "the test needs something to be left")

	require.ErrorIs(t, local.Down(t.Context(), dir), local.ErrNotRunning)
	requireNothingLeft(t, dir)
}

func TestDaemonThatDiesAtStart(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	fake := filepath.Join(t.TempDir(), "buildkitd")
	require.NoError(t, os.WriteFile(fake, []byte("#!/bin/sh\necho no room for a database >&2\nexit 3\n"), 0o755))
	c, err := local.Open(t.Context(), local.Options{StateDir: dir, Nodes: 2, Buildkitd: fake})
	require.NoError(t, err)
	err = c.Start(t.Context())
	require.ErrorContains(t, err, "buildkitd ended: exit status 3")
	require.ErrorContains(t, err, "no room for a database")
	requireNothingLeft(t, dir)
}

func TestDaemonThatDiesLater(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	c, err := local.Open(t.Context(), local.Options{StateDir: dir, Nodes: 2, Buildkitd: localtest.Buildkitd(t)})
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context()))
	pid := nodePIDs(t, dir)[1]
	exit := exitOf(t, pid)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	exit()
	s, err := local.ReadStatus(t.Context(), dir)
	require.NoError(t, err)
	require.True(t, s.Nodes[0].Alive)
	require.False(t, s.Nodes[1].Alive)
	require.NotEmpty(t, s.Nodes[1].Problem)
	require.NoError(t, c.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

func TestPortTakenBetweenOpenAndStart(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	var notices []string
	c, err := local.Open(t.Context(), local.Options{
		StateDir: dir, Nodes: 2, Buildkitd: localtest.Buildkitd(t),
		Notify: func(line string) { notices = append(notices, line) },
	})
	require.NoError(t, err)
	before := c.Nodes()
	l, err := net.Listen("tcp", strings.TrimPrefix(before[0].Addr, "tcp://"))
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, c.Start(t.Context()))
	require.Len(t, notices, 1)
	require.NotEqual(t, before[0].Addr, c.Nodes()[0].Addr)
	require.Equal(t, before[1], c.Nodes()[1])
	require.NoError(t, c.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

func TestDetached(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	t.Setenv(childEnv, "supervisor")
	opts := local.Options{StateDir: dir, Nodes: 2, Buildkitd: localtest.Buildkitd(t)}
	up, err := local.Up(t.Context(), opts, []string{os.Args[0]})
	require.NoError(t, err)
	t.Cleanup(func() { local.Down(context.Background(), dir) })
	require.True(t, up.Running && up.Detached && up.Registry.Alive)
	require.NotEqual(t, os.Getpid(), up.PID)
	require.Len(t, up.Nodes, 2)
	for _, n := range up.Nodes {
		require.True(t, n.Alive, n.Problem)
	}

	again, err := local.Up(t.Context(), local.Options{StateDir: dir, Buildkitd: opts.Buildkitd}, []string{os.Args[0]})
	require.NoError(t, err)
	require.Equal(t, up.PID, again.PID)
	_, err = local.Up(t.Context(), local.Options{StateDir: dir, Nodes: 3}, []string{os.Args[0]})
	require.ErrorContains(t, err, "has 2 of the 3 nodes")

	// Builds attach to it and leave it running.
	c, err := local.Open(t.Context(), local.Options{StateDir: dir})
	require.NoError(t, err)
	require.True(t, c.Attached())
	require.Equal(t, up.Registry.Addr, c.Registry())
	require.Len(t, c.Nodes(), 2)
	require.NoError(t, c.Start(t.Context()))
	require.NoError(t, c.StartRegistry(t.Context()))
	require.NoError(t, runSteps(t.Context(), c, "echo running", func() {}))
	require.NoError(t, c.Stop(t.Context()))
	one, err := local.Open(t.Context(), local.Options{StateDir: dir, Nodes: 1})
	require.NoError(t, err)
	require.Equal(t, c.Nodes()[:1], one.Nodes())

	exit := exitOf(t, up.PID)
	require.NoError(t, local.Down(t.Context(), dir))
	exit()
	require.ErrorIs(t, local.Down(t.Context(), dir), local.ErrNotRunning)
	requireNothingLeft(t, dir)
}

func TestDetachedSupervisorKilled(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	t.Setenv(childEnv, "supervisor")
	up, err := local.Up(t.Context(), local.Options{StateDir: dir, Nodes: 2, Buildkitd: localtest.Buildkitd(t)}, []string{os.Args[0]})
	require.NoError(t, err)
	var exits []func()
	for _, n := range up.Nodes {
		exits = append(exits, exitOf(t, n.PID))
	}
	require.NoError(t, unix.Kill(up.PID, unix.SIGKILL))
	for _, exit := range exits {
		exit()
	}
	s, err := local.ReadStatus(t.Context(), dir)
	require.NoError(t, err)
	require.False(t, s.Running)
	require.ErrorIs(t, local.Down(t.Context(), dir), local.ErrNotRunning)
	requireNothingLeft(t, dir)
}

func TestUpReportsWhatWentWrong(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	t.Setenv(childEnv, "supervisor")
	fake := filepath.Join(t.TempDir(), "buildkitd")
	require.NoError(t, os.WriteFile(fake, []byte("#!/bin/sh\necho no room for a database >&2\nexit 3\n"), 0o755))
	_, err := local.Up(t.Context(), local.Options{StateDir: dir, Nodes: 1, Buildkitd: fake}, []string{os.Args[0]})
	require.ErrorContains(t, err, "no room for a database")

	_, err = local.Up(t.Context(), local.Options{StateDir: dir, Nodes: 1, Buildkitd: fake}, []string{"/bin/sh", "-c", "echo broken; exit 9"})
	require.ErrorContains(t, err, "exit status 9")
	require.ErrorContains(t, err, "broken")

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = local.Up(ctx, local.Options{StateDir: dir, Nodes: 1, Buildkitd: fake}, []string{"/bin/sh", "-c", "exec sleep 100000 # " + dir})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	requireNothingLeft(t, dir)
}
