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
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	bkclient "github.com/moby/buildkit/client"
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

func TestClientOptsTLS(t *testing.T) {
	dir := t.TempDir()
	cert := selfSigned(t, dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAnyClientCert,
	})))
	controlapi.RegisterControlServer(srv, control{})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		require.NoError(t, <-done)
	})

	ca, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	value := "tcp://" + l.Addr().String() + ",cacert=" + ca + ",cert=" + ca + ",key=" + key
	require.NoError(t, info(t, value+",servername=bk.internal"))
	// The host, 127.0.0.1, is not in the certificate.
	require.ErrorContains(t, info(t, value), "certificate")
	require.ErrorContains(t, info(t, "tcp://"+l.Addr().String()+",servername=bk.internal"), "certificate")
}

// info connects to a node given as for --nodes and asks it one question.
func info(t *testing.T, value string) error {
	t.Helper()
	specs, err := Parse([]string{value})
	require.NoError(t, err)
	opts, err := specs[0].ClientOpts()
	require.NoError(t, err)
	c, err := bkclient.New(t.Context(), specs[0].Addr, opts...)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	_, err = c.Info(t.Context())
	return err
}

func selfSigned(t *testing.T, dir string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bk"}, DNSNames: []string{"bk.internal"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cert.pem"), certPEM, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key.pem"), keyPEM, 0o600))
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	return pair
}

func TestClientOptsErrors(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Spec{Name: "a", Addr: "docker-container://c"}.ClientOpts()
	require.ErrorContains(t, err, "docker-container:// needs the program docker on PATH")
	_, err = Spec{Name: "local", Local: 2}.ClientOpts()
	require.EqualError(t, err, "the node has no address: it has not been started")
}
