package compiler

import (
	"path"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// lower returns the target, one of those of s, in the words of the ir.
func (t *definition) lower(s *selection, remote *RemoteDefinition) *ir.Target {
	out := &ir.Target{
		Name:             t.name,
		Description:      t.description,
		Annotations:      t.annotations,
		Attest:           t.attest,
		Context:          *t.context,
		Contexts:         t.contexts,
		Dockerfile:       *t.dockerfile,
		DockerfileInline: t.dockerfileInline,
		Args:             entries(t.args),
		Labels:           entries(t.labels),
		Tags:             t.tags,
		CacheFrom:        values(t.cacheFrom),
		CacheTo:          t.cacheTo,
		Secrets:          values(t.secrets),
		SSH:              t.ssh,
		Platforms:        t.platforms,
		Outputs:          values(t.outputs),
		Pull:             t.pull,
		NoCache:          t.noCache,
		Network:          t.network,
		NoCacheFilter:    t.noCacheFilter,
		ShmSize:          t.shmSize,
		Ulimits:          t.ulimits,
		Resources:        t.resources,
		Entitlements:     t.entitlements,
		ExtraHosts:       entries(t.extraHosts),
		Policy:           t.policy,
		Linked:           t.linked,
		RemoteContext:    t.remoteContext,
		Origins:          t.origins,
	}
	for _, name := range t.dependsOn {
		if _, ok := s.targets[name]; ok {
			out.DependsOn = append(out.DependsOn, name)
		}
	}
	if t.stage != nil {
		out.Stage = *t.stage
	}
	if t.call != nil {
		out.Call = *t.call
	}
	if remote != nil && remote.Tree {
		out.RemoteContexts = remoteContexts(t.contexts)
	}
	return out
}

// remoteContexts returns the named contexts that are directories of a remote
// definition.
func remoteContexts(contexts map[string]string) map[string]string {
	var dirs map[string]string
	for name, v := range contexts {
		if isRemoteURL(v) || strings.HasPrefix(v, cwdScheme) || strings.HasPrefix(v, "target:") ||
			strings.HasPrefix(v, "docker-image:") || strings.HasPrefix(v, "oci-layout://") {
			continue
		}
		if dirs == nil {
			dirs = map[string]string{}
		}
		dirs[name] = path.Clean(v)
	}
	return dirs
}

// entries returns the entries of m that are not null, nil for none.
func entries(m map[string]*string) map[string]string {
	var out map[string]string
	for k, v := range m {
		if v == nil {
			continue
		}
		if out == nil {
			out = make(map[string]string, len(m))
		}
		out[k] = *v
	}
	return out
}
