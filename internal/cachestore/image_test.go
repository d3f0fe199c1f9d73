package cachestore

import (
	"encoding/json"
	"testing"

	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/moby/buildkit/cache/remotecache/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// The image of a cache is that of the step which no other record needs.
func TestImageOf(t *testing.T) {
	layer := func(name string) ocispecs.Descriptor {
		return ocispecs.Descriptor{
			MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: digest.FromString(name), Size: int64(len(name)),
			Annotations: map[string]string{labels.LabelUncompressed: digest.FromString("content of " + name).String()},
		}
	}
	base, libs, service := layer("base"), layer("libs"), layer("service")
	m := &ocispecs.Manifest{
		Config: ocispecs.Descriptor{MediaType: cacheimporttypes.CacheConfigMediaTypeV0, Digest: digest.FromString("config")},
		Layers: []ocispecs.Descriptor{service, libs, base},
	}
	links := func(of ...int) [][]cacheimporttypes.CacheInput {
		var list []cacheimporttypes.CacheInput
		for _, i := range of {
			list = append(list, cacheimporttypes.CacheInput{LinkIndex: i})
		}
		return [][]cacheimporttypes.CacheInput{list}
	}
	result := func(layer int) []cacheimporttypes.CacheResult {
		return []cacheimporttypes.CacheResult{{LayerIndex: layer}}
	}
	layers := []cacheimporttypes.CacheLayer{
		{Blob: service.Digest, ParentIndex: 1}, {Blob: libs.Digest, ParentIndex: 2}, {Blob: base.Digest, ParentIndex: -1},
	}
	p := ocispecs.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	image := func(records ...cacheimporttypes.CacheRecord) (*Image, error) {
		dt, err := json.Marshal(cacheimporttypes.CacheConfig{Layers: layers, Records: records})
		require.NoError(t, err)
		manifest, err := json.Marshal(m)
		require.NoError(t, err)
		return ImageOf(manifest, func(desc ocispecs.Descriptor, limit int64) ([]byte, error) {
			require.Equal(t, m.Config, desc)
			require.EqualValues(t, importable, limit)
			return dt, nil
		}, p)
	}

	img, err := image(
		cacheimporttypes.CacheRecord{Results: result(0), Inputs: links(1, 3)},
		cacheimporttypes.CacheRecord{Results: result(1), Inputs: links(2)},
		cacheimporttypes.CacheRecord{},
		cacheimporttypes.CacheRecord{Inputs: links(2)},
		cacheimporttypes.CacheRecord{Inputs: links(2)}, // a record without a result is no step
	)
	require.NoError(t, err)
	var config ocispecs.Image
	require.NoError(t, json.Unmarshal(img.ConfigData, &config))
	require.Equal(t, p, config.Platform)
	var made ocispecs.Manifest
	require.NoError(t, json.Unmarshal(img.ManifestData, &made))
	require.Equal(t, []ocispecs.Descriptor{base, libs, service}, made.Layers)
	for i, l := range made.Layers {
		require.Equal(t, l.Annotations[labels.LabelUncompressed], config.RootFS.DiffIDs[i].String())
	}
	require.Equal(t, digest.FromBytes(img.ConfigData), made.Config.Digest)
	require.Equal(t, digest.FromBytes(img.ManifestData), img.Manifest.Digest)

	_, err = image(cacheimporttypes.CacheRecord{Results: result(0)}, cacheimporttypes.CacheRecord{Results: result(1)})
	require.ErrorContains(t, err, "several")
	_, err = image(cacheimporttypes.CacheRecord{})
	require.ErrorContains(t, err, "no layers")
	_, err = image(cacheimporttypes.CacheRecord{Results: result(7)})
	require.ErrorContains(t, err, "no layer 7")
	layers[2].ParentIndex = 0
	_, err = image(cacheimporttypes.CacheRecord{Results: result(0)})
	require.Error(t, err, "a loop of layers")
}
