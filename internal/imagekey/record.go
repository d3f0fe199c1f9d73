package imagekey

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// recordFormat distinguishes records from other JSON, and recordVersion changes when a field
	// changes its meaning.
	recordFormat  = "dbake-images"
	recordVersion = 1
	// maxRecords is how many records are kept: the newest.
	maxRecords = 2000
	// maxRepos bounds the repositories of a record, and maxText its texts, in bytes.
	maxRepos = 32
	maxText  = 16 << 10
	// MaxBytes is what is read of records at most, when unpacked.
	MaxBytes = 32 << 20
)

// Record is an image that was pushed.
type Record struct {
	Key      digest.Digest `json:"key"`
	Attested digest.Digest `json:"attested,omitempty"`
	Target   string        `json:"target"`
	// Image is the manifest or index.
	Image ocispecs.Descriptor `json:"image"`
	// Repos are the repositories that it was pushed to, sorted.
	Repos []string `json:"repos"`
	// Values are what the exporter said of the image, by BuildKit's keys.
	Values map[string]string `json:"values,omitempty"`
	// Origin is what is known of the build that made it, by the keys of docker buildx.
	Origin map[string]string `json:"origin,omitempty"`
	// Time is when it was pushed, in seconds since 1970.
	Time int64 `json:"time"`
}

// Records are those of images that were pushed, each key once. The zero value is empty.
type Records struct {
	list map[keyPair]Record
	// Bases are the images that these are built on.
	Bases Bases
}

type keyPair struct{ key, attested digest.Digest }

// Len is the number of records.
func (r *Records) Len() int { return len(r.list) }

// Add takes records in. Of those with one key the newest counts; what both know of
// where the image is, is kept when it is the same image.
func (r *Records) Add(list ...Record) {
	if r.list == nil {
		r.list = map[keyPair]Record{}
	}
	for _, one := range list {
		id := keyPair{one.Key, one.Attested}
		if old, ok := r.list[id]; ok {
			if old.Image.Digest == one.Image.Digest {
				one.Repos = slices.Compact(slices.Sorted(slices.Values(slices.Concat(old.Repos, one.Repos))))
				one.Repos = one.Repos[:min(len(one.Repos), maxRepos)]
				one.Time = max(old.Time, one.Time)
				origin := maps.Clone(old.Origin)
				if origin == nil {
					origin = map[string]string{}
				}
				maps.Copy(origin, one.Origin)
				if one.Origin = origin; len(origin) == 0 {
					one.Origin = nil
				}
			} else if old.Time > one.Time {
				continue
			}
		}
		r.list[id] = one
	}
}

// Merge takes in what other has.
func (r *Records) Merge(other Records) {
	r.Add(other.newestFirst()...)
	r.Bases.merge(other.Bases)
}

// Holds reports whether r has all of other.
func (r *Records) Holds(other Records) bool {
	if !r.Bases.holds(other.Bases) {
		return false
	}
	for id, want := range other.list {
		have, ok := r.list[id]
		if !ok || have.Image.Digest != want.Image.Digest && have.Time < want.Time {
			return false
		}
	}
	return true
}

// Find returns the record of a key. With loose, what only attestations show may differ.
func (r *Records) Find(k Key, loose bool) (Record, bool) {
	if one, ok := r.list[keyPair{k.Digest, k.Attested}]; ok || !loose {
		return one, ok
	}
	for _, one := range r.newestFirst() {
		if one.Key == k.Digest {
			return one, true
		}
	}
	return Record{}, false
}

// newestFirst returns the records, the newest first.
func (r *Records) newestFirst() []Record {
	list := make([]Record, 0, len(r.list))
	for _, one := range r.list {
		list = append(list, one)
	}
	slices.SortFunc(list, func(x, y Record) int {
		return cmp.Or(cmp.Compare(y.Time, x.Time), cmp.Compare(x.Key, y.Key), cmp.Compare(x.Attested, y.Attested))
	})
	return list
}

