package nodeset

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/connhelper/commandconn"
	bkclient "github.com/moby/buildkit/client"

	// The schemes that the BuildKit client reaches through another program.
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer"
	_ "github.com/moby/buildkit/client/connhelper/kubepod"
	_ "github.com/moby/buildkit/client/connhelper/npipe"
	_ "github.com/moby/buildkit/client/connhelper/ssh"
)

// programs are what the BuildKit client starts for the addresses of a scheme.
var programs = map[string]string{
	"ssh":              "ssh",
	"docker-container": "docker",
	"kube-pod":         "kubectl",
}

// ClientOpts returns the options that, with s.Addr, make a BuildKit client of s.
// A program that the connection needs and that is not on PATH is an error here,
// because later the client would only time out.
func (s Spec) ClientOpts() ([]bkclient.ClientOpt, error) {
	if s.Addr == "" {
		return nil, errors.New("the node has no address: it has not been started")
	}
	u, err := url.Parse(s.Addr)
	if err != nil {
		return nil, fmt.Errorf("address of node %s: %w", s.Name, err)
	}
	if program, ok := programs[u.Scheme]; ok {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%s:// needs the program %s on PATH: %w", u.Scheme, program, err)
		}
	}
	var opts []bkclient.ClientOpt
	if argv := commandFor(u); argv != nil {
		opts = append(opts, bkclient.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			// The process lives as long as the connection, not as the dial.
			return commandconn.New(context.WithoutCancel(ctx), argv[0], argv[1:]...)
		}))
	}
	if s.TLS != nil {
		opts = append(opts, s.TLS.clientOpts(u.Hostname())...)
	}
	return opts, nil
}

func (t *TLS) clientOpts(host string) []bkclient.ClientOpt {
	name := t.ServerName
	if name == "" {
		name = host
	}
	opts := []bkclient.ClientOpt{bkclient.WithServerConfigSystem(name)}
	if t.CACert != "" {
		opts = []bkclient.ClientOpt{bkclient.WithServerConfig(name, t.CACert)}
	}
	if t.Cert != "" {
		opts = append(opts, bkclient.WithCredentials(t.Cert, t.Key))
	}
	return opts
}

// commandFor returns the command to talk through for the two things that buildx
// stores and BuildKit's own helpers cannot express: an engine that is given by
// host instead of context, and a kubeconfig of the builder's own. It is nil where
// those helpers do.
func commandFor(u *url.URL) []string {
	q := u.Query()
	switch {
	case u.Scheme == "docker-container" && q.Get("host") != "":
		return []string{"docker", "--host", q.Get("host"), "exec", "-i", u.Hostname(), "buildctl", "dial-stdio"}
	case u.Scheme == "kube-pod" && q.Get("kubeconfig") != "":
		argv := kubectl(q.Get("kubeconfig"), q.Get("context"), q.Get("namespace"))
		argv = append(argv, "exec", "-i")
		if c := q.Get("container"); c != "" {
			argv = append(argv, "--container="+c)
		}
		return append(argv, u.Hostname(), "--", "buildctl", "dial-stdio")
	}
	return nil
}

// kubectl returns the start of a kubectl command line.
func kubectl(kubeconfig, kubeContext, namespace string) []string {
	argv := []string{"kubectl"}
	switch {
	case strings.ContainsRune(kubeconfig, filepath.ListSeparator):
		// Only the variable may hold several files, the flag may not.
		argv = []string{"env", "KUBECONFIG=" + kubeconfig, "kubectl"}
	case kubeconfig != "":
		argv = append(argv, "--kubeconfig="+kubeconfig)
	}
	if kubeContext != "" {
		argv = append(argv, "--context="+kubeContext)
	}
	if namespace != "" {
		argv = append(argv, "--namespace="+namespace)
	}
	return argv
}
