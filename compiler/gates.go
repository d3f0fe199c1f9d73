package compiler

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// gateFlag is what messages call a value of [Options.Gates].
const gateFlag = "--gate "

// addGates adds the gates that flags give, as TARGET=TEST[,TEST], to the targets of a
// selection. Both sides are names of targets or groups, or patterns; a pattern that means a
// target and its gate leaves the gate out.
func (r *resolver) addGates(s *selection, flags []string) error {
	for _, flag := range flags {
		pattern, tests, ok := strings.Cut(flag, "=")
		if !ok || strings.TrimSpace(pattern) == "" || strings.TrimSpace(tests) == "" {
			return fmt.Errorf("invalid value %q for --gate: expected TARGET=TEST[,TEST]", flag)
		}
		guarded, err := r.expand(strings.TrimSpace(pattern))
		if err != nil {
			return fmt.Errorf("%s%s: %w", gateFlag, flag, err)
		}
		var gates []string
		for name := range strings.SplitSeq(tests, ",") {
			more, err := r.expand(strings.TrimSpace(name))
			if err != nil {
				return fmt.Errorf("%s%s: %w", gateFlag, flag, err)
			}
			gates = append(gates, more...)
		}
		for _, name := range guarded {
			t, selected := s.targets[name]
			if !selected || slices.Contains(gates, name) && strings.ContainsAny(pattern, "*?[]") {
				continue
			}
			t.gates = dedupeStrings(append(slices.Clip(t.gates), gates...))
		}
	}
	return nil
}

// expand returns the targets that a name on the command line means: one, those of a group, or
// all that match a pattern.
func (r *resolver) expand(name string) ([]string, error) {
	matched, err := r.config.matchNames(name)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, m := range matched {
		targets, groups := r.config.group(m)
		for _, t := range targets {
			if _, ok := r.config.byName[t]; !ok {
				if len(groups) == 0 {
					return nil, r.config.notRequestable(t, name, r.path)
				}
				return nil, r.config.missing(t)
			}
		}
		list = append(list, targets...)
	}
	return unique(list), nil
}

// gates brings in the gates of the targets that are asked for. One that is not asked for
// itself writes nothing.
func (l *linker) gates() error {
	for _, name := range slices.Clone(l.selection.order) {
		t := l.selection.targets[name]
		if t.linked {
			t.gates = nil // it publishes nothing
			continue
		}
		var gates []string
		for _, gate := range t.gates {
			targets, err := l.resolver.expand(gate)
			if err != nil {
				return l.resolver.sources.at(t.origin(gatesAttribute), err)
			}
			gates = append(gates, targets...)
		}
		t.gates = slices.DeleteFunc(unique(gates), func(gate string) bool {
			return gate == name && len(l.resolver.config.byName[name].inherits) > 0 // a test often inherits what it tests
		})
		for _, gate := range t.gates {
			if err := l.gate(t, gate); err != nil {
				return l.resolver.sources.at(t.origin(gatesAttribute), err)
			}
		}
	}
	return l.selection.gateLoop()
}

// gate brings in one gate of t.
func (l *linker) gate(t *definition, gate string) error {
	if gate == t.name {
		return fmt.Errorf("target %s cannot be a gate of itself", gate)
	}
	if _, ok := l.selection.targets[gate]; !ok {
		d, err := l.resolver.target(gate)
		if err != nil {
			return err
		}
		d.outputs, d.linked, d.gates = []*ir.Output{{Type: ir.TypeCacheOnly}}, true, nil
		l.selection.add(gate, d)
	}
	return l.visit(gate, nil)
}

// gateLoop returns an error if targets wait for each other.
func (s *selection) gateLoop() error {
	if _, loop := postorder(s.order, func(name string) []string { return s.targets[name].gates }); loop != nil {
		return errors.New("gates wait for each other: " + strings.Join(loop, " -> "))
	}
	return nil
}
