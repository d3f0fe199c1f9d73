package view

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/dbake/dbake/runtime/nodeset/nodecert"
)

// nodePort is the port that is shown; any other does as well.
const nodePort = "1234"

// Certificates says which certificates there are and where they go.
type Certificates struct {
	Directory string            `json:"directory"`
	Authority *Certificate      `json:"authority,omitempty"` // nil: it was there
	Client    *Certificate      `json:"client,omitempty"`    // nil: it was there
	Nodes     []NodeCertificate `json:"nodes"`
}

// Certificate is one that was made.
type Certificate struct {
	Files []string  `json:"files"` // the certificate first
	Until time.Time `json:"until"`
}

// NodeCertificate is what one node needs.
type NodeCertificate struct {
	Certificate
	Names []string `json:"names"`
	Spec  string   `json:"spec"` // for --nodes
}

// NewCertificates describes what was made for nodes in a directory.
func NewCertificates(dir string, nodes []nodecert.Node, made *nodecert.Made) *Certificates {
	one := func(c *nodecert.Certificate) *Certificate {
		if c == nil {
			return nil
		}
		return &Certificate{Files: c.Files, Until: c.Until.UTC()}
	}
	list := &Certificates{Directory: dir, Authority: one(made.Authority), Client: one(made.Client), Nodes: []NodeCertificate{}}
	for i, n := range nodes {
		host := strings.Replace(n.Names[0], "*", "HOST", 1)
		spec := fmt.Sprintf("tcp://%s,cacert=%s,cert=%s,key=%s", net.JoinHostPort(host, nodePort),
			filepath.Join(dir, "ca.pem"), filepath.Join(dir, "client.pem"), filepath.Join(dir, "client-key.pem"))
		list.Nodes = append(list.Nodes, NodeCertificate{Certificate: *one(&made.Nodes[i]), Names: n.Names, Spec: spec})
	}
	return list
}

// Write prints them for people.
func (c *Certificates) Write(w io.Writer) error {
	var b strings.Builder
	until := func(c Certificate) string { return c.Until.Format(time.DateOnly) }
	if c.Authority != nil {
		fmt.Fprintf(&b, "authority  %s, until %s; no node needs ca-key.pem: keep it here\n", c.Authority.Files[0], until(*c.Authority))
	}
	if c.Client != nil {
		fmt.Fprintf(&b, "client     %s, until %s\n", c.Client.Files[0], until(*c.Client))
	}
	for _, n := range c.Nodes {
		fmt.Fprintf(&b, "node       %s, until %s, for %s\n", filepath.Dir(n.Files[0])+"/", until(n.Certificate), strings.Join(n.Names, ", "))
	}
	if len(c.Nodes) == 0 {
		fmt.Fprintf(&b, "\nAdd nodes with: dbake cluster certs %s --node NAME[,NAME...]\n", c.Directory)
		_, err := io.WriteString(w, b.String())
		return err
	}
	b.WriteString(`
Copy the directory of each node to /etc/buildkit/certs there, readable by root alone, with these
lines in its /etc/buildkit/buildkitd.toml, and restart buildkitd:

  [grpc]
    address = ["unix:///run/buildkit/buildkitd.sock", "tcp://0.0.0.0:` + nodePort + `"]
    [grpc.tls]
      ca = "/etc/buildkit/certs/ca.pem"
      cert = "/etc/buildkit/certs/cert.pem"
      key = "/etc/buildkit/certs/key.pem"

Then build with:

  dbake build`)
	for _, n := range c.Nodes {
		fmt.Fprintf(&b, " \\\n    --nodes %s", n.Spec)
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}
