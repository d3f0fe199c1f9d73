package view

import (
	"fmt"
	"io"
	"strings"

	"github.com/dbake/dbake/internal/memory/runs"
	"github.com/dbake/dbake/internal/report"
)

// maxChanged is how many changed files of a step are named.
const maxChanged = 8

// Reasons prints why the steps of targets ran. In a brief list, targets that ran
// no step are only counted, and of the others the steps that did not run are left out.
func Reasons(w io.Writer, list []runs.Explanation, brief bool) error {
	rest, written := 0, 0
	for _, e := range list {
		steps := e.Steps
		if brief {
			if steps = telling(e); len(steps) == 0 && e.Reason == "" && e.Unknown == "" {
				rest++
				continue
			}
		}
		if written++; written > 1 {
			fmt.Fprintln(w)
		}
		if err := reasonsOf(w, e, steps); err != nil {
			return err
		}
	}
	if rest > 0 {
		if written > 0 {
			fmt.Fprintln(w)
		}
		_, err := fmt.Fprintf(w, "%s had nothing to run\n", count(rest, "target"))
		return err
	}
	return nil
}

// telling returns the steps that ran, and the sources that have changed.
func telling(e runs.Explanation) []runs.Reasons {
	var list []runs.Reasons
	ran := false
	for _, s := range e.Steps {
		ran = ran || s.Fate == runs.Ran || s.Fate == runs.Broke
		if s.Fate == runs.Ran || s.Fate == runs.Broke || s.Fate == runs.Source && len(s.Causes) > 0 {
			list = append(list, s)
		}
	}
	if !ran {
		return nil
	}
	return list
}

func reasonsOf(w io.Writer, e runs.Explanation, steps []runs.Reasons) error {
	ran, all := 0, 0
	for _, s := range e.Steps {
		if s.Fate != runs.Source {
			all++
		}
		if s.Fate == runs.Ran || s.Fate == runs.Broke {
			ran++
		}
	}
	fmt.Fprintf(w, "%s: %s, %d of %s ran\n", e.Target, e.State, ran, count(all, "step"))
	since := "no build before it is remembered"
	if e.Before != "" {
		since = "compared with " + e.Before
	}
	fmt.Fprintf(w, "run %s, %s\n", e.Run, since)
	if e.Reason != "" {
		paragraph(w, "", e.Reason)
	}
	if e.Unknown != "" {
		_, err := fmt.Fprintf(w, "the reasons are not known: %s\n", e.Unknown)
		return err
	}
	if len(steps) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(2)
	t.row("DID", "NODE", "TOOK", "STEP")
	for _, s := range steps {
		did, took := string(s.Fate), ""
		if s.Fate == runs.Ran || s.Fate == runs.Broke {
			took = formatSeconds(s.Took)
		}
		t.row(did, strings.Join(s.Nodes, ", "), took, s.Name)
		for _, why := range causes(s) {
			t.row("", "", "", "  "+why)
		}
	}
	return t.write(w)
}

// causes are the reasons of a step, a line for each.
func causes(s runs.Reasons) []string {
	var lines []string
	files := 0
	for _, c := range s.Causes {
		if c.Kind == runs.CauseFile {
			if files++; files > maxChanged {
				continue
			}
		}
		lines = append(lines, cause(c))
	}
	if files > maxChanged {
		lines = append(lines, fmt.Sprintf("%s more changed", count(files-maxChanged, "file")))
	}
	return lines
}

// parts are the names of the kinds of parts.
var parts = map[runs.CauseKind]string{
	runs.CauseKind(runs.PartArg): "ARG", runs.CauseKind(runs.PartEnv): "ENV", runs.CauseKind(runs.PartSecret): "secret",
	runs.CauseKind(runs.PartSSH): "ssh mount", runs.CauseKind(runs.PartMount): "mount", runs.CauseKind(runs.PartPlatform): "platform",
	runs.CauseKind(runs.PartCommand): "command", runs.CauseKind(runs.PartSource): "source",
}

// cause is one reason in words.
func cause(c runs.Cause) string {
	switch c.Kind {
	case runs.CauseFile:
		how := c.How
		if how == "mode" {
			how = "its mode changed"
		}
		return fmt.Sprintf("file %s: %s", c.Name, how)
	case runs.CauseFiles:
		return "files changed; there are too many to name them, or only their directories changed"
	case runs.CauseAbove:
		return "what it stands on changed: " + c.Name
	case runs.CauseNoCache:
		return "the cache was not wanted"
	case runs.CauseNew:
		return "new: the build before had no such step"
	case runs.CauseFirst:
		return "no build before it is remembered"
	case runs.CauseFailed:
		return "it failed in the build before"
	case runs.CauseUnasked:
		return "nothing changed, and the build before did not get to it or did not need it"
	case runs.CauseNode:
		return fmt.Sprintf("nothing changed, but the result was on %s", c.Then)
	case runs.CauseRenewed:
		return fmt.Sprintf("nothing changed, but %s has lost its state", c.Name)
	case runs.CauseLost:
		return fmt.Sprintf("nothing changed, but the result was gone from %s: pruned", c.Name)
	case runs.CauseAgain:
		return "nothing of it changed, but what it stands on ran again: " + c.Name
	case runs.CauseKnown:
		return "the result was known from an earlier build or a cache"
	case runs.CauseOther:
		return "something without a name changed"
	}
	name, ok := parts[c.Kind]
	if !ok { // a setting is named by itself
		name = ""
	}
	text := strings.TrimSpace(name + " " + c.Name)
	switch {
	case c.Then != "" && c.Now != "":
		return fmt.Sprintf("%s: %s is now %s", text, c.Then, c.Now)
	case c.How == "added" && c.Now != "":
		return fmt.Sprintf("%s: added, %s", text, c.Now)
	case c.How == "edited":
		return text + ": changed"
	}
	return fmt.Sprintf("%s: %s", text, c.How)
}

// ReasonsJSON writes explanations as JSON.
func ReasonsJSON(w io.Writer, list []runs.Explanation) error {
	return report.WriteJSON(w, list)
}
