package view

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/report"
)

// Explain prints why a target of p is on its node, what other nodes would mean, and what
// the target consists of.
func Explain(w io.Writer, p *report.Report, e *report.Explanation) error {
	fmt.Fprintf(w, "%s is built on %s: %s\n", e.Job.Name, e.Node, e.Why)
	fmt.Fprintf(w, "done at %s; steps to run: %s\n\n", seconds(e.Job.Done), rebuild(e.Job, p.Nodes))
	t := newTable(1, 2, 3)
	t.row("ON", "TARGET DONE", "BUILD ENDS", "WORK IN ALL", "")
	for _, a := range e.Alternatives {
		note := ""
		if a.Chosen {
			note = "chosen"
		}
		t.row(a.Node, seconds(a.Done), seconds(a.Makespan), difference(a.Work), note)
	}
	if err := t.write(w); err != nil {
		return err
	}
	if !e.Complete {
		fmt.Fprintln(w, "these nodes were compared; there are more that could build it")
	}
	fmt.Fprintln(w)
	t = newTable(0, 1)
	t.row("#", "COST", "COST FROM", "ALSO FOR", "ON "+e.Node, "STEP")
	for _, s := range e.Steps {
		number := ""
		if s.Position > 0 {
			number = strconv.Itoa(s.Position)
		}
		state := string(s.State)
		if s.From != "" {
			state += " from " + s.From
		}
		if s.Why != "" && s.Why != plan.WhyEmpty {
			state += ": " + string(s.Why)
		}
		t.row(number, seconds(s.Cost), origin(s.Step), also(s.Others), state, s.Name)
	}
	if err := t.write(w); err != nil {
		return err
	}
	var notes []string
	for _, s := range e.Steps {
		if text := uses(s.Step); text != "" {
			notes = append(notes, fmt.Sprintf("step %d is known to use %s", s.Position, text))
		}
		if m := s.Mounts; m != nil {
			notes = append(notes, fmt.Sprintf("step %d %s", s.Position, mounts(m, e.Node)))
		}
	}
	for _, n := range p.Nodes {
		if text := n.Sharing(); text != "" {
			notes = append(notes, text)
		}
		if n.Name == e.Node && n.SlotsAssumed {
			notes = append(notes, capacity(n))
		}
	}
	if p.Transfers.Bandwidth > 0 && len(p.Nodes) > 1 {
		notes = append(notes, p.Transfers.String())
	}
	if len(notes) > 0 {
		fmt.Fprintln(w)
	}
	for _, text := range notes {
		paragraph(w, "  ", text)
	}
	return nil
}

// mounts says what cache mounts mean for a step on a node.
func mounts(m *report.Mounts, node string) string {
	noun := "cache mount"
	if len(m.Places) > 1 {
		noun += "s"
	}
	at := strings.Join(m.Places, ", ")
	if m.Here {
		return fmt.Sprintf("finds the %s %s filled on %s by an earlier run: it takes %s there, and %s on a node that has yet to fill it", noun, at, node, seconds(m.Filled), seconds(m.Cold))
	}
	return fmt.Sprintf("finds the %s %s cold on %s: it takes %s there, and %s on a node that has filled it", noun, at, node, seconds(m.Cold), seconds(m.Filled))
}

// capacity describes the assumed capacity of a node, and its source.
func capacity(n plan.Node) string {
	text := fmt.Sprintf("assumed: %s runs %s at once", n.Name, count(n.Slots, "step"))
	if n.SlotsWhy != "" {
		text += ": " + n.SlotsWhy
	}
	return text
}

// uses describes the load of a step on its node, as far as it is known.
func uses(s report.Step) string {
	var parts []string
	if s.Cores > 0 {
		parts = append(parts, quantity(s.Cores, "processor"))
	}
	if s.Memory > 0 {
		parts = append(parts, fmt.Sprintf("%.1f GB", float64(s.Memory)/1e9))
	}
	return strings.Join(parts, " and ")
}

func quantity(n float64, noun string) string { return fmt.Sprintf("%.2g %ss", n, noun) }

// also names one other target of the node that needs a step, or counts them.
func also(others []string) string {
	if len(others) > 1 {
		return fmt.Sprintf("%d targets", len(others))
	}
	return strings.Join(others, "")
}

// origin names the source of a step's cost.
func origin(s report.Step) string {
	switch {
	case s.Samples == 1:
		return fmt.Sprintf("%s once", s.Source)
	case s.Samples > 1:
		return fmt.Sprintf("%s %d× ±%.0f%%", s.Source, s.Samples, 100*s.Spread)
	}
	return string(s.Source)
}

// difference is a difference of durations.
func difference(d time.Duration) string {
	if d > -50*time.Millisecond && d < 50*time.Millisecond {
		return "="
	}
	return fmt.Sprintf("%+.1fs", d.Seconds())
}

// Compare prints plans of several strategies side by side.
func Compare(w io.Writer, plans []*report.Report) error {
	t := newTable(1, 2, 3, 4, 5, 6)
	t.row("STRATEGY", "MAKESPAN", "GAP", "WORK", "DUPLICATED", "NODES USED", "EFFORT", "")
	best, bound := plans[0].Makespan, bestBound(plans)
	for _, p := range plans {
		best = min(best, p.Makespan)
	}
	for _, p := range plans {
		used := 0
		for _, s := range p.Shares {
			if len(s.Partitions) > 0 {
				used++
			}
		}
		note := ""
		switch {
		case p.Proven:
			note = "optimal"
		case p.Makespan == best:
			note = "best of these"
		}
		if p.Stopped {
			note = join(note, "search cut short")
		}
		if p.Spent {
			note = join(note, "no proof within its budget")
		}
		t.row(p.Strategy, seconds(p.Makespan), percent(gapOf(p.Makespan, bound)), seconds(p.Executed), seconds(p.Duplicated), strconv.Itoa(used), strconv.Itoa(p.Effort), note)
	}
	if err := t.write(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	paragraph(w, "  ", fmt.Sprintf("lower bound %s. GAP is how far the makespan is above it, DUPLICATED what is built on more than one node, EFFORT the number of tasks scheduled to find the plan.", seconds(bound)))
	return nil
}

// bestBound is the largest of the lower bounds: all hold for all plans.
func bestBound(plans []*report.Report) time.Duration {
	bound := plans[0].Bound
	for _, p := range plans {
		bound = max(bound, p.Bound)
	}
	return bound
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}
