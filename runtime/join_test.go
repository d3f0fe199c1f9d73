package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/output"
	"github.com/dbake/dbake/runtime/registry"
)

// newDivided is a build of one target in two parts, for a node each, and of
// another target.
func newDivided(t *testing.T, outputs ...ir.Output) *Build {
	b := newBuild(t, 2, "app@linux/arm64", "app@linux/amd64", "other")
	target := &ir.Target{
		Name: "app", Platforms: []string{"linux/amd64", "linux/arm64"},
		Tags: []string{"example.com/app:1", "example.org/app:2"}, Annotations: []string{"index:k=v", "manifest:m=v"},
		Outputs: outputs,
	}
	for i := range 2 {
		b.Jobs[i].Target, b.Jobs[i].Units[0].Target = target, target
		b.Jobs[i].Units[0].MultiPlatform = true
	}
	b.Jobs[0].Units[0].ExportPlatform = platforms.MustParse("linux/arm64")
	b.Jobs[1].Units[0].ExportPlatform = platforms.MustParse("linux/amd64")
	return b
}

// runDivided carries b out; indexes are given to put.
func runDivided(t *testing.T, b *Build, put func(registry.Index, bool) (ocispecs.Descriptor, error)) (*fleet, *Result, error) {
	t.Helper()
	f := newFleet(t, b)
	r, err := newRun(b, []daemon.NodeInfo{{Spec: nodeset.Spec{Name: "n1"}}, {Spec: nodeset.Spec{Name: "n2"}}}, func(Event) {})
	require.NoError(t, err)
	r.exports.putIndex = func(_ context.Context, index registry.Index, insecure bool) (ocispecs.Descriptor, error) {
		return put(index, insecure)
	}
	res, err := r.run(t.Context(), f.connect(r))
	return f, res, err
}

func TestDivided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newDivided(t, ir.Output{Type: "image", Attrs: map[string]string{"push": "true", "registry.insecure": "true"}})
		desc := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageIndex, Digest: digest.FromString("index"), Size: 7}
		var got []registry.Index
		f, res, err := runDivided(t, b, func(index registry.Index, insecure bool) (ocispecs.Descriptor, error) {
			require.True(t, insecure)
			got = append(got, index)
			return desc, nil
		})
		require.NoError(t, err)
		require.Equal(t, map[string]int{"example.com/app": 2, "example.com/other:latest": 1}, f.exports())
		part := registry.Part{Repo: "example.com/app", Digest: digest.FromString("example.com/app")}
		require.Equal(t, []registry.Index{{
			Names: []string{"example.com/app:1", "example.org/app:2"}, Parts: []registry.Part{part, part},
			Platforms:   []ocispecs.Platform{platforms.MustParse("linux/amd64"), platforms.MustParse("linux/arm64")},
			Annotations: map[string]string{"k": "v"},
		}}, got)
		require.Equal(t, []output.Image{
			{Name: "example.com/app:1", Digest: desc.Digest.String(), Place: output.InRegistry},
			{Name: "example.org/app:2", Digest: desc.Digest.String(), Place: output.InRegistry},
		}, res.Jobs[0].Images)
		require.Empty(t, res.Jobs[1].Images)
		require.Equal(t, desc.Digest.String(), res.Jobs[0].Metadata["containerimage.digest"])
		require.Equal(t, "example.com/app:1,example.org/app:2", res.Jobs[0].Metadata["image.name"])
		var told ocispecs.Descriptor
		require.NoError(t, json.Unmarshal(res.Jobs[0].Metadata["containerimage.descriptor"].(json.RawMessage), &told))
		require.Equal(t, desc, told)
		require.NotContains(t, res.Jobs[1].Metadata, "containerimage.digest")
	})
}

func TestDividedFails(t *testing.T) {
	pushed := ir.Output{Type: "registry"}
	t.Run("part", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newDivided(t, pushed)
			b.Sched.Options.KeepGoing = true
			f := newFleet(t, b)
			f.nodes[1].fails["app@linux/amd64 first"] = errors.New("exit code: 1")
			res, _, err := f.run(t.Context(), b) // writing an index would need a network
			require.ErrorContains(t, err, "exit code: 1")
			require.Equal(t, map[string]State{"app@linux/arm64": Done, "app@linux/amd64": Failed, "other": Done}, states(res))
		})
	})
	t.Run("registry", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, res, err := runDivided(t, newDivided(t, pushed), func(registry.Index, bool) (ocispecs.Descriptor, error) {
				return ocispecs.Descriptor{}, registry.ErrDenied
			})
			require.ErrorIs(t, err, registry.ErrDenied)
			require.ErrorContains(t, err, "target app: put its platforms together: ")
			require.Equal(t, map[string]State{"app@linux/arm64": Failed, "app@linux/amd64": Failed, "other": Done}, states(res))
		})
	})
}

func TestDividedOutputs(t *testing.T) {
	for _, tt := range []struct {
		out ir.Output
		err string
	}{
		{ir.Output{Type: "image"}, "an output of type image needs all platforms on one node"},
		{ir.Output{Type: "oci", Dest: "x.tar"}, "an output of type oci needs all platforms on one node"},
		{ir.Output{Type: "docker", Dest: "x.tar"}, "docker exporter does not support exporting manifest lists, use the oci exporter instead"},
		{ir.Output{Type: "local", Dest: "x"}, "an output of type local needs all platforms on one node"},
		{ir.Output{Type: "registry", Attrs: map[string]string{"push-by-digest": "true"}}, "leave push-by-digest out"},
	} {
		_, err := newRun(newDivided(t, tt.out), nil, func(Event) {})
		var source *ir.SourceError
		require.ErrorAs(t, err, &source)
		require.ErrorContains(t, err, "target app: ")
		require.ErrorContains(t, err, tt.err)
	}
	_, err := newRun(newDivided(t, ir.Output{Type: "cacheonly"}), nil, func(Event) {})
	require.NoError(t, err)
}
