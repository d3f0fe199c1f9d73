package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bkclient "github.com/moby/buildkit/client"
)

const (
	// readyTimeout bounds how long a daemon may take to answer after its start.
	readyTimeout = time.Minute
	// stopTimeout bounds how long a daemon may take to end before it is killed.
	stopTimeout = 20 * time.Second
)

// node is one buildkitd behind a proxy that counts what clients send.
type node struct {
	name  string
	addr  string // tcp://host:port of the proxy
	dir   string
	slots int // 0 = no limit
	// slow is how much longer each step takes on it, in seconds.
	slow int
	// quota bounds its processor time; nil is no bound.
	quota *quota

	cmd    *exec.Cmd
	exited chan error
	proxy  *proxy
}

// programs are the executables that nodes are made of.
type programs struct {
	buildkitd string
	runc      string
}

// start starts the daemon, with whatever its directory holds. mirror is the host of
// a registry with the base images; steps is the file in which the runtime notes
// every step.
func (n *node) start(ctx context.Context, p programs, mirror, steps string) (err error) {
	if err := os.MkdirAll(filepath.Join(n.dir, "tmp"), 0o700); err != nil {
		return err
	}
	runtime := filepath.Join(n.dir, "runtime")
	if err := os.WriteFile(runtime, []byte(n.runtime(p.runc, steps)), 0o755); err != nil {
		return err
	}
	config := filepath.Join(n.dir, "buildkitd.toml")
	if err := os.WriteFile(config, []byte(n.config(mirror)), 0o600); err != nil {
		return err
	}
	socket := filepath.Join(n.dir, "s")
	log, err := os.Create(filepath.Join(n.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	n.cmd = exec.Command(p.buildkitd, "--config", config, "--root", filepath.Join(n.dir, "root"),
		"--addr", "unix://"+socket, "--oci-worker-binary", runtime, "--otel-socket-path", filepath.Join(n.dir, "otel"))
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(n.dir, "tmp"))
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.cmd.Start(); err != nil {
		return fmt.Errorf("start node %s: %w", n.name, err)
	}
	if err := n.quota.add(n.cmd.Process.Pid); err != nil {
		return errors.Join(fmt.Errorf("start node %s: %w", n.name, err), n.cmd.Process.Kill(), n.cmd.Wait())
	}
	n.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(n.cmd, n.exited)
	if err := n.await(ctx, socket); err != nil {
		return errors.Join(fmt.Errorf("start node %s: %w", n.name, err), n.stop())
	}
	if n.proxy == nil {
		if n.proxy, err = newProxy(socket); err != nil {
			return errors.Join(err, n.stop())
		}
		n.addr = "tcp://" + n.proxy.addr()
	}
	return nil
}

// runtime is the text of a runtime that notes each start of a container, then lets runc
// do it, and notes how long that took, in nanoseconds.
func (n *node) runtime(runc, steps string) string {
	wait := ""
	if n.slow > 0 {
		wait = fmt.Sprintf("; sleep %d", n.slow)
	}
	return fmt.Sprintf(`#!/bin/sh
for a; do [ "$a" = run ] && {
echo %[1]s >>%[2]s
s=$(date +%%s%%N)%[3]s
%[4]s "$@"
c=$?
echo %[1]s $(($(date +%%s%%N) - s)) >>%[2]s
exit $c
}; done
exec %[4]s "$@"
`, n.name, quote(steps), wait, quote(runc))
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// config is the daemon's configuration.
func (n *node) config(mirror string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[worker.containerd]\n  enabled = false\n[worker.oci]\n  networkMode = \"host\"\n  gc = false\n")
	if n.slots > 0 {
		fmt.Fprintf(&b, "  max-parallelism = %d\n", n.slots)
	}
	if n.quota != nil {
		fmt.Fprintf(&b, "  defaultCgroupParent = %q\n", n.quota.steps())
	}
	fmt.Fprintf(&b, "[registry.\"docker.io\"]\n  mirrors = [%q]\n[registry.%q]\n  http = true\n", mirror, mirror)
	return b.String()
}

// await waits until the daemon answers.
func (n *node) await(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("no answer within %s", readyTimeout))
	defer cancel()
	for {
		c, err := bkclient.New(ctx, "unix://"+socket)
		if err == nil {
			_, err = c.ListWorkers(ctx)
			_ = c.Close() // it was only asked
			if err == nil {
				return nil
			}
		}
		select {
		case exit := <-n.exited:
			n.exited <- exit
			return fmt.Errorf("buildkitd ended (%v): %s", exit, n.lastLines())
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lastLines returns the end of the daemon's log.
func (n *node) lastLines() string {
	text, err := os.ReadFile(filepath.Join(n.dir, "log"))
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-5):], []byte("\n")))
}

// stop ends the daemon and waits for it. The proxy stays, so that the node has the
// same address when it is started again.
func (n *node) stop() error {
	if n.cmd == nil {
		return nil
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-n.exited:
	case <-timer.C:
		_ = syscall.Kill(-n.cmd.Process.Pid, syscall.SIGKILL) // its group, runc included
		<-n.exited
	}
	n.cmd = nil
	return nil
}

// forget removes everything that a stopped daemon holds.
func (n *node) forget() error { return os.RemoveAll(filepath.Join(n.dir, "root")) }

// close ends the node for good.
func (n *node) close() error {
	err := errors.Join(n.stop(), n.quota.close())
	if n.proxy != nil {
		n.proxy.close()
	}
	return err
}

// proxy forwards connections to a socket and counts the bytes that clients send.
type proxy struct {
	listener net.Listener
	socket   string
	sent     atomic.Int64
	workers  sync.WaitGroup
	mu       sync.Mutex // guards open
	open     map[net.Conn]bool
}

func newProxy(socket string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, socket: socket, open: map[net.Conn]bool{}}
	p.workers.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.workers.Go(func() { p.forward(client) })
	}
}

func (p *proxy) forward(client net.Conn) {
	defer p.drop(client)
	daemon, err := net.Dial("unix", p.socket)
	if err != nil {
		client.Close()
		return
	}
	defer p.drop(daemon)
	p.mu.Lock()
	p.open[client], p.open[daemon] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(daemon, io.TeeReader(client, counter{&p.sent})) // ends with either side
		_ = daemon.(*net.UnixConn).CloseWrite()
	})
	both.Go(func() {
		_, _ = io.Copy(client, daemon) // ends with either side
		_ = client.(*net.TCPConn).CloseWrite()
	})
	both.Wait()
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	c.Close()
}

func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	for c := range p.open {
		c.Close()
	}
	p.mu.Unlock()
	p.workers.Wait()
}

// counter is a writer that only counts.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}
