package compiler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// linker brings in the targets that others read through their contexts.
type linker struct {
	resolver  *resolver
	selection *selection
	done      map[string]struct{}
}

// link adds every target that the selected ones link to, directly or not, and their gates. A
// target that is there only because of that exports nothing.
func (r *resolver) link(s *selection) error {
	l := &linker{resolver: r, selection: s, done: map[string]struct{}{}}
	for _, name := range slices.Clone(s.order) {
		if err := l.visit(name, nil); err != nil {
			return err
		}
	}
	return l.gates()
}

func (l *linker) visit(name string, path []string) error {
	if _, ok := l.done[name]; ok {
		return nil
	}
	path = append(slices.Clip(path), name)
	t := l.selection.targets[name]
	for _, key := range ir.SortedKeys(t.contexts) {
		link, ok := ir.LinkTarget(t.contexts[key])
		if !ok {
			continue
		}
		switch {
		case link == name:
			return l.explain(t, key, fmt.Errorf("target %s cannot link to itself", link))
		case slices.Contains(path, link):
			return l.explain(t, key, fmt.Errorf("infinite loop from %s to %s", name, link))
		}
		linked, ok := l.selection.targets[link]
		if !ok {
			var err error
			if linked, err = l.resolver.target(link); err != nil {
				return l.explain(t, key, err)
			}
			linked.outputs = []*ir.Output{{Type: ir.TypeCacheOnly}}
			linked.linked = true
			l.selection.add(link, linked)
		}
		if err := l.visit(link, path); err != nil {
			return err
		}
		for _, e := range linked.entitlements {
			if !slices.Contains(t.entitlements, e) {
				t.entitlements = append(slices.Clip(t.entitlements), e)
			}
		}
		if len(t.platforms) > 1 && len(linked.platforms) > 1 && !subset(t.platforms, linked.platforms) {
			return l.explain(t, key, fmt.Errorf("target %s can't be used by %s because its platforms %v are not a subset of %v",
				link, name, t.platforms, linked.platforms))
		}
	}
	l.done[name] = struct{}{}
	return nil
}

// explain puts the place of a context beside what is wrong with it.
func (l *linker) explain(t *definition, key string, err error) error {
	return l.resolver.sources.at(t.origin("contexts."+key), err)
}

func subset(list, of []string) bool {
	for _, v := range list {
		if !slices.Contains(of, v) {
			return false
		}
	}
	return true
}

// sort returns the targets of a selection so that links and depends_on edges
// point backwards, ties in order of definition.
func (s *selection) sort(c *config) ([]*definition, error) {
	names := make([]string, len(c.targets))
	for i, t := range c.targets {
		names[i] = t.name
	}
	order, loop := postorder(names, func(name string) []string {
		t, ok := s.targets[name]
		if !ok {
			return nil
		}
		var before []string
		for _, key := range ir.SortedKeys(t.contexts) {
			if link, ok := ir.LinkTarget(t.contexts[key]); ok {
				before = append(before, link)
			}
		}
		return append(before, t.dependsOn...)
	})
	if loop != nil {
		return nil, fmt.Errorf("depends_on loop: %s", strings.Join(loop, " -> "))
	}
	out := make([]*definition, 0, len(s.targets))
	for _, name := range order {
		if t, ok := s.targets[name]; ok {
			out = append(out, t)
		}
	}
	return out, nil
}

// postorder returns the names and all that next leads to, each once and behind what it leads
// to. If they lead back to one of them, loop is the way, from that name to itself.
func postorder(names []string, next func(name string) []string) (order, loop []string) {
	const visiting, visited = 1, 2
	state := map[string]int{}
	var path []string
	var visit func(name string) bool
	visit = func(name string) bool {
		switch state[name] {
		case visited:
			return true
		case visiting:
			loop = append(path[slices.Index(path, name):], name)
			return false
		}
		state[name] = visiting
		path = append(path, name)
		for _, n := range next(name) {
			if !visit(n) {
				return false
			}
		}
		path = path[:len(path)-1]
		state[name] = visited
		order = append(order, name)
		return true
	}
	for _, name := range names {
		if !visit(name) {
			return nil, loop
		}
	}
	return order, nil
}
