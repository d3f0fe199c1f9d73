package view

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"

	"github.com/dbake/dbake/internal/printable"
	"github.com/dbake/dbake/internal/stopwatch"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/output"
)

// Summary prints the result of a run: the end of each target, the work of each node, and in
// all the pushed images, the time and its prediction.
func Summary(w io.Writer, r *runtime.Result, run Run) {
	list := r.Targets()
	targets(w, list)
	nodes(w, r)
	totals(w, r, list, run)
	logs(w, list, run)
}

func targets(w io.Writer, list []runtime.TargetResult) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "TARGET\tNODE\tRESULT")
	for _, t := range list {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", t.Name, dash(strings.Join(t.Nodes, ",")), ending(t))
	}
	_ = tw.Flush() // nobody could read an error about an output that takes no text
}

// ending is the state of a target with what its outputs wrote, or the reason why they
// wrote nothing.
func ending(t runtime.TargetResult) string {
	if !t.State.Good() || len(t.Images) == 0 && t.State == runtime.Unchanged {
		if t.Reason == "" {
			return string(t.State)
		}
		return fmt.Sprintf("%s: %s", t.State, strings.ReplaceAll(t.Reason, "\n", " "))
	}
	text, lines := "built", writtenLines(t.Images, t.Files)
	if t.State == runtime.Unchanged {
		text, lines = string(t.State), nil
		for _, img := range t.Images {
			lines = append(lines, imageName(img))
		}
	}
	if len(lines) > 0 {
		text += "; " + strings.Join(lines, ", ")
	}
	return text
}

