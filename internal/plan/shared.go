package plan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/llbmerge"
)

// ErrNothingShared is returned by [Build.SharedBuild] when no targets have a step in common.
var ErrNothingShared = errors.New("no two targets have a step in common")

// stage is a result that is built for its own sake.
type stage struct {
	name  string
	root  llbmerge.Root
	users []string // units
}

// SharedBuild returns a build of what several targets of b have in common, or with all of
// everything, once on each of the nodes that can run it, and the plan for it. Its targets
// are named after stages and nodes. They write nothing, and read the caches given.
func (b *Build) SharedBuild(ctx context.Context, nodes []Node, all bool, caches []ir.CacheEntry, known Memory) (*Build, *Plan, error) {
	stages := b.stages(all)
	if len(stages) == 0 {
		return nil, nil, ErrNothingShared
	}
	one, err := b.copies(ctx, stages, []string{""}, func(int, int) bool { return true }, caches, known)
	if err != nil {
		return nil, nil, err
	}
	problem, err := one.problem(nodes)
	if err != nil {
		return nil, nil, err
	}
	place := map[string]int{} // of targets of the problem
	for i, j := range one.Jobs {
		place[j.Name] = i
	}
	runs := func(s, n int) bool {
		return lacks(problem.Nodes[n], problem.Targets[place[stages[s].on("")]]) == ""
	}
	var names []string
	saved := &Saved{Strategy: "warm"}
	for n, node := range nodes {
		names = append(names, node.Name)
		var part []string
		for i, s := range stages {
			if runs(i, n) {
				part = append(part, s.on(node.Name))
			}
		}
		if len(part) > 0 {
			saved.Nodes = append(saved.Nodes, SavedNode{Name: node.Name, Partitions: [][]string{part}})
		}
	}
	if len(saved.Nodes) == 0 {
		return nil, nil, fmt.Errorf("build what targets share: %w", ErrNoNode)
	}
	whole, err := b.copies(ctx, stages, names, runs, caches, known)
	if err != nil {
		return nil, nil, err
	}
	return whole.Restore(nodes, saved, nil)
}

// on is the name of a stage on a node.
func (s stage) on(node string) string {
	if node == "" {
		return s.name
	}
	return s.name + " on " + node
}

// stages returns the results of b that several targets need, the topmost ones only, or the
// results of all units.
func (b *Build) stages(all bool) []stage {
	target := map[string]string{} // by unit
	for _, u := range b.Units {
		target[string(u.ID)] = u.Target.Name
	}
	var list []stage
	seen := map[llbmerge.Root]bool{}
	add := func(v *llbmerge.Vertex, index int, name string) {
		r := llbmerge.Root{Digest: v.Digest, Index: index}
		if seen[r] || !v.Kind.IsStep() {
			return
		}
		seen[r] = true
		for i := 2; slices.ContainsFunc(list, func(s stage) bool { return s.name == name }); i++ {
			name = fmt.Sprintf("%s (%d)", name, i)
		}
		list = append(list, stage{name, r, v.Users})
	}
	if all {
		for _, u := range b.Units {
			if root, ok := b.Graph.Root(string(u.ID)); ok {
				add(b.Graph.Vertices[b.graph.index[root.Digest]], root.Index, u.Target.Name)
			}
		}
		return list
	}
	shared := make([]bool, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		shared[i] = several(v.Users, target)
	}
	for i, v := range b.Graph.Vertices {
		if shared[i] {
			continue
		}
		for k, in := range v.Inputs {
			if below := b.graph.index[in]; shared[below] {
				add(b.Graph.Vertices[below], int(v.Op.GetInputs()[k].GetIndex()), stageName(b.Graph.Vertices[below]))
			}
		}
	}
	for _, u := range b.Units {
		// A result that another target reads as it is.
		if root, ok := b.Graph.Root(string(u.ID)); ok && shared[b.graph.index[root.Digest]] {
			add(b.Graph.Vertices[b.graph.index[root.Digest]], root.Index, u.Target.Name)
		}
	}
	return list
}

// stageName names the stage that ends in a vertex.
func stageName(v *llbmerge.Vertex) string {
	if v.Stage != "" {
		return v.Stage
	}
	return v.Step
}

// several reports whether units belong to more than one target.
func several(units []string, target map[string]string) bool {
	return slices.ContainsFunc(units, func(u string) bool { return target[u] != target[units[0]] })
}

// copies returns the build of stages, once for each of the nodes that can run them.
func (b *Build) copies(ctx context.Context, stages []stage, nodes []string, runs func(stage, node int) bool, caches []ir.CacheEntry, known Memory) (*Build, error) {
	byUnit := map[string]*frontend.Unit{}
	for _, u := range b.Units {
		byUnit[string(u.ID)] = u
	}
	p := *b.Project
	p.Targets, p.Groups = nil, nil
	var units []*frontend.Unit
	for n, node := range nodes {
		for i, s := range stages {
			if !runs(i, n) {
				continue
			}
			def, err := b.Graph.SliceAt(s.root)
			if err != nil {
				return nil, err
			}
			first := byUnit[s.users[0]]
			t := &ir.Target{Name: s.on(node), Context: first.Target.Context, CacheFrom: caches, Origins: first.Target.Origins}
			u := &frontend.Unit{
				ID: ir.UnitID(t.Name), Target: t, Definition: def, Platform: first.Platform, ExportPlatform: first.ExportPlatform,
				Dockerfile: first.Dockerfile, Frontend: first.Frontend,
				Locals: map[string]frontend.Local{}, OCIStores: map[string]string{}, Secrets: map[string]frontend.Secret{}, SSH: map[string]ir.SSH{},
			}
			for _, id := range s.users {
				from := byUnit[id]
				maps.Copy(u.Locals, from.Locals)
				maps.Copy(u.OCIStores, from.OCIStores)
				maps.Copy(u.Secrets, from.Secrets)
				maps.Copy(u.SSH, from.SSH)
				u.Entitlements = append(u.Entitlements, from.Entitlements...)
				u.Devices = append(u.Devices, from.Devices...)
				u.Assumed = append(u.Assumed, from.Assumed...)
				t.Entitlements = append(t.Entitlements, from.Target.Entitlements...)
			}
			slices.Sort(u.Entitlements)
			u.Entitlements = slices.Compact(u.Entitlements)
			slices.Sort(u.Devices)
			u.Devices = slices.Compact(u.Devices)
			p.Targets = append(p.Targets, t)
			units = append(units, u)
		}
	}
	out, faults, err := assemble(ctx, &p, units, known)
	if err == nil {
		err = Join(faults)
	}
	if err != nil {
		return nil, err
	}
	return out.WithDuplicates(b.rule.duplicates), nil
}
