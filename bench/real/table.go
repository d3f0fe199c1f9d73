package real

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
)

// Build is one build: what was predicted and what came of it. Times are in
// nanoseconds.
type Build struct {
	Strategy  string        `json:"strategy"`
	Round     int           `json:"round"`
	Predicted time.Duration `json:"predicted_ns"`
	Measured  time.Duration `json:"measured_ns"`
	// Executed is the predicted sum of all executions, Ran the measured one.
	Executed time.Duration `json:"predicted_work_ns"`
	Ran      time.Duration `json:"measured_work_ns"`
	Steals   int           `json:"steals"`
}

func newBuild(p *plan.Plan, r *runtime.Result) Build {
	b := Build{Strategy: p.Strategy, Predicted: p.Makespan, Measured: r.Wall, Executed: p.Executed, Steals: len(r.Steals)}
	for _, m := range r.Measured {
		b.Ran += m.Took
	}
	return b
}

// deviation is how far the measured time lies from the predicted one, relative to
// the measured one.
func (b Build) deviation() float64 {
	return math.Abs(float64(b.Predicted-b.Measured)) / float64(b.Measured)
}

// writeTable prints a line for each strategy. Ratios are medians of the ratios to
// the first strategy within a round.
func writeTable(w io.Writer, builds []Build, strategies []string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "strategy\tpredicted\tmeasured\tfrom\tto\tdeviation\tratio\tsteals\t")
	for _, name := range strategies {
		var predicted, measured, deviation, ratio []float64
		steals := 0
		for _, b := range builds {
			if b.Strategy != name {
				continue
			}
			predicted, measured = append(predicted, b.Predicted.Seconds()), append(measured, b.Measured.Seconds())
			deviation = append(deviation, b.deviation())
			base := slices.IndexFunc(builds, func(o Build) bool { return o.Round == b.Round && o.Strategy == strategies[0] })
			ratio = append(ratio, float64(b.Measured)/float64(builds[base].Measured))
			steals += b.Steals
		}
		if len(measured) == 0 {
			continue
		}
		fmt.Fprintf(t, "%s\t%.2fs\t%.2fs\t%.2fs\t%.2fs\t%.1f%%\t%.3f\t%d\t\n", name, Median(predicted), Median(measured),
			slices.Min(measured), slices.Max(measured), 100*Median(deviation), Median(ratio), steals)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "medians of %d rounds; deviation is |predicted-measured|/measured, ratio is measured against %s in the same round\n", builds[len(builds)-1].Round, strategies[0])
	return err
}

// Median returns the median of xs, which is not empty.
func Median(xs []float64) float64 {
	xs = slices.Sorted(slices.Values(xs))
	mid := len(xs) / 2
	if len(xs)%2 == 1 {
		return xs[mid]
	}
	return (xs[mid-1] + xs[mid]) / 2
}
