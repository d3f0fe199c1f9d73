package daemon

import (
	"encoding/base64"
	"encoding/json"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/nodeset"
)

func TestProvenanceBlobs(t *testing.T) {
	attestation := func(kind string) *controlapi.Descriptor {
		return &controlapi.Descriptor{MediaType: "application/vnd.in-toto+json", Digest: kind, Annotations: map[string]string{predicateType: kind}}
	}
	const v1, v02, sbom = "https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2", "https://spdx.dev/Document"
	info := func(kinds ...string) *controlapi.BuildResultInfo {
		r := &controlapi.BuildResultInfo{}
		for _, k := range kinds {
			r.Attestations = append(r.Attestations, attestation(k))
		}
		return r
	}
	digests := func(r *controlapi.BuildHistoryRecord) map[string]string {
		out := map[string]string{}
		for k, d := range provenanceBlobs(r) {
			out[k] = d.Digest
		}
		return out
	}
	require.Empty(t, digests(nil))
	require.Empty(t, digests(&controlapi.BuildHistoryRecord{Result: info(sbom)}))
	require.Equal(t, map[string]string{"buildx.build.provenance": v02}, digests(&controlapi.BuildHistoryRecord{Result: info(sbom, v02)}))
	require.Equal(t, map[string]string{"buildx.build.provenance/linux/amd64": v1, "buildx.build.provenance/linux/arm64": v02},
		digests(&controlapi.BuildHistoryRecord{Results: map[string]*controlapi.BuildResultInfo{"linux/amd64": info(v1), "linux/arm64": info(v02), "linux/arm": info(sbom)}}))
}

func TestProvenanceValue(t *testing.T) {
	old := `{"builder":{"id":"b"},"buildType":"t","invocation":{"configSource":{},"parameters":{"frontend":"f"},"environment":{}},"buildConfig":{"llbDefinition":[{"id":"step0"}]},"metadata":{"buildInvocationID":"x"}}`
	for predicate, text := range map[string]string{
		"https://slsa.dev/provenance/v0.2": old,
		"https://slsa.dev/provenance/v1":   `{"buildDefinition":{"buildType":"t","externalParameters":{"request":{"frontend":"f"}}},"runDetails":{"builder":{"id":"b"},"metadata":{"invocationID":"x"}}}`,
	} {
		for mode, all := range map[string]bool{ProvenanceMin: false, ProvenanceMax: true} {
			value, err := provenanceValue([]byte(text), predicate, mode)
			require.NoError(t, err)
			dt, err := base64.StdEncoding.DecodeString(value)
			require.NoError(t, err)
			var got map[string]any
			require.NoError(t, json.Unmarshal(dt, &got))
			require.Equal(t, map[string]any{"id": "b"}, got["builder"])
			_, has := got["metadata"]
			require.Equal(t, all, has, "%s %s", predicate, mode)
		}
		for _, bad := range []string{"", "{", "null", "[]"} {
			_, err := provenanceValue([]byte(bad), predicate, ProvenanceMin)
			if bad == "null" && predicate == "https://slsa.dev/provenance/v1" {
				continue // an empty one
			}
			require.Error(t, err, "%s %q", predicate, bad)
		}
	}
}

func TestBuildRef(t *testing.T) {
	for source, want := range map[string]string{"builder ci": "ci/n1/ref", "--nodes": "dbake/n1/ref", "": "dbake/n1/ref"} {
		s := &solver{link: &link{spec: nodeset.Spec{Name: "n1", Source: source}}}
		require.Equal(t, want, s.buildRef("ref"))
	}
}
