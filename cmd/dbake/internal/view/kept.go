package view

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/dbake/dbake/internal/engine"
)

// UnchangedTargets prints which targets a build would leave as they are, and which it builds in
// every run, and why.
func UnchangedTargets(w io.Writer, unchanged []engine.Unchanged, always map[string]string) error {
	if len(unchanged)+len(always) == 0 {
		return nil
	}
	t := newTable()
	t.row("TARGET", "REUSE")
	for _, u := range unchanged {
		text := "unchanged"
		switch {
		case u.Why != "":
			text += ": " + u.Why
		case len(u.Set) > 0:
			text += "; to be named " + strings.Join(u.Set, ", ")
		}
		t.row(u.Target, text)
	}
	for _, name := range slices.Sorted(maps.Keys(always)) {
		t.row(name, "always built: "+always[name])
	}
	fmt.Fprintln(w)
	return t.write(w)
}
