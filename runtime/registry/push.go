package registry

import (
	"bytes"
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Push writes a blob or a manifest, by desc.MediaType. A manifest gets the tag of ref; of a
// blob only the repository counts.
func (c *Client) Push(ctx context.Context, ref string, desc ocispec.Descriptor, data []byte) error {
	ctx = c.prepare(ctx)
	n, err := parseRef("write", ref)
	if err != nil {
		return err
	}
	return c.push(ctx, n.String(), desc, data)
}

// push writes a blob or a manifest under a normalised reference.
func (c *Client) push(ctx context.Context, ref string, desc ocispec.Descriptor, data []byte) error {
	return c.retry(ctx, "write", ref, func(ctx context.Context) error {
		p, err := c.resolver().Pusher(ctx, ref)
		if err != nil {
			return err
		}
		w, err := p.Push(ctx, desc)
		if errdefs.IsAlreadyExists(err) {
			return nil
		}
		if err != nil {
			return err
		}
		defer w.Close()
		if err := content.Copy(ctx, w, bytes.NewReader(data), desc.Size, desc.Digest); !errdefs.IsAlreadyExists(err) {
			return err
		}
		return nil
	})
}
