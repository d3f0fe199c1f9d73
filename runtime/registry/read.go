package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// MaxManifest is the largest manifest or index that is read; registries
	// refuse to take larger ones.
	MaxManifest = 4 << 20
	// MaxConfig is the largest image config that is read.
	MaxConfig = 8 << 20
	// maxTags ends a listing that does not.
	maxTags     = 100_000
	maxTagsPage = 16 << 20
	// maxAsks bounds how often one page is asked for with new credentials.
	maxAsks = 3
)

// Resolve returns the descriptor that a reference stands for.
func (c *Client) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	ctx = c.prepare(ctx)
	n, err := parseRef("read", ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var desc ocispec.Descriptor
	err = c.document(ctx, "read", ref, func(ctx context.Context) (err error) {
		if _, desc, err = c.resolver().Resolve(ctx, n.String()); err == nil && isWebPage(desc.MediaType) {
			err = errWebPage
		}
		return err
	})
	return desc, err
}

func isWebPage(contentType string) bool { return strings.HasPrefix(contentType, "text/html") }

// Manifest returns the manifest or index that a reference stands for, and its
// descriptor.
func (c *Client) Manifest(ctx context.Context, ref string) ([]byte, ocispec.Descriptor, error) {
	desc, err := c.Resolve(ctx, ref)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	data, err := c.Blob(ctx, ref, desc, MaxManifest)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	return data, desc, nil
}

// Blob returns the content of a descriptor from the repository of ref: a blob, or
// a manifest when the descriptor's media type is one. desc must have its size. Content of more than limit
// bytes is refused with [ErrTooLarge].
func (c *Client) Blob(ctx context.Context, ref string, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	ctx = c.prepare(ctx)
	var data []byte
	err := c.document(ctx, "read", ref, func(ctx context.Context) error {
		r, err := c.open(ctx, ref, desc)
		if err != nil {
			return err
		}
		defer r.Close()
		data, err = readAll(r, desc, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// open starts reading content by digest.
func (c *Client) open(ctx context.Context, ref string, desc ocispec.Descriptor) (io.ReadCloser, error) {
	n, err := parseRef("read", ref)
	if err != nil {
		return nil, err
	}
	f, err := c.resolver().Fetcher(ctx, n.String())
	if err != nil {
		return nil, err
	}
	return f.Fetch(ctx, desc)
}

// readAll reads and verifies content.
func readAll(r io.Reader, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes, %w (%d)", desc.Digest, desc.Size, ErrTooLarge, limit)
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("%s is %w (%d bytes)", desc.Digest, ErrTooLarge, limit)
	case int64(len(data)) < desc.Size:
		return nil, fmt.Errorf("%s has %d bytes instead of %d: %w", desc.Digest, len(data), desc.Size, io.ErrUnexpectedEOF)
	case int64(len(data)) != desc.Size:
		return nil, fmt.Errorf("%s has %d bytes instead of %d", desc.Digest, len(data), desc.Size)
	}
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", desc.Digest, err)
	}
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return nil, fmt.Errorf("the registry sent %s instead of %s", got, desc.Digest)
	}
	return data, nil
}

// Image is an image of one platform.
type Image struct {
	Root     ocispec.Descriptor // what the reference stands for: an index or Manifest
	Manifest ocispec.Descriptor
	Layers   []ocispec.Descriptor
	Raw      []byte // the config as it is in the registry
	Config   ocispec.Image
}

// Config returns the image that a reference stands for on a platform. With an
// index and no such platform in it, the error is [ErrNotFound]; a reference to a
// single image gives it whatever its platform.
func (c *Client) Config(ctx context.Context, ref string, platform ocispec.Platform) (*Image, error) {
	data, desc, err := c.Manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	img := &Image{Root: desc, Manifest: desc}
	if images.IsIndexType(desc.MediaType) {
		if img.Manifest, err = choose(data, platform); err != nil {
			return nil, fail(ctx, "read", ref, err)
		}
		if data, err = c.Blob(ctx, ref, img.Manifest, MaxManifest); err != nil {
			return nil, err
		}
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fail(ctx, "read", ref, fmt.Errorf("manifest %s: %w", img.Manifest.Digest, err))
	}
	img.Layers = m.Layers
	if m.Config.Digest == "" {
		return nil, fail(ctx, "read", ref, fmt.Errorf("%s (%s) is not an image", img.Manifest.Digest, img.Manifest.MediaType))
	}
	if img.Raw, err = c.Blob(ctx, ref, m.Config, MaxConfig); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(img.Raw, &img.Config); err != nil {
		return nil, fail(ctx, "read", ref, fmt.Errorf("config %s: %w", m.Config.Digest, err))
	}
	return img, nil
}

// choose returns the best manifest of an index for a platform.
func choose(index []byte, platform ocispec.Platform) (ocispec.Descriptor, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(index, &idx); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("index: %w", err)
	}
	match := platforms.Only(platform)
	var best *ocispec.Descriptor
	for i, d := range idx.Manifests {
		if d.Platform == nil || isAttestation(d) || !match.Match(*d.Platform) {
			continue
		}
		if best == nil || match.Less(*d.Platform, *best.Platform) {
			best = &idx.Manifests[i]
		}
	}
	if best == nil {
		return ocispec.Descriptor{}, fmt.Errorf("no image for platform %s: %w", platforms.FormatAll(platform), errdefs.ErrNotFound)
	}
	return *best, nil
}

