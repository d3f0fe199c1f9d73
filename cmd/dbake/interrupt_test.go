package main

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestInterruptWhileTheDefinitionIsRead interrupts commands that wait for a definition
// on standard input: they end at that moment.
func TestInterruptWhileTheDefinitionIsRead(t *testing.T) {
	for name, args := range map[string][]string{
		"build": {"build", "-f", "-", "--history", "none"},
		"print": {"build", "-f", "-", "--print"},
		"plan":  {"plan", "-f", "-", "--offline", "--history", "none", "--nodes", "tcp://127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				silent, end := io.Pipe()
				defer end.Close()
				var out bytes.Buffer
				a := &app{stdin: silent, stdout: &out, stderr: &out, dir: dir, env: map[string]string{"HOME": dir}}
				require.NoError(t, a.showProgress(nil))
				var c cli
				parser, err := newParser(&c, a.stdout, a.stderr, func(int) {})
				require.NoError(t, err)
				line, err := flagsFirst(parser.Model.Node, args)
				require.NoError(t, err)
				kctx, err := parser.Parse(line.args)
				require.NoError(t, err)
				line.lists.set()
				ctx, interrupt := context.WithCancelCause(t.Context())
				begun := time.Now()
				time.AfterFunc(time.Second, func() { interrupt(errInterrupted) })
				require.Equal(t, 130, a.showEnd(ctx, kctx.Run(a, contextBinding{ctx})), &out)
				require.Equal(t, time.Second, time.Since(begun))
			})
		})
	}
}
