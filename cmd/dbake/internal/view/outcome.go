package view

import (
	"fmt"
	"html"
	"io"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/printable"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/runtime"
)

// Outcome is the result of a build, whether it ran or not.
type Outcome struct {
	Started time.Time
	// State is "done", "failed" or "interrupted".
	State string
	// Result is the result of the run, nil when there was none; Run holds further facts
	// about it.
	Result *runtime.Result
	Run    Run
	// Err is why not everything was built; nil when everything was.
	Err error
}

// outcomeVersion is the version of the form of [JSON]. Fields may be added, none changes
// its meaning within a version.
const outcomeVersion = 1

// outcomeJSON is the form of [JSON]; docs/schema/summary.json is made of it.
type outcomeJSON struct {
	Version int `json:"version"`
	// State is "done", "failed" or "interrupted".
	State   string     `json:"state"`
	Started time.Time  `json:"started"`
	Errors  []rawError `json:"errors"`
	*rawTotals
}

// JSON prints an outcome as one object; docs/progress.md describes it.
func JSON(w io.Writer, o Outcome) error {
	doc := outcomeJSON{Version: outcomeVersion, State: o.State, Started: o.Started.UTC(), Errors: []rawError{}}
	if o.Err != nil {
		doc.Errors = rawErrors(o.Err)
	}
	result := o.Result
	if result == nil {
		result = &runtime.Result{}
	}
	doc.rawTotals = newTotals(result, o.Run)
	return report.WriteJSON(w, doc)
}

// maxMarkdown bounds the page of a job: GitHub refuses more than 1 MiB for a step.
const maxMarkdown = 512 << 10

// Markdown prints an outcome for the page of a job of GitHub Actions.
func Markdown(w io.Writer, o Outcome) error {
	var b strings.Builder
	sign := map[string]string{"done": "✅", "failed": "❌", "interrupted": "⚠️"}[o.State]
	if o.Result == nil {
		fmt.Fprintf(&b, "### %s dbake: nothing was built\n\n", sign)
	} else {
		list := o.Result.Targets()
		fmt.Fprintf(&b, "### %s dbake: %s\n\n", sign, cell(outcomeLine(o.Result, list, o.Run)))
		fmt.Fprint(&b, "| target | node | result |\n|---|---|---|\n")
		for _, t := range list {
			if b.Len() > maxMarkdown/2 {
				fmt.Fprint(&b, "| … | | |\n")
				break
			}
			fmt.Fprintf(&b, "| %s | %s | %s |\n", cell(t.Name), cell(strings.Join(t.Nodes, ", ")), cell(ending(t)))
		}
		fmt.Fprint(&b, "\n| node | targets | steps run | cached | shared | busy |\n|---|--:|--:|--:|--:|--:|\n")
		for _, n := range o.Result.Nodes {
			name := n.Name
			if n.Lost != nil {
				name += " (lost)"
			}
			fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %s |\n", cell(name), len(n.Targets), n.Ran, n.Cached, n.Shared, seconds(n.Busy))
		}
		fmt.Fprintln(&b)
		for _, s := range o.Result.FailedSteps {
			if s.Verdict() != runtime.Once && b.Len() < maxMarkdown/2 {
				fmt.Fprintf(&b, "%s\n\n", cell(failedLine(s)))
			}
		}
	}
	if o.Err != nil {
		for _, e := range rawErrors(o.Err) {
			if b.Len() > maxMarkdown-maxHead-maxTail {
				fmt.Fprint(&b, "\nThere are more errors.\n")
				break
			}
			first, rest, _ := strings.Cut(trimMiddle(printable.Text(e.Message)), "\n")
			if rest == "" {
				fmt.Fprintf(&b, "%s\n\n", cell(first))
				continue
			}
			fmt.Fprintf(&b, "<details open><summary>%s</summary>\n\n<pre>\n%s\n</pre>\n\n</details>\n\n", cell(first), html.EscapeString(plainText(rest)))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// outcomeLine is the result of a run in one line.
func outcomeLine(r *runtime.Result, list []runtime.TargetResult, run Run) string {
	count := map[runtime.State]int{}
	for _, t := range list {
		count[t.State]++
	}
	line := fmt.Sprintf("%d of %d targets built", count[runtime.Done], len(list))
	for _, s := range []runtime.State{runtime.Unchanged, runtime.Unpublished, runtime.Failed, runtime.Skipped, runtime.Cancelled, runtime.NotStarted} {
		if count[s] > 0 {
			line += fmt.Sprintf(", %d %s", count[s], s)
		}
	}
	line += " in " + seconds(r.Wall)
	if count[runtime.Done] == len(list) {
		line += comparison(r.Wall, run)
	}
	return line
}

// markup matches characters that would be markup in a page.
var markup = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "|", "&#124;", "`", "&#96;", "*", "&#42;", "_", "&#95;",
	"[", "&#91;", "]", "&#93;", "\\", "&#92;", "~", "&#126;", "@", "&#64;", "#", "&#35;")

// cell escapes text so that it is no markup of a page.
func cell(text string) string { return markup.Replace(printable.Line(text)) }

// plainText is text without colours.
func plainText(text string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		lines = append(lines, printable.Line(line))
	}
	return strings.Join(lines, "\n")
}