// Tags returns the tags of a repository, sorted; none when the repository does not
// exist. The registry itself is asked, not its mirrors: they need not know of new
// tags. A tag or digest of ref is ignored.
func (c *Client) Tags(ctx context.Context, ref string) ([]string, error) {
	const op = "list tags of"
	ctx = c.prepare(ctx)
	n, err := parseRef(op, ref)
	if err != nil {
		return nil, err
	}
	host, err := c.endpoint(reference.Domain(n))
	if err != nil {
		return nil, fail(ctx, op, ref, err)
	}
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(n)+":pull")
	var tags []string
	next := &url.URL{Scheme: host.Scheme, Host: host.Host, Path: host.Path + "/" + reference.Path(n) + "/tags/list", RawQuery: "n=1000"}
	for next != nil && len(tags) < maxTags {
		var page []string
		var link *url.URL
		err := c.document(ctx, op, ref, func(ctx context.Context) (err error) {
			page, link, err = getTags(ctx, host, next)
			return err
		})
		if errors.Is(err, ErrNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		tags = append(tags, page...)
		next = link
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

// getTags asks for one page and returns the address of the next, if there is one.
func getTags(ctx context.Context, host docker.RegistryHost, page *url.URL) (tags []string, next *url.URL, err error) {
	resp, err := send(ctx, host, http.MethodGet, page, "application/json")
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, nil, errdefs.ErrNotFound
	case resp.StatusCode != http.StatusOK:
		return nil, nil, remoteserrors.NewUnexpectedStatusErr(resp)
	case isWebPage(resp.Header.Get("Content-Type")):
		return nil, nil, errWebPage
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxTagsPage+1))
	if err != nil {
		return nil, nil, err
	}
	if len(data) > maxTagsPage {
		return nil, nil, fmt.Errorf("the list of tags is %w (%d bytes)", ErrTooLarge, maxTagsPage)
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, nil, fmt.Errorf("the list of tags: %w", err)
	}
	next, err = nextPage(page, resp.Header.Values("Link"))
	return list.Tags, next, err
}

