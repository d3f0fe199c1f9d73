package main

import (
	"encoding/json"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
)

func TestMetadataProvenance(t *testing.T) {
	for value, want := range map[string]string{"": "min", "min": "min", "max": "max", "disabled": "", "false": "", "0": "", "true": "min", "odd": "min"} {
		require.Equal(t, want, metadataProvenance(map[string]string{envMetaProvenance: value}), value)
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
		env := map[string]string{envMetaWarnings: value}
		dt, err := json.Marshal(withWarnings(env, byTarget, list))
		require.NoError(t, err)
		require.JSONEq(t, want, string(dt), value)
	}
}
