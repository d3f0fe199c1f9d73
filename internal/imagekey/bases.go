package imagekey

import (
	"cmp"
	"maps"
	"slices"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/frontend"
)

const (
	// maxBases is how many base images are kept: those that were used last; maxDocuments
	// bounds their manifests and configs, in bytes.
	maxBases     = 500
	maxDocuments = 1 << 20
)

// Bases are what base images were when images were pushed, with their manifests and
// configs, so that a machine that has never seen a base image only has to ask what its tag
// stands for. The zero value is empty.
type Bases struct {
	images    map[string]base // by reference
	documents map[digest.Digest]document
}

type base struct {
	frontend.Recollection
	Time int64 `json:"time"`
}

// document is a manifest, an index or a config.
type document struct {
	Data []byte `json:"data"`
	Time int64  `json:"time"`
}

var _ frontend.Recollections = (*Bases)(nil)

// Image implements [frontend.Recollections].
func (b *Bases) Image(ref string) (frontend.Recollection, bool) {
	one, ok := b.images[ref]
	return one.Recollection, ok
}

// Blob implements [frontend.Recollections].
func (b *Bases) Blob(d digest.Digest) ([]byte, bool) {
	one, ok := b.documents[d]
	return one.Data, ok
}

// Add takes in what was known of base images at some time, in seconds since 1970. The
// newest counts.
func (b *Bases) Add(now int64, images []frontend.Recollection, documents map[digest.Digest][]byte) {
	more := Bases{images: map[string]base{}, documents: map[digest.Digest]document{}}
	for _, one := range images {
		more.images[one.Ref] = base{one, now}
	}
	for d, data := range documents {
		more.documents[d] = document{data, now}
	}
	b.merge(more)
}

// merge takes in what other has.
func (b *Bases) merge(other Bases) {
	if b.images == nil {
		b.images, b.documents = map[string]base{}, map[digest.Digest]document{}
	}
	for ref, one := range other.images {
		if old, ok := b.images[ref]; !ok || old.Time <= one.Time {
			b.images[ref] = one
		}
	}
	for d, one := range other.documents {
		one.Time = max(one.Time, b.documents[d].Time)
		b.documents[d] = one
	}
}

// holds reports whether b knows all of other, or newer.
func (b *Bases) holds(other Bases) bool {
	for ref, want := range other.images {
		if have, ok := b.images[ref]; !ok || have.Image.Digest != want.Image.Digest && have.Time < want.Time {
			return false
		}
	}
	for d := range other.documents {
		if _, ok := b.documents[d]; !ok {
			return false
		}
	}
	return true
}

// newest returns what is kept of b.
func (b *Bases) newest() Bases {
	kept := Bases{images: map[string]base{}, documents: map[digest.Digest]document{}}
	refs := slices.SortedFunc(maps.Keys(b.images), func(x, y string) int {
		return cmp.Or(cmp.Compare(b.images[y].Time, b.images[x].Time), cmp.Compare(x, y))
	})
	for _, ref := range refs[:min(len(refs), maxBases)] {
		kept.images[ref] = b.images[ref]
	}
	size := 0
	for _, d := range slices.SortedFunc(maps.Keys(b.documents), func(x, y digest.Digest) int {
		return cmp.Or(cmp.Compare(b.documents[y].Time, b.documents[x].Time), cmp.Compare(x, y))
	}) {
		if size += len(b.documents[d].Data); size > maxDocuments {
			break
		}
		kept.documents[d] = b.documents[d]
	}
	return kept
}

// sane returns what of b may be what dbake wrote: documents are what their digests say.
func (b *Bases) sane() Bases {
	for d, one := range b.documents {
		if d.Validate() != nil || d.Algorithm().FromBytes(one.Data) != d {
			delete(b.documents, d)
		}
	}
	for ref, one := range b.images {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil || named.String() != ref || one.Ref != ref || one.Image.Digest.Validate() != nil || len(one.Image.MediaType) > maxText {
			delete(b.images, ref)
			continue
		}
		one.Image = ocispecs.Descriptor{MediaType: one.Image.MediaType, Digest: one.Image.Digest, Size: one.Image.Size}
		b.images[ref] = one
	}
	return b.newest()
}
