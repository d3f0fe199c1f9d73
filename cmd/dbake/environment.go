package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
)

// Variables of docker buildx that switch a default off or on.
const (
	envNoAttestations  = "BUILDX_NO_DEFAULT_ATTESTATIONS"
	envNoArtifact      = "BUILDX_NO_DEFAULT_OCI_ARTIFACT"
	envDefaultPolicy   = "BUILDX_DEFAULT_POLICY"
	envMetaProvenance  = "BUILDX_METADATA_PROVENANCE"
	envMetaWarnings    = "BUILDX_METADATA_WARNINGS"
	metadataWarnings   = "buildx.build.warnings"
	provenanceDisabled = "disabled"
)

// on reports whether a variable holds a true value; other values are false.
func (a *app) on(name string) bool {
	on, err := strconv.ParseBool(a.env[name])
	return err == nil && on
}

// checkSwitches refuses variables whose value is neither true nor false, where docker
// buildx does.
func (a *app) checkSwitches() error {
	for _, name := range []string{envNoAttestations, envNoArtifact} {
		v, set := a.env[name]
		if !set {
			continue
		}
		if _, err := strconv.ParseBool(v); err != nil {
			return fmt.Errorf("invalid value %q of $%s: write true or false", v, name)
		}
	}
	return nil
}

// withArtifactSwitch returns p with images that are no OCI artifacts, unless they ask
// to be, if the environment says so. p is not changed.
func (a *app) withArtifactSwitch(p *ir.Project) *ir.Project {
	if !a.on(envNoArtifact) {
		return p
	}
	key := string(exptypes.OptKeyOCIArtifact)
	switched := *p
	switched.Targets = slices.Clone(p.Targets)
	for i, t := range p.Targets {
		changed := *t
		changed.Outputs = slices.Clone(t.Outputs)
		for k, o := range changed.Outputs {
			switch o.Type {
			case bkclient.ExporterImage, bkclient.ExporterOCI, "registry":
				if _, ok := o.Attrs[key]; !ok {
					attrs := map[string]string{key: "false"}
					maps.Copy(attrs, o.Attrs)
					changed.Outputs[k].Attrs = attrs
				}
			}
		}
		switched.Targets[i] = &changed
	}
	return &switched
}

// metadataProvenance is which provenance the metadata file holds.
func (a *app) metadataProvenance() string {
	switch v := a.env[envMetaProvenance]; v {
	case runtime.ProvenanceMin, runtime.ProvenanceMax:
		return v
	case provenanceDisabled:
		return ""
	default:
		if on, err := strconv.ParseBool(v); err == nil && !on {
			return ""
		}
		return runtime.ProvenanceMin
	}
}

// withWarnings adds the warnings of Dockerfiles to what is known of each target, if
// the environment asks for them.
func (a *app) withWarnings(byTarget map[string]map[string]any, warnings []plan.Remark) map[string]any {
	all := map[string]any{}
	for target, m := range byTarget {
		all[target] = m
	}
	if len(warnings) == 0 || !a.on(envMetaWarnings) {
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
