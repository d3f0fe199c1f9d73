package plan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/llbmerge"
)

// Build is a compiled project before a node is chosen. It is immutable: methods that change
// something return another one.
type Build struct {
	Project *ir.Project
	// Units are the compiled units, in the order of Project.Units.
	Units []*frontend.Unit
	// Graph holds the steps of all units, those of equal work once.
	Graph *llbmerge.Graph
	// Jobs are in the order of Project.Targets.
	Jobs []Job
	// Names identify the vertices from run to run.
	Names *Names
	// Costs are the predictions for Graph.Vertices, by index.
	Costs []cost.Prediction
	// Secrets and SSH are the sources of the ids that the graph uses.
	Secrets map[string]frontend.Secret
	SSH     map[string]ir.SSH
	// Assumed are the base images whose config is a guess, sorted.
	Assumed []string

	graph  *graph // Graph, with what finds its vertices
	prices *prices
	rule   rule
	cached map[warm.ResultID]bool // in caches that every node can read
	way    Way

	remarked []*frontend.Unit // whose remarks count; nil is Units
}

// Job is a target with the units that are built and exported as one.
type Job struct {
	Name   string
	Target *ir.Target
	Units  []*frontend.Unit
}

// Memory holds the memory of earlier runs.
type Memory struct {
	History *cost.Store
	Files   *filesum.Cache
	// List keeps a list of the files that each step reads, for [Compare].
	List bool
	// Compiled, unless it is nil, is called when all Dockerfiles are compiled: what only that
	// needs can be given back.
	Compiled func()
}

// Prepare compiles and merges the units of a project and predicts the cost of each step.
// The error joins the faults of all targets that cannot be built.
func Prepare(ctx context.Context, p *ir.Project, opts frontend.Options, known Memory) (*Build, error) {
	b, faults, err := PrepareWhole(ctx, p, opts, known)
	if err == nil {
		err = Join(faults)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// PrepareWhole is Prepare for those targets that can be built: a target that cannot
// be compiled, or whose files cannot be read, is a fault, and so is one that links
// it. No target is hurt by the faults of another that shares a directory with it.
// The build is of the other targets, if there are any.
func PrepareWhole(ctx context.Context, p *ir.Project, opts frontend.Options, known Memory) (*Build, []Fault, error) {
	units, err := frontend.Compile(ctx, p, opts)
	if known.Compiled != nil {
		known.Compiled()
	}
	faults, err := compileFaults(p, err)
	if err != nil {
		return nil, nil, err
	}
	for {
		left, whole := leaveOut(p, units, faults)
		b, found, err := assemble(ctx, left, whole, known)
		if err != nil || len(found) == 0 {
			return b, linkFaults(p, faults), err
		}
		// They are of targets that were not left out, so this comes to an end.
		faults = append(faults, found...)
	}
}

// assemble makes one build of compiled units.
func assemble(ctx context.Context, p *ir.Project, units []*frontend.Unit, known Memory) (*Build, []Fault, error) {
	b := &Build{Project: p, Units: units, Secrets: map[string]frontend.Secret{}, SSH: map[string]ir.SSH{}, rule: newRule(units)}
	for _, u := range units { // in all units, an id means the same source
		maps.Copy(b.Secrets, u.Secrets)
		maps.Copy(b.SSH, u.SSH)
	}
	var err error
	if b.Graph, err = llbmerge.Merge(definitions(units)); err != nil {
		return nil, nil, fmt.Errorf("merge the graphs of %d units: %w", len(units), err)
	}
	b.graph = newGraph(b.Graph)
	byTarget := map[string][]*frontend.Unit{}
	for _, u := range units {
		byTarget[u.Target.Name] = append(byTarget[u.Target.Name], u)
		b.Assumed = append(b.Assumed, u.Assumed...)
	}
	slices.Sort(b.Assumed)
	b.Assumed = slices.Compact(b.Assumed)
	var jobs []Job
	for _, t := range p.Targets {
		jobs = append(jobs, Job{Name: t.Name, Target: t, Units: byTarget[t.Name]})
	}
	base, err := filepath.EvalSymlinks(p.Dir)
	if err != nil {
		base = p.Dir
	}
	names, failed, err := newNames(ctx, b.graph, units, base, known)
	if err != nil {
		return nil, nil, err
	}
	b.Names, b.prices = names, newPrices(b.graph, names, known.History)
	b.Costs = b.prices.steps
	return b.withJobs(jobs), ownFaults(p, failed), nil
}

// withJobs returns b with its units exported in another way.
func (b *Build) withJobs(jobs []Job) *Build {
	out := *b
	out.Jobs, out.prices = jobs, b.prices.of(jobs)
	return &out
}

// definitions returns units for merging.
func definitions(units []*frontend.Unit) []llbmerge.Unit {
	var list []llbmerge.Unit
	for _, u := range units {
		if u.IsEmpty() {
			continue
		}
		m := llbmerge.Unit{ID: string(u.ID), Load: u.LLB, Locals: map[string]string{}}
		for name := range u.Locals {
			m.Locals[name] = name
		}
		list = append(list, m)
	}
	return list
}

// Locals returns the directory of every local source of the graph.
func (b *Build) Locals() map[string]string { return locals(b.Units) }

func locals(units []*frontend.Unit) map[string]string {
	dirs := map[string]string{}
	for _, u := range units {
		for name, l := range u.Locals {
			dirs[name] = l.Dir
		}
	}
	return dirs
}

// Remark is a remark of the Dockerfile frontend with the targets that it is about.
type Remark struct {
	frontend.Warning
	Targets []string
}

// Warnings returns the remarks of the Dockerfile frontend, each once. Those of a build that
// is a part of another one are all of that: what is not built has its faults, too.
func (b *Build) Warnings() []Remark {
	units := b.remarked
	if units == nil {
		units = b.Units
	}
	var list []Remark
	index := map[string]int{} // of list
	for _, u := range units {
		for _, w := range u.Warnings {
			key := w.Range.String() + "\x00" + w.Message
			i, ok := index[key]
			if !ok {
				i = len(list)
				index[key] = i
				list = append(list, Remark{Warning: w})
			}
			if name := u.Target.Name; !slices.Contains(list[i].Targets, name) {
				list[i].Targets = append(list[i].Targets, name)
			}
		}
	}
	return list
}

// ErrNoNode is wrapped when no node can run the steps of a target.
var ErrNoNode = errors.New("no node can build it")

// PlatformName returns the text that the planner compares platforms by.
func PlatformName(p ocispecs.Platform) string { return platforms.FormatAll(platforms.Normalize(p)) }
