package main

import (
	"bytes"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/containerd/console"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// At a terminal the user is asked.
func TestAsk(t *testing.T) {
	for input, granted := range map[string]bool{"y\n": true, "Y\n": true, "n\n": false, "\n": false, "yes\n": false} {
		pty, name, err := console.NewPty()
		if err != nil {
			require.ErrorIs(t, err, fs.ErrNotExist)
			t.Skip("no pseudo terminals here")
		}
		terminal, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
		require.NoError(t, err)
		_, err = pty.Write([]byte(input))
		require.NoError(t, err)
		var out bytes.Buffer
		a := &app{dir: t.TempDir(), stdin: terminal, stderr: &out, args: []string{"build", "-k"}}
		req, err := a.privileges().beyond(&ir.Project{Targets: []*ir.Target{{DockerfileInline: new(string), Entitlements: []string{"network.host"}}}}, &definitionFlags{})
		require.NoError(t, err)
		require.NoError(t, a.showProgress(nil))
		err = a.privileges().ask(t.Context(), req)
		if granted {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, "additional privileges requested")
		}
		require.Equal(t, `Your build is requesting privileges for following possibly insecure capabilities:

 - Running build containers that can access host network

In order to not see this message in the future pass "--allow=network.host" to grant requested privileges.

Your full command with requested privileges:

dbake build --allow=network.host -k

Do you want to grant requested privileges and continue? [y/N] `, out.String())
		require.NoError(t, terminal.Close())
		require.NoError(t, pty.Close())
	}
}
