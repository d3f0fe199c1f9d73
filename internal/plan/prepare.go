package plan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/llbmerge"
)

// Build is what is known of a project before a node is chosen. It is immutable.
type Build struct {
	Project *ir.Project
	// Units are the compiled units, in the order of Project.Units.
	Units []*frontend.Unit
	// Graph holds the steps of all units, those of equal work once.
	Graph *llbmerge.Graph
	// Jobs are in the order of Project.Targets.
	Jobs []Job
	// Costs are the predictions for Graph.Vertices, by index.
	Costs []cost.Prediction
	// Secrets and SSH are the sources of the ids that the graph uses.
	Secrets map[string]frontend.Secret
	SSH     map[string]ir.SSH
	// Assumed are the base images whose config is a guess, sorted.
	Assumed []string

	index map[digest.Digest]int // of Graph.Vertices
	steps []cost.Step           // by vertex: what the history knows it by
	names []names               // by vertex
	list  bool                  // whether names list the files that are read
	base  string                // the directory of the project, without symbolic links

	history *cost.Store
	exports []export // by job
	cached  map[warm.ResultID]bool

	duplicates Duplicates
	fetched    map[string]string // by sourceKey: the node that has what the URL holds
}

// Job is a target with the units that are built and exported as one.
type Job struct {
	Name   string
	Target *ir.Target
	Units  []*frontend.Unit
}

// Memory is what is known from earlier runs.
type Memory struct {
	History *cost.Store
	Files   *filesum.Cache
	// List keeps a list of the files that each step reads, for [Compare].
	List bool
}

// Prepare compiles and merges the units of a project and predicts what each step
// costs. The error joins the faults of all targets that cannot be built.
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
	b := &Build{Project: p, Units: units, list: known.List}
	b.gather()
	b.fetched = map[string]string{}
	for _, u := range units {
		for _, url := range u.URLs {
			b.fetched[sourceKey(url.Source, url.Checksum.String())] = url.Node
		}
	}
	var err error
	if b.base, err = filepath.EvalSymlinks(p.Dir); err != nil {
		b.base = p.Dir
	}
	if b.Graph, err = llbmerge.Merge(b.definitions()); err != nil {
		return nil, nil, fmt.Errorf("merge the graphs of %d units: %w", len(units), err)
	}
	b.index = make(map[digest.Digest]int, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		b.index[v.Digest] = i
	}
	byTarget := map[string][]*frontend.Unit{}
	for _, u := range units {
		byTarget[u.Target.Name] = append(byTarget[u.Target.Name], u)
		b.Assumed = append(b.Assumed, u.Assumed...)
	}
	slices.Sort(b.Assumed)
	b.Assumed = slices.Compact(b.Assumed)
	for _, t := range p.Targets {
		b.Jobs = append(b.Jobs, Job{Name: t.Name, Target: t, Units: byTarget[t.Name]})
	}
	failed, err := b.name(ctx, known.Files)
	if err != nil {
		return nil, nil, err
	}
	b.predict(known.History)
	return b, ownFaults(p, failed), nil
}

// gather collects the sources of the secrets and agents: in all units, an id means
// the same source.
func (b *Build) gather() {
	b.Secrets, b.SSH = map[string]frontend.Secret{}, map[string]ir.SSH{}
	for _, u := range b.Units {
		maps.Copy(b.Secrets, u.Secrets)
		maps.Copy(b.SSH, u.SSH)
	}
}

// definitions returns the units for merging.
func (b *Build) definitions() []llbmerge.Unit {
	var list []llbmerge.Unit
	for _, u := range b.Units {
		if len(u.Definition.GetDef()) == 0 {
			continue
		}
		m := llbmerge.Unit{ID: string(u.ID), Definition: u.Definition, Locals: map[string]string{}}
		for name := range u.Locals {
			m.Locals[name] = name
		}
		list = append(list, m)
	}
	return list
}

// Locals returns the directory of every local source of the graph.
func (b *Build) Locals() map[string]string {
	dirs := map[string]string{}
	for _, u := range b.Units {
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

// Warnings returns the remarks of the Dockerfile frontend, each once.
func (b *Build) Warnings() []Remark {
	var list []Remark
	index := map[string]int{} // of list
	for _, u := range b.Units {
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

// PlatformName returns the text by which the planner compares platforms.
func PlatformName(p ocispecs.Platform) string { return platforms.FormatAll(platforms.Normalize(p)) }
