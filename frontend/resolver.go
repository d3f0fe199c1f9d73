package frontend

import (
	"context"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Resolver answers questions about images.
type Resolver interface {
	// Resolve returns what is known of an image. During a run the same
	// reference must always have the same digest, whatever the platform, so that
	// no two nodes build from different images. It is called by several
	// goroutines at once and may block.
	Resolve(ctx context.Context, req ImageRequest) (*Image, error)
}

// ImageRequest asks for an image.
type ImageRequest struct {
	Ref      reference.Named // with a tag, a digest, or both
	Platform ocispecs.Platform
}

// Image is what is known of an image.
type Image struct {
	// Digest is that of the manifest or index that the reference names; empty
	// when it is not known.
	Digest digest.Digest
	// Config is the image config for the requested platform, as it is stored.
	Config []byte
	// Assumed is true when Config is a guess.
	Assumed bool
}
