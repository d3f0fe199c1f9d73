package sim

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// WriteTable prints one line per instance with the gap of every strategy, and the
// summary below.
func WriteTable(w io.Writer, rows []Row) error {
	summaries := Summarise(rows)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "instance\tbound\t")
	for _, s := range summaries {
		fmt.Fprintf(tw, "%s\t", s.Strategy)
	}
	fmt.Fprintln(tw)
	var instances []string
	cell := map[[2]string]Row{}
	for _, r := range rows {
		if !slices.Contains(instances, r.Instance) {
			instances = append(instances, r.Instance)
		}
		cell[[2]string{r.Instance, r.Strategy}] = r
	}
	for _, name := range instances {
		for i, s := range summaries {
			r, ok := cell[[2]string{name, s.Strategy}]
			if i == 0 {
				fmt.Fprintf(tw, "%s\t%.1f s\t", name, r.LowerBound)
			}
			switch {
			case !ok:
				fmt.Fprint(tw, "-\t")
			case r.Proven:
				fmt.Fprintf(tw, "%.4f*\t", r.Gap)
			default:
				fmt.Fprintf(tw, "%.4f\t", r.Gap)
			}
		}
		fmt.Fprintln(tw)
	}
	line := func(title string, value func(Summary) string) {
		fmt.Fprintf(tw, "%s\t\t", title)
		for _, s := range summaries {
			fmt.Fprintf(tw, "%s\t", value(s))
		}
		fmt.Fprintln(tw)
	}
	fmt.Fprintln(tw)
	line("makespan / bound, geo. mean", func(s Summary) string { return fmt.Sprintf("%.4f", s.Gap) })
	line("worst", func(s Summary) string { return fmt.Sprintf("%.4f", s.Worst) })
	line("makespan / best, geo. mean", func(s Summary) string { return fmt.Sprintf("%.4f", s.Best) })
	line("shortest of all", func(s Summary) string { return fmt.Sprintf("%d/%d", s.Shortest, s.Instances) })
	line("duplicated work", func(s Summary) string { return fmt.Sprintf("%.1f%%", 100*s.Duplicated) })
	line("longest planning", func(s Summary) string { return fmt.Sprintf("%.3f s", s.Planning) })
	fmt.Fprintln(tw, "* = proven: no plan is shorter\t")
	return tw.Flush()
}

// WriteRow prints one row for people.
func WriteRow(w io.Writer, r Row) {
	proven := ""
	if r.Proven {
		proven = " (proven shortest)"
	}
	fmt.Fprintf(w, "%-12s makespan %.3f s  lower bound %.3f s  gap %.4f%s  duplicated %.1f s  planning %.3f s\n",
		r.Strategy, r.Makespan, r.LowerBound, r.Gap, proven, r.Duplicated, r.Planning)
	if o := r.Ran; o != nil {
		fmt.Fprintf(w, "%-12s   ran %.3f s  without stealing %.3f s  %d steals, %d hedges, %d rescues  duplicated %.1f s\n",
			"", o.Makespan, o.Fixed, o.Steals, o.Hedges, o.Rescues, o.Duplicated)
		if o.Alone > 0 {
			fmt.Fprintf(w, "%-12s   the slow node worked alone for %.3f s\n", "", o.Alone)
		}
	}
}

// writeRuns prints how runs compare with the plan made with right estimates.
func writeRuns(w io.Writer, rows []Row) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\nruns\tto perfect plan, geo. mean\tworst\tto no stealing, geo. mean\tworst\tsteals\t")
	for _, s := range Summarise(rows) {
		var perfect, fixed, worstPerfect, worstFixed float64
		n, steals := 0, 0
		for _, r := range rows {
			if r.Strategy != s.Strategy || r.Ran == nil || r.Ran.Perfect <= 0 || r.Ran.Fixed <= 0 {
				continue
			}
			n++
			a, b := r.Ran.Makespan/r.Ran.Perfect, r.Ran.Makespan/r.Ran.Fixed
			perfect, fixed = perfect+math.Log(a), fixed+math.Log(b)
			worstPerfect, worstFixed = max(worstPerfect, a), max(worstFixed, b)
			steals += r.Ran.Steals
		}
		if n > 0 {
			fmt.Fprintf(tw, "%s\t%.4f\t%.4f\t%.4f\t%.4f\t%d\t\n", s.Strategy,
				math.Exp(perfect/float64(n)), worstPerfect, math.Exp(fixed/float64(n)), worstFixed, steals)
		}
	}
	tw.Flush()
}
