package nodeset

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// Refusal explains in plain words why a node cannot be reached.
type Refusal struct {
	// Reason is the fault, and its remedy where that is known.
	Reason string
	Err    error // what was seen
}

func (e *Refusal) Error() string { return e.Reason }

// Unwrap returns the error behind it.
func (e *Refusal) Unwrap() error { return e.Err }

// explainDial turns the failure of a dial into words.
func (s Spec) explainDial(err error) error {
	place := strings.TrimPrefix(strings.TrimPrefix(s.Addr, "tcp://"), "unix://")
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		why := dns.Err
		if dns.IsTimeout {
			why = "the name server does not answer"
		}
		return &Refusal{fmt.Sprintf("the host name %s cannot be resolved: %s", dns.Name, why), err}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Refusal{fmt.Sprintf("nothing listens on %s (connection refused)", place), err}
	case errors.Is(err, os.ErrNotExist) && strings.HasPrefix(s.Addr, "unix://"):
		return &Refusal{fmt.Sprintf("there is no socket %s; is buildkitd running?", place), err}
	case errors.Is(err, os.ErrPermission):
		return &Refusal{fmt.Sprintf("no permission to use %s", place), err}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return &Refusal{fmt.Sprintf("there is no route to %s", place), err}
	}
	return err
}

// explainHandshake turns the failure of a TLS handshake into words.
func (s Spec) explainHandshake(err error) error {
	var record tls.RecordHeaderError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	switch {
	case errors.As(err, &record):
		if other := protocolOf(record.RecordHeader[:]); other != "" {
			return &Refusal{fmt.Sprintf("this port speaks %s, not the protocol of BuildKit", other), err}
		}
		return &Refusal{"this node does not speak TLS; leave cacert, cert, key and servername out", err}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &Refusal{fmt.Sprintf("the node's certificate is not valid now: %s", invalid.Detail), err}
	case errors.As(err, &authority):
		if s.TLS.CACert == "" {
			return &Refusal{"the node's certificate is signed by an authority that this machine does not trust; name it by cacert=FILE", err}
		}
		return &Refusal{fmt.Sprintf("the node's certificate is not signed by the authority in %s", s.TLS.CACert), err}
	case errors.As(err, &host):
		return &Refusal{fmt.Sprintf("the node's certificate is for another name: %v; name the right one by servername=NAME", host), err}
	}
	if alert := remoteAlert(err); alert != "" {
		return s.explainAlert(alert, err)
	}
	return fmt.Errorf("TLS handshake: %w", err)
}

// explainAlert puts the node's TLS alert into words.
func (s Spec) explainAlert(alert string, err error) error {
	if s.TLS != nil && s.TLS.Cert == "" {
		return &Refusal{fmt.Sprintf("the node wants a client certificate; give cert=FILE and key=FILE (it says: %s)", alert), err}
	}
	return &Refusal{fmt.Sprintf("the node refuses the client certificate: %s", alert), err}
}

// remoteAlert returns the text of a TLS alert that the other side sent; "" when err
// is none.
func remoteAlert(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return strings.TrimPrefix(op.Err.Error(), "tls: ")
	}
	return ""
}

// tlsProbeTimeout bounds the handshake by which a node that hangs up is asked
// whether it wants TLS.
const tlsProbeTimeout = 3 * time.Second

// Explain returns in plain words why a connection ended before the node answered. heard are
// its first bytes, err is how it ended.
func (s Spec) Explain(ctx context.Context, heard []byte, err error) error {
	if alert := remoteAlert(err); alert != "" {
		return s.explainAlert(alert, err)
	}
	if other := protocolOf(heard); other != "" {
		return &Refusal{fmt.Sprintf("this port speaks %s, not the protocol of BuildKit", other), err}
	}
	if s.TLS != nil {
		// What the node said may have been lost with the connection, when it hung up
		// before it read what was sent to it.
		if again := s.listen(ctx); remoteAlert(again) != "" {
			return s.explainAlert(remoteAlert(again), again)
		}
	}
	if s.TLS == nil && strings.HasPrefix(s.Addr, "tcp://") && s.speaksTLS(ctx) {
		return &Refusal{"this node speaks TLS; give cacert=FILE, and cert=FILE and key=FILE if it wants a client certificate", err}
	}
	return err
}

// listen connects to the node, sends nothing, and returns the node's objection: under TLS
// 1.3 a client certificate is judged after the handshake. A node that takes it speaks
// first.
func (s Spec) listen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tlsProbeTimeout)
	defer cancel()
	conn, err := s.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // nothing was sent
	until, _ := ctx.Deadline()
	if err := conn.SetReadDeadline(until); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err = conn.Read(make([]byte, 1))
	return err
}

// speaksTLS reports whether the node answers a TLS handshake, whatever the answer.
func (s Spec) speaksTLS(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, tlsProbeTimeout)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, // only whether it speaks TLS is asked; nothing is sent
		NextProtos:         []string{"h2"},
	}}
	conn, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(s.Addr, "tcp://"))
	if err == nil {
		_ = conn.Close() // nothing was sent
		return true
	}
	return remoteAlert(err) != ""
}

// protocolOf names the protocol whose first bytes a daemon has sent; "" when it is
// not known, or HTTP/2 as it should be.
func protocolOf(heard []byte) string {
	switch {
	case bytes.HasPrefix(heard, []byte("SSH-")):
		return "SSH"
	case bytes.HasPrefix(heard, []byte("HTTP/")), bytes.HasPrefix(heard, []byte("HTTP")):
		return "HTTP/1"
	case bytes.HasPrefix(heard, []byte("220 ")), bytes.HasPrefix(heard, []byte("220-")):
		return "SMTP or FTP"
	case bytes.HasPrefix(heard, []byte("-ERR")):
		return "the protocol of Redis"
	}
	return ""
}