// archive is the form in which records are kept.
type archive struct {
	Format  string   `json:"format"`
	Version int      `json:"version"`
	Images  []Record `json:"images"`
	// Bases are base images by reference, Documents their manifests and configs.
	Bases     map[string]base            `json:"bases,omitempty"`
	Documents map[digest.Digest]document `json:"documents,omitempty"`
}

// Encode returns the newest records as JSON, packed.
func (r *Records) Encode() ([]byte, error) {
	list := r.newestFirst()
	bases := r.Bases.newest()
	dt, err := json.Marshal(archive{
		Format: recordFormat, Version: recordVersion, Images: list[:min(len(list), maxRecords)],
		Bases: bases.images, Documents: bases.documents,
	})
	if err != nil {
		return nil, fmt.Errorf("encode records of images: %w", err)
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err = z.Write(dt); err == nil {
		err = z.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encode records of images: %w", err)
	}
	return out.Bytes(), nil
}

// ErrForeign is wrapped by the error for what is no record of images that this version
// reads.
var ErrForeign = errors.New("not a record of images of this version of dbake")

// Decode reads what [Records.Encode] wrote. Records in it that make no sense are left
// out.
func Decode(data []byte) (Records, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return Records{}, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	dt, err := io.ReadAll(io.LimitReader(z, MaxBytes+1))
	switch {
	case err != nil:
		return Records{}, fmt.Errorf("%w: %w", ErrForeign, err)
	case len(dt) > MaxBytes:
		return Records{}, fmt.Errorf("%w: it has more than %d bytes", ErrForeign, MaxBytes)
	}
	var d archive
	if err := json.Unmarshal(dt, &d); err != nil {
		return Records{}, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if d.Format != recordFormat || d.Version != recordVersion {
		return Records{}, fmt.Errorf("%w: it is %q, version %d", ErrForeign, d.Format, d.Version)
	}
	var r Records
	for _, one := range d.Images[:min(len(d.Images), maxRecords)] {
		if one.sane() {
			r.Add(one)
		}
	}
	bases := Bases{images: d.Bases, documents: d.Documents}
	r.Bases = bases.sane()
	return r, nil
}

// imageTypes are the media types of what a tag can stand for.
var imageTypes = map[string]bool{
	ocispecs.MediaTypeImageIndex: true, ocispecs.MediaTypeImageManifest: true,
	"application/vnd.docker.distribution.manifest.v2+json": true, "application/vnd.docker.distribution.manifest.list.v2+json": true,
}

// Trim leaves out what is known of the build where that is too long to be kept.
func (r *Record) Trim() {
	size := 0
	for k, v := range r.Origin {
		size += len(k) + len(v)
	}
	if size > maxText/2 {
		r.Origin = nil
	}
}

// sane reports whether a record may be what dbake wrote.
func (r *Record) sane() bool {
	if r.Key.Validate() != nil || r.Attested != "" && r.Attested.Validate() != nil || r.Image.Digest.Validate() != nil {
		return false
	}
	if !imageTypes[r.Image.MediaType] || r.Image.Size <= 0 || len(r.Repos) > maxRepos {
		return false
	}
	r.Image = ocispecs.Descriptor{MediaType: r.Image.MediaType, Digest: r.Image.Digest, Size: r.Image.Size}
	for _, repo := range r.Repos {
		if named, err := reference.ParseNormalizedNamed(repo); err != nil || named.Name() != repo {
			return false
		}
	}
	size := 0
	for k, v := range r.Origin {
		if size += len(k) + len(v); !strings.HasPrefix(k, "buildx.build.") {
			return false
		}
	}
	for k, v := range r.Values {
		if !strings.HasPrefix(k, "containerimage.") {
			return false
		}
		size += len(k) + len(v)
	}
	return size <= maxText && len(r.Target) <= maxText
}
