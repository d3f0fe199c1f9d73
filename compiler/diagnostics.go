package compiler

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

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

// maxOthers bounds how many problems are listed beside the first.
const maxOthers = 8

// explain turns diagnostics into errors. The first is what docker buildx prints,
// with how many there are in all, and carries the lines it is about. It is the last
// of what is returned, where a reader looks first; before it stand the others, as
// far as they are no consequence of one before them.
func (s sources) explain(err error) error {
	diags, ok := err.(hcl.Diagnostics) //nolint:errorlint // wrapped ones are explained by who wrapped them
	if !ok {
		return err
	}
	first := s.first(diags)
	if first == nil {
		return err
	}
	var others []error
	seen := false
	for _, d := range diags {
		switch {
		case d.Severity != hcl.DiagError:
		case !seen:
			seen = true
		case isConsequence(d) || len(others) == maxOthers:
		default:
			e := s.sourceError(d)
			e.Excerpt = ""
			others = append(others, e)
		}
	}
	if len(others) == 0 {
		return first
	}
	return errors.Join(append(others, first)...)
}

// explainSyntax is explain for what a parser has to say: after the first mistake it
// finds more in what may well be right, so they are only counted.
func (s sources) explainSyntax(err error) error {
	if diags, ok := err.(hcl.Diagnostics); ok { //nolint:errorlint // as in explain
		if first := s.first(diags); first != nil {
			return first
		}
	}
	return err
}

// first returns the first error among diagnostics, nil when there is none.
func (s sources) first(diags hcl.Diagnostics) *ir.SourceError {
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		e := s.sourceError(d)
		if n := len(diags) - 1; n > 0 {
			e.Detail += fmt.Sprintf(", and %d other diagnostic(s)", n)
		}
		if hint := s.hint(d); hint != "" {
			e.Detail += ". " + hint
		}
		return e
	}
	return nil
}

// isConsequence reports whether a diagnostic says no more than that something
// failed before it: an expression that could not be evaluated has no known value.
func isConsequence(d *hcl.Diagnostic) bool {
	return strings.HasSuffix(d.Detail, errUnknownValue.Error())
}

// errUnknownValue is what is wrong with the value of an expression that could not be
// evaluated.
var errUnknownValue = errors.New("value must be known")

func (s sources) sourceError(d *hcl.Diagnostic) *ir.SourceError {
	settleSuggestion(d)
	e := &ir.SourceError{Summary: d.Summary, Detail: d.Detail}
	if d.Subject != nil {
		rng := s.inFile(*d.Subject)
		e.Range = sourceRange(rng)
		e.Excerpt = excerpt(s[rng.Filename], e.Range)
	}
	return e
}

// at puts a place beside an error that has none.
func (s sources) at(r ir.Range, err error) error {
	var known *ir.SourceError
	if r.IsZero() {
		return err
	}
	if errors.As(err, &known) {
		if known == err && known.Range.IsZero() { //nolint:errorlint // only what is not wrapped yet
			known.Range, known.Excerpt = r, excerpt(s[r.Filename], r)
		}
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

// fileRange returns a range of the ir in the words of HCL.
func fileRange(r ir.Range) hcl.Range {
	return hcl.Range{
		Filename: r.Filename,
		Start:    hcl.Pos{Line: r.Start.Line, Column: r.Start.Column, Byte: r.Start.Byte},
		End:      hcl.Pos{Line: r.End.Line, Column: r.End.Column, Byte: r.End.Byte},
	}
}

// excerpt returns the lines of a range with some lines around them, the lines of
// the range marked, or "" when data does not hold them. Of a range of many lines
// and of a long line only a part is shown.
func excerpt(data []byte, r ir.Range) string {
	first, last := r.Start.Line, max(r.Start.Line, r.End.Line)
	if len(data) == 0 || first < 1 {
		return ""
	}
	lines := bytes.Split(data, []byte("\n"))
	if first > len(lines) {
		return ""
	}
	last = min(last, len(lines), first+maxExcerptLines)

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
		mark, column := "   ", 0
		if i >= first && i <= last {
			mark = ">>>"
		}
		if i == first {
			column = r.Start.Column
		}
		fmt.Fprintf(&b, " %3d | %s %s\n", i, mark, shownLine(lines[i-1], column))
	}
	b.WriteString(rule)
	return b.String()
}

// The bounds of an excerpt, in lines and in characters of a line.
const (
	maxExcerptLines = 20
	maxExcerptLine  = 200
)

// shownLine returns a line as an excerpt shows it: of a long one the characters
// around a column, and no control characters.
func shownLine(line []byte, column int) string {
	text := []rune(string(line[:min(len(line), 4*(column+maxExcerptLine))]))
	cut := len(text)*4 < len(line) && len(line) > 4*(column+maxExcerptLine)
	before, after := "", ""
	if column > maxExcerptLine && column <= len(text) {
		text, before = text[column-maxExcerptLine/2:], "..."
	}
	if len(text) > maxExcerptLine || cut {
		text, after = text[:min(len(text), maxExcerptLine)], "..."
	}
	return before + strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' && r != '\r' {
			return unicode.ReplacementChar
		}
		return r
	}, string(text)) + after
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
