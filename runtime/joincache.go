package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	cacheimport "github.com/moby/buildkit/cache/remotecache/v1"
	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/registry"
)

// maxCacheConfig is the largest list of records that a BuildKit importer reads
// (cache/remotecache/import.go).
const maxCacheConfig = 1 << 20

// joinCache makes one cache of several in the same repository. Their layers stay
// where they are; only the list of records is written anew. It returns the manifest,
// of which there is none when the list would be too large to be read, or, with most
// not 0, longer than that.
//
// written are the manifests of the parts as far as they are known.
func joinCache(ctx context.Context, c *registry.Client, j cachepolicy.Join, written map[string]ocispecs.Descriptor, most int) (ocispecs.Descriptor, error) {
	none := ocispecs.Descriptor{}
	chains := cacheimport.NewCacheChains()
	for _, ref := range j.Parts {
		if err := readCache(ctx, c, ref, written[ref], chains); err != nil {
			return none, err
		}
	}
	config, layers, err := chains.Marshal(ctx)
	if err != nil {
		return none, fmt.Errorf("join caches: %w", err)
	}
	dt, err := json.Marshal(config)
	if err != nil {
		return none, fmt.Errorf("encode cache %s: %w", j.Ref, err)
	}
	if len(dt) > maxCacheConfig || most > 0 && len(config.Records) > most {
		return none, nil
	}
	m := ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispecs.MediaTypeImageManifest,
		Config:    ocispecs.Descriptor{MediaType: cacheimporttypes.CacheConfigMediaTypeV0, Digest: digest.FromBytes(dt), Size: int64(len(dt))},
	}
	for _, l := range config.Layers {
		pair, ok := layers[l.Blob]
		if !ok {
			return none, fmt.Errorf("join caches: layer %s is in no part", l.Blob)
		}
		m.Layers = append(m.Layers, pair.Descriptor)
	}
	if err := c.Push(ctx, j.Ref, m.Config, dt); err != nil {
		return none, err
	}
	if dt, err = json.Marshal(m); err != nil {
		return none, fmt.Errorf("encode cache %s: %w", j.Ref, err)
	}
	desc := ocispecs.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(dt), Size: int64(len(dt))}
	return desc, c.Push(ctx, j.Ref, desc, dt)
}

// readCache adds the records of a cache to chains. desc is its manifest if that is
// known.
func readCache(ctx context.Context, c *registry.Client, ref string, desc ocispecs.Descriptor, chains *cacheimport.CacheChains) error {
	var dt []byte
	var err error
	if desc.Size == 0 {
		dt, _, err = c.Manifest(ctx, ref)
	} else {
		dt, err = c.Blob(ctx, ref, desc, registry.MaxManifest)
	}
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

// joinCaches joins the parts of clusters. Where this machine cannot do it the parts
// remain, and are read side by side. It returns the joins whose base has become too
// large to be joined to.
func (r *run) joinCaches(ctx context.Context, joins []cachepolicy.Join) (outgrown []cachepolicy.Join) {
	if len(joins) == 0 {
		return nil
	}
	r.busy.caches++
	defer func() { r.busy.caches-- }()
	c := registry.New(r.Registries)
	defer c.Close()
	made, errs := make([]ocispecs.Descriptor, len(joins)), make([]error, len(joins))
	manifests := maps.Clone(r.caches.manifests)
	var eg errgroup.Group
	eg.SetLimit(mostJoins)
	var starter errgroup.Group // since Go waits for the limit, and the loop is not to
	starter.Go(func() error {
		for i, j := range joins {
			eg.Go(func() error {
				most := 0
				if j.Base != "" {
					most = r.mostRecords(j.Units)
				}
				made[i], errs[i] = joinCache(ctx, c, j, manifests, most)
				return nil
			})
		}
		return eg.Wait()
	})
	r.pump(&starter)
	for i, j := range joins {
		switch {
		case errs[i] != nil:
			r.caches.failures = append(r.caches.failures, fmt.Errorf("join the caches of %s: %w", j.Ref, errs[i]))
		case made[i].Digest == "" && j.Base != "":
			outgrown = append(outgrown, j)
		case made[i].Digest != "":
			r.caches.written = append(r.caches.written, WrittenCache{Ref: j.Ref, Manifest: made[i].Digest, Steps: r.joined(j)})
		}
	}
	return outgrown
}

// mostJoins is how many caches are joined at once.
const mostJoins = 8

// mostRecords is how many records a cache of these units may have before what it has
// kept of earlier builds is dropped: a step has one or two.
func (r *run) mostRecords(units []ir.UnitID) int {
	seen := map[int]bool{}
	for _, u := range units {
		for _, i := range r.Cache.Records[u] {
			seen[i] = true
		}
	}
	return 4*len(seen) + 100
}

// joined returns the steps whose results a join holds.
func (r *run) joined(j cachepolicy.Join) []digest.Digest {
	held := map[digest.Digest]bool{}
	for _, w := range r.caches.written {
		if slices.Contains(j.Parts, w.Ref) {
			for _, d := range w.Steps {
				held[d] = true
			}
		}
	}
	for _, u := range j.Units {
		if j.Base == "" || !r.cached(j.Base, u) {
			continue
		}
		for _, i := range r.Cache.Records[u] {
			if v := r.Graph.Vertices[i]; v.Kind.IsStep() {
				held[v.Digest] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(held))
}
