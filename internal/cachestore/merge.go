package cachestore

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	cacheimport "github.com/moby/buildkit/cache/remotecache/v1"
	"github.com/moby/buildkit/cache/remotecache/v1/types"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/runtime/registry"
)

// importable is the largest list of records that a BuildKit importer reads
// (cache/remotecache/import.go).
const importable = 1 << 20

// Part is a cache that goes into another one of the same repository.
type Part struct {
	Ref string
	// Manifest is that of the cache if it is known; the registry is asked otherwise.
	Manifest ocispecs.Descriptor
}

// Join makes the cache ref of several in the same repository. Their layers stay where they
// are; only the list of records is rewritten. What stands on one of images is found behind
// the step that the image was made of, too. It returns the manifest. None is made, and
// none returned, when a node could not read so long a list, or when it would have more than
// most records; 0 = any number.
func Join(ctx context.Context, reg Registry, ref string, parts []Part, images []*Image, most int) (ocispecs.Descriptor, error) {
	none := ocispecs.Descriptor{}
	chains := cacheimport.NewCacheChains()
	for _, p := range parts {
		if err := p.read(ctx, reg, chains); err != nil {
			return none, err
		}
	}
	repo, _, _ := cachepolicy.CutTag(ref)
	config, layers, _, err := link(ctx, chains, repo, images)
	if err != nil {
		return none, fmt.Errorf("join caches: %w", err)
	}
	d, err := encode(config, layers)
	if err != nil {
		return none, fmt.Errorf("join caches: %w", err)
	}
	if d.Config.Size > importable || most > 0 && len(config.Records) > most {
		return none, nil
	}
	return d.Manifest, d.Push(ctx, reg, ref)
}

// encode returns the documents of a cache.
func encode(config *cacheimporttypes.CacheConfig, layers cacheimport.DescriptorProvider) (Documents, error) {
	var m ocispecs.Manifest
	for _, l := range config.Layers {
		pair, ok := layers[l.Blob]
		if !ok {
			return Documents{}, fmt.Errorf("layer %s is in no part", l.Blob)
		}
		m.Layers = append(m.Layers, pair.Descriptor)
	}
	return newDocuments(m, cacheimporttypes.CacheConfigMediaTypeV0, config)
}

// read adds the records of a cache to chains.
func (p Part) read(ctx context.Context, reg Registry, chains *cacheimport.CacheChains) error {
	var dt []byte
	var err error
	if p.Manifest.Size == 0 {
		dt, _, err = reg.Manifest(ctx, p.Ref)
	} else {
		dt, err = reg.Blob(ctx, p.Ref, p.Manifest, registry.MaxManifest)
	}
	if err != nil {
		return err
	}
	m, err := decode(dt)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Ref, err)
	}
	if dt, err = reg.Blob(ctx, p.Ref, m.Config, importable); err != nil {
		return err
	}
	if err := cacheimport.Parse(dt, layersIn(m), chains); err != nil {
		return fmt.Errorf("decode cache %s: %w", p.Ref, err)
	}
	return nil
}

// layersIn returns the layers of a cache by their digests.
func layersIn(m *ocispecs.Manifest) cacheimport.DescriptorProvider {
	layers := cacheimport.DescriptorProvider{}
	for _, l := range m.Layers {
		layers[l.Digest] = cacheimport.DescriptorProviderPair{Descriptor: l}
	}
	return layers
}

// decode decodes the manifest of a cache.
func decode(manifest []byte) (*ocispecs.Manifest, error) {
	var m ocispecs.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, fmt.Errorf("decode a cache: %w", err)
	}
	if m.Config.MediaType != cacheimporttypes.CacheConfigMediaTypeV0 {
		return nil, fmt.Errorf("not a cache: its config is %q", m.Config.MediaType)
	}
	return &m, nil
}

// Place is a set of caches: those of a repository with one prefix.
type Place struct{ Repo, Prefix string }

func (p Place) String() string { return p.Repo + ":" + p.Prefix }

// Merged is the result for one group of targets.
type Merged struct {
	Tag string `json:"tag"` // at the destination
	// From are the caches that went into it, the destination's own first.
	From []string `json:"from"`
	// Whole reports whether they were joined to one. Caches too large for one have the tags
	// Tag-0, Tag-1, ..., in the order of From.
	Whole bool `json:"whole"`
}

// Merge adds the caches of places to those of a destination, group by group of targets.
// Layers that its repository lacks are copied, within a registry by mounting where that
// is allowed. Destinations are written one after the other: with an error those that
// are reported have been.
func Merge(ctx context.Context, reg Registry, to Place, from []Place) ([]Merged, error) {
	own, err := List(ctx, reg, to.Repo, to.Prefix)
	if err != nil {
		return nil, err
	}
	parts := map[string][]source{} // by tag at the destination, the destination's own first
	var order []string
	add := func(p Place, entries []Entry) error {
		for _, e := range entries {
			if e.Kind != Cluster || e.Problem != "" {
				continue
			}
			tag := to.Prefix + strings.TrimPrefix(e.group, p.Prefix)
			if _, ok := parts[tag]; !ok {
				order = append(order, tag)
			}
			if err := reg.Copy(ctx, p.Repo, to.Repo, e.descriptor()); err != nil {
				return err
			}
			parts[tag] = append(parts[tag], source{from: p.Repo + ":" + e.Tag, entry: e})
		}
		return nil
	}
	if err := add(to, own); err != nil {
		return nil, err
	}
	found := false
	for _, p := range from {
		entries, err := List(ctx, reg, p.Repo, p.Prefix)
		if err != nil {
			return nil, err
		}
		found = found || len(entries) > 0
		if err := add(p, entries); err != nil {
			return nil, err
		}
	}
	if !found {
		return nil, fmt.Errorf("there are no caches at %v; look with 'dbake cache ls'", from)
	}
	var done []Merged
	for _, tag := range order {
		m, err := mergeParts(ctx, reg, to.Repo, tag, parts[tag])
		if err != nil {
			return done, err
		}
		done = append(done, m)
	}
	return done, nil
}

// source is a cache that is merged.
type source struct {
	from  string // its reference where it was found
	entry Entry
}

// mergeParts writes the cache of a tag. All parts are in the repository.
func mergeParts(ctx context.Context, reg Registry, repo, tag string, parts []source) (Merged, error) {
	m := Merged{Tag: tag}
	var all []Part
	for _, p := range parts {
		m.From = append(m.From, p.from)
		all = append(all, Part{Ref: repo + "@" + p.entry.Digest.String(), Manifest: p.entry.descriptor()})
	}
	desc, err := Join(ctx, reg, repo+":"+tag, all, nil, 0)
	if m.Whole = desc.Digest != ""; err != nil || m.Whole {
		return m, err
	}
	for i, p := range parts {
		if err := reg.Push(ctx, fmt.Sprintf("%s:%s-%d", repo, tag, i), p.entry.descriptor(), p.entry.raw); err != nil {
			return m, err
		}
	}
	return m, nil
}
