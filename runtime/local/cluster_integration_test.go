//go:build integration

package local_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil"
	"go.uber.org/goleak"
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
		goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/docker/go-events.(*Broadcaster).run"))
	case "supervisor":
		if err := local.Supervise(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "builder":
		if err := buildForever(context.Background(), nil); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	case "sharer":
		// The supervisor's environment is this one's.
		os.Setenv(childEnv, "supervisor")
		if err := buildForever(context.Background(), []string{os.Args[0]}); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	case "intruder":
		intrude(os.Args[1], os.Args[2:])
	}
}

// intrude tries what another user of the machine could, and prints how it went: to
// connect to sockets, and to write to and read from a registry.
func intrude(registry string, sockets []string) {
	for _, path := range sockets {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		}
		fmt.Println("socket:", err)
	}
	for _, r := range []struct{ method, path string }{
		{http.MethodPost, "/v2/library/golang/blobs/uploads/"},
		{http.MethodPut, "/v2/library/golang/manifests/latest"},
		{http.MethodDelete, "/v2/library/golang/manifests/latest"},
		{http.MethodGet, "/v2/"},
	} {
		req, err := http.NewRequest(r.method, "http://"+registry+r.path, nil)
		if err != nil {
			panic(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			panic(err)
		}
		fmt.Println(r.method, resp.StatusCode, strings.TrimSpace(string(body)))
	}
}

