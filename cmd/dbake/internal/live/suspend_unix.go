//go:build unix

package live

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// settle is how long a process may take to stop after it was asked to.
const settle = time.Second

// Run implements [tea.ExecCommand]. It returns when the process was continued, or soon
// when it is not stopped: the system stops none that no shell could continue, as the
// first process of a container or of a remote shell without job control.
func (s suspension) Run() error {
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	if err := syscall.Kill(0, syscall.SIGTSTP); err != nil { // with those that run it, as the docker command
		return err
	}
	late := time.NewTimer(settle)
	defer late.Stop()
	select {
	case <-continued:
	case <-late.C:
	case <-s.stop:
	}
	return nil
}
