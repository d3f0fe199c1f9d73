package compiler

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/dbake/dbake/compiler/ir"
)

// sources are the files of a compilation by the name that ranges carry.
type sources map[string][]byte

// bytes returns the text of a range, or nil.
func (s sources) bytes(r hcl.Range) []byte {
	data := s[r.Filename]
	if r.Start.Byte < 0 || r.End.Byte > len(data) || r.Start.Byte > r.End.Byte {
		return nil
	}
	return data[r.Start.Byte:r.End.Byte]
}

// explain turns diagnostics found anywhere in err into errors that carry the
// lines they are about. The text of the first is what docker buildx prints; the
// others follow it.
func (s sources) explain(err error) error {
	diags, ok := err.(hcl.Diagnostics) //nolint:errorlint // wrapped ones are explained by who wrapped them
	if !ok {
		return err
	}
	var list []error
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			list = append(list, s.sourceError(d))
		}
	}
	if len(list) == 0 {
		return err
	}
	if n := len(diags) - 1; n > 0 {
		first := list[0].(*ir.SourceError)
		first.Detail += fmt.Sprintf(", and %d other diagnostic(s)", n)
	}
	if len(list) == 1 {
		return list[0]
	}
	return errors.Join(list...)
}

func (s sources) sourceError(d *hcl.Diagnostic) *ir.SourceError {
	settleSuggestion(d)
	e := &ir.SourceError{Summary: d.Summary, Detail: d.Detail}
	if d.Subject != nil {
		e.Range = sourceRange(*d.Subject)
		e.Excerpt = excerpt(s[d.Subject.Filename], e.Range)
	}
	return e
}

// at puts a place beside an error that has none.
func (s sources) at(r ir.Range, err error) error {
	var known *ir.SourceError
	if r.IsZero() || errors.As(err, &known) {
		return err
	}
	return &ir.SourceError{Range: r, Summary: err.Error(), Excerpt: excerpt(s[r.Filename], r), Err: err}
}

// show adds the lines concerned to an error that has a place but no excerpt.
func (s sources) show(err error) error {
	var e *ir.SourceError
	if errors.As(err, &e) && e.Excerpt == "" {
		e.Excerpt = excerpt(s[e.Range.Filename], e.Range)
	}
	return err
}

// sourceRange returns an HCL range in the words of the ir.
func sourceRange(r hcl.Range) ir.Range {
	return ir.Range{
		Filename: r.Filename,
		Start:    ir.Pos{Line: r.Start.Line, Column: r.Start.Column, Byte: r.Start.Byte},
		End:      ir.Pos{Line: r.End.Line, Column: r.End.Column, Byte: r.End.Byte},
	}
}

// excerpt returns the lines of a range with some lines around them, the lines of
// the range marked, or "" when data does not hold them.
func excerpt(data []byte, r ir.Range) string {
	lines := bytes.Split(data, []byte("\n"))
	first, last := r.Start.Line, max(r.Start.Line, r.End.Line)
	if len(data) == 0 || first < 1 || first > len(lines) {
		return ""
	}
	last = min(last, len(lines))

	// A single line gets up to four lines of context, several get two, as evenly
	// before and after as the file allows. Steps that find no line count too, so
	// that the ends of a file show fewer.
	from, to := first, last
	pad := 2
	if first == last {
		pad = 4
	}
	for used := 0; used < pad; used++ {
		if from > 1 {
			from--
			used++
		}
		if to < len(lines) {
			to++
			used++
		}
	}

	var b strings.Builder
	const rule = "--------------------\n"
	fmt.Fprintf(&b, "%s:%d\n%s", r.Filename, first, rule)
	for i := from; i <= to; i++ {
		mark := "   "
		if i >= first && i <= last {
			mark = ">>>"
		}
		fmt.Fprintf(&b, " %3d | %s %s\n", i, mark, lines[i-1])
	}
	b.WriteString(rule)
	return b.String()
}

const didYouMean = " Did you mean "

// settleSuggestion replaces the name that the HCL library suggests for an unknown
// one by the nearest: the library takes any that is near, in no order.
func settleSuggestion(d *hcl.Diagnostic) {
	text, _, ok := strings.Cut(d.Detail, didYouMean)
	if !ok || d.EvalContext == nil {
		return
	}
	quoted, err := strconv.QuotedPrefix(text[max(0, strings.IndexByte(text, '"')):])
	if err != nil {
		return
	}
	name, err := strconv.Unquote(quoted)
	if err != nil {
		return
	}
	known := map[string]struct{}{}
	for scope := d.EvalContext; scope != nil; scope = scope.Parent() {
		if strings.Contains(d.Summary, "function") {
			for k := range scope.Functions {
				known[k] = struct{}{}
			}
			continue
		}
		for k := range scope.Variables {
			known[k] = struct{}{}
		}
	}
	d.Detail = text + suggest(name, ir.SortedKeys(known))
}

// sortDiagnostics puts what is found in one body in order of place. The HCL
// library walks the attributes it did not expect in no order.
func sortDiagnostics(diags hcl.Diagnostics) {
	slices.SortStableFunc(diags, func(a, b *hcl.Diagnostic) int {
		if a.Subject == nil || b.Subject == nil {
			return 0
		}
		return cmp.Compare(a.Subject.Start.Byte, b.Subject.Start.Byte)
	})
}

// diagnose returns err as diagnostics: as it is, if it already is, or under the
// given summary and range.
func diagnose(summary string, err error, subject, context hcl.Range) hcl.Diagnostics {
	switch err := err.(type) { //nolint:errorlint // a wrapped one has become text on purpose
	case hcl.Diagnostics:
		return err
	case *hcl.Diagnostic:
		return hcl.Diagnostics{err}
	}
	return hcl.Diagnostics{{
		Severity: hcl.DiagError,
		Summary:  summary,
		Detail:   err.Error(),
		Subject:  &subject,
		Context:  &context,
	}}
}
