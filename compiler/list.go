package compiler

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tonistiigi/go-csvvalue"

	"github.com/dbake/dbake/compiler/ir"
)

// listing is the value of --list.
type listing struct {
	kind string // "targets" or "variables"
	json bool
}

// parseListing reads the value of --list: a kind, or type=KIND,format=FORMAT.
func parseListing(spec string) (listing, error) {
	fields, err := csvvalue.Fields(spec, nil)
	if err != nil {
		return listing{}, fmt.Errorf("parse --list: %w", err)
	}
	var kind, format string
	if len(fields) == 1 && fields[0] == spec && !strings.HasPrefix(spec, "type=") {
		kind, fields = spec, nil
	}
	for _, f := range fields {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			return listing{}, fmt.Errorf("invalid value %s", f)
		}
		switch key = strings.TrimSpace(strings.ToLower(key)); key {
		case "type":
			kind = value
		case "format":
			format = value
		default:
			return listing{}, fmt.Errorf("unexpected key '%s' in '%s'", key, f)
		}
	}
	if kind != "targets" && kind != "variables" {
		return listing{}, fmt.Errorf("invalid list type %q", kind)
	}
	if format != "" && format != "table" && format != "json" {
		return listing{}, fmt.Errorf("invalid list format %q", format)
	}
	return listing{kind: kind, json: format == "json"}, nil
}

// List writes the targets and groups, or the variables, of a definition. The
// spec is a kind, "targets" or "variables", or type=KIND,format=table|json. It
// returns what a strict reading objects to, if one is asked for.
func List(ctx context.Context, o Options, spec string, w io.Writer) (warnings []*ir.SourceError, err error) {
	if _, err := o.overrides(); err != nil {
		return nil, err
	}
	def, err := o.load(ctx, parseRequest(o.Targets))
	if err != nil {
		return nil, err
	}
	l, err := parseListing(spec)
	if err != nil {
		return nil, err
	}
	if o.Strict {
		if warnings, err = def.warnings(&ir.Project{}); err != nil { // nothing is selected
			return nil, err
		}
	}
	if l.kind == "variables" {
		var list []shownVariable // null in JSON, for a definition that cannot have any
		if len(def.files.hcl) > 0 {
			list = def.evaluator.shownVariables()
		}
		return warnings, l.variables(w, list)
	}
	return warnings, l.targets(w, def.config.shownTargets())
}

// listedTarget is a target or group as it is listed.
type listedTarget struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Group       bool   `json:"group,omitempty"`
}

// shownTargets returns the targets and groups by name, without those whose name
// begins with an underscore: they are private. Of a target and a group of one name
// either may come first, always the same one: the sort upstream is not stable, and
// this is that sort of the same list.
func (c *config) shownTargets() []listedTarget {
	var list []listedTarget
	for _, t := range c.targets {
		list = append(list, listedTarget{Name: t.name, Description: t.description})
	}
	for _, g := range c.groups {
		description := g.Description
		if len(g.Targets) > 0 {
			members := strings.Join(slices.Sorted(slices.Values(g.Targets)), ", ")
			if description == "" {
				description = members
			} else {
				description += " (" + members + ")"
			}
		}
		list = append(list, listedTarget{Name: g.Name, Description: description, Group: true})
	}
	slices.SortFunc(list, func(a, b listedTarget) int { return cmp.Compare(a.Name, b.Name) })
	return slices.DeleteFunc(list, func(t listedTarget) bool { return strings.HasPrefix(t.Name, "_") })
}

func (l listing) targets(w io.Writer, list []listedTarget) error {
	if l.json {
		if len(list) == 0 {
			list = nil
		}
		return writeList(w, list)
	}
	return writeTable(w, "TARGET\tDESCRIPTION", func(row func(...string)) {
		for _, t := range list {
			row(t.Name, t.Description)
		}
	})
}

func (l listing) variables(w io.Writer, list []shownVariable) error {
	slices.SortFunc(list, func(a, b shownVariable) int { return cmp.Compare(a.Name, b.Name) })
	if l.json {
		return writeList(w, list)
	}
	return writeTable(w, "VARIABLE\tTYPE\tVALUE\tDESCRIPTION", func(row func(...string)) {
		for _, v := range list {
			value := "<null>"
			if v.Value != nil {
				value = *v.Value
			}
			row(v.Name, v.Type, value, v.Description)
		}
	})
}

func writeList(w io.Writer, list any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(list); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	return nil
}

func writeTable(w io.Writer, head string, rows func(row func(cells ...string))) error {
	tw := tabwriter.NewWriter(w, 1, 8, 1, '\t', 0)
	fmt.Fprintln(tw, head)
	rows(func(cells ...string) { fmt.Fprintln(tw, strings.Join(cells, "\t")) })
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	return nil
}