// send sends one request without a body, with credentials once the registry asks for
// them. The answer may have one of these media types.
func send(ctx context.Context, host docker.RegistryHost, method string, u *url.URL, types ...string) (*http.Response, error) {
	var seen []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", strings.Join(types, ", "))
		if err := host.Authorizer.Authorize(ctx, req); err != nil {
			return nil, fmt.Errorf("log in: %w", err)
		}
		resp, err := host.Client.Do(req)
		if err != nil {
			return nil, err
		}
		seen = append(seen, resp)
		if resp.StatusCode != http.StatusUnauthorized || len(seen) == maxAsks {
			return resp, nil
		}
		if err := host.Authorizer.AddResponses(ctx, seen); err != nil {
			if errdefs.IsNotImplemented(err) {
				return resp, nil // no way to log in that we know
			}
			resp.Body.Close()
			return nil, err
		}
		resp.Body.Close()
	}
}

// nextPage reads the Link header of a listing. A link to another host is refused:
// it would get this registry's credentials.
func nextPage(page *url.URL, links []string) (*url.URL, error) {
	for _, l := range links {
		target, params, ok := bytes.Cut([]byte(l), []byte(">"))
		if !ok || !bytes.HasPrefix(target, []byte("<")) || !bytes.Contains(params, []byte(`rel="next"`)) {
			continue
		}
		next, err := page.Parse(string(target[1:]))
		if err != nil {
			return nil, fmt.Errorf("the list of tags: %w", err)
		}
		next.Scheme = page.Scheme // behind a proxy a registry may not know its own
		if next.Host != page.Host {
			return nil, errors.New("the list of tags goes on at another host")
		}
		if next.String() == page.String() {
			return nil, errors.New("the list of tags does not end")
		}
		return next, nil
	}
	return nil, nil
}

// isAttestation reports whether an entry of an index is BuildKit's attestation of
// another entry.
func isAttestation(d ocispec.Descriptor) bool {
	return d.Annotations[annotationRefType] == refTypeAttestation
}

const (
	annotationRefType   = "vnd.docker.reference.type"
	annotationRefDigest = "vnd.docker.reference.digest"
	refTypeAttestation  = "attestation-manifest"
)

// attestedDigest is the digest of the image that an attestation is about.
func attestedDigest(d ocispec.Descriptor) digest.Digest {
	return digest.Digest(d.Annotations[annotationRefDigest])
}

// ReadTag returns the manifest that a tag stands for, in one request of the registry
// itself, whose mirrors may not know of it yet. Content of more than [MaxManifest] bytes is
// refused with [ErrTooLarge].
func (c *Client) ReadTag(ctx context.Context, ref string) ([]byte, ocispec.Descriptor, error) {
	const op = "read"
	ctx = c.prepare(ctx)
	n, err := parseRef(op, ref)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	tagged, ok := n.(reference.Tagged)
	if !ok {
		return nil, ocispec.Descriptor{}, &Error{Op: op, Ref: ref, Err: errors.New("it has no tag")}
	}
	host, err := c.endpoint(reference.Domain(n))
	if err != nil {
		return nil, ocispec.Descriptor{}, fail(ctx, op, ref, err)
	}
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(n)+":pull")
	at := &url.URL{Scheme: host.Scheme, Host: host.Host, Path: host.Path + "/" + reference.Path(n) + "/manifests/" + tagged.Tag()}
	var data []byte
	var desc ocispec.Descriptor
	err = c.document(ctx, op, ref, func(ctx context.Context) error {
		resp, err := send(ctx, host, http.MethodGet, at, manifestTypes...)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusNotFound:
			return errdefs.ErrNotFound
		case resp.StatusCode != http.StatusOK:
			return remoteserrors.NewUnexpectedStatusErr(resp)
		case isWebPage(resp.Header.Get("Content-Type")):
			return errWebPage
		}
		if data, err = io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1)); err != nil {
			return err
		}
		if len(data) > MaxManifest {
			return fmt.Errorf("the manifest is %w (%d bytes)", ErrTooLarge, int64(MaxManifest))
		}
		desc = ocispec.Descriptor{MediaType: resp.Header.Get("Content-Type"), Digest: digest.FromBytes(data), Size: int64(len(data))}
		return nil
	})
	return data, desc, err
}

// manifestTypes are the media types of manifests and indexes.
var manifestTypes = []string{
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
	images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2ManifestList,
}
