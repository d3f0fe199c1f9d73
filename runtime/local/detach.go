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

	"github.com/dbake/dbake/internal/pause"
)

// supervisorEnv is set for a process that was started to be a supervisor.
const supervisorEnv = "DBAKE_SUPERVISOR"

// readyFD is the descriptor on which a supervisor reports to Up how its start went.
const readyFD = 3

// readyMark is the report of a supervisor that takes users, busyMark that of one
// that found the state directory taken. Any other report is the text of an error, and
// none at all means that the supervisor died.
const (
	readyMark = "ready\n"
	busyMark  = "busy\n"
)

// firstUser is how long a supervisor waits for somebody to use the cluster.
const firstUser = 15 * time.Second

// errBusy means that somebody else was faster to take a state directory.
var errBusy = errors.New("taken")

// Up starts a cluster that stays when this process ends, and returns when it
// answers. One that runs already, and keeps at least the nodes asked for, is left as
// it is; one that others are using stays when they have ended. Options.Supervisor
// must be set.
func Up(ctx context.Context, opts Options) (*Status, error) {
	dir, err := stateDir(opts.StateDir)
	if err != nil {
		return nil, err
	}
	opts.StateDir = dir
	// Settles the port, so that a notice about it reaches the user and not a log.
	c, err := Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	var m *member
	err = withSupervisor(ctx, dir, opts, func(found *member) error {
		m = found
		_, err := m.call(ctx, request{Op: "keep", User: c.self(), Nodes: len(c.Nodes())}, c.say)
		return err
	})
	if err != nil {
		return nil, err
	}
	m.close()
	return ReadStatus(ctx, dir)
}

// withSupervisor calls fn with a connection to the supervisor of a state directory,
// which it starts if there is none, and calls it again, with another, as long as it
// returns errEnding. The connection is closed when fn fails, and otherwise fn's.
func withSupervisor(ctx context.Context, dir string, opts Options, fn func(*member) error) error {
	deadline := time.Now().Add(handover)
	for {
		m, err := connect(ctx, dir)
		if err == nil {
			err = fn(m)
			if err == nil {
				return nil
			}
			m.close()
		}
		switch {
		case errors.Is(err, errNoSupervisor):
			err = startSupervisor(ctx, dir, opts)
			if err == nil {
				continue
			}
			if !errors.Is(err, errBusy) {
				return err
			}
			st, _ := loadState(dir) // one that is damaged names nobody
			if by := st.alive(); by != nil && !by.Shared {
				return inUse(dir, by)
			}
		case !errors.Is(err, errEnding):
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: the cluster on %s is stopping since %s", ErrInUse, dir, handover)
		}
		if err := pause.For(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// startSupervisor returns when the supervisor takes users.
func startSupervisor(ctx context.Context, dir string, opts Options) error {
	argv := opts.Supervisor
	if len(argv) == 0 {
		return errors.New("start the cluster's supervisor: no command given")
	}
	// A program that runs itself without having become a supervisor does it only once.
	if os.Getenv(supervisorEnv) != "" {
		return errors.New("start the cluster's supervisor: this process was started as one itself")
	}
	// Here and not by the supervisor, whose working directory and PATH may differ. Joining
	// a running cluster needs no programs.
	found, err := findPrograms(opts.Buildkitd)
	if err != nil {
		return err
	}
	opts.Buildkitd = found.buildkitd
	s, err := launch(argv, dir, opts)
	if err != nil {
		return fmt.Errorf("start the cluster's supervisor: %w", err)
	}
	defer s.ready.Close()
	return s.await(ctx)
}

// launched is a supervisor that was started and has not reported yet whether it takes
// users.
type launched struct {
	process *os.Process
	ready   *os.File   // what it reports; it ends with the report
	ended   chan error // given how the process ended
	log     string
}

// launch starts a supervisor as a process that may outlive this one, with opts on its
// standard input.
func launch(argv []string, dir string, opts Options) (_ *launched, err error) {
	input, err := json.Marshal(opts)
	if err != nil {
		return nil, err
	}
	// Appended to, as one that comes too late must not clear the log of another.
	logPath := filepath.Join(dir, "supervisor.log")
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	stdin, options, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	// Far below what a pipe holds, so nobody needs to read it yet.
	_, err = options.Write(input)
	if err := errors.Join(err, options.Close()); err != nil {
		return nil, err
	}
	ready, report, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	// The supervisor holds the only writing end: its death is an end of file.
	defer report.Close()

	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), supervisorEnv+"=1")
	cmd.Stdin = stdin
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{report} // becomes readyFD
	cmd.SysProcAttr = detachedProcAttr()
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, ready.Close())
	}
	// It may outlive us, but if it does not, it must not stay as a zombie.
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return &launched{process: cmd.Process, ready: ready, ended: ended, log: logPath}, nil
}

