package registry

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// MaxStatement is the largest attestation that is read.
	MaxStatement = 16 << 20
	// annotationPredicate holds the type of the predicate in a layer of an attestation.
	annotationPredicate = "in-toto.io/predicate-type"
)

// Attestation is a statement about the image of one platform.
type Attestation struct {
	Platform  ocispec.Platform
	Predicate string // its type
	Data      []byte // the in-toto statement
}

// Attestations returns the statements that an index holds about its images, of the types
// of predicate that are wanted. A single image has none.
func (c *Client) Attestations(ctx context.Context, ref string, wanted func(predicate string) bool) ([]Attestation, error) {
	data, desc, err := c.Manifest(ctx, ref)
	if err != nil || !images.IsIndexType(desc.MediaType) {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fail(ctx, "read", ref, fmt.Errorf("index %s: %w", desc.Digest, err))
	}
	about := map[digest.Digest]ocispec.Platform{}
	for _, d := range index.Manifests {
		if d.Platform != nil && !isAttestation(d) {
			about[d.Digest] = *d.Platform
		}
	}
	var list []Attestation
	for _, d := range index.Manifests {
		platform, ok := about[attestedDigest(d)]
		if !isAttestation(d) || !ok {
			continue
		}
		data, err := c.Blob(ctx, ref, d, MaxManifest)
		if err != nil {
			return nil, err
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return nil, fail(ctx, "read", ref, fmt.Errorf("attestation %s: %w", d.Digest, err))
		}
		for _, l := range m.Layers {
			predicate := l.Annotations[annotationPredicate]
			if !wanted(predicate) {
				continue
			}
			data, err := c.Blob(ctx, ref, l, MaxStatement)
			if err != nil {
				return nil, err
			}
			list = append(list, Attestation{Platform: platform, Predicate: predicate, Data: data})
		}
	}
	return list, nil
}
