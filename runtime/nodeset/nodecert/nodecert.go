package nodecert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// authorityLife is how long an authority is good for, certificateLife what it signs.
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 825 * 24 * time.Hour
	// slack is how far the clock of another machine may be behind.
	slack = time.Hour
)

// Node is a node that is to have a certificate.
type Node struct {
	// Names are host names and IP addresses; the first names the node's directory. A
	// host name may begin with "*.".
	Names []string
}

// hostName is a name of DNS labels, the first of which may be "*".
var hostName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*$`)

// ParseNode reads "NAME[,NAME...]".
func ParseNode(value string) (Node, error) {
	var n Node
	for name := range strings.SplitSeq(value, ",") {
		name = strings.TrimSpace(name)
		addr, err := netip.ParseAddr(name)
		switch {
		case err == nil && addr.Zone() == "":
			name = addr.String()
		case name == "":
			return n, fmt.Errorf("node %q: a name is empty", value)
		case strings.Contains(name, "://") || !hostName.MatchString(name) || len(name) > 253:
			return n, fmt.Errorf("node %q: %q is neither a host name nor an IP address; leave scheme and port out, as in builder1,10.0.0.5", value, name)
		}
		if !slices.Contains(n.Names, name) {
			n.Names = append(n.Names, name)
		}
	}
	return n, nil
}

// Folder is the name of the node's directory.
func (n Node) Folder() string {
	return strings.NewReplacer("*", "any", ":", "-").Replace(n.Names[0])
}

// Certificate is one that was made.
type Certificate struct {
	Files []string  // absolute, the certificate first
	Until time.Time // when it ends
}

// Made lists the certificates that [Make] has made; a nil Certificate existed before.
type Made struct {
	Authority *Certificate
	Client    *Certificate
	Nodes     []Certificate // in the order of the request
}

// ExistsError reports that a file is there already.
type ExistsError struct{ File string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("%s exists, and is not overwritten; delete it, or choose another directory, to have a new one", e.File)
}

// Make makes, below the absolute directory dir, the authority and the client's
// certificate if they are missing, and certificates of nodes, which must be. With an
// error it leaves everything as it was.
func Make(dir string, nodes []Node, now time.Time) (_ *Made, err error) {
	m := maker{dir: dir, now: now}
	if err := m.foresee(nodes); err != nil {
		return nil, err
	}
	made := &Made{}
	if made.Authority, err = m.loadOrMakeAuthority(); err != nil {
		return nil, err
	}
	if made.Client, err = m.client(); err != nil {
		return nil, err
	}
	for _, n := range nodes {
		c, err := m.node(n)
		if err != nil {
			return nil, err
		}
		made.Nodes = append(made.Nodes, c)
	}
	return made, m.write()
}

// maker makes certificates; the files are written when all are made.
type maker struct {
	dir   string
	now   time.Time
	cert  *x509.Certificate // of the authority
	key   *ecdsa.PrivateKey
	root  []byte // cert in PEM
	files []file
}

type file struct {
	name string // relative
	data []byte
	mode fs.FileMode
}

// foresee returns an error if a node has its files, or its directory twice.
func (m *maker) foresee(nodes []Node) error {
	seen := map[string]bool{}
	for _, n := range nodes {
		folder := n.Folder()
		if seen[strings.ToLower(folder)] {
			return fmt.Errorf("two nodes are named %s", n.Names[0])
		}
		seen[strings.ToLower(folder)] = true
		for _, name := range []string{"ca.pem", "cert.pem", "key.pem"} {
			path := filepath.Join(m.dir, folder, name)
			if there, err := exists(path); err != nil {
				return err
			} else if there {
				return &ExistsError{path}
			}
		}
	}
	return nil
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// pair reports whether a certificate and its key are there; one without the other is an
// error.
func (m *maker) pair(cert, key string) (bool, error) {
	c, err := exists(filepath.Join(m.dir, cert))
	if err != nil {
		return false, err
	}
	k, err := exists(filepath.Join(m.dir, key))
	if err != nil {
		return false, err
	}
	if c == k {
		return c, nil
	}
	if k {
		cert, key = key, cert
	}
	return false, fmt.Errorf("%s is there, but not %s; put it back, or choose another directory", filepath.Join(m.dir, cert), filepath.Join(m.dir, key))
}

func (m *maker) loadOrMakeAuthority() (*Certificate, error) {
	const certFile, keyFile = "ca.pem", "ca-key.pem"
	there, err := m.pair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	if there {
		return nil, m.load(filepath.Join(m.dir, certFile), filepath.Join(m.dir, keyFile))
	}
	t := m.template("dbake nodes", authorityLife)
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	c, err := m.sign(t, certFile, keyFile)
	return &c, err
}

// load reads an authority and checks that it can sign.
func (m *maker) load(certFile, keyFile string) (err error) {
	if m.root, err = os.ReadFile(certFile); err != nil {
		return err
	}
	block, _ := pem.Decode(m.root)
	if block == nil || block.Type != "CERTIFICATE" {
		return fmt.Errorf("%s holds no certificate in PEM form", certFile)
	}
	if m.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return fmt.Errorf("%s: %w", certFile, err)
	}
	data, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	if block, _ = pem.Decode(data); block == nil {
		return fmt.Errorf("%s holds no key in PEM form", keyFile)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s: not a key in PKCS #8 without a password: %w", keyFile, err)
	}
	var ok bool
	if m.key, ok = key.(*ecdsa.PrivateKey); !ok {
		return fmt.Errorf("%s: the key is not of the kind that dbake makes (ECDSA)", keyFile)
	}
	switch {
	case !m.key.PublicKey.Equal(m.cert.PublicKey):
		return fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	case !m.cert.IsCA:
		return fmt.Errorf("%s is not the certificate of an authority", certFile)
	case !m.now.Before(m.cert.NotAfter):
		return fmt.Errorf("the authority in %s ended on %s; choose another directory, and give all nodes new certificates", certFile, m.cert.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// client makes the client's certificate unless it is there.
func (m *maker) client() (*Certificate, error) {
	const certFile, keyFile = "client.pem", "client-key.pem"
	there, err := m.pair(certFile, keyFile)
	if err != nil || there {
		return nil, err
	}
	t := m.template("dbake client", certificateLife)
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	c, err := m.sign(t, certFile, keyFile)
	return &c, err
}

func (m *maker) node(n Node) (Certificate, error) {
	t := m.template(n.Names[0], certificateLife)
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range n.Names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	folder := n.Folder()
	c, err := m.sign(t, filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem"))
	root := file{filepath.Join(folder, "ca.pem"), m.root, 0o644}
	m.files = append(m.files, root)
	c.Files = append(c.Files, filepath.Join(m.dir, root.name))
	return c, err
}

// template holds the fields that all certificates share; its life ends with that of the
// authority.
func (m *maker) template(name string, life time.Duration) *x509.Certificate {
	until := m.now.Add(life)
	if m.cert != nil && m.cert.NotAfter.Before(until) {
		until = m.cert.NotAfter
	}
	const longestName = 64 // X.520
	return &x509.Certificate{Subject: pkix.Name{CommonName: name[:min(len(name), longestName)]}, NotBefore: m.now.Add(-slack), NotAfter: until}
}

// sign makes a key and its certificate, and, for the first, the authority.
func (m *maker) sign(t *x509.Certificate, certFile, keyFile string) (Certificate, error) {
	fail := func(err error) (Certificate, error) {
		return Certificate{}, fmt.Errorf("make %s: %w", filepath.Join(m.dir, certFile), err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return fail(err)
	}
	parent, signer := m.cert, m.key
	if t.IsCA {
		parent, signer = t, key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	if err != nil {
		return fail(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fail(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if t.IsCA {
		if m.cert, err = x509.ParseCertificate(der); err != nil {
			return fail(err)
		}
		m.key, m.root = key, public
	}
	m.files = append(m.files,
		file{keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600},
		file{certFile, public, 0o644})
	return Certificate{Files: []string{filepath.Join(m.dir, certFile), filepath.Join(m.dir, keyFile)}, Until: t.NotAfter}, nil
}

// write writes all files, or none.
func (m *maker) write() (err error) {
	var undo []func() error
	defer func() {
		if err == nil {
			return
		}
		slices.Reverse(undo)
		for _, f := range undo {
			err = errors.Join(err, f())
		}
	}()
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	for _, f := range m.files {
		path := filepath.Join(m.dir, f.name)
		if folder := filepath.Dir(path); folder != m.dir {
			switch err := os.Mkdir(folder, 0o700); {
			case err == nil:
				undo = append(undo, func() error { return os.Remove(folder) })
			case !errors.Is(err, fs.ErrExist):
				return err
			}
		}
		// O_EXCL: another one that runs now may have made it meanwhile.
		w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
		if errors.Is(err, fs.ErrExist) {
			return &ExistsError{path}
		}
		if err != nil {
			return err
		}
		undo = append(undo, func() error { return os.Remove(path) })
		_, err = w.Write(f.data)
		if err := errors.Join(err, w.Close()); err != nil {
			return err
		}
	}
	return nil
}
