//go:build integration

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/local/localtest"
)

// Certificates are put where the command says, with the lines that it prints: the node
// takes the client that has one, and nobody else.
func TestCertificates(t *testing.T) {
	w := newEmptyWorld(t)
	dir := localtest.Dir(t)
	certs := filepath.Join(dir, "certs")
	r := w.run(dir, "cluster", "certs", certs, "--node", "localhost,127.0.0.1", "--node", "other")
	require.Zero(t, r.status, r.stderr)

	// The node, configured with the printed lines.
	toml := regexp.MustCompile(`(?s)\n  \[grpc\]\n.*?\n\n`).FindString(r.stdout)
	require.NotEmpty(t, toml, r.stdout)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	require.NoError(t, l.Close())
	socket := filepath.Join(dir, "s")
	toml = strings.NewReplacer("/etc/buildkit/certs", filepath.Join(certs, "localhost"), "/run/buildkit/buildkitd.sock", socket, "0.0.0.0:1234", "127.0.0.1:"+port).Replace(toml)
	config := filepath.Join(dir, "buildkitd.toml")
	require.NoError(t, os.WriteFile(config, []byte(toml), 0o600))
	var log bytes.Buffer
	daemon := exec.Command(localtest.Buildkitd(t), "--config", config, "--root", filepath.Join(dir, "root"),
		"--otel-socket-path", filepath.Join(dir, "o"), "--oci-worker-snapshotter=overlayfs", "--containerd-worker=false")
	daemon.Stdout, daemon.Stderr = &log, &log
	require.NoError(t, daemon.Start())
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	c, err := client.New(t.Context(), "unix://"+socket)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Wait(t.Context()))

	write(t, dir, "target \"default\" {\n  dockerfile-inline = \"FROM scratch\\nCOPY docker-bake.hcl /\"\n  output = [\"type=cacheonly\"]\n}\n")
	build := func(spec string) result {
		return w.run(dir, "build", "--reuse", "never", "--progress", "plain", "--node-timeout", "5s", "--nodes", spec)
	}
	spec := regexp.MustCompile(`tcp://localhost:1234,\S+`).FindString(r.stdout)
	require.NotEmpty(t, spec, r.stdout)
	at := func(name string) string { return filepath.Join(certs, name) }
	spec = strings.Replace(spec, ":1234", ":"+port, 1)
	for _, good := range []string{spec, strings.Replace(spec, "localhost", "127.0.0.1", 1)} {
		r = build(good)
		require.Zero(t, r.status, r.stderr)
		require.Regexp(t, `(?m)^default .* built`, r.stderr)
	}
	for name, tt := range map[string]struct{ spec, want string }{
		"no certificate":              {"tcp://127.0.0.1:" + port + ",cacert=" + at("ca.pem"), "the node wants a client certificate"},
		"without TLS":                 {"tcp://127.0.0.1:" + port, "TLS"},
		"a node is no client":         {fmt.Sprintf("tcp://127.0.0.1:%s,cacert=%s,cert=%s,key=%s", port, at("ca.pem"), at("other/cert.pem"), at("other/key.pem")), "the node refuses the client certificate"},
		"a name it does not have":     {spec + ",servername=other", "the node's certificate is for another name"},
		"an authority of our own":     {strings.Replace(spec, at("ca.pem"), at("other/cert.pem"), 1), "is not signed by the authority in"},
		"a client of somebody else's": {strings.ReplaceAll(spec, certs+"/client", w.otherCerts(dir)+"/client"), "the node refuses the client certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			r := build(tt.spec)
			require.Equal(t, 1, r.status, r.stderr)
			require.Contains(t, r.stderr, tt.want)
		})
	}

	// One that is added later is signed by the same authority.
	r = w.run(dir, "cluster", "certs", certs, "--node", "third", "--format", "json")
	require.Zero(t, r.status, r.stderr)
	var made struct {
		Authority *struct{}
		Nodes     []struct{ Files []string }
	}
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &made))
	require.Nil(t, made.Authority)
	require.Equal(t, at("third/cert.pem"), made.Nodes[0].Files[0])
}

// otherCerts makes certificates of another authority.
func (w *world) otherCerts(dir string) string {
	w.t.Helper()
	other := filepath.Join(dir, "others")
	r := w.run(dir, "cluster", "certs", other)
	require.Zero(w.t, r.status, r.stderr)
	return other
}
