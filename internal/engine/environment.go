package engine

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/nodeset/dockerengine"
)

// Variables of docker buildx that switch a default off or on.
const (
	envNoAttestations = "BUILDX_NO_DEFAULT_ATTESTATIONS"
	envNoArtifact     = "BUILDX_NO_DEFAULT_OCI_ARTIFACT"
	envDefaultPolicy  = "BUILDX_DEFAULT_POLICY"

	envGitQueryAsInput = "BUILDX_SEND_GIT_QUERY_AS_INPUT"
)

// on reports whether a variable holds a true value; other values are false.
func (e *Engine) on(name string) bool {
	on, err := strconv.ParseBool(e.Env[name])
	return err == nil && on
}

// proxyArgs are the build args that name proxies to steps: those of the Docker
// configuration for the engine in use, or for all.
func (e *Engine) proxyArgs() map[string]string {
	at, err := dockerengine.FromConfig(e.Docker)
	if err != nil {
		at.Host = "" // those for all are as good a guess
	}
	return e.Docker.ProxyArgs(at.Host)
}

// checkSwitches refuses variables whose value is neither true nor false, where docker
// buildx does.
func (e *Engine) checkSwitches() error {
	for _, name := range []string{envNoAttestations, envNoArtifact} {
		v, set := e.Env[name]
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
func (e *Engine) withArtifactSwitch(p *ir.Project) *ir.Project {
	if !e.on(envNoArtifact) {
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

// envSourcePolicy names a file with a policy that BuildKit applies to sources.
const envSourcePolicy = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"

// refusePolicies refuses source policies of the environment and of targets, and --policy,
// which is a value of all targets: a build that ignores a policy would be worse than none.
// A policy beside a Dockerfile is found, and refused, where the Dockerfile is compiled.
func (e *Engine) refusePolicies(p *ir.Project) error {
	if file := e.Env[envSourcePolicy]; file != "" {
		return fmt.Errorf("the source policy %s cannot be enforced: dbake does not apply $%s; build with docker buildx, or without it", file, envSourcePolicy)
	}
	for _, t := range p.Targets {
		asks := e.on(envDefaultPolicy)
		for _, policy := range t.Policy {
			if policy.Disabled {
				asks = false
				break
			}
			asks = asks || policy.Filename != "" || policy.Strict != nil || policy.LogLevel != nil
		}
		if asks {
			return &ir.SourceError{
				Range:   t.Origin("policy"),
				Summary: fmt.Sprintf("the source policies of target %s cannot be enforced", t.Name),
				Detail:  "dbake does not evaluate Rego policies, nor the default policy of $" + envDefaultPolicy + "; build with docker buildx, or without policies: --policy disabled=true",
			}
		}
	}
	return nil
}
