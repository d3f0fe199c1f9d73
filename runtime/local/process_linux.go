package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// daemonProcAttr gives a daemon
//   - a process group of its own, out of reach of the terminal's Ctrl-C;
//   - a signal that ends it when this process dies, however it dies;
//   - a process namespace, in which it is the first process: when it dies the kernel
//     ends every step that it was running. Left to itself, a buildkitd that is asked
//     to end may be gone before its containers are;
//   - a mount namespace, so that its mounts go with it too.
func daemonProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Setpgid:      true,
		Pdeathsig:    syscall.SIGKILL,
		Cloneflags:   syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS, // this way round, Go makes it private
	}
}

// daemonCommand returns the command line that prepares the new namespaces and runs
// the given program in them: /proc must show its own processes, and runc keeps
// its records where they vanish with the containers they describe.
//
// The shell stays as the first process of the namespace. There it inherits what the
// program leaves behind, as the first process of a container whose runc was killed,
// and waits for it; buildkitd does not, and would collect zombies.
func daemonCommand(program string, args ...string) []string {
	const prepare = `mount -t proc proc /proc && mkdir -p /run/runc && mount -t tmpfs -o mode=700 tmpfs /run/runc || exit 1
trap 'kill -TERM "$child"' TERM
"$0" "$@" &
child=$!
while :; do
  wait "$child"
  status=$?
  kill -0 "$child" 2>/dev/null || exit "$status"
done`
	return append([]string{"/bin/sh", "-c", prepare, program}, args...)
}

// onlyChild returns the id of the one child that a process has; 0 when there is none.
func onlyChild(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b)
	if len(fields) == 0 {
		return 0
	}
	child, err := strconv.Atoi(string(fields[0]))
	if err != nil {
		return 0
	}
	return child
}

// processStart returns when a process started, in clock ticks after boot. Together
// with its id that names a process for good.
func processStart(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	// The second field is the program's name in parentheses and may hold anything.
	_, rest, ok := bytes.Cut(b[max(0, bytes.LastIndexByte(b, ')')):], []byte(") "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("process %d: unexpected content of its stat file", pid)
	}
	if state := fields[0][0]; state == 'Z' || state == 'X' {
		return 0, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("process %d: start time: %w", pid, err)
	}
	return start, nil
}

func processAlive(pid int, started uint64) bool {
	if pid <= 0 {
		return false
	}
	now, err := processStart(pid)
	return err == nil && now == started
}

func terminate(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

func kill(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// endProcess ends a process that need not be our child, first by asking, then by
// force, and returns when it is gone. A process that started at another time is
// left alone.
func endProcess(ctx context.Context, pid int, started uint64, grace time.Duration) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// Checked after the descriptor is held, so that it cannot name another process.
	if !processAlive(pid, started) {
		return nil
	}
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, stopGrace}} {
		if step.signal == unix.SIGTERM && ctx.Err() != nil {
			continue
		}
		if err := unix.PidfdSendSignal(fd, step.signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		// A kill is waited for whatever the context says: it takes no time.
		waitCtx := ctx
		if step.signal == unix.SIGKILL {
			waitCtx = context.WithoutCancel(ctx)
		}
		gone, err := awaitExit(waitCtx, fd, step.wait)
		if err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		if gone {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

// awaitExit waits until the process of a descriptor is gone, the time is over or
// ctx is done.
func awaitExit(ctx context.Context, pidfd int, limit time.Duration) (bool, error) {
	deadline := time.Now().Add(limit)
	for ctx.Err() == nil {
		left := time.Until(deadline)
		if left <= 0 {
			break
		}
		// In slices, because poll knows no context.
		ms := min(left.Milliseconds()+1, 200)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(ms))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		if n > 0 {
			return true, nil
		}
	}
	return false, nil
}

func diskSize(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Blocks) * int64(st.Bsize), nil
}

// detachedProcAttr makes a process that outlives us and our terminal.
func detachedProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func closeOnExec(fd uintptr) { unix.CloseOnExec(int(fd)) }

// closeInherited closes the descriptors above last that came with this process. The
// caller of dbake passes some, as a shell does for "dest=>(gzip > x)"; held open by
// nodes that go on running, their readers would never see the end. What this process
// opened itself is marked to be closed on exec.
func closeInherited(last uintptr) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open descriptors: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= int(last) {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue // ours, or the directory that was just read
		}
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("close descriptor %d: %w", fd, err)
		}
	}
	return nil
}
