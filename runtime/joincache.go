package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	cacheimport "github.com/moby/buildkit/cache/remotecache/v1"
	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/runtime/registry"
)

// maxCacheConfig is the largest list of records that a BuildKit importer reads
// (cache/remotecache/import.go).
const maxCacheConfig = 1 << 20

// joinCache makes one cache of several in the same repository. Their layers stay
// where they are; only the list of records is written anew. It reports whether it did:
// what is too large to be read is left in parts.
func joinCache(ctx context.Context, c *registry.Client, j cachepolicy.Join) (bool, error) {
	chains := cacheimport.NewCacheChains()
	for _, ref := range j.Parts {
		if err := readCache(ctx, c, ref, chains); err != nil {
			return false, err
		}
	}
	config, layers, err := chains.Marshal(ctx)
	if err != nil {
		return false, fmt.Errorf("join caches: %w", err)
	}
	dt, err := json.Marshal(config)
	if err != nil {
		return false, fmt.Errorf("encode cache %s: %w", j.Ref, err)
	}
	if len(dt) > maxCacheConfig {
		return false, nil // the parts can be read, the whole could not
	}
	m := ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispecs.MediaTypeImageManifest,
		Config:    ocispecs.Descriptor{MediaType: cacheimporttypes.CacheConfigMediaTypeV0, Digest: digest.FromBytes(dt), Size: int64(len(dt))},
	}
	for _, l := range config.Layers {
		pair, ok := layers[l.Blob]
		if !ok {
			return false, fmt.Errorf("join caches: layer %s is in no part", l.Blob)
		}
		m.Layers = append(m.Layers, pair.Descriptor)
	}
	if err := c.Push(ctx, j.Ref, m.Config, dt); err != nil {
		return false, err
	}
	if dt, err = json.Marshal(m); err != nil {
		return false, fmt.Errorf("encode cache %s: %w", j.Ref, err)
	}
	err = c.Push(ctx, j.Ref, ocispecs.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(dt), Size: int64(len(dt))}, dt)
	return err == nil, err
}

// readCache adds the records of a cache to chains.
func readCache(ctx context.Context, c *registry.Client, ref string, chains *cacheimport.CacheChains) error {
	dt, _, err := c.Manifest(ctx, ref)
	if err != nil {
		return err
	}
	var m ocispecs.Manifest
	if err := json.Unmarshal(dt, &m); err != nil {
		return fmt.Errorf("decode cache %s: %w", ref, err)
	}
	if m.Config.MediaType != cacheimporttypes.CacheConfigMediaTypeV0 {
		return fmt.Errorf("%s is no cache: its config is %q", ref, m.Config.MediaType)
	}
	layers := cacheimport.DescriptorProvider{}
	for _, l := range m.Layers {
		layers[l.Digest] = cacheimport.DescriptorProviderPair{Descriptor: l}
	}
	if dt, err = c.Blob(ctx, ref, m.Config, maxCacheConfig); err != nil {
		return err
	}
	if err := cacheimport.Parse(dt, layers, chains); err != nil {
		return fmt.Errorf("decode cache %s: %w", ref, err)
	}
	return nil
}

// joinCaches joins the parts of clusters that several nodes wrote. Where this
// machine cannot do it the parts remain, and are read side by side.
func (r *run) joinCaches(ctx context.Context, joins []cachepolicy.Join) []error {
	if len(joins) == 0 {
		return nil
	}
	c := registry.New(r.Registries)
	defer c.Close()
	var errs []error
	for _, j := range joins {
		joined, err := joinCache(ctx, c, j)
		if err != nil {
			errs = append(errs, fmt.Errorf("join the caches of %s: %w", j.Ref, err))
		}
		if !joined {
			continue
		}
		whole := WrittenCache{Ref: j.Ref}
		for _, w := range r.caches.written {
			if slices.Contains(j.Parts, w.Ref) {
				whole.Steps = append(whole.Steps, w.Steps...)
			}
		}
		r.caches.written = append(r.caches.written, whole)
	}
	return errs
}
