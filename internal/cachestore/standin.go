package cachestore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	cacheimport "github.com/moby/buildkit/cache/remotecache/v1"
	"github.com/moby/buildkit/cache/remotecache/v1/types"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// record returns the digest of the record that caches hold of the image as a source.
// BuildKit makes it of the manifest and the platform
// (source/containerimage/pull.go, solver/llbsolver/ops/source.go and solver/cachemanager.go,
// in v0.34).
func (i *Image) record() digest.Digest {
	dt, _ := json.Marshal(struct { // strings only
		Digest     digest.Digest
		OS         string
		Arch       string
		Variant    string   `json:",omitempty"`
		OSVersion  string   `json:",omitempty"`
		OSFeatures []string `json:",omitempty"`
	}{i.Manifest.Digest, i.platform.OS, i.platform.Architecture, i.platform.Variant, i.platform.OSVersion, i.platform.OSFeatures})
	source := digest.FromString("buildkit.source.v0:" + digest.FromBytes(dt).String())
	return digest.FromString(source.String() + "@0")
}

// Link has what stands on images be found, in a cache, behind the steps that these were made
// of, too. manifest is that of the cache, and repo its repository; "" when it is in a directory.
// It returns nil when nothing there stands on them.
func Link(ctx context.Context, manifest []byte, read ReadFunc, repo string, images []*Image) (*Documents, error) {
	m, cc, err := decodeCache(manifest, read)
	if err != nil {
		return nil, err
	}
	chains := cacheimport.NewCacheChains()
	if err := cacheimport.ParseConfig(cc, layersIn(m), chains); err != nil {
		return nil, fmt.Errorf("decode a cache: %w", err)
	}
	config, layers, any, err := link(ctx, chains, repo, images)
	if err != nil || !any {
		return nil, err
	}
	d, err := encode(config, layers)
	return &d, err
}

// link encodes chains, with what stands on images linked to the steps that these were made of;
// any reports whether something does. These steps come from the caches of the images, with
// results as far as their layers are in repo, or in chains.
func link(ctx context.Context, chains *cacheimport.CacheChains, repo string, images []*Image) (_ *cacheimporttypes.CacheConfig, _ cacheimport.DescriptorProvider, any bool, _ error) {
	config, layers, err := chains.Marshal(ctx)
	if err != nil || len(images) == 0 {
		return config, layers, false, err
	}
	sources := sourcesIn(config)
	for _, img := range images {
		if _, ok := sources[img.record()]; !ok {
			continue
		}
		any = true
		known := layers
		if repo != "" && img.Repo == repo {
			known = img.layers
		}
		if err := cacheimport.ParseConfig(img.cache, known, chains); err != nil {
			return nil, nil, false, fmt.Errorf("decode the cache of an image: %w", err)
		}
	}
	if !any {
		return config, layers, false, nil
	}
	if config, layers, err = chains.Marshal(ctx); err != nil {
		return nil, nil, false, err
	}
	return config, layers, true, linkStandIns(config, layers, images)
}

// sourcesIn returns the records without inputs, by their digests.
func sourcesIn(cc *cacheimporttypes.CacheConfig) map[digest.Digest]int {
	sources := map[digest.Digest]int{}
	for i, r := range cc.Records {
		if len(r.Inputs) == 0 {
			sources[r.Digest] = i
		}
	}
	return sources
}

// linkStandIns gives what has one of images as an input the step with the same layers as an
// alternative.
func linkStandIns(cc *cacheimporttypes.CacheConfig, layers cacheimport.DescriptorProvider, images []*Image) error {
	steps := map[digest.Digest][]int{} // by the chain ids of their layers
	for i, r := range cc.Records {
		if len(r.Inputs) == 0 {
			continue
		}
		chains, err := resultsOf(*cc, r)
		if err != nil {
			return err
		}
		for _, chain := range chains {
			if id := contentID(chain, layers); id != "" && !slices.Contains(steps[id], i) {
				steps[id] = append(steps[id], i)
			}
		}
	}
	sources := sourcesIn(cc)
	for _, img := range images {
		source, ok := sources[img.record()]
		if !ok {
			continue
		}
		for _, step := range steps[img.content] {
			linkAlike(cc, source, step)
		}
	}
	return nil
}

// contentID returns the chain id of layers; "" when the content of one is not known.
func contentID(chain []digest.Digest, layers cacheimport.DescriptorProvider) digest.Digest {
	content := make([]digest.Digest, len(chain))
	for i, d := range chain {
		var err error
		if content[i], err = contentOf(layers[d].Descriptor); err != nil {
			return ""
		}
	}
	return identity.ChainID(content)
}

// linkAlike gives each record with source as an input the step as an alternative, unless the
// step stands on that record.
func linkAlike(cc *cacheimporttypes.CacheConfig, source, step int) {
	for i, r := range cc.Records {
		for k, alternatives := range r.Inputs {
			for _, in := range alternatives {
				more := cacheimporttypes.CacheInput{Selector: in.Selector, LinkIndex: step}
				if in.LinkIndex == source && !slices.Contains(cc.Records[i].Inputs[k], more) && !standsOn(cc, step, i) {
					cc.Records[i].Inputs[k] = append(cc.Records[i].Inputs[k], more)
				}
			}
		}
	}
}

// standsOn reports whether record a is b or needs it.
func standsOn(cc *cacheimporttypes.CacheConfig, a, b int) bool {
	seen := map[int]bool{}
	var visit func(int) bool
	visit = func(i int) bool {
		if i == b {
			return true
		}
		if seen[i] {
			return false
		}
		seen[i] = true
		for _, alternatives := range cc.Records[i].Inputs {
			for _, in := range alternatives {
				if visit(in.LinkIndex) {
					return true
				}
			}
		}
		return false
	}
	return visit(a)
}
