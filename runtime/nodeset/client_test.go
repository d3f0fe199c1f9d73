package nodeset

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// control is a daemon that can only say that it is there.
type control struct {
	controlapi.UnimplementedControlServer
}

func (control) Info(context.Context, *controlapi.InfoRequest) (*controlapi.InfoResponse, error) {
	return &controlapi.InfoResponse{}, nil
}

// daemon listens with or without TLS and returns its address.
func daemon(t *testing.T, opts ...grpc.ServerOption) string {
	t.Helper()
	l := listen(t)
	srv := grpc.NewServer(opts...)
	controlapi.RegisterControlServer(srv, control{})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		require.NoError(t, <-done)
	})
	return "tcp://" + l.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// greeter says something to whoever connects and hangs up.
func greeter(t *testing.T, greeting string) string {
	t.Helper()
	l := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, greeting) // a client may be gone
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		<-done
	})
	return "tcp://" + l.Addr().String()
}

// talk connects to a node given as for --nodes, begins to speak HTTP/2 and returns
// how that is explained when it fails.
func talk(t *testing.T, value string) error {
	t.Helper()
	specs, err := Parse([]string{value})
	require.NoError(t, err)
	conn, err := specs[0].Dial(t.Context())
	if err != nil {
		return err
	}
	defer conn.Close()
	const preface, settings = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	_, err = io.WriteString(conn, preface+settings)
	buf := make([]byte, 64)
	n := 0
	if err == nil {
		n, err = io.ReadAtLeast(conn, buf, len(settings))
	}
	if n >= len(settings) && buf[3] == settings[3] {
		return nil
	}
	return specs[0].Explain(t.Context(), buf[:n], err)
}

func TestDial(t *testing.T) {
	dir := t.TempDir()
	cert := selfSigned(t, dir, "bk", time.Now().Add(time.Hour))
	expired := selfSigned(t, dir, "old", time.Now().Add(-time.Minute))
	ca, key := filepath.Join(dir, "bk.pem"), filepath.Join(dir, "bk.key")
	tlsOnly := func(c tls.Certificate, auth tls.ClientAuthType, version uint16) grpc.ServerOption {
		pool := x509.NewCertPool()
		pool.AddCert(cert.Leaf)
		return grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{c}, ClientAuth: auth, ClientCAs: pool, MaxVersion: version}))
	}
	free := daemon(t)
	open := daemon(t, tlsOnly(cert, tls.NoClientCert, tls.VersionTLS13))
	mutual := daemon(t, tlsOnly(cert, tls.RequireAndVerifyClientCert, tls.VersionTLS13))
	mutual12 := daemon(t, tlsOnly(cert, tls.RequireAndVerifyClientCert, tls.VersionTLS12))
	old := daemon(t, tlsOnly(expired, tls.NoClientCert, tls.VersionTLS13))
	const wants = "the node wants a client certificate"
	for _, c := range []struct{ name, value, want string }{
		{"plain", free, ""},
		{"TLS", open + ",cacert=" + ca + ",servername=bk.internal", ""},
		{"mutual TLS", mutual + ",cacert=" + ca + ",cert=" + ca + ",key=" + key + ",servername=bk.internal", ""},
		{"TLS without being asked for", open, "this node speaks TLS"},
		{"mutual TLS without being asked for", mutual, "this node speaks TLS"},
		{"no client certificate", mutual + ",cacert=" + ca + ",servername=bk.internal", wants},
		{"no client certificate, TLS 1.2", mutual12 + ",cacert=" + ca + ",servername=bk.internal", wants},
		{"client certificate of nobody", mutual + ",cacert=" + ca + ",cert=" + filepath.Join(dir, "old.pem") + ",key=" + filepath.Join(dir, "old.key") + ",servername=bk.internal", "the node refuses the client certificate"},
		{"no TLS there", free + ",cacert=" + ca, "this node does not speak TLS"},
		{"system authorities", open + ",servername=bk.internal", "an authority that this machine does not trust"},
		{"another authority", open + ",servername=bk.internal,cacert=" + filepath.Join(dir, "old.pem"), "is not signed by the authority in"},
		{"another name", open + ",cacert=" + ca, "the node's certificate is for another name"},
		{"expired", old + ",servername=old.internal,cacert=" + filepath.Join(dir, "old.pem"), "is not valid now"},
		{"ssh", greeter(t, "SSH-2.0-OpenSSH_9.9\r\n"), "this port speaks SSH"},
		{"HTTP", greeter(t, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), "this port speaks HTTP/1"},
		{"HTTP where TLS is expected", greeter(t, "HTTP/1.1 400 Bad Request\r\n\r\n") + ",cacert=" + ca, "this port speaks HTTP/1"},
		{"no such socket", "unix://" + filepath.Join(dir, "none.sock"), "there is no socket"},
		{"no such CA", open + ",cacert=" + filepath.Join(dir, "none"), "read cacert"},
		{"a CA that is none", open + ",cacert=" + key, "holds no certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := talk(t, c.value)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestDialRefused(t *testing.T) {
	l := listen(t)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	_, err := Spec{Addr: "tcp://" + addr}.Dial(t.Context())
	var refusal *Refusal
	require.ErrorAs(t, err, &refusal)
	require.EqualError(t, err, "nothing listens on "+addr+" (connection refused)")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestExplainDial(t *testing.T) {
	s := Spec{Addr: "tcp://bk:1234"}
	dial := func(err error) error { return &net.OpError{Op: "dial", Err: err} }
	require.EqualError(t, s.explainDial(dial(&net.DNSError{Name: "bk", Err: "no such host", IsNotFound: true})),
		"the host name bk cannot be resolved: no such host")
	require.EqualError(t, s.explainDial(dial(&net.DNSError{Name: "bk", Err: "i/o timeout", IsTimeout: true})),
		"the host name bk cannot be resolved: the name server does not answer")
	require.EqualError(t, s.explainDial(dial(&os.SyscallError{Syscall: "connect", Err: syscall.EHOSTUNREACH})), "there is no route to bk:1234")
	other := errors.New("something else")
	require.Equal(t, other, s.explainDial(other))
}

// selfSigned writes NAME.pem and NAME.key into dir: a certificate for NAME.internal
// that is its own authority.
func selfSigned(t *testing.T, dir, name string, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name + ".internal"},
		NotBefore: until.Add(-2 * time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".pem"), certPEM, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".key"), keyPEM, 0o600))
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	return pair
}

func TestDialWithoutProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Spec{Name: "a", Addr: "docker-container://c"}.Dial(t.Context())
	require.ErrorContains(t, err, "docker-container:// needs the program docker on PATH")
	_, err = Spec{Name: "local", Local: 2}.Dial(t.Context())
	require.EqualError(t, err, "the node has no address: it has not been started")
}
