package compiler

import (
	"fmt"
	"path"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// matchNames returns the groups and targets that a name on the command line
// means: itself, or for a pattern all that match, groups first, in order of
// definition. Whether a plain name exists is found out when it is resolved.
func (c *config) matchNames(name string) ([]string, error) {
	name = strings.ReplaceAll(name, ".", "_")
	if !strings.ContainsAny(name, "*?[]") {
		return []string{name}, nil
	}
	var names []string
	for _, g := range c.groups {
		if ok, err := path.Match(name, g.Name); ok && err == nil {
			names = append(names, g.Name)
		}
	}
	for _, t := range c.targets {
		if ok, err := path.Match(name, t.name); ok && err == nil {
			names = append(names, t.name)
		}
	}
	if len(names) == 0 {
		e := &ir.SourceError{Summary: fmt.Sprintf("could not find any target matching %q", name)}
		if known := c.names(); len(known) > 0 {
			e.Detail = available(known)
		}
		return nil, e
	}
	return names, nil
}

// matchTargets returns the targets that the pattern of an override means. Groups
// are not among them.
func (c *config) matchTargets(pattern string) ([]string, error) {
	if _, ok := c.byName[pattern]; ok {
		return []string{pattern}, nil
	}
	var names []string
	for _, t := range c.targets {
		ok, err := path.Match(pattern, t.name)
		if err != nil {
			return nil, fmt.Errorf("could not match targets with '%s': %w", pattern, err)
		}
		if ok {
			names = append(names, t.name)
		}
	}
	if len(names) == 0 {
		return nil, c.noMatchError(pattern)
	}
	return names, nil
}
