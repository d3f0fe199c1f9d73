package imagekey

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/runtime/registry"
)

// ArtifactType is the type of the manifest that holds records, and the media type of its
// only layer.
const ArtifactType = "application/vnd.dbake.images.v1+gzip"

// plainMark is the annotation that distinguishes records in the form of an image from images.
const plainMark = "vnd.dbake.images"

const (
	// maxInline is how much of packed records stands in the manifest itself, so that they
	// come with one request; in base64 it is a third more.
	maxInline = 2 << 20
	// rounds bounds how often records are written because others write meanwhile.
	rounds = 5
)

// Registry is a registry as far as records are kept there.
type Registry interface {
	ReadTag(ctx context.Context, ref string) ([]byte, ocispecs.Descriptor, error)
	Blob(ctx context.Context, ref string, desc ocispecs.Descriptor, limit int64) ([]byte, error)
	Push(ctx context.Context, ref string, desc ocispecs.Descriptor, data []byte) error
}

var _ Registry = (*registry.Client)(nil)

// Ref is the reference of the records in a repository for caches.
func Ref(repo, prefix string) string { return repo + ":" + prefix + ".images" }

// Pull reads the records that ref stands for; none are there when it does not exist. The
// error wraps [ErrForeign] when it is something else.
func Pull(ctx context.Context, c Registry, ref string) (Records, error) {
	data, desc, err := c.ReadTag(ctx, ref)
	if errors.Is(err, registry.ErrNotFound) {
		return Records{}, nil
	}
	if err != nil {
		return Records{}, err
	}
	var m ocispecs.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Records{}, fmt.Errorf("%s: %w: %w", ref, ErrForeign, err)
	}
	artifact := m.ArtifactType == ArtifactType && len(m.Layers) == 1 && m.Layers[0].MediaType == ArtifactType
	plain := m.Annotations[plainMark] == "1" && len(m.Layers) == 1
	if !artifact && !plain {
		return Records{}, fmt.Errorf("%s: %w: it is of type %q", ref, ErrForeign, desc.MediaType)
	}
	packed := m.Layers[0].Data
	if len(packed) == 0 {
		if packed, err = c.Blob(ctx, ref, m.Layers[0], MaxBytes); err != nil {
			return Records{}, err
		}
	}
	if digest.FromBytes(packed) != m.Layers[0].Digest {
		return Records{}, fmt.Errorf("%s: %w: its data is not what its digest says", ref, ErrForeign)
	}
	r, err := Decode(packed)
	if err != nil {
		return Records{}, fmt.Errorf("%s: %w", ref, err)
	}
	return r, nil
}

// Push adds records to those that ref stands for. What others write at the same time is
// kept, as far as it is seen: registries cannot compare and set. Something else that stands
// there is not overwritten; the error wraps [ErrForeign] then.
func Push(ctx context.Context, c Registry, ref string, more Records) error {
	for range rounds {
		all, err := Pull(ctx, c, ref)
		if err != nil {
			return err
		}
		if all.Holds(more) {
			return nil
		}
		all.Merge(more)
		if err = put(ctx, c, ref, all, artifactForm); err != nil && refuses(ctx, err) {
			err = put(ctx, c, ref, all, plainForm)
		}
		if err != nil {
			return err
		}
		// The next round sees whether another writer has put its own in the place of
		// this, having read what was there before.
	}
	return fmt.Errorf("%s: others wrote it at the same time, %d times in a row", ref, rounds)
}

// refuses reports whether a registry may have refused what was written for what it is.
func refuses(ctx context.Context, err error) bool {
	for _, other := range []error{registry.ErrUnreachable, registry.ErrBusy, registry.ErrDenied} {
		if errors.Is(err, other) {
			return false
		}
	}
	return ctx.Err() == nil
}

// form is a way in which records are written.
type form struct {
	artifactType string
	layer        string // its media type
	configType   string
	config       []byte
	annotations  map[string]string
}

var (
	artifactForm = form{
		artifactType: ArtifactType, layer: ArtifactType,
		configType: ocispecs.MediaTypeEmptyJSON, config: ocispecs.DescriptorEmptyJSON.Data,
	}
	// plainForm is for registries that take nothing but images.
	plainForm = form{
		layer: ocispecs.MediaTypeImageLayerGzip, configType: ocispecs.MediaTypeImageConfig,
		config:      []byte(`{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}`),
		annotations: map[string]string{plainMark: "1"},
	}
)

// put writes records in a form.
func put(ctx context.Context, c Registry, ref string, r Records, f form) error {
	packed, err := r.Encode()
	if err != nil {
		return err
	}
	blob := func(mediaType string, data []byte) (ocispecs.Descriptor, error) {
		desc := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		return desc, c.Push(ctx, ref, desc, data)
	}
	layer, err := blob(f.layer, packed)
	if err != nil {
		return err
	}
	if len(packed) <= maxInline {
		layer.Data = packed
	}
	config, err := blob(f.configType, f.config)
	if err != nil {
		return err
	}
	data, err := json.Marshal(ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest,
		ArtifactType: f.artifactType, Config: config, Layers: []ocispecs.Descriptor{layer}, Annotations: f.annotations,
	})
	if err != nil {
		return fmt.Errorf("encode records of images: %w", err)
	}
	_, err = blob(ocispecs.MediaTypeImageManifest, data)
	return err
}
