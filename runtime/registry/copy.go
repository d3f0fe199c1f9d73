package registry

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/url"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Copy makes a manifest, or an index with all its manifests, and everything they
// name available in another repository, under its digest. Tags and digests of from
// and to are ignored. Nothing is done when both are one repository.
func (c *Client) Copy(ctx context.Context, from, to string, desc ocispec.Descriptor) error {
	ctx = c.prepare(ctx)
	src, dst, err := repositories(from, to)
	if err != nil || src.Name() == dst.Name() {
		return err
	}
	return c.copyManifest(ctx, src, dst, desc, map[digest.Digest]bool{})
}

func repositories(from, to string) (src, dst reference.Named, err error) {
	if src, err = parseRef("read", from); err != nil {
		return nil, nil, err
	}
	if dst, err = parseRef("write", to); err != nil {
		return nil, nil, err
	}
	return reference.TrimNamed(src), reference.TrimNamed(dst), nil
}

// maxDepth is how far indexes may hold indexes.
const maxDepth = 4

// copyManifest copies the parts of a manifest and then itself: a registry takes no manifest
// whose parts it lacks. done holds what was copied, in the path and beside.
func (c *Client) copyManifest(ctx context.Context, src, dst reference.Named, desc ocispec.Descriptor, done map[digest.Digest]bool) error {
	return c.copyManifestAt(ctx, src, dst, desc, done, 0)
}

func (c *Client) copyManifestAt(ctx context.Context, src, dst reference.Named, desc ocispec.Descriptor, done map[digest.Digest]bool, depth int) error {
	if done[desc.Digest] {
		return nil
	}
	if depth == maxDepth {
		return &Error{Op: "copy", Ref: src.Name() + "@" + desc.Digest.String(), Err: errors.New("indexes are nested too deep")}
	}
	data, err := c.Blob(ctx, src.Name(), desc, MaxManifest)
	if err != nil {
		return err
	}
	if images.IsIndexType(desc.MediaType) {
		var idx ocispec.Index
		if err := json.Unmarshal(data, &idx); err != nil {
			return &Error{Op: "copy", Ref: src.Name() + "@" + desc.Digest.String(), Err: err}
		}
		for _, d := range idx.Manifests {
			if err := c.copyManifestAt(ctx, src, dst, d, done, depth+1); err != nil {
				return err
			}
		}
	} else if err := c.copyLayers(ctx, src, dst, desc, data, done); err != nil {
		return err
	}
	done[desc.Digest] = true
	return c.push(ctx, dst.Name()+"@"+desc.Digest.String(), desc, data)
}

// copyLayers copies the config and the layers of an image manifest.
func (c *Client) copyLayers(ctx context.Context, src, dst reference.Named, desc ocispec.Descriptor, data []byte, done map[digest.Digest]bool) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return &Error{Op: "copy", Ref: src.Name() + "@" + desc.Digest.String(), Err: err}
	}
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(parallel)
	for _, b := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		// A foreign layer is fetched from its URLs and never pushed.
		if done[b.Digest] || b.Digest == "" || images.IsNonDistributable(b.MediaType) && len(b.URLs) > 0 {
			continue
		}
		done[b.Digest] = true
		eg.Go(func() error { return c.copyBlob(ctx, src, dst, b) })
	}
	return eg.Wait()
}

func (c *Client) copyBlob(ctx context.Context, src, dst reference.Named, desc ocispec.Descriptor) error {
	ref := dst.Name() + "@" + desc.Digest.String()
	return c.retry(ctx, "write", ref, func(ctx context.Context) error {
		p, err := c.resolver().Pusher(ctx, ref)
		if err != nil {
			return err
		}
		w, err := p.Push(ctx, withOrigin(desc, src))
		if errdefs.IsAlreadyExists(err) {
			return nil // it was there, or it was mounted
		}
		if err != nil {
			return err
		}
		defer w.Close()
		from := src.Name() + "@" + desc.Digest.String()
		r, err := c.open(ctx, src.Name(), desc)
		if err != nil {
			return fail(ctx, "read", from, err)
		}
		defer r.Close()
		if err := content.Copy(ctx, w, r, desc.Size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
			return fail(ctx, "copy", from, err)
		}
		return nil
	})
}

// withOrigin names, for the pusher, the repository to mount a blob from. It looks for
// the host without its port.
func withOrigin(desc ocispec.Descriptor, src reference.Named) ocispec.Descriptor {
	host := reference.Domain(src)
	if u, err := url.Parse("//" + host); err == nil {
		host = u.Hostname()
	}
	annotations := maps.Clone(desc.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[labels.LabelDistributionSource+"."+host] = reference.Path(src)
	desc.Annotations = annotations
	return desc
}
