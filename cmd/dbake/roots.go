package main

import (
	"crypto/x509"
	"os"
	"runtime"
	"strings"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// rootFiles is where systems keep the certificates of authorities, in the order in which
// crypto/x509 looks for them: it reads the first that there is.
var rootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// trustRoots trusts the authorities of Mozilla where the machine has no certificates of any,
// as in the image of dbake itself. To read them takes milliseconds of every command, so they
// are left out where a file of the machine is seen. getenv reads the environment.
func trustRoots(getenv func(string) string) {
	if !strings.Contains(getenv("GODEBUG"), "x509usefallbackroots") && hasRoots(getenv, rootFiles) {
		return
	}
	pool := x509.NewCertPool()
	for c := range bundle.Roots() {
		cert, err := x509.ParseCertificate(c.Certificate)
		switch {
		case err != nil:
			// One that this version of Go, or GODEBUG, does not accept is not trusted.
		case c.Constraint == nil:
			pool.AddCert(cert)
		default:
			pool.AddCertWithConstraint(cert, c.Constraint)
		}
	}
	x509.SetFallbackRoots(pool) // which still prefers what the machine has
}

// hasRoots reports whether the machine certainly has certificates of authorities; files are
// where it would have them.
func hasRoots(getenv func(string) string, files []string) bool {
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		return true // the system itself judges
	}
	if file := getenv("SSL_CERT_FILE"); file != "" {
		files = []string{file}
	}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			return info.Mode().IsRegular() && info.Size() > 0
		}
	}
	return false
}
