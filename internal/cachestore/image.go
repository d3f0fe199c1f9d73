package cachestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/pkg/labels"
	cacheimport "github.com/moby/buildkit/cache/remotecache/v1"
	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Documents are a manifest and the config that it names.
type Documents struct {
	Config, Manifest         ocispecs.Descriptor
	ConfigData, ManifestData []byte
}

// newDocuments encodes a config and completes the manifest m with it.
func newDocuments(m ocispecs.Manifest, mediaType string, config any) (Documents, error) {
	var d Documents
	var err error
	if d.ConfigData, err = json.Marshal(config); err != nil {
		return d, fmt.Errorf("encode a config: %w", err)
	}
	d.Config = describe(mediaType, d.ConfigData)
	m.Versioned, m.MediaType, m.Config = specs.Versioned{SchemaVersion: 2}, ocispecs.MediaTypeImageManifest, d.Config
	if d.ManifestData, err = json.Marshal(m); err != nil {
		return d, fmt.Errorf("encode a manifest: %w", err)
	}
	d.Manifest = describe(m.MediaType, d.ManifestData)
	return d, nil
}

// Push writes d to a registry: the manifest under ref, and the config beside it.
func (d Documents) Push(ctx context.Context, reg Registry, ref string) error {
	if err := reg.Push(ctx, ref, d.Config, d.ConfigData); err != nil {
		return err
	}
	return reg.Push(ctx, ref, d.Manifest, d.ManifestData)
}

// Image is an image of what a cache holds. Its layers are those of the cache.
type Image struct {
	Documents
	// Repo is the repository of the cache that it was made of; "" when that is in a directory.
	Repo string

	platform ocispecs.Platform
	content  digest.Digest                  // the chain id of its layers
	cache    cacheimporttypes.CacheConfig   // the records of the cache that it was made of
	layers   cacheimport.DescriptorProvider // the layers of that cache
}

// ReadFunc returns a blob of a repository or directory, of limit bytes at most.
type ReadFunc func(desc ocispecs.Descriptor, limit int64) ([]byte, error)

// decodeCache decodes a cache: its manifest, and the records that this names.
func decodeCache(manifest []byte, read ReadFunc) (*ocispecs.Manifest, cacheimporttypes.CacheConfig, error) {
	var cc cacheimporttypes.CacheConfig
	m, err := decode(manifest)
	if err != nil {
		return nil, cc, err
	}
	config, err := read(m.Config, importable)
	if err != nil {
		return nil, cc, err
	}
	if err := json.Unmarshal(config, &cc); err != nil {
		return nil, cc, fmt.Errorf("decode a cache: %w", err)
	}
	return m, cc, nil
}

// ImageOf returns an image of the last result in a cache that holds the results of one step and
// of steps below it: of the record that no other needs. It fails when the cache has several.
// manifest is that of the cache.
func ImageOf(manifest []byte, read ReadFunc, p ocispecs.Platform) (*Image, error) {
	m, cc, err := decodeCache(manifest, read)
	if err != nil {
		return nil, err
	}
	chain, err := lastResult(cc)
	if err != nil {
		return nil, err
	}
	layers := layersIn(m)
	img := ocispecs.Image{Platform: p, RootFS: ocispecs.RootFS{Type: "layers"}}
	var made ocispecs.Manifest
	for _, d := range chain {
		l, ok := layers[d]
		if !ok {
			return nil, fmt.Errorf("layer %s is not in the manifest of the cache", d)
		}
		diff, err := contentOf(l.Descriptor)
		if err != nil {
			return nil, err
		}
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, diff)
		made.Layers = append(made.Layers, l.Descriptor)
	}
	out := &Image{platform: p, content: identity.ChainID(img.RootFS.DiffIDs), cache: cc, layers: layers}
	out.Documents, err = newDocuments(made, ocispecs.MediaTypeImageConfig, img)
	return out, err
}

// contentOf returns the digest of a layer of a cache as it is without compression.
func contentOf(l ocispecs.Descriptor) (digest.Digest, error) {
	diff, err := digest.Parse(l.Annotations[labels.LabelUncompressed])
	if err != nil {
		return "", fmt.Errorf("layer %s: the cache does not name its content: %w", l.Digest, err)
	}
	return diff, nil
}

// describe returns the descriptor of a document.
func describe(mediaType string, data []byte) ocispecs.Descriptor {
	return ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// lastResult returns the layers of the result that no other record needs, the lowest first.
func lastResult(cc cacheimporttypes.CacheConfig) ([]digest.Digest, error) {
	needed := map[int]bool{}
	for _, r := range cc.Records {
		for _, alternatives := range r.Inputs {
			for _, in := range alternatives {
				needed[in.LinkIndex] = true
			}
		}
	}
	var found []digest.Digest
	for i, r := range cc.Records {
		if needed[i] {
			continue
		}
		chains, err := resultsOf(cc, r)
		switch {
		case err != nil:
			return nil, err
		case len(chains) == 0 || len(chains[0]) == 0:
		case found == nil:
			found = chains[0]
		case !slices.Equal(found, chains[0]):
			return nil, errors.New("the cache holds several last results")
		}
	}
	if found == nil {
		return nil, errors.New("the cache holds no layers of its last step")
	}
	return found, nil
}

// resultsOf returns the layers of each result of a record, the lowest layer first.
func resultsOf(cc cacheimporttypes.CacheConfig, r cacheimporttypes.CacheRecord) ([][]digest.Digest, error) {
	var lists [][]int
	for _, res := range r.Results {
		var list []int
		for i := res.LayerIndex; i >= 0; i = cc.Layers[i].ParentIndex {
			if i >= len(cc.Layers) || len(list) > len(cc.Layers) {
				return nil, fmt.Errorf("the cache has no layer %d", i)
			}
			list = append(list, i)
		}
		slices.Reverse(list)
		lists = append(lists, list)
	}
	for _, res := range r.ChainedResults {
		lists = append(lists, res.LayerIndexes)
	}
	chains := make([][]digest.Digest, len(lists))
	for k, list := range lists {
		for _, l := range list {
			if l < 0 || l >= len(cc.Layers) {
				return nil, fmt.Errorf("the cache has no layer %d", l)
			}
			chains[k] = append(chains[k], cc.Layers[l].Blob)
		}
	}
	return chains, nil
}
