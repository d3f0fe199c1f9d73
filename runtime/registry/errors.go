package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
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
	ErrTooLarge    = errors.New("larger than allowed")
)

// Error says what could not be done with which reference.
type Error struct {
	Op   string // "read", "write", "list tags of"
	Ref  string
	Kind error // ErrNotFound, ErrDenied, ErrUnreachable, ErrTooLarge, or nil
	Err  error
}

func (e *Error) Error() string {
	host := hostOf(e.Ref)
	switch e.Kind {
	case ErrNotFound:
		return fmt.Sprintf("%s %s: not found in registry %s", e.Op, e.Ref, host)
	case ErrDenied:
		login := host
		if host == "docker.io" {
			login = ""
		}
		return fmt.Sprintf("%s %s: access denied by registry %s%s; log in with '%s', or the account lacks the right",
			e.Op, e.Ref, host, detail(e.Err), strings.TrimSpace("docker login "+login))
	case ErrUnreachable:
		if isPlainHTTP(e.Err) {
			return fmt.Sprintf("%s %s: registry %s speaks plain HTTP, which must be allowed for it: %v", e.Op, e.Ref, host, brief(e.Err))
		}
		return fmt.Sprintf("%s %s: registry %s cannot be reached: %v", e.Op, e.Ref, host, brief(e.Err))
	}
	return fmt.Sprintf("%s %s: %v%s", e.Op, e.Ref, brief(e.Err), detail(e.Err))
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
	var netErr net.Error
	var certErr *tls.CertificateVerificationError
	var recordErr tls.RecordHeaderError
	var unknownCA x509.UnknownAuthorityError
	switch {
	case errors.Is(err, ErrTooLarge):
		return ErrTooLarge
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return ErrDenied
	case errdefs.IsNotFound(err):
		return ErrNotFound
	case errors.As(err, &netErr), errors.As(err, &certErr), errors.As(err, &recordErr), errors.As(err, &unknownCA), isPlainHTTP(err):
		return ErrUnreachable
	}
	return nil
}

// isPlainHTTP recognises the answer of a plain server to a TLS client, for which
// net/http has no type.
func isPlainHTTP(err error) bool {
	var recordErr tls.RecordHeaderError
	if errors.As(err, &recordErr) && string(recordErr.RecordHeader[:]) == "HTTP/" {
		return true
	}
	return err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// brief leaves the URL out of a request's error: it can hold tokens, and the
// reference has been said.
func brief(err error) error {
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
	var body struct {
		Errors []struct {
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(status.Body, &body) != nil || len(body.Errors) == 0 || body.Errors[0].Message == "" {
		return ""
	}
	return " (" + body.Errors[0].Message + ")"
}
