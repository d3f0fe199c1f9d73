package daemon

import (
	"encoding/json"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
)

const told = `{"builder":{"id":""},"buildType":"https://mobyproject.org/buildkit@v1","materials":[{"uri":"pkg:docker/busybox@1","digest":{"sha256":"aa"}}],
"invocation":{"configSource":{"entryPoint":"Dockerfile"},"parameters":{"frontend":"dockerfile.v0","args":{"build-arg:TOKEN":"hunter2","cmdline":"x","label:a":"hunter2","no-cache":""},
"inputs":{"base":{"configSource":{},"request":{"args":{"build-arg:TOKEN":"hunter2"}}}},"root":{"configSource":{},"request":{"args":{"build-arg:TOKEN":"hunter2","label:a":"hunter2"}}}},"environment":{"platform":"linux/amd64"}},
"buildConfig":{"llbDefinition":[]},"metadata":{"completeness":{"parameters":true,"environment":true,"materials":false},"reproducible":false}}`

// What is known of a build holds no values, and says what the build itself has said once
// the values are there.
func TestOrigin(t *testing.T) {
	unit := &frontend.Unit{
		Target: &ir.Target{}, ExportPlatform: ocispecs.Platform{OS: "linux", Architecture: "amd64"},
		FrontendAttrs: map[string]string{"build-arg:TOKEN": "hunter2", "cmdline": "x", "label:a": "hunter2", "platform": "linux/amd64", "attest:provenance": "mode=min"},
	}
	o := OriginOf(map[string]any{
		buildRefKey: "dbake/n1/abc", buildProvenanceKey: json.RawMessage(told), "containerimage.digest": "sha256:x", "dbake.images": json.RawMessage(`[{"a":1}]`),
	}, true)
	require.Len(t, o, 2)
	for _, v := range o {
		require.NotContains(t, v, "hunter2")
	}
	require.True(t, o.Covers(ProvenanceMin))
	require.True(t, o.Covers(""))
	require.False(t, o.Covers(ProvenanceMax), "the steps are not kept")

	got := o.Metadata(ProvenanceMin, []*frontend.Unit{unit})
	require.Equal(t, "dbake/n1/abc", got[buildRefKey])
	var then, now map[string]any
	require.NoError(t, json.Unmarshal([]byte(told), &then))
	delete(then, "buildConfig")
	delete(then["invocation"].(map[string]any)["parameters"].(map[string]any)["args"].(map[string]any), "no-cache")
	delete(then, "metadata")
	require.NoError(t, json.Unmarshal(got[buildProvenanceKey].(json.RawMessage), &now))
	require.Equal(t, then, now)
	require.Equal(t, map[string]any{buildRefKey: "dbake/n1/abc"}, o.Metadata("", []*frontend.Unit{unit}))

	// An arg that no step uses is another one now, and one is gone.
	unit.FrontendAttrs = map[string]string{"build-arg:OTHER": "2"}
	require.NoError(t, json.Unmarshal(o.Metadata(ProvenanceMin, []*frontend.Unit{unit})[buildProvenanceKey].(json.RawMessage), &now))
	args := now["invocation"].(map[string]any)["parameters"].(map[string]any)["args"]
	require.Equal(t, map[string]any{"build-arg:OTHER": "2", "cmdline": "x"}, args)

	// A node that said nothing, and one that was not asked.
	o = OriginOf(map[string]any{buildRefKey: "a"}, true)
	require.True(t, o.Covers(ProvenanceMax))
	require.Equal(t, map[string]any{buildRefKey: "a"}, o.Metadata(ProvenanceMin, []*frontend.Unit{unit}))
	require.False(t, OriginOf(map[string]any{buildRefKey: "a"}, false).Covers(ProvenanceMin))
	require.Empty(t, Origin{buildProvenanceKey: "damaged"}.Metadata(ProvenanceMin, []*frontend.Unit{unit}))
}
