package main

import (
	"encoding/json"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
)

func TestArtifactSwitch(t *testing.T) {
	p := &ir.Project{Targets: []*ir.Target{{Name: "t", Outputs: []ir.Output{
		{Type: "image"}, {Type: "oci", Attrs: map[string]string{"oci-artifact": "true"}}, {Type: "registry", Attrs: map[string]string{"name": "x"}}, {Type: "local"}, {Type: "docker"},
	}}}}
	for value, want := range map[string][]string{"": {"", "true", "", "", ""}, "0": {"", "true", "", "", ""}, "1": {"false", "true", "false", "", ""}} {
		var got []string
		for _, o := range (&app{env: map[string]string{envNoArtifact: value}}).withArtifactSwitch(p).Targets[0].Outputs {
			got = append(got, o.Attrs["oci-artifact"])
		}
		require.Equal(t, want, got, value)
	}
	require.Nil(t, p.Targets[0].Outputs[0].Attrs, "what is printed does not change")
}

func TestSwitches(t *testing.T) {
	for _, name := range []string{envNoAttestations, envNoArtifact} {
		require.NoError(t, (&app{env: map[string]string{name: "1"}}).checkSwitches())
		require.EqualError(t, (&app{env: map[string]string{name: "yes"}}).checkSwitches(), `invalid value "yes" of $`+name+`: write true or false`)
		require.Error(t, (&app{env: map[string]string{name: ""}}).checkSwitches(), "as docker buildx")
	}
	require.NoError(t, (&app{}).checkSwitches())
}

func TestMetadataProvenance(t *testing.T) {
	for value, want := range map[string]string{"": "min", "min": "min", "max": "max", "disabled": "", "false": "", "0": "", "true": "min", "odd": "min"} {
		require.Equal(t, want, (&app{env: map[string]string{envMetaProvenance: value}}).metadataProvenance(), value)
	}
}

func TestMetadataWarnings(t *testing.T) {
	byTarget := map[string]map[string]any{"t": {"image.name": "x"}}
	list := []plan.Remark{{Warning: frontend.Warning{Message: "m", Detail: "one\ntwo", URL: "u", Level: 1,
		Source: &pb.SourceInfo{Filename: "Dockerfile"}, Ranges: []*pb.Range{{Start: &pb.Position{Line: 2}}}}}}
	for value, want := range map[string]string{
		"":  `{"t":{"image.name":"x"}}`,
		"0": `{"t":{"image.name":"x"}}`,
		"1": `{"t":{"image.name":"x"},"buildx.build.warnings":[{"level":1,"short":"bQ==","detail":["b25l","dHdv"],"url":"u","sourceInfo":{"filename":"Dockerfile"},"range":[{"start":{"line":2}}]}]}`,
	} {
		a := &app{env: map[string]string{envMetaWarnings: value}}
		dt, err := json.Marshal(a.withWarnings(byTarget, list))
		require.NoError(t, err)
		require.JSONEq(t, want, string(dt), value)
	}
}
