package engine

import (
	"encoding/json"
	"fmt"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/imagekey"
	"github.com/dbake/dbake/runtime/local"
	"github.com/dbake/dbake/runtime/output"
	"github.com/dbake/dbake/runtime/registry"
)

// attestedImage pushes an index with an image for a platform, and a statement about it,
// if there is one.
func attestedImage(t *testing.T, c *registry.Client, ref, statement string) ocispecs.Descriptor {
	t.Helper()
	put := func(mediaType string, data []byte) ocispecs.Descriptor {
		t.Helper()
		d := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		require.NoError(t, c.Push(t.Context(), ref, d, data))
		return d
	}
	doc := func(mediaType string, v any) ocispecs.Descriptor {
		t.Helper()
		data, err := json.Marshal(v)
		require.NoError(t, err)
		return put(mediaType, data)
	}
	config := put(ocispecs.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64"}`))
	image := doc(ocispecs.MediaTypeImageManifest, ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest, Config: config})
	image.Platform = &ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	index := ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: []ocispecs.Descriptor{image}}
	if statement != "" {
		layer := put("application/vnd.in-toto+json", []byte(statement))
		layer.Annotations = map[string]string{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}
		a := doc(ocispecs.MediaTypeImageManifest, ocispecs.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest, Config: config, Layers: []ocispecs.Descriptor{layer},
		})
		a.Platform = &ocispecs.Platform{OS: "unknown", Architecture: "unknown"}
		a.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image.Digest.String()}
		index.Manifests = append(index.Manifests, a)
	}
	return doc(ocispecs.MediaTypeImageIndex, index)
}

// The provenance of an unchanged target comes from its record, else from its image; where
// neither answers as a build would, it is built.
func TestOriginOfUnchanged(t *testing.T) {
	reg, err := local.StartRegistry(t.Context(), t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reg.Close()) })
	client := registry.New(registry.Options{Hosts: map[string]registry.Host{reg.Addr: {PlainHTTP: true}}})
	t.Cleanup(client.Close)
	statement := func(config string) string {
		return fmt.Sprintf(`{"predicateType":"https://slsa.dev/provenance/v0.2","predicate":{"buildType":"t","invocation":{"parameters":{"frontend":"dockerfile.v0"}}%s}}`, config)
	}
	unit := &frontend.Unit{Target: &ir.Target{}, ExportPlatform: ocispecs.Platform{OS: "linux", Architecture: "amd64"}, FrontendAttrs: map[string]string{"build-arg:A": "1"}}
	secret := *unit
	secret.Target = &ir.Target{Secrets: []ir.Secret{{ID: "a"}}}
	several := *unit
	several.MultiPlatform = true
	arm := *unit
	arm.ExportPlatform.Architecture = "arm64"
	const key = "buildx.build.provenance"
	for name, c := range map[string]struct {
		statement string
		origin    map[string]string
		mode      string
		units     []*frontend.Unit
		want      string // the key with the provenance; "" is none
		built     bool
	}{
		"not asked for":               {mode: "", units: []*frontend.Unit{unit}},
		"from the record":             {origin: map[string]string{key: `{"buildType":"t"}`}, mode: "min", units: []*frontend.Unit{unit}, want: key},
		"from the image":              {statement: statement(""), mode: "min", units: []*frontend.Unit{unit}, want: key},
		"of an index":                 {statement: statement(""), mode: "min", units: []*frontend.Unit{&several}, want: key + "/linux/amd64"},
		"of another platform":         {statement: statement(""), mode: "min", units: []*frontend.Unit{&arm}, built: true},
		"max of min":                  {statement: statement(""), mode: "max", units: []*frontend.Unit{unit}, built: true},
		"max":                         {statement: statement(`,"buildConfig":{}`), mode: "max", units: []*frontend.Unit{unit}, want: key},
		"max of the record":           {origin: map[string]string{key: `{"buildType":"t"}`}, mode: "max", units: []*frontend.Unit{unit}, built: true},
		"names of secrets":            {statement: statement(""), mode: "min", units: []*frontend.Unit{&secret}, built: true},
		"names of secrets in max":     {statement: statement(`,"buildConfig":{}`), mode: "min", units: []*frontend.Unit{&secret}, want: key},
		"no attestation":              {mode: "min", units: []*frontend.Unit{unit}, built: true},
		"the node told none":          {origin: map[string]string{key: "none"}, mode: "max", units: []*frontend.Unit{unit}},
		"what is attested is damaged": {statement: "[]", mode: "min", units: []*frontend.Unit{unit}, built: true},
	} {
		s, _ := sessionOf(t)
		ref := reg.Addr + "/a/" + digest.FromString(name).Encoded()[:8] + ":1"
		desc := attestedImage(t, client, ref, c.statement)
		k := &kept{record: imagekey.Record{Image: desc, Origin: c.origin}, export: output.Export{Names: []string{ref}, Insecure: true}}
		require.Equal(t, !c.built, s.images.pushed.origin(t.Context(), k, c.units, c.mode, false), name)
		if c.built {
			require.True(t, s.images.pushed.origin(t.Context(), k, c.units, c.mode, true), name)
			continue
		}
		if c.want == "" {
			require.Empty(t, k.origin, name)
			continue
		}
		require.Len(t, k.origin, 1, name)
		require.Contains(t, string(k.origin[c.want].(json.RawMessage)), `"build-arg:A":"1"`, name)
	}
}
