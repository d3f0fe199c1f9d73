package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/dockerconfig"
	"github.com/dbake/dbake/runtime/nodeset/dockerengine"
)

// answerTimeout bounds how long an engine may take to answer before a build starts.
const answerTimeout = 20 * time.Second

// isLoad reports whether an output goes to the local Docker engine.
func isLoad(o ir.Output) bool { return o.Form() == ir.FormLoad }

// loader loads images into the Docker engine of this machine.
type loader struct{ docker *dockerconfig.Config }

// load returns a function that starts to load one archive of the images that p loads into
// the engine, nil when there are none, and p with these outputs in the form that the engine
// reads. The engine has answered by then: a build whose results could not be loaded does
// not start.
func (l loader) load(ctx context.Context, p *ir.Project) (*ir.Project, func(context.Context) (io.WriteCloser, error), error) {
	first := slices.IndexFunc(p.Targets, func(t *ir.Target) bool { return slices.ContainsFunc(t.Outputs, isLoad) })
	if first < 0 {
		return p, nil, nil
	}
	e, err := dockerengine.Open(l.docker)
	if err != nil {
		return nil, nil, err
	}
	asking, stop := context.WithTimeout(ctx, answerTimeout)
	info, err := e.Info(asking)
	stop()
	if err != nil {
		return nil, nil, fmt.Errorf("target %s is to be loaded into the Docker engine at %s, which does not answer: %w", p.Targets[first].Name, e.Addr, err)
	}
	loaded := *p
	loaded.Targets = slices.Clone(p.Targets)
	for i, t := range p.Targets {
		if loaded.Targets[i], err = loadable(t, info.TakesIndexes()); err != nil {
			return nil, nil, err
		}
	}
	return &loaded, e.Load, nil
}

// loadable returns t with the outputs that are loaded in the form of an OCI archive
// if the engine takes indexes: only such an archive can hold one.
func loadable(t *ir.Target, indexes bool) (*ir.Target, error) {
	out := *t
	out.Outputs = slices.Clone(t.Outputs)
	for i, o := range t.Outputs {
		if !isLoad(o) {
			continue
		}
		if name := o.Attrs["context"]; name != "" && name != "default" {
			return nil, &ir.SourceError{
				Range:   t.Origin("output"),
				Summary: fmt.Sprintf("target %s is to be loaded into docker context %s", t.Name, name),
				Detail:  "all images are loaded into one engine; choose it with DOCKER_CONTEXT or DOCKER_HOST",
			}
		}
		if !indexes {
			if len(t.PlatformList()) > 1 || slices.ContainsFunc(t.Attest, func(a ir.Attest) bool { return !a.Disabled }) {
				return nil, &ir.SourceError{
					Range:   t.Origin("output"),
					Summary: fmt.Sprintf("target %s: docker exporter does not currently support exporting manifest lists", t.Name),
					Detail:  "the Docker engine stores several platforms and attestations only with the containerd image store",
				}
			}
			continue
		}
		attrs := maps.Clone(o.Attrs)
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs["prefer-image-digest"] = "true"
		out.Outputs[i] = ir.Output{Type: "oci", Attrs: attrs}
	}
	return &out, nil
}

// engineID returns the ID of the engine that images are loaded into, "" when it does
// not say.
func (l loader) engineID(ctx context.Context) string {
	e, err := dockerengine.Open(l.docker)
	if err != nil {
		return ""
	}
	defer e.Close()
	ctx, stop := context.WithTimeout(ctx, answerTimeout)
	defer stop()
	info, err := e.Info(ctx)
	if err != nil {
		return ""
	}
	return info.ID
}
