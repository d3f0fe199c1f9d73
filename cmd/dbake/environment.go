package main

import (
	"strconv"
	"strings"

	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/daemon"
)

// Variables of docker buildx that switch a default off or on.
const (
	envMetaProvenance  = "BUILDX_METADATA_PROVENANCE"
	envMetaWarnings    = "BUILDX_METADATA_WARNINGS"
	metadataWarnings   = "buildx.build.warnings"
	provenanceDisabled = "disabled"
)

// metadataProvenance returns which provenance the metadata file holds.
func metadataProvenance(env map[string]string) string {
	switch v := env[envMetaProvenance]; v {
	case daemon.ProvenanceMin, daemon.ProvenanceMax:
		return v
	case provenanceDisabled:
		return ""
	default:
		if on, err := strconv.ParseBool(v); err == nil && !on {
			return ""
		}
		return daemon.ProvenanceMin
	}
}

// withWarnings adds the warnings of Dockerfiles to the metadata of each target, if the
// environment asks for them.
func withWarnings(env map[string]string, byTarget map[string]map[string]any, warnings []plan.Remark) map[string]any {
	all := map[string]any{}
	for target, m := range byTarget {
		all[target] = m
	}
	if on, err := strconv.ParseBool(env[envMetaWarnings]); len(warnings) == 0 || err != nil || !on {
		return all
	}
	var list []bkclient.VertexWarning
	for _, w := range warnings {
		v := bkclient.VertexWarning{Level: w.Level, Short: []byte(w.Message), URL: w.URL, SourceInfo: w.Source, Range: w.Ranges}
		for line := range strings.SplitSeq(w.Detail, "\n") {
			if line != "" {
				v.Detail = append(v.Detail, []byte(line))
			}
		}
		list = append(list, v)
	}
	all[metadataWarnings] = list
	return all
}
