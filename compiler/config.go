package compiler

import "github.com/dbake/dbake/compiler/ir"

// config holds the definitions of the files: groups and targets in order of definition,
// targets of one name merged.
type config struct {
	groups  []*ir.Group
	targets []*definition
	byName  map[string]*definition

	groupNames map[string]*ir.Group // set by groupIndex
}

// addTarget merges t over the target of its name, or appends it.
func (c *config) addTarget(t *definition) {
	if old, ok := c.byName[t.name]; ok {
		old.merge(t)
		return
	}
	if c.byName == nil {
		c.byName = map[string]*definition{}
	}
	c.byName[t.name] = t
	c.targets = append(c.targets, t)
}

// setGroup replaces the group of g's name in its place, or appends g.
func (c *config) setGroup(g *ir.Group) {
	for i, old := range c.groups {
		if old.Name == g.Name {
			c.groups[i] = g
			return
		}
	}
	c.groups = append(c.groups, g)
}

// finish makes the members of groups distinct.
func (c *config) finish() {
	for _, g := range c.groups {
		g.Targets = unique(g.Targets)
	}
}

// groupIndex finds groups by name; of several the first counts. It is for use
// once the groups are complete.
func (c *config) groupIndex() map[string]*ir.Group {
	if c.groupNames == nil {
		c.groupNames = make(map[string]*ir.Group, len(c.groups))
		for _, g := range c.groups {
			if _, ok := c.groupNames[g.Name]; !ok {
				c.groupNames[g.Name] = g
			}
		}
	}
	return c.groupNames
}
