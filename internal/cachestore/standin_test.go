package cachestore

import (
	"testing"

	"github.com/containerd/containerd/v2/pkg/labels"
	cacheimport "github.com/moby/buildkit/cache/remotecache/v1"
	"github.com/moby/buildkit/cache/remotecache/v1/types"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// What stands on an image is found behind the step that the image was made of.
func TestLinkStandIns(t *testing.T) {
	content := func(name string) digest.Digest { return digest.FromString("content of " + name) }
	img := &Image{
		Documents: Documents{Manifest: ocispecs.Descriptor{Digest: digest.FromString("image")}},
		platform:  ocispecs.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"},
		content:   identity.ChainID([]digest.Digest{content("base"), content("libs")}),
	}
	layers := cacheimport.DescriptorProvider{}
	var list []cacheimporttypes.CacheLayer
	layer := func(name string, parent int) cacheimporttypes.CacheLayer {
		d := digest.FromString(name)
		layers[d] = cacheimport.DescriptorProviderPair{Descriptor: ocispecs.Descriptor{
			Digest: d, Annotations: map[string]string{labels.LabelUncompressed: content(name).String()},
		}}
		return cacheimporttypes.CacheLayer{Blob: d, ParentIndex: parent}
	}
	list = append(list, layer("base", -1), layer("libs", 0), layer("service", 1), layer("unknown", 0))
	delete(layers[list[3].Blob].Descriptor.Annotations, labels.LabelUncompressed)

	result := func(layer int) []cacheimporttypes.CacheResult {
		return []cacheimporttypes.CacheResult{{LayerIndex: layer}}
	}
	to := func(selector string, of ...int) (inputs []cacheimporttypes.CacheInput) {
		for _, i := range of {
			inputs = append(inputs, cacheimporttypes.CacheInput{Selector: selector, LinkIndex: i})
		}
		return inputs
	}
	type inputs = [][]cacheimporttypes.CacheInput
	base := cacheimporttypes.CacheRecord{Digest: digest.FromString("busybox")}
	libs := cacheimporttypes.CacheRecord{Digest: digest.FromString("RUN libs"), Inputs: inputs{to("", 0)}, Results: result(1)}
	standIn := cacheimporttypes.CacheRecord{Digest: img.record()}
	for name, c := range map[string]struct {
		more []cacheimporttypes.CacheRecord // after base, libs and standIn
		want []inputs
	}{
		"a step on it": {
			more: []cacheimporttypes.CacheRecord{{Inputs: inputs{to("", 2)}, Results: result(2)}},
			want: []inputs{{to("", 2, 1)}},
		},
		"a path of it": {
			more: []cacheimporttypes.CacheRecord{{Inputs: inputs{to("", 0), to("/src", 2)}}},
			want: []inputs{{to("", 0), to("/src", 2, 1)}},
		},
		"found so before": {
			more: []cacheimporttypes.CacheRecord{{Inputs: inputs{to("", 2, 1)}}},
			want: []inputs{{to("", 2, 1)}},
		},
		"a step on something else": {
			more: []cacheimporttypes.CacheRecord{{Inputs: inputs{to("", 0)}, Results: result(2)}},
			want: []inputs{{to("", 0)}},
		},
		"a step on it with the same layers": {
			more: []cacheimporttypes.CacheRecord{{Inputs: inputs{to("", 2)}, Results: result(1)}, {Inputs: inputs{to("", 3)}}},
			want: []inputs{{to("", 2, 1)}, {to("", 3)}},
		},
		"layers without a content": {
			more: []cacheimporttypes.CacheRecord{{Inputs: inputs{to("", 2)}, Results: result(3)}},
			want: []inputs{{to("", 2, 1)}},
		},
		"several results": {
			more: []cacheimporttypes.CacheRecord{
				{Inputs: inputs{to("", 0)}, Results: append(result(0), result(1)...)},
				{Inputs: inputs{to("", 2)}},
			},
			want: []inputs{{to("", 0)}, {to("", 2, 1, 3)}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cc := &cacheimporttypes.CacheConfig{Layers: list, Records: append([]cacheimporttypes.CacheRecord{base, libs, standIn}, c.more...)}
			require.NoError(t, linkStandIns(cc, layers, []*Image{img}))
			require.Equal(t, []cacheimporttypes.CacheRecord{base, libs, standIn}, cc.Records[:3])
			for i, want := range c.want {
				require.Equal(t, want, cc.Records[3+i].Inputs)
			}
			require.NoError(t, cacheimport.ParseConfig(*cc, layers, cacheimport.NewCacheChains()), "records form no loop")
		})
	}
}

// What stands on an image is found in a cache that lacks the step which the image was made
// of: its key comes from the cache of the image.
func TestLink(t *testing.T) {
	type inputs = [][]cacheimporttypes.CacheInput
	on := func(i int) inputs { return inputs{{{LinkIndex: i}}} }
	blobs := map[digest.Digest][]byte{}
	read := func(desc ocispecs.Descriptor, _ int64) ([]byte, error) { return blobs[desc.Digest], nil }
	cache := func(cc cacheimporttypes.CacheConfig) []byte {
		var m ocispecs.Manifest
		for _, l := range cc.Layers {
			m.Layers = append(m.Layers, ocispecs.Descriptor{
				MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: l.Blob, Size: 1,
				Annotations: map[string]string{labels.LabelUncompressed: digest.FromString("content of " + l.Blob.String()).String()},
			})
		}
		d, err := newDocuments(m, cacheimporttypes.CacheConfigMediaTypeV0, cc)
		require.NoError(t, err)
		blobs[d.Config.Digest] = d.ConfigData
		return d.ManifestData
	}
	base, libs, service := digest.FromString("base"), digest.FromString("libs"), digest.FromString("service")
	run := digest.FromString("RUN libs")
	sent := cache(cacheimporttypes.CacheConfig{
		Layers: []cacheimporttypes.CacheLayer{{Blob: base, ParentIndex: -1}, {Blob: libs, ParentIndex: 0}},
		Records: []cacheimporttypes.CacheRecord{
			{Digest: digest.FromString("busybox")},
			{Digest: run, Inputs: on(0), Results: []cacheimporttypes.CacheResult{{LayerIndex: 1}}},
		},
	})
	img, err := ImageOf(sent, read, ocispecs.Platform{OS: "linux", Architecture: "amd64"})
	require.NoError(t, err)

	other := cache(cacheimporttypes.CacheConfig{
		Layers: []cacheimporttypes.CacheLayer{{Blob: service, ParentIndex: -1}},
		Records: []cacheimporttypes.CacheRecord{
			{Digest: digest.FromString("busybox")},
			{Digest: digest.FromString("RUN other"), Inputs: on(0), Results: []cacheimporttypes.CacheResult{{LayerIndex: 0}}},
		},
	})
	d, err := Link(t.Context(), other, read, "", []*Image{img})
	require.NoError(t, err)
	require.Nil(t, d, "nothing stands on the image")

	onImage := cache(cacheimporttypes.CacheConfig{
		Layers: []cacheimporttypes.CacheLayer{{Blob: base, ParentIndex: -1}, {Blob: libs, ParentIndex: 0}, {Blob: service, ParentIndex: 1}},
		Records: []cacheimporttypes.CacheRecord{
			{Digest: img.record()},
			{Digest: digest.FromString("RUN service"), Inputs: on(0), Results: []cacheimporttypes.CacheResult{{LayerIndex: 2}}},
		},
	})
	d, err = Link(t.Context(), onImage, read, "", []*Image{img})
	require.NoError(t, err)
	blobs[d.Config.Digest] = d.ConfigData
	m, cc, err := decodeCache(d.ManifestData, read)
	require.NoError(t, err)
	require.Len(t, m.Layers, 3)
	require.Len(t, cc.Records, 4)
	for _, r := range cc.Records {
		if r.Digest != digest.FromString("RUN service") {
			continue
		}
		var under []digest.Digest
		for _, in := range r.Inputs[0] {
			under = append(under, cc.Records[in.LinkIndex].Digest)
		}
		require.ElementsMatch(t, []digest.Digest{img.record(), run}, under)
	}

	// What is copied from the image has layers of its own. The step is in the cache when its
	// layers are in the same repository.
	img.Repo = "reg/cache"
	copied := cache(cacheimporttypes.CacheConfig{
		Layers: []cacheimporttypes.CacheLayer{{Blob: service, ParentIndex: -1}},
		Records: []cacheimporttypes.CacheRecord{
			{Digest: img.record()},
			{Digest: digest.FromString("COPY --from"), Inputs: on(0), Results: []cacheimporttypes.CacheResult{{LayerIndex: 0}}},
		},
	})
	for repo, want := range map[string]int{"reg/cache": 3, "reg/other": 1, "": 1} {
		d, err := Link(t.Context(), copied, read, repo, []*Image{img})
		require.NoError(t, err)
		m, err := decode(d.ManifestData)
		require.NoError(t, err)
		require.Len(t, m.Layers, want, repo)
	}

	// The image of what stands on the image can be made of the cache, too.
	_, err = ImageOf(d.ManifestData, read, ocispecs.Platform{})
	require.NoError(t, err)
}
