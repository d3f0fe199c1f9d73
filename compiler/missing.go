package compiler

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// maxListed bounds how many names an error lists.
const maxListed = 12

// missing returns the error for the name of a target that a file gives and no file
// defines.
func (c *config) missing(name string) error {
	e := &ir.SourceError{Summary: "failed to find target " + name}
	switch folded := strings.ReplaceAll(name, ".", "_"); {
	case c.byName[folded] != nil:
		e.Detail = fmt.Sprintf("the service is a target named %q: dots in names of compose services become underscores", folded)
	case c.groupIndex()[name] != nil:
		e.Detail = fmt.Sprintf("%q is a group; only targets can be inherited from or linked to", name)
	default:
		e.Detail = strings.TrimSpace(suggest(name, ir.SortedKeys(c.byName)))
	}
	return e
}

// notRequestable returns the error for a name that was asked for and does not exist.
// arg is the name as it was typed, path finds a file of that name.
func (c *config) notRequestable(name, arg string, path func(string) string) error {
	e := &ir.SourceError{Summary: "failed to find target " + name}
	known := c.names()
	_, statErr := os.Lstat(path(arg))
	switch near := suggest(name, known); {
	case len(known) == 0:
		e.Detail = "the definition has no targets"
	case name == defaultGroup:
		e.Detail = fmt.Sprintf("no target or group is named %q: name what is to be built, one or several of %s, or \"*\" for all", name, enumerate(known))
	case ir.IsRemote(arg):
		e.Detail = "a URL that a definition is read from goes before the names of targets"
	case strings.Contains(arg, ","):
		e.Detail = "names are separated by spaces, not by commas. " + available(known)
	case strings.ContainsAny(arg, " \t\r\n"):
		e.Detail = "the name holds white space: give every target as an argument of its own. " + available(known)
	case near != "":
		e.Detail = strings.TrimSpace(near) + " " + available(known)
	case statErr == nil:
		e.Detail = fmt.Sprintf("%q is the name of a file: quote patterns, as '*', so that the shell does not replace them. %s", arg, available(known))
	case arg == "bake" || arg == "build":
		e.Detail = fmt.Sprintf("%q stands where a target is expected: leave it out if it is meant as the command. %s", arg, available(known))
	default:
		e.Detail = available(known)
	}
	return e
}

// names returns the names of all groups, then of all targets.
func (c *config) names() []string {
	names := make([]string, 0, len(c.groups)+len(c.targets))
	for _, g := range c.groups {
		names = append(names, g.Name)
	}
	for _, t := range c.targets {
		names = append(names, t.name)
	}
	return unique(names)
}

func available(names []string) string {
	if len(names) == 1 {
		return "There is only " + enumerate(names) + "."
	}
	return "There are " + enumerate(names) + "."
}

// enumerate lists names, of many only the first.
func enumerate(names []string) string {
	more := len(names) - maxListed
	if more > 0 {
		names = names[:maxListed]
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = fmt.Sprintf("%q", n)
	}
	list := strings.Join(quoted, ", ")
	if more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return list
}

// noMatchError returns the error for a pattern of an override that matches nothing.
func (c *config) noMatchError(pattern string) error {
	e := &ir.SourceError{Summary: fmt.Sprintf("could not find any target matching '%s'", pattern)}
	targets := make([]string, len(c.targets))
	for i, t := range c.targets {
		targets[i] = t.name
	}
	switch {
	case slices.ContainsFunc(c.groups, func(g *ir.Group) bool { return g.Name == pattern }):
		e.Detail = fmt.Sprintf("%q is a group: values are set in targets", pattern)
	case len(targets) > 0:
		e.Detail = strings.TrimSpace(suggest(pattern, targets) + " " + available(targets))
	}
	return e
}
