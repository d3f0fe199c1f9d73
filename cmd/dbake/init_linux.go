package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

// initStatus runs dbake in a child when this is the first process of a container, and
// returns its exit status. The first process inherits orphans and must wait for them, or
// zombies fill the process table.
func initStatus() (status int, first bool) {
	if os.Getpid() != 1 {
		return 0, false
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false // better without than not at all
	}
	status, err = runAsInit(append([]string{self}, os.Args[1:]...))
	if err != nil {
		fmt.Fprintf(os.Stderr, "ERROR: %v\n", err)
		return 1, true
	}
	return status, true
}

// runAsInit runs a command, passes signals on to it, and waits for whatever ends
// until it has ended itself.
func runAsInit(argv []string) (int, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// In a group of its own: the terminal's Ctrl-C must not reach it twice.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Foreground: term.IsTerminal(0)}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start dbake below the first process: %w", err)
	}
	child := cmd.Process.Pid
	done := make(chan struct{})
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		for {
			select {
			case s := <-signals:
				_ = syscall.Kill(child, s.(syscall.Signal)) // it may have ended
			case <-done:
				return
			}
		}
	}()
	defer func() {
		signal.Stop(signals)
		close(done)
		<-passed
	}()
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait for dbake: %w", err)
		case pid == child && ws.Exited():
			return ws.ExitStatus(), nil
		case pid == child && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		}
	}
}
