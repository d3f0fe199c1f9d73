package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
)

// Causes that a caller may test for with errors.Is.
var (
	ErrNotFound    = errors.New("not found")
	ErrDenied      = errors.New("access denied")
	ErrUnreachable = errors.New("the registry cannot be reached")
	ErrBusy        = errors.New("the registry asks to come later")
	ErrTooLarge    = errors.New("larger than allowed")
)

// errWebPage is an answer that no registry gives.
var errWebPage = errors.New("the answer is a web page: is a login page or a proxy in the way?")

// Error records an operation that failed, and its reference.
type Error struct {
	Op    string // "read", "write", "delete", "list tags of"
	Ref   string
	Kind  error // ErrNotFound, ErrDenied, ErrUnreachable, ErrBusy, ErrTooLarge, ErrKept, or nil
	Err   error
	Tried string // how often it was tried; "" = once
}

// Error names the operation, the reference and the reason.
func (e *Error) Error() string { return fmt.Sprintf("%s %s: %s", e.Op, e.Ref, e.Reason()) }

// Reason is the reason alone, without the operation and the reference.
func (e *Error) Reason() string {
	if e.Tried != "" {
		return e.reason() + "; " + e.Tried
	}
	return e.reason()
}

func (e *Error) reason() string {
	host := hostOf(e.Ref)
	var silent *silentError
	switch e.Kind {
	case ErrNotFound:
		return fmt.Sprintf("not found in registry %s", host)
	case ErrDenied:
		login := host
		if host == "docker.io" {
			login = ""
		}
		return fmt.Sprintf("access denied by registry %s%s; log in with '%s', or the account lacks the right",
			host, detail(e.Err), strings.TrimSpace("docker login "+login))
	case ErrBusy:
		return fmt.Sprintf("registry %s %v", host, brief(e.Err))
	case ErrKept:
		return fmt.Sprintf("registry %s does not delete it%s; its configuration must allow that", host, detail(e.Err))
	case ErrUnreachable:
		switch {
		case SpeaksPlainHTTP(e.Err):
			return fmt.Sprintf("registry %s speaks plain HTTP, which must be allowed for it: %v", host, brief(e.Err))
		case errors.As(e.Err, &silent):
			return fmt.Sprintf("registry %s %v", host, silent)
		case errors.Is(e.Err, io.EOF), errors.Is(e.Err, io.ErrUnexpectedEOF):
			return fmt.Sprintf("registry %s broke off its answer", host)
		}
		return fmt.Sprintf("registry %s cannot be reached: %v", host, brief(e.Err))
	}
	return fmt.Sprintf("%v%s", brief(e.Err), detail(e.Err))
}

// Reason returns why an operation failed, without its name and its reference where
// the error has them.
func Reason(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason()
	}
	return err.Error()
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Kind == nil {
		return []error{e.Err}
	}
	return []error{e.Kind, e.Err}
}

// fail classifies the error of an operation.
func fail(ctx context.Context, op, ref string, err error) error {
	if err == nil {
		return nil
	}
	var known *Error
	if errors.As(err, &known) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", op, ref, context.Cause(ctx))
	}
	return &Error{Op: op, Ref: ref, Kind: kindOf(err), Err: err}
}

func kindOf(err error) error {
	var status remoteserrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		switch status.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return ErrDenied
		case http.StatusNotFound:
			return ErrNotFound
		}
		return nil
	}
	var busy *busyError
	var netErr net.Error
	var certErr *tls.CertificateVerificationError
	var recordErr tls.RecordHeaderError
	var unknownCA x509.UnknownAuthorityError
	switch {
	case errors.Is(err, ErrTooLarge):
		return ErrTooLarge
	case errors.As(err, &busy):
		return ErrBusy
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return ErrDenied
	case errdefs.IsNotFound(err):
		return ErrNotFound
	case errors.As(err, &netErr), errors.As(err, &certErr), errors.As(err, &recordErr), errors.As(err, &unknownCA), SpeaksPlainHTTP(err), away(err):
		return ErrUnreachable
	}
	return nil
}

// SpeaksPlainHTTP reports whether a registry was asked over TLS and answered in plain
// HTTP, which was not allowed for it.
func SpeaksPlainHTTP(err error) bool {
	// It is the answer of a plain server to a TLS client, for which net/http has no
	// type.
	var recordErr tls.RecordHeaderError
	if errors.As(err, &recordErr) && string(recordErr.RecordHeader[:]) == "HTTP/" {
		return true
	}
	return err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// brief leaves the URL out of a request's error: it can hold tokens, and the reference is
// named already.
func brief(err error) error {
	var busy *busyError
	if errors.As(err, &busy) {
		return busy
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	var status remoteserrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return fmt.Errorf("the registry answered %s", status.Status)
	}
	return err
}

// detail returns the registry's own words for a refusal, in parentheses.
func detail(err error) string {
	var status remoteserrors.ErrUnexpectedStatus
	if !errors.As(err, &status) {
		return ""
	}
	if text := message(status.Body); text != "" {
		return " (" + text + ")"
	}
	return ""
}
