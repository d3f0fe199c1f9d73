package view

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/report"
)

// Plan prints a plan as tables: the targets and times of each node, the shared stages and
// how often each is built, the critical path, and how far the plan is from the lower bound.
func Plan(w io.Writer, p *report.Report) error {
	for _, part := range []func(io.Writer, *report.Report) error{planTargets, planNodes, planStages, planPath} {
		if err := part(w, p); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	planTotals(w, p)
	return nil
}

// planTargets prints the targets of each node, in order. A bar joins the targets that are
// one solve.
func planTargets(w io.Writer, p *report.Report) error {
	t := newTable(3, 4, 5)
	t.row("NODE", "", "TARGET", "DONE AT", "OWN", "SHARED", "COSTS FROM", "STEPS TO RUN")
	for n, node := range p.Nodes {
		name := node.Name
		if len(p.Shares[n].Partitions) == 0 {
			t.row(name, "", "-")
		}
		for _, part := range p.Shares[n].Partitions {
			for i, j := range part {
				job := p.Jobs[j]
				t.row(name, bracket(i, len(part)), job.Name, seconds(job.Done), seconds(job.Own), seconds(job.Shared), sources(job.From), rebuild(job, p.Nodes))
				name = ""
			}
		}
	}
	return t.write(w)
}

// bracket is a piece of the line that joins n rows.
func bracket(i, n int) string {
	switch {
	case n == 1:
		return "─"
	case i == 0:
		return "┌"
	case i == n-1:
		return "└"
	}
	return "│"
}

// rebuild lists the steps of a job that have to run, and why the first of them does.
func rebuild(j report.Job, nodes []plan.Node) string {
	var text string
	switch {
	case j.Steps == 0:
		return "no steps"
	case j.First == 0 && len(j.FetchedFrom) > 0:
		return "all fetched from " + origins(j.FetchedFrom, nodes)
	case j.First == 0:
		return "held by " + nodes[j.Node].Name
	case j.Warm == 0 && j.Why == plan.WhyEmpty:
		return fmt.Sprintf("all %d", j.Steps) // the same for all its targets
	case j.Warm == 0:
		text = fmt.Sprintf("all %d", j.Steps)
	case j.Steps-j.Warm == j.Steps-j.First+1:
		text = fmt.Sprintf("from step %d of %d", j.First, j.Steps)
	default:
		text = fmt.Sprintf("%d of %d, from step %d", j.Steps-j.Warm, j.Steps, j.First)
	}
	if len(j.FetchedFrom) > 0 {
		// Steps above a fetched one are always new, or the node would hold them.
		return text + ", rest from " + origins(j.FetchedFrom, nodes)
	}
	return text + ": " + string(j.Why)
}

// origins names the sources of results.
func origins(from []int, nodes []plan.Node) string {
	var names []string
	for _, n := range from {
		if n < 0 {
			names = append(names, "the registry")
		} else {
			names = append(names, nodes[n].Name)
		}
	}
	return strings.Join(names, ", ")
}

func planNodes(w io.Writer, p *report.Report) error {
	t := newTable(1, 2, 3, 4, 5, 6, 7, 8)
	t.row("NODE", "SPEED", "SLOTS", "TARGETS", "SOLVES", "STEPS", "TO RUN", "WARM", "BUSY", "ENDS AT")
	for n, node := range p.Nodes {
		s := p.Shares[n]
		t.row(node.Name, strconv.FormatFloat(node.Speed, 'g', 4, 64), strconv.Itoa(node.Slots), strconv.Itoa(s.Jobs()), strconv.Itoa(len(s.Partitions)),
			strconv.Itoa(s.Steps), strconv.Itoa(s.Executed), fmt.Sprintf("%.0f%%", 100*s.Warm), seconds(s.Busy), seconds(s.Finish))
	}
	return t.write(w)
}

// builtOn names the nodes that build a stage in at most n characters, or counts
// them.
func builtOn(s report.Stage, n int) string {
	names := func(list []string) string {
		if text := strings.Join(list, ", "); len(text) <= n {
			return text
		}
		return count(len(list), "node")
	}
	if len(s.Nodes) == 0 && len(s.Fetched) == 0 {
		return "held by " + names(s.Held)
	}
	text := names(s.Nodes)
	if n := len(s.Fetched); n > 0 {
		text = strings.TrimPrefix(text+"; "+verb(n, "fetches", "fetch")+" it", "; ")
	}
	if n := len(s.Held); n > 0 {
		text += "; " + verb(n, "holds", "hold") + " it"
	}
	return text
}

// verb is a number of nodes with a verb.
func verb(n int, one, many string) string {
	if n == 1 {
		return "1 node " + one
	}
	return fmt.Sprintf("%d nodes %s", n, many)
}

// maxStages and maxPath bound the tables; the JSON form has all of it.
const (
	maxStages = 20
	maxPath   = 20
)

func planStages(w io.Writer, p *report.Report) error {
	t := newTable(0, 1)
	t.row("COST", "STEPS", "BUILT ON", "USED BY", "SHARED STAGE (costliest step)")
	for i, s := range p.Stages {
		if i == maxStages {
			break
		}
		t.row(seconds(s.Cost), strconv.Itoa(s.Steps), builtOn(s, 16), ellipsis(Some(s.Jobs, 3), 28), s.Name)
	}
	if len(p.Stages) == 0 {
		fmt.Fprintln(w, "no two targets share a step")
		return nil
	}
	if err := t.write(w); err != nil {
		return err
	}
	if more := p.Stages[min(maxStages, len(p.Stages)):]; len(more) > 0 {
		var sum time.Duration
		for _, s := range more {
			sum += s.Cost
		}
		fmt.Fprintf(w, "and %d cheaper stages, %s\n", len(more), seconds(sum))
	}
	return nil
}

// planPath prints the tasks that decide the makespan. Very short ones are only counted.
func planPath(w io.Writer, p *report.Report) error {
	t := newTable(0, 1)
	t.row("FROM", "TAKES", "ON", "FOR", "CRITICAL PATH")
	rest, sum := 0, time.Duration(0)
	for _, i := range p.Critical {
		task := p.Tasks[i]
		if took := task.End - task.Start; len(t.rows) > maxPath || took < p.Makespan/200 {
			rest++
			sum += took
			continue
		}
		t.row(seconds(task.Start), seconds(task.End-task.Start), p.Nodes[task.Node].Name, ellipsis(Some(jobsOn(p, task), 2), 28), taskName(p, task))
	}
	if len(p.Critical) == 0 {
		fmt.Fprintln(w, "nothing has to be run")
		return nil
	}
	if err := t.write(w); err != nil {
		return err
	}
	if rest > 0 {
		fmt.Fprintf(w, "and %d more of %s together\n", rest, seconds(sum))
	}
	return nil
}

// taskName is the step that a task runs, or the result that it moves.
func taskName(p *report.Report, t report.Task) string {
	name := p.Steps[t.Step].Name
	if t.Kind == report.TaskRun {
		return name
	}
	return fmt.Sprintf("%s %s", t.Kind, name)
}

// jobsOn names the jobs on the task's node that need its step.
func jobsOn(p *report.Report, t report.Task) []string {
	var names []string
	for _, j := range p.Steps[t.Step].Jobs {
		if p.Jobs[j].Node == t.Node {
			names = append(names, p.Jobs[j].Name)
		}
	}
	return names
}

func planTotals(w io.Writer, p *report.Report) {
	paragraph(w, "  ", fmt.Sprintf("predicted makespan %s, lower bound %s%s; strategy %s", seconds(p.Makespan), seconds(p.Bound), gap(p), p.Strategy))
	if len(p.Nodes) > 1 && p.Executed > 0 {
		text := fmt.Sprintf("work %s, %s of it done more than once", seconds(p.Executed), seconds(p.Duplicated))
		if p.Single > 0 && p.Makespan > 0 {
			text += fmt.Sprintf("; %s alone would take %s, %.1f times as long", p.SingleNode, seconds(p.Single), float64(p.Single)/float64(p.Makespan))
		}
		paragraph(w, "  ", text)
	}
	for _, note := range duplicateNotes(p) {
		paragraph(w, "  ", note)
	}
	if pulls, images := p.Pulls(); pulls > 0 {
		paragraph(w, "  ", fmt.Sprintf("base images to pull, over all nodes: %d, distinct: %d", pulls, images))
	}
	for _, note := range gateNotes(p) {
		paragraph(w, "  ", note)
	}
	for _, note := range platformNotes(p) {
		paragraph(w, "  ", note)
	}
	if p.Pooled {
		paragraph(w, "  ", "targets are given to idle nodes during the run: which node builds what is only expected")
	}
	if p.Stopped {
		paragraph(w, "  ", "the search was cut short by its time limit: another run may find another plan")
	}
	if p.Spent {
		paragraph(w, "  ", "a shorter plan may exist: the budget of the search was used up (--plan-budget gives it more)")
	}
	for _, n := range p.Nodes {
		if text := n.Sharing(); text != "" {
			paragraph(w, "  ", text)
		}
	}
	if text := assumedSlots(p); text != "" {
		paragraph(w, "  ", text)
	}
	if len(p.Assumed) > 0 {
		paragraph(w, "  ", "assumed, because nothing is known of them: "+strings.Join(p.Assumed, ", "))
	}
}

// assumedSlots lists the slots that the plan assumes; "" when all nodes declare theirs.
func assumedSlots(p *report.Report) string {
	var names []string
	told := map[string]bool{} // machines that nodes share
	for _, n := range p.Nodes {
		if !n.SlotsAssumed || told[n.Machine] {
			continue
		}
		if n.Machine == "" {
			names = append(names, fmt.Sprintf("%s runs %s at once", n.Name, count(n.Slots, "step")))
			continue
		}
		told[n.Machine] = true
		var same []string
		for _, o := range p.Nodes {
			if o.Machine == n.Machine {
				same = append(same, o.Name)
			}
		}
		if len(same) > 4 {
			same = append(same[:3], count(len(same)-3, "more node"))
		}
		last := len(same) - 1
		names = append(names, fmt.Sprintf("%s and %s run %s at once in all, on one machine", strings.Join(same[:last], ", "), same[last], count(n.Shared, "step")))
	}
	if len(names) == 0 {
		return ""
	}
	if len(names) > 4 {
		names = append(names[:3], fmt.Sprintf("and so on for %s", count(len(names)-3, "more node")))
	}
	return "assumed: " + strings.Join(names, ", ") + " (slots=N declares it); a node that can do more is given more"
}

// duplicateNotes list the steps that several nodes execute, why, and the cost of not
// executing more.
func duplicateNotes(p *report.Report) []string {
	var notes []string
	var reasons []plan.Freedom
	steps := map[plan.Freedom][]string{}
	for _, d := range p.Doubled {
		if steps[d.Why] == nil {
			reasons = append(reasons, d.Why)
		}
		steps[d.Why] = append(steps[d.Why], p.Steps[d.Step].Name)
	}
	for _, why := range reasons {
		list := steps[why]
		text := list[0]
		if len(list) > 1 {
			text = fmt.Sprintf("%s and %s", list[0], count(len(list)-1, "other step"))
		}
		notes = append(notes, fmt.Sprintf("on several nodes: %s (%s)", text, why))
	}
	if more := p.Makespan - p.Unbound; p.Unbound > 0 && more > p.Unbound/200 {
		notes = append(notes, fmt.Sprintf("other steps have one result, which nodes take from each other: executing them again would end %s sooner (--duplicates=any)", seconds(more)))
	}
	return notes
}

// gateNotes name the targets that are published only if others succeed, those with the same
// gates together.
func gateNotes(p *report.Report) []string {
	byGates := map[string][]string{} // targets
	for _, j := range p.Jobs {
		if key := Some(j.Gates, len(j.Gates)); len(j.Gates) > 0 && !slices.Contains(byGates[key], j.Target) {
			byGates[key] = append(byGates[key], j.Target)
		}
	}
	var notes []string
	for _, key := range slices.Sorted(maps.Keys(byGates)) {
		targets := byGates[key]
		notes = append(notes, fmt.Sprintf("published only if %s can be built: %s", key, Some(targets, 5)))
	}
	return notes
}

// platformNotes describe the effect of targets with several platforms and of emulation on a
// plan.
func platformNotes(p *report.Report) []string {
	var notes []string
	if p.Undivided > 0 {
		notes = append(notes, fmt.Sprintf("%s built in parts, by platform, and joined in the registry: undivided the build would take %s", dividedTargets(p), seconds(p.Undivided)))
	}
	for _, e := range p.Emulations() {
		notes = append(notes, fmt.Sprintf("%s emulates %s: steps are taken to run %.3g times as long there", e.Node, e.Platform, e.Factor))
	}
	return notes
}

// dividedTargets names the targets that are built in parts.
func dividedTargets(p *report.Report) string {
	var names []string
	for _, j := range p.Jobs {
		if j.Platforms != nil && !slices.Contains(names, j.Target) {
			names = append(names, j.Target)
		}
	}
	if len(names) == 1 {
		return names[0] + " is"
	}
	return Some(names, 3) + " are"
}

// gap is how far the plan may be from the best one.
func gap(p *report.Report) string {
	switch {
	case p.Proven:
		return ", no plan is better"
	case p.Bound > 0:
		return fmt.Sprintf(", gap at most %s", percent(gapOf(p.Makespan, p.Bound)))
	}
	return ""
}

// gapOf is makespan / lower bound - 1.
func gapOf(makespan, bound time.Duration) float64 {
	if bound <= 0 {
		return 0
	}
	return float64(makespan)/float64(bound) - 1
}

func percent(f float64) string { return fmt.Sprintf("%.1f%%", 100*f) }

// sources names the sources of the costs of a job's steps: one word when it is the same for
// all of them, else "3 measured, 2 prior".
func sources(from map[cost.Source]int) string {
	var list, names []string
	for _, s := range []cost.Source{cost.Measured, cost.Similar, cost.Prior} {
		if n := from[s]; n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, s))
			names = append(names, string(s))
		}
	}
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(list, ", ")
}
