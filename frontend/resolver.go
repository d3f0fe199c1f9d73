package frontend

import (
	"context"
	"fmt"

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

// Image holds the facts about an image.
type Image struct {
	// Digest is that of the manifest or index that the reference names; empty
	// when it is not known.
	Digest digest.Digest
	// Config is the image config for the requested platform, as it is stored.
	Config []byte
	// Assumed is true when Config is a guess.
	Assumed bool
}

// assumedImage returns what is assumed of an unknown image: one
// layer, and a search path. It is enough for a plan, whose steps do not depend on
// much else.
func assumedImage(p ocispecs.Platform) *Image {
	config := fmt.Sprintf(`{"architecture":%q,"os":%q`, p.Architecture, p.OS)
	if p.Variant != "" {
		config += fmt.Sprintf(`,"variant":%q`, p.Variant)
	}
	// The entry point is for images that are run for their own sake, as an SBOM
	// scanner.
	config += `,"config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Entrypoint":["/entrypoint"]},` +
		fmt.Sprintf(`"rootfs":{"type":"layers","diff_ids":[%q]}}`, digest.FromString("assumed"))
	return &Image{Config: []byte(config), Assumed: true}
}
