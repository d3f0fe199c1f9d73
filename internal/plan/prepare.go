package plan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/cost"
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
	Secrets map[string]ir.Secret
	SSH     map[string]ir.SSH
	// Assumed are the base images whose config is a guess, sorted.
	Assumed []string

	// By vertex: what the history knows it by, what it reads of the user's
	// directories, and the name of its result.
	steps   []cost.Step
	content []content
	keys    []digest.Digest
}

// Job is a target with the units that are built and exported as one.
type Job struct {
	Name   string
	Target *ir.Target
	Units  []*frontend.Unit
}

// Prepare compiles and merges the units of a project and predicts what each step
// costs. The error joins one for each unit that could not be compiled.
func Prepare(ctx context.Context, p *ir.Project, opts frontend.Options, history *cost.Store) (*Build, error) {
	units, err := frontend.Compile(ctx, p, opts)
	if err != nil {
		return nil, err
	}
	b := &Build{Project: p, Units: units}
	merge := b.scope()
	if b.Graph, err = llbmerge.Merge(merge); err != nil {
		return nil, fmt.Errorf("merge the graphs of %d units: %w", len(units), err)
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
	if err := b.readContents(ctx); err != nil {
		return nil, err
	}
	b.predict(history)
	return b, nil
}

// scope returns the units for merging. Secrets and agents are looked up by id in
// one session, so an id that means different sources in different targets gets
// one name for each source.
func (b *Build) scope() []llbmerge.Unit {
	secrets := map[string]map[ir.Secret]bool{}
	ssh := map[string]map[string]bool{}
	for _, u := range b.Units {
		for id, s := range u.Secrets {
			add(secrets, id, s)
		}
		for id, s := range u.SSH {
			add(ssh, id, fmt.Sprintf("%q", s.Paths))
		}
	}
	b.Secrets, b.SSH = map[string]ir.Secret{}, map[string]ir.SSH{}
	var list []llbmerge.Unit
	for _, u := range b.Units {
		if len(u.Definition.GetDef()) == 0 {
			continue
		}
		m := llbmerge.Unit{ID: string(u.ID), Definition: u.Definition, Locals: map[string]string{}, Secrets: map[string]string{}, SSH: map[string]string{}}
		for name := range u.Locals {
			m.Locals[name] = name
		}
		for id, s := range u.Secrets {
			m.Secrets[id] = scoped(id, len(secrets[id]) > 1, fmt.Sprintf("%q %q", s.Src, s.Env))
			b.Secrets[m.Secrets[id]] = s
		}
		for id, s := range u.SSH {
			m.SSH[id] = scoped(id, len(ssh[id]) > 1, fmt.Sprintf("%q", s.Paths))
			b.SSH[m.SSH[id]] = s
		}
		list = append(list, m)
	}
	return list
}

func add[V comparable](m map[string]map[V]bool, id string, v V) {
	if m[id] == nil {
		m[id] = map[V]bool{}
	}
	m[id][v] = true
}

// scoped returns the name of an id in the merged graph.
func scoped(id string, ambiguous bool, source string) string {
	if !ambiguous {
		return id
	}
	sum := sha256.Sum256([]byte(source))
	return id + "-" + hex.EncodeToString(sum[:6])
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

// Entitlements returns what the steps need beyond a sandbox, sorted.
func (b *Build) Entitlements() []string {
	var list []string
	for _, u := range b.Units {
		list = append(list, u.Entitlements...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Warnings returns the remarks of the Dockerfile frontend, each once.
func (b *Build) Warnings() []frontend.Warning {
	var list []frontend.Warning
	seen := map[string]bool{}
	for _, u := range b.Units {
		for _, w := range u.Warnings {
			key := w.Range.String() + "\x00" + w.Message
			if !seen[key] {
				seen[key] = true
				list = append(list, w)
			}
		}
	}
	return list
}

// ErrNoNode is wrapped when no node can run the steps of a target.
var ErrNoNode = errors.New("no node can build it")

// PlatformName returns the text by which the planner compares platforms.
func PlatformName(p ocispecs.Platform) string { return platforms.FormatAll(platforms.Normalize(p)) }
