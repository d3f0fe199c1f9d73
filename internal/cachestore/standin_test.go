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
		Manifest: ocispecs.Descriptor{Digest: digest.FromString("image")},
		platform: ocispecs.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"},
		content:  identity.ChainID([]digest.Digest{content("base"), content("libs")}),
	}
	source, err := img.record()
	require.NoError(t, err)
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
	standIn := cacheimporttypes.CacheRecord{Digest: source}
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
