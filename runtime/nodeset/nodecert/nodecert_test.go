package nodecert

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func nodes(t *testing.T, values ...string) (list []Node) {
	t.Helper()
	for _, v := range values {
		n, err := ParseNode(v)
		require.NoError(t, err)
		list = append(list, n)
	}
	return list
}

func TestParseNode(t *testing.T) {
	for value, want := range map[string][]string{
		"builder1":                         {"builder1"},
		"builder1, 10.0.0.5,builder1,::1":  {"builder1", "10.0.0.5", "::1"},
		"*.buildkit,*.buildkit.ci.svc":     {"*.buildkit", "*.buildkit.ci.svc"},
		"0:0:0:0:0:0:0:1":                  {"::1"},
		"a_b.example.com,xn--bcher-kva.ch": {"a_b.example.com", "xn--bcher-kva.ch"},
	} {
		n, err := ParseNode(value)
		require.NoError(t, err, value)
		require.Equal(t, want, n.Names)
	}
	for _, value := range []string{"", "a,,b", "tcp://a:1234", "a:1234", "a b", "../a", "a/b", "a.", ".a", "-a", "a.*", "fe80::1%eth0", strings.Repeat("a", 254), "ä"} {
		_, err := ParseNode(value)
		require.Error(t, err, value)
	}
	require.Equal(t, "any.buildkit", Node{Names: []string{"*.buildkit"}}.Folder())
	require.Equal(t, "--1", Node{Names: []string{"::1"}}.Folder())
}

func certificate(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	block, rest := pem.Decode(data)
	require.NotNil(t, block)
	require.Empty(t, rest)
	c, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return c
}

func TestMake(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	made, err := Make(dir, nodes(t, "builder1,10.0.0.5", "*.buildkit,::1"), now)
	require.NoError(t, err)
	require.Equal(t, now.Add(authorityLife), made.Authority.Until)
	require.Equal(t, now.Add(certificateLife), made.Client.Until)
	require.Len(t, made.Nodes, 2)

	var files []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		switch {
		case d.IsDir():
			require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), path)
			return nil
		case strings.HasSuffix(path, "key.pem"):
			require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), path)
		}
		rel, err := filepath.Rel(dir, path)
		require.NoError(t, err)
		files = append(files, rel)
		return nil
	}))
	require.Equal(t, []string{"any.buildkit/ca.pem", "any.buildkit/cert.pem", "any.buildkit/key.pem", "builder1/ca.pem", "builder1/cert.pem", "builder1/key.pem", "ca-key.pem", "ca.pem", "client-key.pem", "client.pem"}, files)

	roots := x509.NewCertPool()
	roots.AddCert(certificate(t, dir, "ca.pem"))
	verify := func(name, host string, usage x509.ExtKeyUsage) error {
		_, err := certificate(t, dir, name).Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
		return err
	}
	for _, host := range []string{"builder1", "10.0.0.5"} {
		require.NoError(t, verify("builder1/cert.pem", host, x509.ExtKeyUsageServerAuth))
	}
	for _, host := range []string{"buildkit-0.buildkit", "::1"} {
		require.NoError(t, verify("any.buildkit/cert.pem", host, x509.ExtKeyUsageServerAuth))
	}
	require.Error(t, verify("builder1/cert.pem", "builder2", x509.ExtKeyUsageServerAuth))
	require.Error(t, verify("builder1/cert.pem", "", x509.ExtKeyUsageClientAuth), "a node must not pass for a client")
	require.NoError(t, verify("client.pem", "", x509.ExtKeyUsageClientAuth))
	require.Error(t, verify("client.pem", "", x509.ExtKeyUsageServerAuth))
	for _, pair := range [][2]string{{"client.pem", "client-key.pem"}, {"builder1/cert.pem", "builder1/key.pem"}, {"ca.pem", "ca-key.pem"}} {
		_, err := tls.LoadX509KeyPair(filepath.Join(dir, pair[0]), filepath.Join(dir, pair[1]))
		require.NoError(t, err, pair)
	}

	// Another node, years later: the authority is the same, and nothing outlives it.
	before, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	later := now.Add(authorityLife - 24*time.Hour)
	made, err = Make(dir, nodes(t, "builder2"), later)
	require.NoError(t, err)
	require.Nil(t, made.Authority)
	require.Nil(t, made.Client)
	require.Equal(t, now.Add(authorityLife), made.Nodes[0].Until)
	after, err := os.ReadFile(filepath.Join(dir, "builder2", "ca.pem"))
	require.NoError(t, err)
	require.Equal(t, before, after)
	_, err = certificate(t, dir, "builder2/cert.pem").Verify(x509.VerifyOptions{Roots: roots, DNSName: "builder2", CurrentTime: later})
	require.NoError(t, err)
}

// list names what is below a directory, with sizes.
func list(t *testing.T, dir string) map[string]int64 {
	m := map[string]int64{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		if d.IsDir() {
			m[path] = -1
		} else {
			m[path] = info.Size()
		}
		return nil
	}))
	return m
}

// What cannot be made leaves everything as it was.
func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, dir string)
		nodes []string
		now   time.Time
		want  string
	}{
		"a node has its files":  {nodes: []string{"builder2", "builder1"}, want: "builder1/ca.pem exists, and is not overwritten"},
		"the same twice":        {nodes: []string{"builder2,10.0.0.1", "BUILDER2"}, want: "two nodes are named BUILDER2"},
		"no key":                {spoil: remove("ca-key.pem"), nodes: []string{"builder2"}, want: "ca.pem is there, but not "},
		"no authority":          {spoil: remove("ca.pem"), nodes: []string{"builder2"}, want: "ca-key.pem is there, but not "},
		"half a client":         {spoil: remove("client.pem"), nodes: []string{"builder2"}, want: "client-key.pem is there, but not "},
		"another key":           {spoil: replace("ca-key.pem", "client-key.pem"), nodes: []string{"builder2"}, want: "is not the key of"},
		"not an authority":      {spoil: both(replace("ca-key.pem", "client-key.pem"), replace("ca.pem", "client.pem")), nodes: []string{"builder2"}, want: "is not the certificate of an authority"},
		"the authority ended":   {nodes: []string{"builder2"}, now: now.Add(authorityLife), want: "ended on 2036-02-27"},
		"no certificate":        {spoil: text("ca.pem", "hello"), nodes: []string{"builder2"}, want: "holds no certificate in PEM form"},
		"a key with a password": {spoil: text("ca-key.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), nodes: []string{"builder2"}, want: "not a key in PKCS #8 without a password"},
		"a file in the way":     {nodes: []string{"builder2", "ca.pem"}, want: "ca.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Make(dir, nodes(t, "builder1"), now)
			require.NoError(t, err)
			if tt.spoil != nil {
				tt.spoil(t, dir)
			}
			if tt.now.IsZero() {
				tt.now = now
			}
			before := list(t, dir)
			_, err = Make(dir, nodes(t, tt.nodes...), tt.now)
			require.ErrorContains(t, err, tt.want)
			require.Equal(t, before, list(t, dir))
		})
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, name))) }
}

func text(name, content string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
}

func replace(name, by string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		data, err := os.ReadFile(filepath.Join(dir, by))
		require.NoError(t, err)
		text(name, string(data))(t, dir)
	}
}

func both(f, g func(*testing.T, string)) func(*testing.T, string) {
	return func(t *testing.T, dir string) { f(t, dir); g(t, dir) }
}
