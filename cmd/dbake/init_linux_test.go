package main

import (
	"bufio"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// initEnv makes the test binary the parent of a command, as the first process is.
const initEnv = "DBAKE_TEST_INIT"

func init() {
	if command := os.Getenv(initEnv); command != "" {
		os.Unsetenv(initEnv)
		status, err := runAsInit([]string{"/bin/sh", "-c", command})
		if err != nil {
			os.Exit(99)
		}
		os.Exit(status)
	}
}

func initCommand(script string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), initEnv+"="+script)
	return cmd
}

func TestRunAsInit(t *testing.T) {
	require.NoError(t, initCommand("exit 0").Run())

	failing := initCommand("exit 7")
	require.Error(t, failing.Run())
	require.Equal(t, 7, failing.ProcessState.ExitCode())

	killed := initCommand("kill -KILL $$")
	require.Error(t, killed.Run())
	require.Equal(t, 137, killed.ProcessState.ExitCode())

	// A signal is passed on.
	told := initCommand("trap 'exit 5' TERM; echo ready; while :; do read x; done")
	stdin, err := told.StdinPipe() // never written to: the script's read waits for it
	require.NoError(t, err)
	defer stdin.Close()
	out, err := told.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, told.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, told.Process.Signal(syscall.SIGTERM))
	require.Error(t, told.Wait())
	require.Equal(t, 5, told.ProcessState.ExitCode())
}
