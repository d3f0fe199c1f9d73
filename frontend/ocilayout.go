package frontend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/util/imageutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
)

// ociLayout makes a layout a store of in and returns the context value that names its
// image.
func (c *compilation) ociLayout(in *inputs, layout ir.Source) (string, error) {
	dir, err := realPath(c.abs(layout.Dir()))
	if err != nil {
		return "", err
	}
	dgst := layout.Digest
	if !layout.HasDigest {
		if dgst, err = layoutDigest(dir, layout.Ref); err != nil {
			return "", err
		}
	}
	if _, err := digest.Parse(dgst); err != nil {
		return "", err
	}
	// Repository names are in lower case.
	id := strings.ToLower(c.stableName("oci", dir))
	in.ociStores[id] = dir
	return fmt.Sprintf("oci-layout://%s:%s@%s", id, layout.Ref, dgst), nil
}

// layoutDigest returns the digest that the index of a layout gives to a tag.
func layoutDigest(dir, tag string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, ocispecs.ImageIndexFile))
	if err != nil {
		return "", err
	}
	var index ocispecs.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return "", fmt.Errorf("%s: %w", ocispecs.ImageIndexFile, err)
	}
	for _, m := range index.Manifests {
		if name := m.Annotations[ocispecs.AnnotationRefName]; name == tag || strings.HasSuffix(name, ":"+tag) {
			return m.Digest.String(), nil
		}
	}
	// An image without a name is what is meant when it is the only one.
	if tag == "latest" && len(index.Manifests) == 1 && index.Manifests[0].Annotations[ocispecs.AnnotationRefName] == "" {
		return index.Manifests[0].Digest.String(), nil
	}
	return "", fmt.Errorf("no image with tag %q", tag)
}

// layoutImage returns the image that ref names by digest in the layout at dir.
func layoutImage(ctx context.Context, dir, ref string, p ocispecs.Platform) (*Image, error) {
	if dir == "" {
		return nil, fmt.Errorf("no OCI layout for %s", ref)
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, err
	}
	digested, ok := named.(reference.Digested)
	if !ok {
		return nil, fmt.Errorf("oci-layout reference %q has no digest", ref)
	}
	dgst := digested.Digest()
	store := layoutBlobs(dir)
	desc, err := describeBlob(ctx, store, dgst)
	if err != nil {
		return nil, err
	}
	config, err := images.Config(ctx, store, desc, platforms.Only(p))
	if err != nil {
		return nil, fmt.Errorf("image %s in OCI layout: %w", dgst, err)
	}
	data, err := content.ReadBlob(ctx, store, config)
	if err != nil {
		return nil, fmt.Errorf("config of image %s in OCI layout: %w", dgst, err)
	}
	return &Image{Digest: dgst, Config: data}, nil
}

// layoutBlobs reads the blobs of the layout in a directory. The content store of
// containerd would do, but writes into the directory.
type layoutBlobs string

var _ content.Provider = layoutBlobs("")

// ReaderAt implements content.Provider.
func (dir layoutBlobs) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(string(dir), "blobs", desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
	if err != nil {
		return nil, err
	}
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return nil, fmt.Errorf("has digest %s", got)
	}
	return blobBytes{bytes.NewReader(data)}, nil
}

// describeBlob returns the descriptor of a manifest or index.
func describeBlob(ctx context.Context, store content.Provider, dgst digest.Digest) (ocispecs.Descriptor, error) {
	data, err := content.ReadBlob(ctx, store, ocispecs.Descriptor{Digest: dgst})
	if err != nil {
		return ocispecs.Descriptor{}, fmt.Errorf("blob %s in OCI layout: %w", dgst, err)
	}
	mt, err := imageutil.DetectManifestBlobMediaType(data)
	if err != nil {
		return ocispecs.Descriptor{}, fmt.Errorf("blob %s in OCI layout: %w", dgst, err)
	}
	return ocispecs.Descriptor{MediaType: mt, Digest: dgst, Size: int64(len(data))}, nil
}
