package frontend

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/moby/buildkit/util/imageutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/localfile"
)

// maxCached bounds a file of the cache: an image's config with a long history.
const maxCached = 8 << 20

// metadataCache keeps what registries said about images in a directory:
//
//	blobs/sha256/DIGEST  manifests, indexes and configs
//	tags/DIGEST.json     what a reference meant, and when; DIGEST is that of the reference
//
// Several processes may use it at once: files are replaced whole. It is a help
// only, so that whatever goes wrong counts as "not there". The zero value keeps
// nothing.
type metadataCache struct{ dir string }

// tagEntry is the file for one reference.
type tagEntry struct {
	Ref        string              `json:"ref"`
	Descriptor ocispecs.Descriptor `json:"descriptor"`
	Time       time.Time           `json:"time"`
}

func (c *metadataCache) tagPath(ref string) string {
	return filepath.Join(c.dir, "tags", digest.FromString(ref).Encoded()+".json")
}

func (c *metadataCache) blobPath(d digest.Digest) string {
	return filepath.Join(c.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// tag returns what ref meant when it was last asked for.
func (c *metadataCache) tag(ref string) (ocispecs.Descriptor, time.Time, bool) {
	var e tagEntry
	if c.dir == "" {
		return e.Descriptor, e.Time, false
	}
	data, err := localfile.Read(c.tagPath(ref), maxCached)
	if err != nil || json.Unmarshal(data, &e) != nil {
		return ocispecs.Descriptor{}, time.Time{}, false
	}
	ok := e.Ref == ref && e.Descriptor.Digest.Validate() == nil
	return e.Descriptor, e.Time, ok
}

func (c *metadataCache) putTag(ref string, desc ocispecs.Descriptor, now time.Time) {
	if c.dir == "" {
		return
	}
	data, err := json.Marshal(tagEntry{Ref: ref, Descriptor: desc, Time: now.UTC()})
	if err == nil {
		c.write(c.tagPath(ref), data)
	}
}

// descriptor returns the descriptor of a manifest or index in the cache.
func (c *metadataCache) descriptor(d digest.Digest) (ocispecs.Descriptor, bool) {
	data, ok := c.blob(d)
	if !ok {
		return ocispecs.Descriptor{}, false
	}
	mt, err := imageutil.DetectManifestBlobMediaType(data)
	return ocispecs.Descriptor{MediaType: mt, Digest: d, Size: int64(len(data))}, err == nil
}

// blob returns a blob whose content is what its digest says.
func (c *metadataCache) blob(d digest.Digest) ([]byte, bool) {
	if c.dir == "" || d.Validate() != nil {
		return nil, false
	}
	data, err := localfile.Read(c.blobPath(d), maxCached)
	if err != nil || d.Algorithm().FromBytes(data) != d {
		return nil, false
	}
	return data, true
}

func (c *metadataCache) putBlob(d digest.Digest, data []byte) {
	if c.dir != "" {
		c.write(c.blobPath(d), data)
	}
}

// write replaces the file at path, if it can be.
func (c *metadataCache) write(path string, data []byte) {
	// The cache is never needed: the next run asks again.
	_ = localfile.Replace(path, data, 0o600)
}

// assumedImage returns what is assumed of an image of which nothing is known: one
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
