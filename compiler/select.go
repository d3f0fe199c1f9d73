package compiler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// selection is a resolved request.
type selection struct {
	targets map[string]*definition
	order   []string // of targets: as asked for, then links as they were met
	groups  map[string]*ir.Group
}

func (s *selection) add(name string, t *definition) {
	s.targets[name] = t
	s.order = append(s.order, name)
}

// selectTargets resolves the targets that names ask for, without those excluded.
// With deps, what they link to or depend on counts as asked for too.
func (r *resolver) selectTargets(names []string, excluded map[string]struct{}, deps bool) (*selection, error) {
	s := &selection{targets: map[string]*definition{}, groups: map[string]*ir.Group{}}
	byName := r.config.groupIndex()
	names = slices.Clone(names)
	for i := 0; i < len(names); i++ { // deps make names grow
		targets, groups := r.config.group(names[i])
		for _, t := range targets {
			_, skip := excluded[t]
			if _, ok := s.targets[t]; ok || skip {
				continue
			}
			if _, ok := r.config.byName[t]; !ok {
				return nil, r.unknown(t, names[i], groups)
			}
			d, err := r.target(t)
			if err != nil {
				return nil, err
			}
			s.add(t, d)
			if deps {
				names = append(names, r.dependencies(d)...)
			}
		}
		for _, g := range groups {
			s.groups[g] = withoutMembers(byName[g], excluded)
		}
	}
	names = slices.DeleteFunc(unique(names), func(name string) bool {
		_, skip := excluded[name]
		return skip
	})
	s.addDefaultGroup(names)
	return s, nil
}

// unknown returns the error for a target that does not exist: asked for itself, or
// as a member of one of the groups that the name asked for leads to.
func (r *resolver) unknown(target, name string, groups []string) error {
	if len(groups) == 0 {
		arg, ok := r.asked[name]
		if !ok {
			arg = name
		}
		return r.config.notRequestable(target, arg, r.path)
	}
	err := r.config.missing(target)
	if r.config.groupIndex()[target] != nil {
		err = &ir.SourceError{Summary: "failed to find target " + target, Detail: fmt.Sprintf("%q is a group that is a member of itself", target)}
	}
	for _, g := range groups {
		if group := r.config.groupIndex()[g]; slices.Contains(group.Targets, target) {
			return r.sources.at(group.Range, err)
		}
	}
	return err
}

// dependencies returns the targets that t reads, is ordered after, or, as a compose
// service, is started after. Names in depends_on that no target has mean nothing.
func (r *resolver) dependencies(t *definition) []string {
	var names []string
	for _, key := range ir.SortedKeys(t.contexts) {
		if name, ok := ir.LinkTarget(t.contexts[key]); ok {
			names = append(names, name)
		}
	}
	for _, name := range slices.Concat(t.dependsOn, t.builtWith) {
		if _, ok := r.config.byName[name]; ok {
			names = append(names, name)
		}
	}
	return names
}

// exclusions returns the targets meant by the names of targets and groups, and by
// patterns, that are not to be built.
func (l *loaded) exclusions(args []string, path func(string) string) (map[string]struct{}, error) {
	if len(args) == 0 {
		return nil, nil
	}
	excluded := map[string]struct{}{}
	for name := range strings.SplitSeq(strings.Join(args, ","), ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		matched, err := l.config.matchNames(name)
		if err != nil {
			return nil, fmt.Errorf("exclude: %w", err)
		}
		for _, m := range matched {
			targets, groups := l.config.group(m)
			if _, ok := l.config.byName[m]; !ok && len(groups) == 0 {
				return nil, fmt.Errorf("exclude: %w", l.config.notRequestable(m, name, path))
			}
			for _, t := range targets {
				excluded[t] = struct{}{}
			}
		}
	}
	return excluded, nil
}

func withoutMembers(g *ir.Group, excluded map[string]struct{}) *ir.Group {
	if len(excluded) == 0 {
		return g
	}
	kept := *g
	kept.Targets = slices.DeleteFunc(slices.Clone(g.Targets), func(name string) bool {
		_, skip := excluded[name]
		return skip
	})
	return &kept
}

// addDefaultGroup names the request: the group "default" holds what was asked
// for, and its own members if it was among that.
func (s *selection) addDefaultGroup(names []string) {
	d := ir.Group{Name: defaultGroup}
	g, exists := s.groups[defaultGroup]
	if exists {
		d = *g
		d.Targets = slices.Clone(g.Targets)
	}
	for _, name := range names {
		if exists && name == defaultGroup {
			continue
		}
		exists = true
		d.Targets = append(d.Targets, name)
	}
	d.Targets = unique(d.Targets)
	slices.Sort(d.Targets)
	if exists {
		s.groups[defaultGroup] = &d
	}
}
