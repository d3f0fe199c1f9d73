package cachestore

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/pkg/labels"
	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image of what a cache holds. Its layers are those of the cache.
type Image struct {
	Config, Manifest         ocispecs.Descriptor
	ConfigData, ManifestData []byte

	platform ocispecs.Platform
	content  digest.Digest // the chain id of its layers
}

// ImageOf returns an image of the last result in a cache that holds the results of one step and
// of steps below it: of the record that no other needs. It fails when the cache has several.
// manifest is that of the cache; read returns a blob that it names, of limit bytes at most.
func ImageOf(manifest []byte, read func(desc ocispecs.Descriptor, limit int64) ([]byte, error), p ocispecs.Platform) (*Image, error) {
	m, err := decode(manifest)
	if err != nil {
		return nil, err
	}
	config, err := read(m.Config, importable)
	if err != nil {
		return nil, err
	}
	var cc cacheimporttypes.CacheConfig
	if err := json.Unmarshal(config, &cc); err != nil {
		return nil, fmt.Errorf("decode a cache: %w", err)
	}
	chain, err := lastResult(cc)
	if err != nil {
		return nil, err
	}
	blobs := map[digest.Digest]ocispecs.Descriptor{}
	for _, l := range m.Layers {
		blobs[l.Digest] = l
	}
	img := ocispecs.Image{Platform: p, RootFS: ocispecs.RootFS{Type: "layers"}}
	made := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest}
	for _, d := range chain {
		l, ok := blobs[d]
		if !ok {
			return nil, fmt.Errorf("layer %s is not in the manifest of the cache", d)
		}
		diff, err := contentOf(l)
		if err != nil {
			return nil, err
		}
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, diff)
		made.Layers = append(made.Layers, l)
	}
	out := &Image{platform: p, content: identity.ChainID(img.RootFS.DiffIDs)}
	if out.ConfigData, err = json.Marshal(img); err != nil {
		return nil, fmt.Errorf("encode an image config: %w", err)
	}
	out.Config = describe(ocispecs.MediaTypeImageConfig, out.ConfigData)
	made.Config = out.Config
	if out.ManifestData, err = json.Marshal(made); err != nil {
		return nil, fmt.Errorf("encode an image manifest: %w", err)
	}
	out.Manifest = describe(made.MediaType, out.ManifestData)
	return out, nil
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
