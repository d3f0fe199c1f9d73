// Package ptytest is a terminal for tests: a pseudo-terminal with a screen that can be
// read and keys that can be pressed. Nothing in it waits for a time: a test waits for
// what the screen shows.
package ptytest

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// deadline bounds every wait.
const deadline = 20 * time.Second

// Terminal is a terminal of a test.
type Terminal struct {
	// File is the side of the program. It is closed at the end of the test.
	File   *os.File
	master *os.File
	read   chan struct{} // closed when nothing more can be read

	mu      sync.Mutex // guards what follows
	screen  *vt.Emulator
	output  strings.Builder
	changed chan struct{} // closed, and made anew, when the screen changes
	held    chan struct{} // closed when the terminal is to be read on; nil while it is
}

// New opens a terminal of a size. It is closed at the end of the test.
func New(t *testing.T, width, height int) *Terminal {
	t.Helper()
	blocking, file, err := pty.Open()
	require.NoError(t, err)
	master := unblock(t, blocking)
	p := &Terminal{File: file, master: master, read: make(chan struct{}), screen: vt.NewEmulator(width, height), changed: make(chan struct{})}
	p.setSize(t, width, height)
	answers := make(chan struct{})
	go func() { // what a terminal answers to questions
		defer close(answers)
		_, _ = io.Copy(master, p.screen)
	}()
	go p.show()
	t.Cleanup(func() {
		p.Close()
		_ = p.File.Close()                           // Run may have closed it
		_ = p.screen.InputPipe().(io.Closer).Close() // ends the answers; Close of the screen would race with their reader
		<-answers
	})
	return p
}

// unblock returns f as a file whose Close ends a Read. The library opens one whose Read ends
// only when the program's side is closed everywhere, and the program may keep that.
func unblock(t *testing.T, f *os.File) *os.File {
	t.Helper()
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.SetNonblock(fd, true))
	return os.NewFile(uintptr(fd), f.Name())
}

func (p *Terminal) setSize(t *testing.T, width, height int) {
	t.Helper()
	raw, err := p.master.SyscallConn() // Fd would make it block
	require.NoError(t, err)
	var failed error
	require.NoError(t, raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(width), Row: uint16(height)})
	}))
	require.NoError(t, failed)
}

func (p *Terminal) show() {
	defer close(p.read)
	buf := make([]byte, 4096)
	for {
		n, err := p.next(buf)
		if err != nil {
			return // the other side is closed
		}
		p.mu.Lock()
		p.output.Write(buf[:n])
		_, _ = p.screen.Write(buf[:n]) // an emulator takes all
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
}

// next reads what was written, unless the terminal is held.
func (p *Terminal) next(buf []byte) (int, error) {
	p.mu.Lock()
	held := p.held
	p.mu.Unlock()
	if held != nil {
		<-held
	}
	return p.master.Read(buf)
}

// Run starts a command that has the terminal for its own, and closes the test's side of
// its file.
func (p *Terminal) Run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.File, p.File, p.File
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	require.NoError(t, p.File.Close())
}

// Close takes the terminal away: a program that has it for its own gets SIGHUP.
func (p *Terminal) Close() {
	_ = p.master.Close() // may be closed
	<-p.read
}

// Hold stops reading until the function it returns is called: the terminal is slow.
func (p *Terminal) Hold() (release func()) {
	held := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.held = nil
		close(held)
	})
}

// Resize changes the size. A program that has the terminal for its own hears of it by the
// system, the test itself by a signal.
func (p *Terminal) Resize(t *testing.T, width, height int) {
	t.Helper()
	p.mu.Lock()
	p.screen.Resize(width, height)
	p.mu.Unlock()
	p.setSize(t, width, height)
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGWINCH))
}

// codes are what a terminal sends for keys that type nothing.
var codes = map[string]string{
	"enter": "\r", "esc": "\x1b", "up": "\x1b[A", "down": "\x1b[B", "right": "\x1b[C", "left": "\x1b[D",
	"pgup": "\x1b[5~", "pgdown": "\x1b[6~", "home": "\x1b[H", "end": "\x1b[F", "space": " ", "backspace": "\x7f",
	"ctrl+c": "\x03", "ctrl+d": "\x04", "ctrl+u": "\x15", "ctrl+z": "\x1a",
}

// Press presses keys, one after the other.
func (p *Terminal) Press(t *testing.T, keys ...string) {
	t.Helper()
	for _, key := range keys {
		code := key
		if c, ok := codes[key]; ok {
			code = c
		}
		_, err := io.WriteString(p.master, code)
		require.NoError(t, err)
	}
}

// Screen is what the screen shows, without colours.
func (p *Terminal) Screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text()
}

func (p *Terminal) text() string {
	var lines []string
	for line := range strings.SplitSeq(p.screen.String(), "\n") {
		lines = append(lines, strings.TrimRight(ansi.Strip(line), " "))
	}
	return strings.Join(lines, "\n")
}

// Wait waits until the screen shows every one of some texts, and returns it.
func (p *Terminal) Wait(t *testing.T, texts ...string) string {
	t.Helper()
	return p.Until(t, strings.Join(texts, " and "), func(screen string) bool {
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				return false
			}
		}
		return true
	})
}

// Until waits until the screen is as a condition says, which is described by what.
func (p *Terminal) Until(t *testing.T, what string, is func(screen string) bool) string {
	t.Helper()
	late := time.NewTimer(deadline)
	defer late.Stop()
	for {
		p.mu.Lock()
		screen, changed := p.text(), p.changed
		p.mu.Unlock()
		if is(screen) {
			return screen
		}
		select {
		case <-changed:
			continue
		case <-p.read:
			screen = p.Screen()
			if is(screen) {
				return screen
			}
			require.FailNow(t, "the terminal was closed", "waiting for %q, it shows:\n%s", what, screen)
		case <-late.C:
			require.FailNow(t, "the screen does not come", "waiting for %q, it shows:\n%s", what, screen)
		}
	}
}

// History is what stays on the terminal: what has been scrolled away, and the screen.
func (p *Terminal) History() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, line := range p.screen.Scrollback().Lines() {
		b.WriteString(strings.TrimRight(ansi.Strip(line.Render()), " ") + "\n")
	}
	return b.String() + p.text()
}

// AwaitEnd waits until no program has the terminal any longer, and returns the history.
func (p *Terminal) AwaitEnd() string {
	<-p.read
	return p.History()
}

// FullScreen reports whether the program has a screen of its own, which leaves nothing
// behind.
func (p *Terminal) FullScreen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.screen.IsAltScreen()
}

// Output is all that was written to the terminal.
func (p *Terminal) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}
