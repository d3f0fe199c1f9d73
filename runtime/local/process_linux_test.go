package local

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEndProcess(t *testing.T) {
	start := func(script string) (*exec.Cmd, uint64) {
		cmd := exec.Command("sh", "-c", script)
		_, err := cmd.StdinPipe() // never written to: the script's read waits for it
		require.NoError(t, err)
		ready, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		started, err := processStart(cmd.Process.Pid)
		require.NoError(t, err)
		_, err = ready.Read(make([]byte, 1))
		require.NoError(t, err)
		return cmd, started
	}
	polite, started := start("echo; read x")
	require.NoError(t, endProcess(t.Context(), polite.Process.Pid, started+1, stopGrace))
	require.True(t, processAlive(polite.Process.Pid, started), "a process with another start time was ended")
	require.NoError(t, endProcess(t.Context(), polite.Process.Pid, started, stopGrace))
	require.False(t, processAlive(polite.Process.Pid, started))
	require.ErrorContains(t, polite.Wait(), "terminated")
	require.NoError(t, endProcess(t.Context(), polite.Process.Pid, started, stopGrace))

	stubborn, started := start("trap '' TERM; echo; read x")
	require.NoError(t, endProcess(t.Context(), stubborn.Process.Pid, started, 1))
	require.ErrorContains(t, stubborn.Wait(), "killed")
}
