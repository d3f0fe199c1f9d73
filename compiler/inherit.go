package compiler

import "fmt"

// resolver turns definitions into targets: inheritance, overrides, defaults.
type resolver struct {
	at        *place
	config    *config
	overrides overrides
	sources   sources
	asked     map[string]string        // how names that were asked for were typed
	path      func(name string) string // the place of a file
	// memo holds parents that are the same for every child.
	memo map[string]*definition
}

// target resolves the target of that name.
func (r *resolver) target(name string) (*definition, error) {
	parent, _, err := r.inherit(name, map[string]*definition{})
	if err != nil {
		return nil, err
	}
	copied := *parent
	t := &copied
	t.name = name
	t.inherits = nil
	if t.context == nil {
		dir := t.base.defaultContext()
		t.context = &dir
	}
	if t.dockerfile == nil || *t.dockerfile == "" {
		name := "Dockerfile"
		t.dockerfile = &name
	}
	return t, nil
}

// inherit merges the parents of a target in their order, each completely
// resolved with its own overrides, then the target itself, and applies its
// overrides. A parent that is already being resolved further up is skipped; then
// the result is not whole, and the second value is false.
func (r *resolver) inherit(name string, visited map[string]*definition) (*definition, bool, error) {
	if t, ok := r.memo[name]; ok {
		return t, true, nil
	}
	if t, ok := visited[name]; ok {
		return t, t != nil, nil
	}
	visited[name] = nil
	own, ok := r.config.byName[name]
	if !ok {
		return nil, false, r.config.missing(name)
	}
	r.at.enter(fileRange(own.origin("")))
	t := &definition{}
	whole := true
	for i, parent := range own.inherits {
		p, ok, err := r.inherit(parent, visited)
		if err != nil {
			return nil, false, r.sources.at(own.origin(fmt.Sprintf("inherits.%d", i)), err)
		}
		whole = whole && ok
		if p != nil {
			t.merge(p)
			t.inherits = nil // resolved
			if t.tooLong() {
				return nil, false, r.sources.at(own.origin("inherits"), fmt.Errorf("target %s inherits more than %d values", name, maxInherited))
			}
		}
	}
	t.merge(own)
	t.inherits = nil
	if err := t.apply(r.overrides[name]); err != nil {
		return nil, false, err
	}
	t.normalize()
	visited[name] = t
	// Lists of cache imports are shared with the children and may be written to by
	// them, so a target that has one is resolved anew for each.
	if whole && t.cacheFrom == nil {
		r.memo[name] = t
	}
	return t, whole, nil
}

// group returns the targets and groups that a name leads to, itself included.
// Groups come first; what is no group is taken for a target. A group met again on
// the way down leads nowhere, so that its name is looked up among the targets.
func (c *config) group(name string) (targets, groups []string) {
	byName := c.groupIndex()
	seen := map[string]struct{}{} // of targets
	add := func(target string) {
		if _, ok := seen[target]; !ok {
			seen[target] = struct{}{}
			targets = append(targets, target)
		}
	}
	holds := map[string]bool{} // whether a group has targets; not yet while it is walked
	var walk func(name string) bool
	walk = func(name string) bool {
		if has, ok := holds[name]; ok {
			return has
		}
		g, ok := byName[name]
		if !ok {
			add(name)
			return true
		}
		holds[name] = false
		groups = append(groups, name)
		for _, member := range g.Targets {
			if !walk(member) {
				add(member)
			}
		}
		holds[name] = len(g.Targets) > 0
		return holds[name]
	}
	walk(name)
	return targets, groups
}
