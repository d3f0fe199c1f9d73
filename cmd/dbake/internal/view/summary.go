package view

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"

	"github.com/dbake/dbake/runtime"
)

// Summary prints what a run did: for each target how it ended, for each node what
// it did, and in all what was pushed, how long it took and how long it would have
// taken at best. lowerBound is the planner's, 0 when there is none.
func Summary(w io.Writer, r *runtime.Result, lowerBound time.Duration) {
	targets(w, r)
	nodes(w, r)
	totals(w, r, lowerBound)
}

func targets(w io.Writer, r *runtime.Result) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "TARGET\tNODE\tRESULT")
	for _, j := range r.Jobs {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", j.Job, dash(j.Node), ending(j))
	}
	_ = tw.Flush() // an output that does not take text has no one to be told
}

// ending is the state of a job with what it made or why it made nothing.
func ending(j runtime.JobResult) string {
	if j.State != runtime.Done {
		if j.Reason == "" {
			return string(j.State)
		}
		return fmt.Sprintf("%s: %s", j.State, j.Reason)
	}
	text := "built"
	for i, img := range j.Images {
		sep := ", "
		if i == 0 {
			sep = "; "
		}
		text += sep + imageLine(img)
	}
	return text
}

func nodes(w io.Writer, r *runtime.Result) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\nNODE\tTARGETS\tSTEPS RUN\tCACHED\tSHARED\tBUSY\tCONTEXT\t")
	for _, n := range r.Nodes {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%s\t%s\t", n.Name, len(n.Jobs), n.Ran, n.Cached, n.Shared, seconds(n.Busy), units.BytesSize(float64(n.ContextBytes)))
		if n.Lost != nil {
			fmt.Fprintf(tw, " lost: %v", n.Lost)
		}
		fmt.Fprintln(tw)
	}
	_ = tw.Flush()
	for _, s := range r.Steals {
		fmt.Fprintf(w, "%s took over %s from %s after %s (%s)\n", s.To, strings.Join(s.Jobs, ", "), s.From, seconds(s.At), s.Why)
	}
}

func totals(w io.Writer, r *runtime.Result, lowerBound time.Duration) {
	var done, pushed int
	var bytes int64
	for _, j := range r.Jobs {
		if j.State == runtime.Done {
			done++
		}
		for _, img := range j.Images {
			if img.Pushed {
				pushed++
			}
		}
	}
	for _, n := range r.Nodes {
		bytes += n.ContextBytes
	}
	fmt.Fprintf(w, "\n%d of %d targets built, %d images pushed, %s of context sent, in %s", done, len(r.Jobs), pushed, units.BytesSize(float64(bytes)), seconds(r.Wall))
	if lowerBound > 0 {
		fmt.Fprintf(w, " (predicted lower bound %s)", seconds(lowerBound))
	}
	fmt.Fprintln(w)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
