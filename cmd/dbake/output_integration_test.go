//go:build integration

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dbake/dbake/runtime/local/localtest"
)

// TestOutputPlaces writes images to whatever a file name can lead to, and looks at the
// metadata.
func TestOutputPlaces(t *testing.T) {
	localtest.Need(t)
	dir, state := t.TempDir(), localtest.Dir(t)
	write(t, dir, `
variable "DBAKE_REGISTRY" { default = "" }
target "one" {
  dockerfile-inline = "FROM scratch\nCOPY docker-bake.hcl /\n"
  output = ["type=tar,dest=-"]
}
target "bad" {
  dockerfile-inline = "FROM scratch\nCOPY --chmod=x docker-bake.hcl /\n"
}
target "three" {
  dockerfile-inline = "FROM scratch\nCOPY docker-bake.hcl /\n"
  output = [
    "type=image,push=true,name=${DBAKE_REGISTRY}/places/a:1",
    "type=image,push=true,name=${DBAKE_REGISTRY}/places/b:1,compression=uncompressed,force-compression=true",
    "type=oci,dest=three.tar",
  ]
}
`)
	bin, home := executable(t), t.TempDir()
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(bin, append([]string{"build", "--progress", "plain", "--allow", "fs.write=*", "--nodes", "local:1",
			"--state-dir", state, "--buildkitd", localtest.Buildkitd(t)}, args...)...)
		cmd.Dir, cmd.Env = dir, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
		return cmd
	}
	build := func(args ...string) string {
		t.Helper()
		out, err := command(args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	isArchive := func(t *testing.T, b []byte) {
		t.Helper()
		require.Contains(t, string(b), "docker-bake.hcl")
		require.Zero(t, len(b)%512)
	}

	t.Run("pipe", func(t *testing.T) {
		fifo := filepath.Join(dir, "fifo")
		require.NoError(t, unix.Mkfifo(fifo, 0o600))
		got := make(chan []byte)
		go func() {
			b, _ := os.ReadFile(fifo)
			got <- b
		}()
		build("--set", "one.output=type=tar,dest=fifo", "one")
		isArchive(t, <-got)
		info, err := os.Lstat(fifo)
		require.NoError(t, err)
		require.Equal(t, os.ModeNamedPipe, info.Mode().Type())
	})
	t.Run("pipe that nobody reads", func(t *testing.T) {
		cmd := command("--set", "one.output=type=tar,dest=fifo", "one")
		r, status := start(t, cmd)
		var seen []byte
		for b := make([]byte, 4096); !bytes.Contains(seen, []byte("waits for a reader of the pipe")); {
			n, err := r.Read(b)
			seen = append(seen, b[:n]...)
			require.NoError(t, err, "%s", seen)
		}
		require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		readAll(t, r)
		require.Equal(t, 130, status())
	})
	t.Run("descriptor", func(t *testing.T) {
		cmd := command("--set", "one.output=type=tar,dest=/dev/fd/3", "one")
		r, w, err := os.Pipe()
		require.NoError(t, err)
		cmd.ExtraFiles = []*os.File{w}
		require.NoError(t, cmd.Start())
		require.NoError(t, w.Close())
		isArchive(t, []byte(readAll(t, r)))
		require.NoError(t, cmd.Wait())
	})
	t.Run("descriptor beside a cluster that is kept", func(t *testing.T) {
		kept := localtest.Dir(t)
		cluster := func(args ...string) *exec.Cmd {
			cmd := command()
			cmd.Args = append([]string{bin, "cluster"}, append(args, "--state-dir", kept)...)
			return cmd
		}
		up := cluster("up", "--nodes", "1", "--buildkitd", localtest.Buildkitd(t))
		r, w, err := os.Pipe()
		require.NoError(t, err)
		up.ExtraFiles = []*os.File{nil, w}
		t.Cleanup(func() {
			out, err := cluster("down").CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
		out, err := up.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NoError(t, w.Close())
		require.Empty(t, readAll(t, r), "ends although the nodes go on running")
	})
	t.Run("devices", func(t *testing.T) {
		build("--set", "one.output=type=tar,dest=/dev/null", "--metadata-file", "/dev/null", "one")
		info, err := os.Stat(os.DevNull)
		require.NoError(t, err)
		require.NotZero(t, info.Mode()&os.ModeCharDevice)
		out, err := command("--set", "one.output=type=tar,dest=/dev/full", "one").CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "ERROR: target one: write /dev/full: no space left on device")
	})
	t.Run("standard output", func(t *testing.T) {
		var b bytes.Buffer
		cmd := command("--set", "one.output=type=tar,dest=/dev/stdout", "one")
		cmd.Stdout = &b
		require.NoError(t, cmd.Run())
		isArchive(t, b.Bytes())
		r, w, err := os.Pipe()
		require.NoError(t, err)
		require.NoError(t, r.Close())
		var said bytes.Buffer
		cmd = command("one")
		cmd.Stdout, cmd.Stderr = w, &said
		require.Error(t, cmd.Run())
		require.NoError(t, w.Close())
		require.Equal(t, 1, cmd.ProcessState.ExitCode(), "ended in order, and not by the signal")
		require.Contains(t, said.String(), "broken pipe")
	})
	t.Run("metadata", func(t *testing.T) {
		out := build("--metadata-file", "md.json", "three")
		var md map[string]struct {
			Name   string                                `json:"image.name"`
			Digest string                                `json:"containerimage.digest"`
			Images []struct{ Name, File, Digest string } `json:"dbake.images"`
		}
		read := func() {
			t.Helper()
			b, err := os.ReadFile(filepath.Join(dir, "md.json"))
			require.NoError(t, err)
			md = nil
			require.NoError(t, json.Unmarshal(b, &md))
		}
		read()
		require.True(t, strings.HasSuffix(md["three"].Name, "/places/a:1"), md["three"].Name)
		require.Contains(t, out, "pushed "+md["three"].Name+"@"+md["three"].Digest)
		require.Len(t, md["three"].Images, 3)
		byName := map[string]string{}
		for _, img := range md["three"].Images {
			require.NotEqual(t, img.Name == "", img.File == "", "%+v", img)
			require.Contains(t, []string{"", img.Digest}, byName[img.Name+img.File])
			byName[img.Name+img.File] = img.Digest
		}
		require.Contains(t, out, "pushed "+md["three"].Images[1].Name+"@"+md["three"].Images[1].Digest)

		// What was done is reported although another target failed; nothing is left of
		// earlier runs.
		_, err := command("-k", "--metadata-file", "md.json", "--set", "one.output=type=oci,dest=o.tar", "one", "bad").CombinedOutput()
		require.Error(t, err)
		read()
		require.Contains(t, md, "one")
		require.NotEmpty(t, md["one"].Digest)
		require.NotContains(t, md, "bad")
		require.NotContains(t, md, "three")
		_, err = command("--metadata-file", "md.json", "bad").CombinedOutput()
		require.Error(t, err)
		read()
		require.Empty(t, md)
	})
}
