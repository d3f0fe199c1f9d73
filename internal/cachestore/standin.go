package cachestore

import (
	"encoding/json"
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
func (i *Image) record() (digest.Digest, error) {
	dt, err := json.Marshal(struct {
		Digest     digest.Digest
		OS         string
		Arch       string
		Variant    string   `json:",omitempty"`
		OSVersion  string   `json:",omitempty"`
		OSFeatures []string `json:",omitempty"`
	}{i.Manifest.Digest, i.platform.OS, i.platform.Architecture, i.platform.Variant, i.platform.OSVersion, i.platform.OSFeatures})
	if err != nil {
		return "", err
	}
	source := digest.FromString("buildkit.source.v0:" + digest.FromBytes(dt).String())
	return digest.FromString(source.String() + "@0"), nil
}

// linkStandIns lets what stands on an image in cc be found behind the step that the image
// was made of. Both have the same layers.
func linkStandIns(cc *cacheimporttypes.CacheConfig, layers cacheimport.DescriptorProvider, images []*Image) error {
	if len(images) == 0 {
		return nil
	}
	sources := map[digest.Digest]int{}
	steps := map[digest.Digest][]int{} // by the chain ids of their layers
	for i, r := range cc.Records {
		if len(r.Inputs) == 0 {
			sources[r.Digest] = i
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
	for _, img := range images {
		d, err := img.record()
		if err != nil {
			return err
		}
		source, ok := sources[d]
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
