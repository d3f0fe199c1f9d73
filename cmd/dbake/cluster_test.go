package main

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestClusterDownInterrupted ends as an interrupted command, whatever was stopped.
func TestClusterDownInterrupted(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out, dir: t.TempDir(), env: map[string]string{}}
	require.NoError(t, a.showProgress(nil))
	ctx, interrupt := context.WithCancelCause(t.Context())
	c := clusterDownCmd{StateDir: "state"}
	require.Zero(t, a.showEnd(ctx, c.Run(contextBinding{ctx}, a)), &out)
	interrupt(errInterrupted)
	require.Equal(t, 130, a.showEnd(ctx, c.Run(contextBinding{ctx}, a)), &out)
	require.Contains(t, out.String(), "interrupted")
}