func nodes(w io.Writer, r *runtime.Result) {
	if len(r.Nodes) == 0 {
		return // nothing had to be built
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\nNODE\tTARGETS\tSTEPS RUN\tCACHED\tSHARED\tBUSY\tCONTEXT\t")
	for _, n := range r.Nodes {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%s\t%s\t", n.Name, len(n.Targets), n.Ran, n.Cached, n.Shared, seconds(n.Busy), units.BytesSize(float64(n.ContextBytes)))
		if n.Lost != nil {
			fmt.Fprintf(tw, " lost: %v", n.Lost)
		}
		fmt.Fprintln(tw)
	}
	_ = tw.Flush()
	for _, s := range r.Sick {
		fmt.Fprintf(w, "%s could not build %s: %s\n", s.Node, strings.Join(s.Jobs, ", "), s.Reason)
	}
	for _, s := range r.FailedSteps {
		if s.Verdict() != runtime.Once {
			fmt.Fprintln(w, failedLine(s))
		}
	}
	for _, s := range joinSteals(r.Steals) {
		first := ""
		if len(s.Jobs) > 1 {
			first = ", the first"
		}
		fmt.Fprintf(w, "%s took over %s from %s%s after %s (%s)\n", s.To, Some(s.Jobs, namedTargets), s.From, first, seconds(s.At), s.Why)
	}
}

// joinSteals makes one of all that a node took over from another one in the same way, in
// the order of the first.
func joinSteals(list []runtime.Steal) []runtime.Steal {
	var joined []runtime.Steal
	for _, s := range list {
		i := slices.IndexFunc(joined, func(j runtime.Steal) bool { return j.To == s.To && j.From == s.From && j.Why == s.Why })
		if i < 0 {
			s.Jobs = slices.Clone(s.Jobs)
			joined = append(joined, s)
			continue
		}
		joined[i].Jobs = append(joined[i].Jobs, s.Jobs...)
	}
	return joined
}

// failedLine says what is known of a step that failed.
func failedLine(s *runtime.FailedStep) string {
	return fmt.Sprintf("%s: %s %s", s.Verdict(), lineName("", s.Targets, printable.Line(s.Step)), s)
}

func totals(w io.Writer, r *runtime.Result, list []runtime.TargetResult, run Run) {
	done, images, loaded, unchanged, unpublished := 0, 0, 0, 0, 0
	var bytes int64
	for _, t := range list {
		switch t.State {
		case runtime.Done:
			done++
			images += countIn(output.InRegistry, t.Images)
			loaded += countIn(output.InEngine, t.Images)
		case runtime.Unchanged:
			unchanged++
		case runtime.Unpublished:
			unpublished++
		}
	}
	for _, n := range r.Nodes {
		bytes += n.ContextBytes
	}
	kept := ""
	if unchanged > 0 {
		kept = fmt.Sprintf(", %d unchanged", unchanged)
	}
	if unpublished > 0 {
		kept += fmt.Sprintf(", %d built and not published", unpublished)
	}
	pushed := count(images, "image") + " pushed"
	switch {
	case loaded > 0 && images > 0:
		pushed += fmt.Sprintf(", %d loaded", loaded)
	case loaded > 0:
		pushed = count(loaded, "image") + " loaded"
	}
	fmt.Fprintf(w, "\n%d of %s built%s, %s, %s of context sent, in %s", done, count(len(list), "target"), kept, pushed, units.BytesSize(float64(bytes)), seconds(r.Wall))
	if done+unchanged == len(list) && done > 0 {
		fmt.Fprint(w, comparison(r.Wall, run))
	}
	fmt.Fprintln(w)
}

// namedLogs is how many logs of targets that failed are named.
const namedLogs = 5

// logs names the directory of the logs, and first those of failed targets.
func logs(w io.Writer, list []runtime.TargetResult, run Run) {
	if run.Logs == "" {
		return
	}
	named, failed := 0, 0
	for _, t := range list {
		file := run.log(t.Name)
		if t.State != runtime.Failed || file == "" {
			continue
		}
		if failed++; named < namedLogs {
			fmt.Fprintf(w, "log of %s: %s\n", t.Name, file)
			named++
		}
	}
	rest := ""
	if failed > named {
		rest = fmt.Sprintf(", those of %d more that failed among them", failed-named)
	}
	fmt.Fprintf(w, "logs of the targets: %s%s\n", run.Logs, rest)
}

// comparison compares the time of a run with the prediction. Nothing beats a bound: where a
// run took less, the predictions behind it were wrong.
func comparison(took time.Duration, p Run) string {
	switch {
	case p.Makespan <= 0:
		return ""
	case took < p.Bound:
		return fmt.Sprintf(" (predicted %s: the predictions were too high)", seconds(p.Makespan))
	case p.Bound > 0:
		return fmt.Sprintf(" (predicted %s, predicted bound %s)", seconds(p.Makespan), seconds(p.Bound))
	}
	return fmt.Sprintf(" (predicted %s)", seconds(p.Makespan))
}

// Timings prints where the time of a command went, and the processor time that the
// command itself used in it.
func Timings(w io.Writer, list []stopwatch.Phase) {
	var all stopwatch.Phase
	for _, p := range list {
		all.Wall, all.CPU = all.Wall+p.Wall, all.CPU+p.CPU
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "\nPHASE\tTIME\tPART\tCPU")
	row := func(name string, p stopwatch.Phase) {
		part := 0.0
		if all.Wall > 0 {
			part = 100 * float64(p.Wall) / float64(all.Wall)
		}
		fmt.Fprintf(tw, "%s\t%s\t%.0f%%\t%s\n", name, milliseconds(p.Wall), part, milliseconds(p.CPU))
	}
	for _, p := range list {
		row(p.Name, p)
	}
	row("all", all)
	_ = tw.Flush() // nobody could read an error about an output that takes no text
}

// milliseconds is d in seconds with the precision that short phases need.
func milliseconds(d time.Duration) string { return fmt.Sprintf("%.3fs", d.Seconds()) }

// countIn is the number of images that are in such a place.
func countIn(place output.Place, list []output.Image) int {
	n := 0
	for _, img := range list {
		if img.Place == place {
			n++
		}
	}
	return n
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
