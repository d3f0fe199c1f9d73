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
// after the other. With debug, the types of the causes follow.
func Error(w io.Writer, err error, debug bool) {
	problems := split(err)
	for _, p := range problems {
		excerpt(w, p)
		fmt.Fprintf(w, "ERROR: %v\n", p)
		if debug {
			for cause := errors.Unwrap(p); cause != nil; cause = errors.Unwrap(cause) {
				fmt.Fprintf(w, "  caused by %T: %v\n", cause, cause)
			}
		}
	}
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

// isJoin tells errors.Join from fmt.Errorf with several %w: the first says
// nothing of its own.
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
