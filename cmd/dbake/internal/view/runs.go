package view

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/memory/runs"
)

// Runs lists the recorded builds.
func Runs(w io.Writer, list []*runs.Run) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no build is remembered")
		return err
	}
	t := newTable(2, 3)
	t.row("RUN", "OUTCOME", "TARGETS", "WALL", "PROJECT")
	for _, r := range list {
		t.row(r.ID, r.Outcome, fmt.Sprint(len(r.Targets)), formatSeconds(r.Wall), r.Project)
	}
	return t.write(w)
}

// RunSummary prints the result of a build.
func RunSummary(w io.Writer, r *runs.Run) error {
	if err := runHead(w, r); err != nil {
		return err
	}
	t := newTable()
	t.row("TARGET", "NODE", "RESULT")
	for _, x := range r.Targets {
		result := x.State
		if x.Reason != "" {
			result += ": " + x.Reason
		}
		t.row(x.Name, strings.Join(x.Nodes, ", "), result)
	}
	if err := t.write(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(1, 2, 3)
	t.row("NODE", "STEPS RUN", "CACHED", "BUSY", "")
	for _, n := range r.Nodes {
		lost := ""
		if n.Lost != "" {
			lost = "lost: " + n.Lost
		}
		t.row(n.Name, fmt.Sprint(n.Ran), fmt.Sprint(n.Cached), formatSeconds(n.Busy), lost)
	}
	return t.write(w)
}

func runHead(w io.Writer, r *runs.Run) error {
	predicted := ""
	if r.Predicted > 0 {
		predicted = fmt.Sprintf(", predicted %s", formatSeconds(r.Predicted))
	}
	_, err := fmt.Fprintf(w, "run %s of %s: %s in %s%s\n\n", r.ID, r.Project, r.Outcome, formatSeconds(r.Wall), predicted)
	return err
}

// formatSeconds writes a time in seconds.
func formatSeconds(s float64) string { return seconds(time.Duration(s * float64(time.Second))) }

// stepTable prints some steps of a run.
func stepTable(w io.Writer, r *runs.Run, places []int) error {
	t := newTable(1, 2)
	t.row("NODE", "START", "TOOK", "STEP")
	for _, i := range places {
		s := r.Steps[i]
		took := formatSeconds(s.Took)
		if s.Cached {
			took = "cached"
		}
		text := stepOf(s)
		if s.Error != "" {
			text += ": " + s.Error
		}
		t.row(s.Node, formatSeconds(s.Start), took, text)
	}
	return t.write(w)
}

// stepOf names a step and its targets.
func stepOf(s runs.Step) string {
	if len(s.Targets) == 0 {
		return s.Name
	}
	return Some(s.Targets, 3) + " " + s.Name
}

// RunSteps prints the steps of a run, those of a target or all.
func RunSteps(w io.Writer, r *runs.Run, target string, cached bool) error {
	var places []int
	for i, s := range r.Steps {
		if (cached || !s.Cached) && (target == "" || slices.Contains(s.Targets, target)) {
			places = append(places, i)
		}
	}
	if len(places) == 0 {
		_, err := fmt.Fprintln(w, "no step ran")
		return err
	}
	return stepTable(w, r, places)
}

// RunFailures prints the targets and steps that failed.
func RunFailures(w io.Writer, r *runs.Run) error {
	t := newTable()
	failed := 0
	for _, x := range r.Targets {
		if x.Reason != "" {
			t.row(x.Name, x.State, x.Reason)
			failed++
		}
	}
	if failed == 0 && len(r.FailedSteps) == 0 {
		_, err := fmt.Fprintln(w, "nothing failed")
		return err
	}
	if failed == 0 {
		fmt.Fprintln(w, "no target failed")
	} else if err := t.write(w); err != nil {
		return err
	}
	for i, s := range r.FailedSteps {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, trialLine(s))
	}
	var places []int
	for i, s := range r.Steps {
		if s.Error != "" {
			places = append(places, i)
		}
	}
	if len(places) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return stepTable(w, r, places)
}

