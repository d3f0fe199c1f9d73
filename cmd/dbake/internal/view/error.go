package view

import (
	"errors"
	"fmt"
	"io"
	"strings"

	bkerrdefs "github.com/moby/buildkit/solver/errdefs"

	"github.com/dbake/dbake/compiler/ir"
)

// Error prints err for the user: for each problem that points at a file the lines
// concerned, then one line "ERROR: ...". Errors that were joined are printed one
// after the other; of very many the first ones and the last, with how many there
// are between. With debug, the types of the causes follow.
func Error(w io.Writer, err error, debug bool) {
	problems := split(err)
	for i, p := range problems {
		if left := len(problems) - maxProblems; left > 0 && i >= maxProblems-1 && i < len(problems)-1 {
			if i == maxProblems-1 {
				fmt.Fprintf(w, "ERROR: %d more problems\n", left)
			}
			continue
		}
		excerpt(w, p)
		fmt.Fprintf(w, "ERROR: %s\n", trimMiddle(p.Error()))
		if debug {
			for cause := errors.Unwrap(p); cause != nil; cause = errors.Unwrap(cause) {
				fmt.Fprintf(w, "  caused by %T: %v\n", cause, cause)
			}
		}
	}
}

// The bounds of what is printed of an error: in problems, and in bytes of the
// beginning and the end of one.
const (
	maxProblems = 20
	maxHead     = 8 << 10
	maxTail     = 24 << 10
)

// trimMiddle returns text without the middle, if it is longer than anybody reads.
func trimMiddle(text string) string {
	left := len(text) - maxHead - maxTail
	if left <= 0 {
		return text
	}
	head, tail := text[:maxHead], text[len(text)-maxTail:]
	return strings.ToValidUTF8(head, "") + fmt.Sprintf("\n... (%d bytes left out) ...\n", left) + strings.ToValidUTF8(tail, "")
}

// split returns the parts of joined errors, each text once.
func split(err error) []error {
	var list []error
	seen := map[string]bool{}
	var walk func(error)
	walk = func(err error) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 && isJoin(err, joined.Unwrap()) {
			for _, e := range joined.Unwrap() {
				walk(e)
			}
			return
		}
		if text := err.Error(); !seen[text] {
			seen[text] = true
			list = append(list, err)
		}
	}
	walk(err)
	return list
}

// isJoin distinguishes errors.Join from fmt.Errorf with several %w: the first adds no text
// of its own.
func isJoin(err error, parts []error) bool {
	texts := make([]string, len(parts))
	for i, p := range parts {
		texts[i] = p.Error()
	}
	return err.Error() == strings.Join(texts, "\n")
}

// excerpt prints the lines that err points at.
func excerpt(w io.Writer, err error) {
	var source *ir.SourceError
	if errors.As(err, &source) && source.Excerpt != "" {
		fmt.Fprint(w, source.Excerpt)
		if !strings.HasSuffix(source.Excerpt, "\n") {
			fmt.Fprintln(w)
		}
		return
	}
	for _, s := range bkerrdefs.Sources(err) {
		_ = s.Print(w) // nothing can be done about a terminal that does not take text
	}
}
