package engine

import (
	"slices"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
)

// split divides the targets of p into those that ask for something other than a
// build and a project of the others. What the others link to is built for them,
// whatever it asks for itself. The agents that contexts need are declared in it.
func split(p *ir.Project) (called []*ir.Target, build *ir.Project) {
	needed := map[string]bool{}
	for _, t := range p.Targets {
		for _, name := range t.Gates {
			needed[name] = needed[name] || frontend.Method(t.Call) == ""
		}
	}
	for i := len(p.Targets) - 1; i >= 0; i-- {
		// Links point to earlier targets only.
		if t := p.Targets[i]; frontend.Method(t.Call) == "" || needed[t.Name] {
			for _, name := range t.Links() {
				needed[name] = true
			}
		}
	}
	rest := *p
	rest.Targets = nil
	kept := map[string]bool{}
	for _, t := range p.Targets {
		if frontend.Method(t.Call) != "" {
			called = append(called, t)
			if !needed[t.Name] {
				continue
			}
			linked := *t
			linked.Call, linked.Linked = "", true
			linked.Outputs, linked.CacheTo = nil, nil
			t = &linked
		}
		kept[t.Name] = true
		if gone := func(name string) bool { return !kept[name] }; slices.ContainsFunc(t.DependsOn, gone) {
			free := *t
			free.DependsOn = slices.DeleteFunc(slices.Clone(t.DependsOn), gone)
			t = &free
		}
		rest.Targets = append(rest.Targets, t)
	}
	return called, withAgents(&rest)
}

// withAgents declares the agent of the environment for the targets whose context
// is read over ssh and that declare none.
func withAgents(p *ir.Project) *ir.Project {
	out := *p
	out.Targets = slices.Clone(p.Targets)
	for i, t := range p.Targets {
		if len(t.SSH) == 0 && t.Context.Git.SSH() {
			forwarding := *t
			forwarding.SSH = []ir.SSH{{ID: "default"}}
			out.Targets[i] = &forwarding
		}
	}
	return &out
}
