package peers

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/dbake/dbake/bench/real"
)

// cell holds the runs of one contender in one scenario of one project.
type cell struct {
	seconds, ratio []float64
	runs           []Run
	failed         int
}

// order returns the distinct values of a field, in the order of their first run.
func order(runs []Run, field func(Run) string) []string {
	var list []string
	for _, r := range runs {
		if v := field(r); !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

// baseline is the contender that all others are compared with: the first of round 1
// as the contenders are listed, which is dbake whenever it takes part.
func baseline(runs []Run) string {
	for _, r := range runs {
		if r.Contender == "dbake" {
			return r.Contender
		}
	}
	return runs[0].Contender
}

// ranking returns the contenders, the baseline first.
func ranking(runs []Run) []string {
	list := slices.Sorted(slices.Values(order(runs, func(r Run) string { return r.Contender })))
	base := baseline(runs)
	return append([]string{base}, slices.DeleteFunc(list, func(c string) bool { return c == base })...)
}

// collect gathers the runs of a cell. Ratios are to the baseline within a round.
func collect(runs []Run, project, scenario, contender, base string) cell {
	var c cell
	for _, r := range runs {
		if r.Project != project || r.Scenario != scenario || r.Contender != contender {
			continue
		}
		if r.Error != "" {
			c.failed++
			continue
		}
		c.runs = append(c.runs, r)
		c.seconds = append(c.seconds, r.Seconds)
		for _, o := range runs {
			if o.Project == project && o.Scenario == scenario && o.Contender == base && o.Round == r.Round && o.Error == "" {
				c.ratio = append(c.ratio, r.Seconds/o.Seconds)
			}
		}
	}
	return c
}

// writeTables prints a Markdown table for each project.
func writeTables(w io.Writer, runs []Run) error {
	base := baseline(runs)
	for _, p := range order(runs, func(r Run) string { return r.Project }) {
		fmt.Fprintf(w, "\n### %s\n\n| scenario | contender | ratio | seconds | from | to | bound | steps | step time | cache requests | cache manifests | base blobs | sent MB | layers |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n", p)
		for _, s := range scenarios {
			for _, c := range ranking(runs) {
				got := collect(runs, p, s, c, base)
				if len(got.runs) == 0 && got.failed == 0 {
					continue
				}
				if _, err := fmt.Fprintln(w, got.row(s, c, leastBound(runs, p, s))); err != nil {
					return err
				}
			}
		}
	}
	most := slices.Sorted(maps.Values(rounds(runs)))
	count := fmt.Sprint(most[0])
	if last := most[len(most)-1]; last != most[0] {
		count += fmt.Sprintf(" to %d", last)
	}
	_, err := fmt.Fprintf(w, "\nMedians of %s rounds; ratio is the time against %s in the same round, above 1 is slower.\n", count, base)
	return err
}

// leastBound is what no schedule could have beaten with steps that took what they took:
// the longest one, or all of them divided by all slots, in the run that executed least.
func leastBound(runs []Run, project, scenario string) float64 {
	least := 0.
	for _, r := range runs {
		if r.Project != project || r.Scenario != scenario || r.Error != "" || r.StepSeconds == 0 {
			continue
		}
		b := r.Longest
		if r.Slots > 0 {
			b = max(b, r.StepSeconds/float64(r.Slots))
		}
		if least == 0 || b < least {
			least = b
		}
	}
	return least
}

// row is a line of a table.
//
// measured is the bound where none is known beforehand; 0 is none.
func (c cell) row(scenario, contender string, measured float64) string {
	if len(c.runs) == 0 {
		return fmt.Sprintf("| %s | %s | failed %d times |", scenario, contender, c.failed)
	}
	of := func(value func(Run) float64) float64 {
		var list []float64
		for _, r := range c.runs {
			list = append(list, value(r))
		}
		return real.Median(list)
	}
	ratio, bound := "", ""
	if len(c.ratio) > 0 {
		ratio = fmt.Sprintf("%.2f", real.Median(c.ratio))
	}
	if b := of(func(r Run) float64 { return r.Bound }); b > 0 {
		bound = fmt.Sprintf("%.1f", b)
	} else if measured > 0 {
		bound = fmt.Sprintf("≈ %.1f", measured)
	}
	pulled, distinct := of(func(r Run) float64 { return float64(r.Pulls.Blobs) }), of(func(r Run) float64 { return float64(r.Pulls.Distinct) })
	blobs := fmt.Sprintf("%.0f", pulled)
	if pulled > 0 {
		blobs += fmt.Sprintf(" of %.0f", distinct)
	}
	failed := ""
	if c.failed > 0 {
		failed = fmt.Sprintf(" (failed %d times)", c.failed)
	}
	return fmt.Sprintf("| %s | %s%s | %s | %.1f | %.1f | %.1f | %s | %.0f | %.1f | %.0f | %.0f | %s | %.1f | %.0f |",
		scenario, contender, failed, ratio, real.Median(c.seconds), slices.Min(c.seconds), slices.Max(c.seconds), bound,
		of(func(r Run) float64 { return float64(r.Steps) }),
		of(func(r Run) float64 { return r.StepSeconds }),
		of(func(r Run) float64 { return float64(r.Requests.Cache()) }),
		of(func(r Run) float64 { return float64(r.Requests.Manifests) }),
		blobs,
		of(func(r Run) float64 { return float64(r.Sent) / 1e6 }),
		of(func(r Run) float64 { return float64(r.Layers) }))
}
