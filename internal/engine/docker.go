package engine

import (
	"fmt"
	"slices"

	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/nodeset"
)

// ownStore reports whether a node is a Docker engine that keeps images in a store of
// its own.
func (f *facts) ownStore() bool { return len(f.withOwnStore) > 0 }

// hasEngine reports whether a node is a Docker engine.
func (n *nodes) hasEngine() bool {
	return slices.ContainsFunc(n.specs, func(s nodeset.Spec) bool { return s.Engine != nil && s.Container == nil })
}

// enginesOnly reports whether all nodes are Docker engines.
func (n *nodes) enginesOnly() bool {
	return n != nil && !slices.ContainsFunc(n.specs, func(s nodeset.Spec) bool { return s.Engine == nil || s.Container != nil })
}

// withImages returns p with images for targets that write nothing, if all nodes are Docker
// engines: they keep what they build, as docker build does. p is not changed.
func (n *nodes) withImages(p *ir.Project) *ir.Project {
	if !n.enginesOnly() {
		return p
	}
	out := *p
	out.Targets = slices.Clone(p.Targets)
	for i, t := range p.Targets {
		if !t.Linked && len(t.Outputs) == 0 {
			kept := *t
			kept.Outputs = []ir.Output{{Type: bkclient.ExporterImage}}
			out.Targets[i] = &kept
		}
	}
	return &out
}

// unfit returns an error about the first output of p that a Docker engine with a store of its
// own cannot write, nil for none. Such an engine gives every image its names at once, and with
// atomic none can be held back.
func unfit(p *ir.Project, atomic bool) error {
	const detail = "the Docker engine can do that with its containerd image store only; turn it on, or use another node"
	for _, t := range p.Targets {
		if t.Linked {
			continue
		}
		image := false
		for _, o := range t.Outputs {
			switch o.Type {
			case bkclient.ExporterOCI:
				return &ir.SourceError{Range: t.Origin("output"), Summary: fmt.Sprintf("target %s: an output of type oci cannot be written", t.Name), Detail: detail}
			case bkclient.ExporterDocker:
				if o.Attrs["tar"] == "false" {
					return &ir.SourceError{Range: t.Origin("output"), Summary: fmt.Sprintf("target %s: an output of type docker with tar=false cannot be written", t.Name), Detail: detail}
				}
			}
			image = image || o.Type != bkclient.ExporterLocal && o.Type != bkclient.ExporterTar && o.Type != "cacheonly"
			if _, ok := o.Attrs["push-by-digest"]; ok {
				return &ir.SourceError{Range: t.Origin("output"), Summary: fmt.Sprintf("target %s cannot be pushed by digest", t.Name), Detail: detail}
			}
		}
		if image && atomic {
			return &ir.SourceError{Range: t.Origin("output"), Summary: fmt.Sprintf("target %s: an image cannot be held back until all targets are built, as --execution atomic asks for", t.Name), Detail: detail}
		}
		if i := slices.IndexFunc(t.CacheTo, neededCache); i >= 0 {
			return &ir.SourceError{Range: t.Origin("cache-to"), Summary: fmt.Sprintf("target %s: a cache of type %s cannot be written", t.Name, t.CacheTo[i].Type), Detail: detail}
		}
		switch {
		case image && len(t.PlatformList()) > 1:
			return &ir.SourceError{Range: t.Origin("platforms"), Summary: fmt.Sprintf("target %s: an image of several platforms cannot be kept", t.Name), Detail: detail}
		case slices.ContainsFunc(t.Attest, func(a ir.Attest) bool { return !a.Disabled }):
			return &ir.SourceError{Range: t.Origin("attest"), Summary: fmt.Sprintf("target %s: attestations cannot be kept", t.Name), Detail: detail}
		}
	}
	return nil
}

// neededCache reports whether a cache is apart from its image and must be written.
func neededCache(e ir.CacheEntry) bool {
	return e.Type != ir.TypeInline && !e.MayFail()
}

// fit leaves out the Docker engines that cannot write what the project asks for, and
// reports whether there were any. It is an error when no other node is there.
func (s *standby) fit(f *facts, p *ir.Project) (changed bool, err error) {
	if !f.ownStore() {
		return false, nil
	}
	cannot := unfit(p, s.atomic)
	if cannot == nil {
		return false, nil
	}
	if len(f.withOwnStore) == len(s.nodes.specs) {
		return false, cannot
	}
	for _, name := range f.withOwnStore {
		s.engine.Report.Warn(fmt.Sprintf("%v; node %s is left out", cannot, name))
	}
	s.leaveOut(f.withOwnStore)
	return true, nil
}
