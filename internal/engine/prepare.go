package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/plan"
)

// preparation compiles Dockerfiles, all those of a session in the same way.
type preparation struct {
	engine  *Engine
	request *Request

	// resolver answers for base images, the same whenever it is asked.
	resolver *frontend.RegistryResolver
	others   frontend.Recollections // of base images
	history  *cost.Store
	// full is the build of everything, without the targets of faults.
	full   *plan.Build
	faults []plan.Fault
}

// options say how Dockerfiles are compiled for nodes that are as f says.
func (p *preparation) options(ctx context.Context, n *standby, f *facts) frontend.Options {
	offline := p.request.Reach == Offline
	if p.resolver == nil {
		p.resolver = n.resolver(p.request.MaxAge, offline, p.others)
	}
	o := n.frontendOptions(ctx, f, p.resolver, offline)
	o.Units = p.engine.memory.Units(p.engine.Dir)
	o.FetchURLs = p.request.Reach == Started && p.request.duplicates() != plan.DuplicatesAny
	return o
}

// prepare compiles the Dockerfiles of a project. With [Request.KeepGoing], targets that
// cannot be compiled are left to the result.
func (p *preparation) prepare(ctx context.Context, project *ir.Project, opts frontend.Options) error {
	if p.history == nil {
		p.history = p.engine.memory.OpenHistory(p.request.History)
	}
	known := p.planMemory()
	known.Compiled = func() { p.engine.memory.SaveUnits(opts.Units) }
	build, faults, err := plan.PrepareWhole(ctx, project, opts, known)
	if err != nil {
		return err
	}
	p.full, p.faults = build.WithDuplicates(p.request.duplicates()), faults
	if !p.request.KeepGoing || len(p.full.Jobs) == 0 {
		if err := plan.Join(p.faults); err != nil {
			return err
		}
	}
	p.engine.memory.SaveFiles(known.Files)
	return nil
}

// planMemory is what earlier runs found out.
func (p *preparation) planMemory() plan.Memory {
	list := p.request.ListFiles || p.request.Reach == Started // for the journal
	return plan.Memory{History: p.history, Files: p.engine.memory.Files(), List: list}
}

// recalled reports whether a base image is only what is remembered of it. It is asked
// for again from then on.
func (p *preparation) recalled() bool {
	if !p.resolver.Recalled() {
		return false
	}
	p.resolver = nil
	return true
}

// needsNode reports whether something could not be compiled, with this error or as one of
// the faults, since no node was there to ask.
func (p *preparation) needsNode(err error) bool {
	return errors.Is(err, frontend.ErrNodesAway) || slices.ContainsFunc(p.faults, func(f plan.Fault) bool { return errors.Is(f.Err, frontend.ErrNodesAway) })
}

// close gives back what was opened.
func (p *preparation) close() {
	if p.history != nil {
		p.engine.memory.CloseHistory(p.history)
		p.engine.memory.Prune(time.Now())
	}
}
