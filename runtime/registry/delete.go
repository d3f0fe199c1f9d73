package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/distribution/reference"
)

// ErrKept is the cause when a registry does not delete content on request: many delete
// nothing, or no tags, unless configured to.
var ErrKept = errors.New("the registry does not delete it")

// Delete removes the content of ref: with a digest the manifest and every tag of it, with a
// tag the tag alone. A manifest that does not exist is [ErrNotFound]; a registry that
// deletes nothing, or no tags, gives [ErrKept]. The content is gone from the registry's
// disk only after its garbage collection.
func (c *Client) Delete(ctx context.Context, ref string) error {
	const op = "delete"
	ctx = c.prepare(ctx)
	n, err := parseRef(op, ref)
	if err != nil {
		return err
	}
	host, err := c.endpoint(reference.Domain(n))
	if err != nil {
		return fail(ctx, op, ref, err)
	}
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(n)+":pull,delete")
	u := &url.URL{Scheme: host.Scheme, Host: host.Host, Path: host.Path + "/" + reference.Path(n) + "/manifests/" + identifier(n)}
	return c.document(ctx, op, ref, func(ctx context.Context) error {
		resp, err := send(ctx, host, http.MethodDelete, u)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
			_, err := io.Copy(io.Discard, io.LimitReader(resp.Body, MaxConfig))
			return err
		case http.StatusMethodNotAllowed, http.StatusBadRequest:
			return &Error{Op: op, Ref: ref, Kind: ErrKept, Err: remoteserrors.NewUnexpectedStatusErr(resp)}
		}
		return remoteserrors.NewUnexpectedStatusErr(resp)
	})
}

// identifier is the digest of a name, or else its tag.
func identifier(n reference.Named) string {
	if d, ok := n.(reference.Digested); ok {
		return d.Digest().String()
	}
	if t, ok := n.(reference.Tagged); ok {
		return t.Tag()
	}
	return "latest"
}
