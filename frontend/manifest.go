package frontend

import (
	"fmt"

	"github.com/moby/buildkit/util/imageutil"
)

// manifestType returns the media type of a manifest or index.
func manifestType(data []byte) (string, error) {
	mt, err := imageutil.DetectManifestBlobMediaType(data)
	if err != nil {
		return "", fmt.Errorf("not an image manifest: %w", err)
	}
	return mt, nil
}