// await returns when the supervisor takes users. When ctx ends before, it ends the
// supervisor.
func (s *launched) await(ctx context.Context) error {
	type result struct {
		report []byte
		err    error
	}
	read := make(chan result, 1)
	go func() {
		b, err := io.ReadAll(s.ready)
		read <- result{b, err}
	}()
	var r result
	select {
	case r = <-read:
	case <-ctx.Done():
		// It stops its daemons itself, and they die with it if it cannot.
		err := terminate(s.process.Pid)
		grace := time.AfterFunc(2*stopGrace, func() { s.process.Kill() })
		defer grace.Stop()
		<-read
		<-s.ended // its exit status says no more than our context
		return errors.Join(context.Cause(ctx), err)
	}
	if r.err == nil && string(r.report) == readyMark {
		return nil
	}
	waitErr := <-s.ended
	switch {
	case string(r.report) == busyMark:
		return errBusy
	case len(r.report) > 0:
		return errors.New(string(r.report))
	}
	return fmt.Errorf("the cluster's supervisor ended before it was ready: %w%s",
		errors.Join(r.err, waitErr), logTail(s.log))
}

// Supervise runs a cluster for all who join it, until none of them is left or the
// process is asked to end. A cluster that is kept stays without users. [Up] and
// [Cluster.Start] start it in a process of its own, with the options on standard input.
func Supervise(ctx context.Context) (err error) {
	if err := closeInherited(readyFD); err != nil {
		return err
	}
	closeOnExec(readyFD)
	report := os.NewFile(readyFD, "ready")
	defer report.Close()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	var opts Options
	if err := json.NewDecoder(os.Stdin).Decode(&opts); err != nil {
		return fmt.Errorf("read the cluster's options: %w (this command is started by dbake itself)", err)
	}
	log := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.RFC3339)}, args...)...)
	}
	h, err := newHost(ctx, opts.StateDir, opts, true, log)
	if errors.Is(err, ErrInUse) {
		_, err := io.WriteString(report, busyMark)
		return err
	}
	if err != nil {
		fmt.Fprint(report, err)
		return err
	}
	// A context that ends is the order to stop, not to hurry.
	unhurried := context.WithoutCancel(ctx)
	s, err := serve(h)
	if err != nil {
		fmt.Fprint(report, err)
		return errors.Join(err, h.close(unhurried))
	}
	// The users see the end of their connection last.
	defer func() { err = errors.Join(err, h.close(unhurried), s.close()) }()
	if _, err := io.WriteString(report, readyMark); err != nil {
		return fmt.Errorf("report to the starting process: %w", err)
	}
	if err := report.Close(); err != nil {
		return fmt.Errorf("report to the starting process: %w", err)
	}
	select {
	case <-ctx.Done():
		return nil
	case <-h.ended:
		return nil
	case <-time.After(firstUser):
	}
	// Whoever started it may have died since.
	if err := h.shrink(ctx); err != nil {
		log("%v", err)
	}
	select {
	case <-ctx.Done():
	case <-h.ended:
	}
	return nil
}

// Down stops the detached cluster of a state directory ("" = [DefaultStateDir])
// and waits for its end, unless somebody uses it ([UsedError]). It also removes what a crashed cluster left there. It
// returns [ErrNotRunning] when no cluster ran.
func Down(ctx context.Context, dir string) error {
	dir, err := stateDir(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "cluster.json")); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w on %s", ErrNotRunning, dir)
	}
	running, err := endSupervisor(ctx, dir)
	if err != nil {
		return err
	}
	lock, err := reclaim(ctx, dir, func(*state) {})
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if !running {
		return fmt.Errorf("%w on %s", ErrNotRunning, dir)
	}
	return nil
}

// endSupervisor asks the supervisor to end and waits for it. It reports whether there
// was one.
func endSupervisor(ctx context.Context, dir string) (bool, error) {
	st, _ := readState(ctx, dir) // one that is damaged names nobody
	by := st.alive()
	if by == nil {
		return false, nil
	}
	if !by.Shared {
		return true, inUse(dir, by)
	}
	m, err := connect(ctx, dir)
	if err == nil {
		_, err = m.call(ctx, request{Op: "down"}, func(string) {})
		m.close()
		var used *UsedError
		if errors.As(err, &used) {
			return true, err
		}
	}
	// Also one that does not answer, or is of another version. Twice the grace: it
	// gives that much to each daemon.
	if err := endProcess(ctx, by.PID, by.Started, 2*stopGrace); err != nil {
		return true, fmt.Errorf("stop the cluster on %s: %w", dir, err)
	}
	return true, nil
}
