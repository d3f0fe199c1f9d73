package frontend

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
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
// only: what cannot be read counts as "not there", what cannot be written is not
// kept, and of either there is one warning. The zero value keeps nothing.
type metadataCache struct {
	dir    string
	warn   func(error) // nil = nobody is told
	warned sync.Once
}

// trouble warns of the first thing that went wrong.
func (c *metadataCache) trouble(err error) {
	if c.warn == nil {
		return
	}
	c.warned.Do(func() { c.warn(fmt.Errorf("what is remembered of images: %w", err)) })
}

// read returns a file, and nothing when it is not there or cannot be read.
func (c *metadataCache) read(path string) []byte {
	data, err := localfile.Read(path, maxCached)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.trouble(err)
	}
	return data
}

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
	data := c.read(c.tagPath(ref))
	if data == nil {
		return e.Descriptor, e.Time, false
	}
	if err := json.Unmarshal(data, &e); err != nil || e.Ref != ref || e.Descriptor.Digest.Validate() != nil {
		c.trouble(fmt.Errorf("%s is damaged", c.tagPath(ref)))
		return ocispecs.Descriptor{}, time.Time{}, false
	}
	return e.Descriptor, e.Time, true
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
	data := c.read(c.blobPath(d))
	if data == nil {
		return nil, false
	}
	if d.Algorithm().FromBytes(data) != d {
		c.trouble(fmt.Errorf("%s is damaged", c.blobPath(d)))
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
	if err := localfile.Replace(path, data, 0o600); err != nil {
		c.trouble(err)
	}
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
