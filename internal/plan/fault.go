package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
)

// Fault is why one target cannot be built. Err is nil for a target that has no fault
// of its own and needs Needs, which has.
type Fault struct {
	Target string
	Err    error
	Needs  string
}

// Join returns the errors of faults as one, nil when there are none.
func Join(faults []Fault) error {
	var errs []error
	for _, f := range faults {
		if f.Err != nil {
			errs = append(errs, f.Err)
		}
	}
	return errors.Join(errs...)
}

// compileFaults returns the faults that an error of [frontend.Compile] consists of. An
// error that is not the fault of a target is returned as such.
func compileFaults(p *ir.Project, err error) ([]Fault, error) {
	if err == nil {
		return nil, nil
	}
	targets := map[ir.UnitID]string{}
	for _, u := range p.Units() {
		targets[u.ID] = u.Target.Name
	}
	errs := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	var faults []Fault
	for _, one := range errs {
		var unit *frontend.UnitError
		if !errors.As(one, &unit) {
			return nil, err
		}
		faults = append(faults, Fault{Target: targets[unit.Unit], Err: naming(targets[unit.Unit], unit)})
	}
	return faults, nil
}

// naming returns the error of a unit with the name of its target in the text, where it
// is not there yet.
func naming(target string, unit *frontend.UnitError) error {
	source, ok := unit.Err.(*ir.SourceError)
	switch {
	case !ok:
		return fmt.Errorf("target %s: %w", target, unit)
	case strings.Contains(source.Summary, "target "+target):
		return unit
	}
	named := *source
	named.Summary = "target " + target + ": " + source.Summary
	return &frontend.UnitError{Unit: unit.Unit, Err: &named}
}

// ownFaults returns the faults of targets in order. The steps of a linked target are
// those of its users too, which are not to blame for them.
func ownFaults(p *ir.Project, failed map[string]error) []Fault {
	var faults []Fault
	bad := map[string]bool{}
	for _, t := range p.Targets {
		linked := slices.ContainsFunc(t.Links(), func(name string) bool { return bad[name] })
		if err := failed[t.Name]; err != nil && !linked {
			faults = append(faults, Fault{Target: t.Name, Err: err})
		}
		bad[t.Name] = linked || failed[t.Name] != nil
	}
	return faults
}

// leaveOut returns the project and the units without the targets that have faults,
// and without those that link them.
func leaveOut(p *ir.Project, units []*frontend.Unit, faults []Fault) (*ir.Project, []*frontend.Unit) {
	if len(faults) == 0 {
		return p, units
	}
	out := map[string]bool{}
	for _, f := range linkFaults(p, faults) {
		out[f.Target] = true
	}
	left := *p
	left.Targets = slices.DeleteFunc(slices.Clone(p.Targets), func(t *ir.Target) bool { return out[t.Name] })
	return &left, slices.DeleteFunc(slices.Clone(units), func(u *frontend.Unit) bool { return out[u.Target.Name] })
}

// linkFaults adds to faults those targets that link one with a fault. Links lead to
// earlier targets.
func linkFaults(p *ir.Project, faults []Fault) []Fault {
	bad := map[string]bool{}
	for _, f := range faults {
		bad[f.Target] = true
	}
	for _, t := range p.Targets {
		if bad[t.Name] {
			continue
		}
		if i := slices.IndexFunc(t.Links(), func(name string) bool { return bad[name] }); i >= 0 {
			bad[t.Name] = true
			faults = append(faults, Fault{Target: t.Name, Needs: t.Links()[i]})
		}
	}
	return faults
}

// fileFault is the fault of a target with a step that needs a file that cannot be read.
func fileFault(t *ir.Target, step string, err error) error {
	reason := err.Error()
	var file *fs.PathError
	if errors.As(err, &file) {
		reason = fmt.Sprintf("%s: %v", strings.ToValidUTF8(file.Path, "\uFFFD"), file.Err)
	}
	return &ir.SourceError{
		Range:   t.Origin("context"),
		Summary: fmt.Sprintf("target %s: cannot read a file for %s: %s", t.Name, step, reason),
		Err:     err,
	}
}