// trialLine says on which nodes a step failed, and where it succeeded.
func trialLine(s runs.FailedStep) string {
	var places []string
	for _, f := range s.Failures {
		places = append(places, fmt.Sprintf("%s (exit code %s)", f.Node, f.ExitCode))
	}
	text := fmt.Sprintf("%s: %s failed on %s", s.Verdict, lineName("", s.Targets, s.Name), strings.Join(places, ", "))
	if len(s.Failures) == 1 {
		text = strings.TrimPrefix(text, "failed: ")
	}
	if s.Passed != "" {
		text += ", then succeeded on " + s.Passed
	}
	return text
}

// RunSlowest prints the n steps that took longest.
func RunSlowest(w io.Writer, r *runs.Run, n int) error {
	var places []int
	for i, s := range r.Steps {
		if !s.Cached {
			places = append(places, i)
		}
	}
	slices.SortStableFunc(places, func(x, y int) int { return cmp.Compare(r.Steps[y].Took, r.Steps[x].Took) })
	if len(places) == 0 {
		_, err := fmt.Fprintln(w, "no step ran")
		return err
	}
	return stepTable(w, r, places[:min(n, len(places))])
}

// RunCriticalPath prints the steps that decided when the run was over, and the time in
// which none of them ran.
func RunCriticalPath(w io.Writer, r *runs.Run) error {
	path := r.CriticalPath()
	if len(path) == 0 {
		_, err := fmt.Fprintln(w, "no step ran")
		return err
	}
	if err := stepTable(w, r, path); err != nil {
		return err
	}
	var sum float64
	for _, i := range path {
		sum += r.Steps[i].Took
	}
	_, err := fmt.Fprintf(w, "\n%s of %s in these steps\n", formatSeconds(sum), formatSeconds(r.Wall))
	return err
}

// RunDiff prints how two runs differ.
func RunDiff(w io.Writer, then, now *runs.Run) error {
	fmt.Fprintf(w, "%s: %s in %s\n%s: %s in %s\n\n", then.ID, then.Outcome, formatSeconds(then.Wall), now.ID, now.Outcome, formatSeconds(now.Wall))
	changes := runs.Compare(then, now)
	if len(changes) == 0 {
		_, err := fmt.Fprintln(w, "no step ran in either")
		return err
	}
	t := newTable(0, 1)
	t.row("THEN", "NOW", "STEP")
	took := func(s *float64) string {
		if s == nil {
			return "-"
		}
		return formatSeconds(*s)
	}
	for _, c := range changes {
		t.row(took(c.Then), took(c.Now), stepOf(runs.Step{Name: c.Step, Targets: c.Targets}))
	}
	return t.write(w)
}

// traceEvent is an event of Chrome's trace format; times are in microseconds.
type traceEvent struct {
	Name  string         `json:"name"`
	Phase string         `json:"ph"`
	Time  int64          `json:"ts"`
	Took  int64          `json:"dur,omitempty"`
	PID   int            `json:"pid"`
	TID   int            `json:"tid"`
	Args  map[string]any `json:"args,omitempty"`
}

// RunTrace writes a run for Chrome's tracing and Perfetto: a process for each node, with
// as many rows as steps ran at once.
func RunTrace(w io.Writer, r *runs.Run) error {
	micro := func(s float64) int64 { return int64(s * float64(time.Second/time.Microsecond)) }
	events := []traceEvent{}
	pids := map[string]int{}
	for i, n := range r.Nodes {
		pids[n.Name] = i + 1
		events = append(events, traceEvent{Name: "process_name", Phase: "M", PID: i + 1, Args: map[string]any{"name": n.Name}})
	}
	ends := map[string][]float64{} // of the last step of each row, by node
	for _, s := range r.Steps {
		if s.Cached {
			continue
		}
		row := slices.IndexFunc(ends[s.Node], func(end float64) bool { return end <= s.Start })
		if row < 0 {
			row = len(ends[s.Node])
			ends[s.Node] = append(ends[s.Node], 0)
		}
		ends[s.Node][row] = s.Start + s.Took
		args := map[string]any{"targets": s.Targets}
		if s.Error != "" {
			args["error"] = s.Error
		}
		events = append(events, traceEvent{
			Name: s.Name, Phase: "X", Time: micro(s.Start), Took: max(micro(s.Took), 1), PID: pids[s.Node], TID: row + 1, Args: args,
		})
	}
	return json.NewEncoder(w).Encode(map[string]any{
		"displayTimeUnit": "ms", "traceEvents": events,
		"otherData": map[string]any{"run": r.ID, "project": r.Project, "outcome": r.Outcome},
	})
}
