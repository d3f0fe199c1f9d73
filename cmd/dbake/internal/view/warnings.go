package view

import (
	"fmt"
	"io"
	"strings"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
)

// Warnings prints the warnings of the Dockerfile frontend: their number, and one line for
// each; with debug also the reasons and the lines concerned.
func Warnings(w io.Writer, list []plan.Remark, debug bool) {
	if len(list) == 0 {
		return
	}
	count, more := "1 warning found", ""
	if len(list) > 1 {
		count = fmt.Sprintf("%d warnings found", len(list))
	}
	if !debug {
		more = " (use dbake --debug to expand)"
	}
	fmt.Fprintf(w, "\n %s%s:\n", count, more)
	for _, warning := range list {
		fmt.Fprintf(w, " - %s\n", warningLine(warning.Warning))
		if !debug {
			continue
		}
		if warning.Detail != "" {
			fmt.Fprintln(w, warning.Detail)
		}
		if warning.URL != "" {
			fmt.Fprintf(w, "More info: %s\n", warning.URL)
		}
		if warning.Excerpt != "" {
			fmt.Fprintln(w, strings.TrimRight(warning.Excerpt, "\n"))
		}
		fmt.Fprintln(w)
	}
}

// warningLine is the remark with its file. The frontend ends its text with the
// line, "(line 3)", which is of use only when it is known in which file.
func warningLine(warning frontend.Warning) string {
	text := warning.Message
	if warning.Range.Filename == "" {
		return text
	}
	if line := fmt.Sprintf(" (line %d)", warning.Range.Start.Line); strings.HasSuffix(text, line) {
		return strings.TrimSuffix(text, line) + fmt.Sprintf(" (%s:%d)", warning.Range.Filename, warning.Range.Start.Line)
	}
	return fmt.Sprintf("%s (%s)", text, warning.Range)
}
