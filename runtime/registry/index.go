package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// parallel is the number of blobs that are read or copied at one time. Registries
// limit requests, and nodes are pushing meanwhile.
const parallel = 4

// Index is an image of several platforms that is to be joined.
type Index struct {
	// Names are the image's names; one without a tag gets the tag latest. With ByDigest the
	// image is written to their repositories, and no tag is set.
	Names    []string
	ByDigest bool
	// Parts are the images that the nodes pushed.
	Parts []Part
	// Platforms is the order of the images; those not listed follow in the
	// order of Parts.
	Platforms []ocispec.Platform
	// Annotations are those of the index. Only an OCI index may have some.
	Annotations map[string]string
}

// Part is an image manifest or an index that a node pushed by digest.
type Part struct {
	// Repo is the repository it was pushed to; "" = that of the first name.
	Repo   string
	Digest digest.Digest
	// Platform is that of an image manifest; nil = as its config says. For an
	// index it is not used.
	Platform *ocispec.Platform
	// Annotations are added to the image's entry in the index.
	Annotations map[string]string
}

// entry is one entry of the index with the repository that holds it.
type entry struct {
	desc ocispec.Descriptor
	repo string
}

// PutIndex puts an image together and writes it under all its names. Parts that are
// themselves indexes give their images and, for each image, its attestations. Content that
// the repository of a name lacks is copied there, within one registry by mounting where
// that is allowed. A single part is written as it is, unless annotations are to be added.
//
// It returns the descriptor that the names now stand for. Names are written in order, after
// everything else; on failure the later ones are as they were.
func (c *Client) PutIndex(ctx context.Context, index Index) (ocispec.Descriptor, error) {
	ctx = c.prepare(ctx)
	names, err := index.names()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	parts, err := c.readParts(ctx, index, names[0])
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	entries, data, desc, err := index.join(parts)
	if err != nil {
		return ocispec.Descriptor{}, &Error{Op: "put together", Ref: names[0].String(), Err: err}
	}
	copied := map[string]bool{}
	for _, n := range names {
		if copied[n.Name()] {
			continue
		}
		copied[n.Name()] = true
		for _, e := range entries {
			if err := c.Copy(ctx, e.repo, n.Name(), e.desc); err != nil {
				return ocispec.Descriptor{}, err
			}
		}
	}
	for _, n := range names {
		ref := n.String()
		if index.ByDigest {
			ref = n.Name() + "@" + desc.Digest.String()
		}
		if err := c.push(ctx, ref, desc, data); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	return desc, nil
}

func (index Index) names() ([]reference.Named, error) {
	if len(index.Names) == 0 || len(index.Parts) == 0 {
		return nil, errors.New("an image needs a name and a part")
	}
	names := make([]reference.Named, len(index.Names))
	for i, s := range index.Names {
		n, err := parseRef("write", s)
		if err != nil {
			return nil, err
		}
		if _, ok := n.(reference.Digested); ok {
			return nil, &Error{Op: "write", Ref: s, Err: errors.New("a name with a digest cannot be given to something new")}
		}
		names[i] = n
	}
	return names, nil
}

// part is a Part that was read.
type part struct {
	Part
	desc ocispec.Descriptor
	data []byte
}

func (c *Client) readParts(ctx context.Context, index Index, first reference.Named) ([]part, error) {
	parts := make([]part, len(index.Parts))
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(parallel)
	for i, p := range index.Parts {
		eg.Go(func() error {
			if p.Repo == "" {
				p.Repo = first.Name()
			}
			n, err := reference.ParseNormalizedNamed(p.Repo)
			if err != nil {
				return &Error{Op: "read", Ref: p.Repo, Err: fmt.Errorf("not the name of a repository: %w", err)}
			}
			p.Repo = n.Name()
			data, desc, err := c.Manifest(ctx, p.Repo+"@"+p.Digest.String())
			if err != nil {
				return err
			}
			if !images.IsIndexType(desc.MediaType) && p.Platform == nil {
				img, err := c.Config(ctx, p.Repo+"@"+p.Digest.String(), ocispec.Platform{})
				if err != nil {
					return err
				}
				pl := platforms.Normalize(img.Config.Platform)
				p.Platform = &pl
			}
			parts[i] = part{Part: p, desc: desc, data: data}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	return parts, nil
}

// join returns the entries of the index, its bytes and its descriptor.
func (index Index) join(parts []part) ([]entry, []byte, ocispec.Descriptor, error) {
	if p := parts[0]; len(parts) == 1 && len(index.Annotations) == 0 && len(p.Annotations) == 0 {
		return []entry{{p.desc, p.Repo}}, p.data, p.desc, nil
	}
	imgs, atts, err := collect(parts)
	if err != nil {
		return nil, nil, ocispec.Descriptor{}, err
	}
	if err := index.order(imgs); err != nil {
		return nil, nil, ocispec.Descriptor{}, err
	}
	entries := slices.Clone(imgs)
	for _, img := range imgs {
		entries = append(entries, atts[img.desc.Digest]...)
	}
	idx := ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   images.MediaTypeDockerSchema2ManifestList,
		Annotations: maps.Clone(index.Annotations),
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.desc.MediaType, "application/vnd.docker.") {
			idx.MediaType = ocispec.MediaTypeImageIndex
		}
		idx.Manifests = append(idx.Manifests, e.desc)
	}
	if idx.MediaType != ocispec.MediaTypeImageIndex && len(idx.Annotations) > 0 {
		return nil, nil, ocispec.Descriptor{}, errors.New("an index of docker's media types cannot have annotations; set oci-mediatypes=true on the output")
	}
	data, err := json.MarshalIndent(idx, "", "  ")
	if err != nil {
		return nil, nil, ocispec.Descriptor{}, err
	}
	return entries, data, ocispec.Descriptor{MediaType: idx.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, nil
}

// collect takes the parts apart: images in order, and attestations by the image
// that they are about.
func collect(parts []part) (imgs []entry, atts map[digest.Digest][]entry, err error) {
	atts = map[digest.Digest][]entry{}
	seen := map[digest.Digest]bool{}
	for _, p := range parts {
		descs := []ocispec.Descriptor{p.desc}
		if images.IsIndexType(p.desc.MediaType) {
			var idx ocispec.Index
			if err := json.Unmarshal(p.data, &idx); err != nil {
				return nil, nil, fmt.Errorf("index %s: %w", p.desc.Digest, err)
			}
			descs = idx.Manifests
		} else {
			descs[0].Platform = p.Platform
		}
		for _, d := range descs {
			if seen[d.Digest] {
				continue
			}
			seen[d.Digest] = true
			if isAttestation(d) {
				atts[attestedDigest(d)] = append(atts[attestedDigest(d)], entry{d, p.Repo})
				continue
			}
			if len(p.Annotations) > 0 {
				d.Annotations = maps.Clone(d.Annotations)
				if d.Annotations == nil {
					d.Annotations = map[string]string{}
				}
				maps.Copy(d.Annotations, p.Annotations)
			}
			imgs = append(imgs, entry{d, p.Repo})
		}
	}
	return imgs, atts, nil
}

// order sorts images by the platforms of the index.
func (index Index) order(imgs []entry) error {
	place := map[string]int{}
	for i, p := range index.Platforms {
		place[platformKey(&p)] = i
	}
	rank := func(e entry) int {
		if i, ok := place[platformKey(e.desc.Platform)]; ok {
			return i
		}
		return len(place)
	}
	slices.SortStableFunc(imgs, func(a, b entry) int { return cmp.Compare(rank(a), rank(b)) })
	seen := map[string]digest.Digest{}
	for _, e := range imgs {
		k := platformKey(e.desc.Platform)
		if k == "" {
			continue
		}
		if other, ok := seen[k]; ok {
			return fmt.Errorf("there are two images for platform %s, %s and %s", k, other, e.desc.Digest)
		}
		seen[k] = e.desc.Digest
	}
	return nil
}

func platformKey(p *ocispec.Platform) string {
	if p == nil {
		return ""
	}
	return platforms.FormatAll(platforms.Normalize(*p))
}
