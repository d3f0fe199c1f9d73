package nodeset

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/nodeset/nodecert"
)

// A node that hung up is asked again what it has against the client certificate.
func TestExplainLostAlert(t *testing.T) {
	dir := t.TempDir()
	node, err := nodecert.ParseNode("127.0.0.1")
	require.NoError(t, err)
	_, err = nodecert.Make(dir, []nodecert.Node{node}, time.Now())
	require.NoError(t, err)
	at := func(name string) string { return filepath.Join(dir, name) }
	pair, err := tls.LoadX509KeyPair(at("127.0.0.1/cert.pem"), at("127.0.0.1/key.pem"))
	require.NoError(t, err)
	root, err := os.ReadFile(at("ca.pem"))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(root))
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}})
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if conn.(*tls.Conn).HandshakeContext(t.Context()) == nil {
				_, _ = conn.Write([]byte("settings")) // the client has seen enough
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-served })

	spec := Spec{Name: "n1", Addr: "tcp://" + l.Addr().(*net.TCPAddr).String()}
	for name, tt := range map[string]struct {
		tls  TLS
		want string
	}{
		"no certificate":       {TLS{CACert: at("ca.pem")}, "the node wants a client certificate"},
		"a node's certificate": {TLS{CACert: at("ca.pem"), Cert: at("127.0.0.1/cert.pem"), Key: at("127.0.0.1/key.pem")}, "the node refuses the client certificate"},
		"a good one":           {TLS{CACert: at("ca.pem"), Cert: at("client.pem"), Key: at("client-key.pem")}, io.EOF.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			spec.TLS = &tt.tls
			err := spec.Explain(t.Context(), nil, io.EOF)
			require.ErrorContains(t, err, tt.want)
			require.ErrorIs(t, spec.Explain(t.Context(), []byte("SSH-2.0"), io.EOF), io.EOF)
		})
	}
}