// buildForever runs a cluster in the foreground, and on it a step that never ends.
func buildForever(ctx context.Context, supervisor []string) error {
	c, err := local.Open(ctx, local.Options{StateDir: os.Args[1], Nodes: 2, Buildkitd: os.Args[2], Supervisor: supervisor})
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
	def, err := root.Run(llb.Args([]string{"/bin/busybox", "sh", "-c", command}), llb.IgnoreCache).Marshal(ctx)
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
	for _, pattern := range []string{"nodes/*/tmp/*", "run/n*", bundlePattern} {
		left, err := filepath.Glob(filepath.Join(dir, pattern))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

// requireNothingRunning checks that there are no processes, mounts and containers
// of a state directory.
func requireNothingRunning(t *testing.T, dir string) {
	t.Helper()
	// A supervisor hangs up a moment before it is gone.
	await(t, func() bool { return len(processesOf(t, dir)) == 0 })
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

// startChild starts a child and waits until its nodes run.
func startChild(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "running\n", line)
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
	require.Zero(t, s.Kept)
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
	// Not even with a supervisor, as there is none to join.
	t.Setenv(childEnv, "supervisor")
	shared := opts
	shared.Supervisor = []string{os.Args[0]}
	other, err = local.Open(t.Context(), shared)
	require.NoError(t, err)
	require.ErrorIs(t, other.Start(t.Context()), local.ErrInUse)
	other, err = local.Open(t.Context(), opts)
	require.NoError(t, err)

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
	startChild(t, owner)
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
	bundles, err := filepath.Glob(filepath.Join(dir, bundlePattern))
	require.NoError(t, err)
	require.NotEmpty(t, bundles, "the test needs something to be left")

	c, err := local.Open(t.Context(), local.Options{StateDir: dir, Nodes: 2, Buildkitd: localtest.Buildkitd(t)})
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context()))
	require.NoError(t, c.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

func TestDownClearsAwayWhatAKilledOwnerLeft(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	owner := child(t, "builder", dir, localtest.Buildkitd(t))
	out, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, owner.Process.Kill())
	require.Error(t, owner.Wait())

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

func TestDaemonThatDiesIsStartedAgain(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	c, err := local.Open(t.Context(), local.Options{StateDir: dir, Nodes: 2, Buildkitd: localtest.Buildkitd(t)})
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context()))
	requireRestart(t, dir)
	require.NoError(t, runSteps(t.Context(), c, "echo running", func() {}))
	require.NoError(t, c.Err("n2"))
	require.NoError(t, c.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

// requireRestart kills the second daemon of a cluster and waits for another.
func requireRestart(t *testing.T, dir string) {
	t.Helper()
	pid := nodePIDs(t, dir)[1]
	exit := exitOf(t, pid)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	exit()
	await(t, func() bool {
		s, err := local.ReadStatus(t.Context(), dir)
		require.NoError(t, err)
		return s.Nodes[1].Alive && s.Nodes[1].PID != pid && s.Nodes[1].PID != 0
	})
}

// await waits for what has no other event, with a limit that only a fault reaches.
func await(t *testing.T, done func() bool) {
	t.Helper()
	require.Eventually(t, done, time.Minute, 20*time.Millisecond)
}

func TestPortTakenBetweenOpenAndStart(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	var notices []string
	c, err := local.Open(t.Context(), local.Options{
		StateDir: dir, Nodes: 1, Buildkitd: localtest.Buildkitd(t),
		Notify: func(line string) { notices = append(notices, line) },
	})
	require.NoError(t, err)
	before := c.Registry()
	l, err := net.Listen("tcp", before)
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, c.Start(t.Context()))
	require.Len(t, notices, 1)
	require.NotEqual(t, before, c.Registry())
	require.NoError(t, c.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

// sharedOptions are those of a cluster that is run by a supervisor.
func sharedOptions(t *testing.T, dir string, nodes int) local.Options {
	t.Setenv(childEnv, "supervisor")
	return local.Options{StateDir: dir, Nodes: nodes, Buildkitd: localtest.Buildkitd(t), Supervisor: []string{os.Args[0]}, Command: "test"}
}

func openCluster(t *testing.T, opts local.Options) *local.Cluster {
	t.Helper()
	c, err := local.Open(t.Context(), opts)
	require.NoError(t, err)
	return c
}

func TestKept(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	opts := sharedOptions(t, dir, 2)
	up, err := local.Up(t.Context(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { local.Down(context.Background(), dir) })
	require.True(t, up.Running && up.Registry.Alive)
	require.Equal(t, 2, up.Kept)
	require.NotEqual(t, os.Getpid(), up.PID)
	require.Len(t, up.Nodes, 2)
	for _, n := range up.Nodes {
		require.True(t, n.Alive, n.Problem)
	}
	kept, err := local.CountKept(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, 2, kept)

	opts.Nodes = 0
	again, err := local.Up(t.Context(), opts)
	require.NoError(t, err)
	require.Equal(t, up.PID, again.PID)
	require.Len(t, again.Nodes, 2)

	// Builds use it and leave it running; more nodes than it has stay only as long
	// as they are used.
	c := openCluster(t, opts)
	require.Equal(t, 2, c.KeptNodes())
	require.Equal(t, up.Registry.Addr, c.Registry())
	require.Len(t, c.Nodes(), 2)
	require.NoError(t, c.Start(t.Context()))
	require.NoError(t, runSteps(t.Context(), c, "echo running", func() {}))
	var used *local.UsedError
	require.ErrorAs(t, local.Down(t.Context(), dir), &used)
	require.Equal(t, []local.User{{PID: os.Getpid(), Command: "test"}}, used.Users)
	require.NoError(t, c.Stop(t.Context()))
	opts.Nodes = 3
	larger := openCluster(t, opts)
	require.NoError(t, larger.Start(t.Context()))
	require.NoError(t, runSteps(t.Context(), larger, "echo running", func() {}))
	require.NoError(t, larger.Stop(t.Context()))
	await(t, func() bool {
		s, err := local.ReadStatus(t.Context(), dir)
		require.NoError(t, err)
		return len(s.Nodes) == 2
	})

	// A daemon that dies while nobody looks is there for the next.
	requireRestart(t, dir)

	exit := exitOf(t, up.PID)
	require.NoError(t, local.Down(t.Context(), dir))
	exit()
	require.ErrorIs(t, local.Down(t.Context(), dir), local.ErrNotRunning)
	requireNothingLeft(t, dir)
}

func TestShared(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	opts := sharedOptions(t, dir, 1)
	var notices []string
	first := openCluster(t, opts)
	require.NoError(t, first.Start(t.Context()))
	second := opts
	second.Nodes = 2
	second.Notify = func(line string) { notices = append(notices, line) }
	second.Parallelism = 3
	other := openCluster(t, second)
	require.NoError(t, other.Start(t.Context()))
	require.Equal(t, first.Nodes(), other.Nodes()[:1])
	require.Equal(t, first.Registry(), other.Registry())
	require.Equal(t, []string{"the local nodes that run take any number of steps at once each, not 3"}, notices)
	require.NoError(t, first.Stop(t.Context()))
	require.NoError(t, runSteps(t.Context(), other, "echo running", func() {}))
	require.NoError(t, first.Start(t.Context()))
	require.NoError(t, other.Stop(t.Context()))
	require.NoError(t, runSteps(t.Context(), first, "echo running", func() {}))
	require.NoError(t, first.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

// Who uses a cluster that runs needs no programs: the supervisor has its own, and
// also one that takes its place.
func TestUserWithoutPrograms(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	up, err := local.Up(t.Context(), sharedOptions(t, dir, 1))
	require.NoError(t, err)
	t.Cleanup(func() { local.Down(context.Background(), dir) })

	opts := sharedOptions(t, dir, 1)
	opts.Buildkitd = ""
	opts.Notify = func(line string) { t.Errorf("the user is told: %s", line) }
	c := openCluster(t, opts)
	path := os.Getenv("PATH")
	t.Setenv("PATH", t.TempDir())
	require.NoError(t, c.Start(t.Context()))
	t.Setenv("PATH", path) // for the next supervisor, which needs more than buildkitd
	exit := exitOf(t, up.PID)
	require.NoError(t, syscall.Kill(up.PID, syscall.SIGKILL))
	exit()
	await(t, func() bool {
		s, err := local.ReadStatus(t.Context(), dir)
		require.NoError(t, err)
		return s.Running && s.PID != up.PID && len(s.Nodes) == 1 && s.Nodes[0].Alive
	})
	require.NoError(t, runSteps(t.Context(), c, "echo running", func() {}))
	require.NoError(t, c.Stop(t.Context()))
}

// A program that takes itself for a supervisor and is none must not start itself
// without end.
func TestSupervisorStartsNone(t *testing.T) {
	localtest.Need(t)
	opts := sharedOptions(t, localtest.Dir(t), 1)
	t.Setenv("DBAKE_SUPERVISOR", "1")
	_, err := local.Up(t.Context(), opts)
	require.ErrorContains(t, err, "was started as one itself")
}

func TestManyAtOnce(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	opts := sharedOptions(t, dir, 2)
	var eg errgroup.Group
	for range 4 {
		eg.Go(func() error {
			for range 2 { // the second start may meet the end of the first cluster
				c, err := local.Open(t.Context(), opts)
				if err != nil {
					return err
				}
				if err := c.Start(t.Context()); err != nil {
					return err
				}
				if err := runSteps(t.Context(), c, "echo running", func() {}); err != nil {
					return err
				}
				if err := c.Stop(t.Context()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, eg.Wait())
	requireNothingLeft(t, dir)
}

func TestEntitlementsOnlyForThoseWhoWantThem(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	opts := sharedOptions(t, dir, 1)
	allowed := func() string {
		b, err := os.ReadFile(filepath.Join(dir, "nodes", "n1", "buildkitd.toml"))
		require.NoError(t, err)
		line, _, _ := strings.Cut(strings.SplitN(string(b), "\n", 3)[1], "\n")
		return line
	}
	plain := openCluster(t, opts)
	require.NoError(t, plain.Start(t.Context()))
	require.Equal(t, "insecure-entitlements = []", allowed())
	// The same user may get to know later what it needs.
	require.NoError(t, plain.Start(t.Context(), "network.host"))
	require.Equal(t, `insecure-entitlements = ["network.host"]`, allowed())
	require.NoError(t, plain.Start(t.Context()))
	require.Equal(t, "insecure-entitlements = []", allowed())

	waits := make(chan string, 1)
	opts.Notify = func(line string) { waits <- line }
	insecure := openCluster(t, opts)
	started := make(chan error, 1)
	go func() { started <- insecure.Start(t.Context(), "security.insecure") }()
	require.Equal(t, fmt.Sprintf("local nodes start again to allow security.insecure: waiting for test (process %d) to end", os.Getpid()), <-waits)
	require.NoError(t, runSteps(t.Context(), plain, "echo running", func() {}))
	require.NoError(t, plain.Stop(t.Context()))
	require.NoError(t, <-started)
	require.Equal(t, `insecure-entitlements = ["security.insecure"]`, allowed())
	require.NoError(t, insecure.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

func TestKilledUserTakesTheClusterAlong(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	user := child(t, "sharer", dir, localtest.Buildkitd(t))
	startChild(t, user)
	s, err := local.ReadStatus(t.Context(), dir)
	require.NoError(t, err)
	require.NotEqual(t, user.Process.Pid, s.PID)
	exit := exitOf(t, s.PID)
	require.NoError(t, user.Process.Kill())
	require.Error(t, user.Wait())
	exit()
	requireNothingLeft(t, dir)
}

func TestKilledSupervisor(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	opts := sharedOptions(t, dir, 2)
	c := openCluster(t, opts)
	require.NoError(t, c.Start(t.Context()))
	s, err := local.ReadStatus(t.Context(), dir)
	require.NoError(t, err)
	var exits []func()
	for _, n := range s.Nodes {
		exits = append(exits, exitOf(t, n.PID))
	}
	require.NoError(t, unix.Kill(s.PID, unix.SIGKILL))
	for _, exit := range exits {
		exit()
	}
	// Whoever used it starts another.
	await(t, func() bool {
		again, err := local.ReadStatus(t.Context(), dir)
		require.NoError(t, err)
		return again.Running && again.PID != s.PID && len(again.Nodes) == 2 && again.Nodes[0].Alive && again.Nodes[1].Alive
	})
	require.NoError(t, runSteps(t.Context(), c, "echo running", func() {}))
	require.NoError(t, c.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

func TestClosedToOtherUsers(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	require.NoError(t, os.Chmod(dir, 0o755))
	c := openCluster(t, sharedOptions(t, dir, 1))
	require.NoError(t, c.Start(t.Context()))
	// Where another user can run it.
	program := filepath.Join(localtest.Dir(t), "intruder")
	require.NoError(t, os.Chmod(filepath.Dir(program), 0o755))
	binary, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(program, binary, 0o755))
	try := func(uid uint32) string {
		cmd := exec.Command(program, c.Registry(), filepath.Join(dir, "run", "n1.sock"), filepath.Join(dir, "run", "control.sock"))
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), childEnv+"=intruder")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	seen := try(65534)
	require.Equal(t, 2, strings.Count(seen, "permission denied"), seen)
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		require.Contains(t, seen, method+` 403 {"errors":[{"code":"DENIED","message":"the registry of dbake's local nodes is written by its owner only: user 65534 is not user 0"}]}`)
	}
	require.Contains(t, seen, "GET 200")
	seen = try(0)
	require.Equal(t, 2, strings.Count(seen, "socket: <nil>"), seen)
	require.Contains(t, seen, "POST 202")
	require.NoError(t, c.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

func TestUpReportsWhatWentWrong(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	opts := sharedOptions(t, dir, 1)
	opts.Buildkitd = filepath.Join(t.TempDir(), "buildkitd")
	require.NoError(t, os.WriteFile(opts.Buildkitd, []byte("#!/bin/sh\necho no room for a database >&2\nexit 3\n"), 0o755))
	_, err := local.Up(t.Context(), opts)
	require.ErrorContains(t, err, "no room for a database")
	require.ErrorContains(t, openCluster(t, opts).Start(t.Context()), "no room for a database")
	requireNothingLeft(t, dir)

	opts.Supervisor = []string{"/bin/sh", "-c", "echo broken; exit 9"}
	_, err = local.Up(t.Context(), opts)
	require.ErrorContains(t, err, "exit status 9")
	require.ErrorContains(t, err, "broken")

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	opts.Supervisor = []string{"/bin/sh", "-c", "exec sleep 100000 # " + dir}
	_, err = local.Up(ctx, opts)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	requireNothingLeft(t, dir)
}

func TestOrphansAreReaped(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	// A daemon that leaves processes behind in its namespace.
	fake := filepath.Join(t.TempDir(), "buildkitd")
	orphans := "#!/bin/sh\nfor i in 1 2 3; do ( sh -c 'exit 0' & ); done\nexec " + localtest.Buildkitd(t) + " \"$@\"\n"
	require.NoError(t, os.WriteFile(fake, []byte(orphans), 0o755))
	c := openCluster(t, local.Options{StateDir: dir, Nodes: 1, Buildkitd: fake})
	require.NoError(t, c.Start(t.Context()))
	pid := nodePIDs(t, dir)[0]
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	first := strings.Fields(string(stat))[3] // its parent, the first process of the namespace
	await(t, func() bool {
		children, err := os.ReadFile("/proc/" + first + "/task/" + first + "/children")
		require.NoError(t, err)
		return strings.TrimSpace(string(children)) == fmt.Sprint(pid)
	})
	require.NoError(t, c.Stop(t.Context()))
	requireNothingLeft(t, dir)
}

// A store that its daemon cannot read is gone with one warning, in time for its user.
func TestDamagedStore(t *testing.T) {
	localtest.Need(t)
	dir := localtest.Dir(t)
	var said []string
	c, err := local.Open(t.Context(), local.Options{
		StateDir: dir, Buildkitd: localtest.Buildkitd(t),
		Notify: func(line string) {
			if strings.HasPrefix(line, "WARNING: ") {
				said = append(said, line)
			}
		},
	})
	require.NoError(t, err)
	root := filepath.Join(dir, "nodes", "n1", "root")
	for _, name := range []string{
		"cache.db", "history.db", "runc-overlayfs/containerdmeta.db", "runc-overlayfs/metadata_v2.db",
		"runc-overlayfs/snapshots/metadata.db", "runc-overlayfs/workerid",
	} {
		for kind, damage := range map[string]func(string) error{
			"cut": func(path string) error { return os.Truncate(path, 9000) },
			"binary": func(path string) error {
				return os.WriteFile(path, []byte(strings.Repeat("\xff\x00", 3000)), 0o600)
			},
			"empty":   func(path string) error { return os.Truncate(path, 0) },
			"missing": os.Remove,
			"directory": func(path string) error {
				return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
			},
		} {
			require.NoError(t, c.Start(t.Context()))
			require.NoError(t, runStep(t.Context(), c.Nodes()[0].Addr, "true", nil))
			require.NoError(t, c.Stop(t.Context()))
			require.Empty(t, said)
			require.NoError(t, damage(filepath.Join(root, name)))
			require.NoError(t, c.Start(t.Context()), "%s %s", name, kind)
			require.NoError(t, runStep(t.Context(), c.Nodes()[0].Addr, "true", nil))
			require.NoError(t, c.Stop(t.Context()))
			require.NoDirExists(t, root+".damaged")
			for _, line := range said {
				require.Contains(t, line, "WARNING: node n1 cannot read what it has built, and starts empty (")
			}
			require.LessOrEqual(t, len(said), 1)
			said = nil
		}
	}
}
