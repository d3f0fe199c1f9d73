package view

import (
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/report"
)

//go:embed plan.html
var planPage string

var planTemplate = pageTemplate("plan", planPage)

// page is the data of the template.
type page struct {
	Title   string
	Figures []figure
	charts
	Hidden int // tasks too short to be seen
	// Transfers is set when results travel between nodes.
	Transfers bool
	Targets   []targetRow
	Stages    []stageRow
	Path      []pathRow
	PathMore  string
	Notes     []string
}

type targetRow struct {
	Name, Node, Solve, Done, Own, Shared, From, State, Reason string
	Held                                                      bool
}

type stageRow struct{ Name, Cost, Steps, Nodes, Targets string }

type pathRow struct{ From, Takes, Node, For, Name string }

// visible is the smallest part of the width that a bar may have.
const visible = 0.0005

// HTML prints the plan as one self-contained page: a chart of each node over time, and the
// tables of [Plan].
func HTML(w io.Writer, p *report.Report) error {
	pg := page{Title: headline(p), Figures: figures(p)}
	pg.Charts = make([]chart, 1)
	for _, n := range p.Nodes {
		pg.Charts[0].Nodes = append(pg.Charts[0].Nodes, nodeChart{Name: n.Name})
	}
	pg.chart(p)
	pg.tables(p)
	pg.Notes = append(pg.Notes, platformNotes(p)...)
	if p.Pooled {
		pg.Notes = append(pg.Notes, "Targets are given to idle nodes during the run: which node builds what is only expected.")
	}
	if p.Makespan <= 0 && len(p.Jobs) > 0 {
		pg.Notes = append(pg.Notes, "No step has to run: the nodes hold all results.")
	}
	if p.Stopped {
		pg.Notes = append(pg.Notes, "The search was cut short by its time limit.")
	}
	if text := assumedSlots(p); text != "" {
		pg.Notes = append(pg.Notes, text+".")
	}
	if len(p.Assumed) > 0 {
		pg.Notes = append(pg.Notes, "Assumed, because nothing is known of them: "+strings.Join(p.Assumed, ", ")+".")
	}
	return planTemplate().Execute(w, pg)
}

func figures(p *report.Report) []figure {
	optimal := "no plan can take less"
	if p.Proven {
		optimal = "reached: no plan is better"
	}
	list := []figure{
		{"Makespan", seconds(p.Makespan), "predicted, strategy " + p.Strategy},
		{"Lower bound", seconds(p.Bound), optimal},
		{"Gap", percent(gapOf(p.Makespan, p.Bound)), "no plan is better by more"},
	}
	if p.Single > 0 && len(p.Nodes) > 1 {
		note := p.SingleNode + " alone"
		if p.Makespan > 0 {
			note += fmt.Sprintf(", %.1f times as long", float64(p.Single)/float64(p.Makespan))
		}
		list = append(list, figure{"Single node", seconds(p.Single), note})
	}
	return append(list, figure{"Work", seconds(p.Executed), seconds(p.Duplicated) + " of it done more than once"})
}

// chart places the executions of each node in lanes, as many as run at once.
func (pg *page) chart(p *report.Report) {
	span := max(p.Makespan, p.Bound)
	if span <= 0 {
		return
	}
	made := &pg.Charts[0]
	critical := make([]bool, len(p.Tasks))
	for _, i := range p.Critical {
		critical[i] = true
	}
	why := map[[2]int]plan.Why{} // by step and node
	for _, j := range p.Jobs {
		if j.First > 0 {
			why[[2]int{j.FirstStep, j.Node}] = j.Why
		}
	}
	// Transfers take no slot: their lanes are below those of the executions.
	for _, transfers := range []bool{false, true} {
		ends := make([][]time.Duration, len(p.Nodes)) // by node and lane
		for i, t := range p.Tasks {
			if transfers != (t.Kind != report.TaskRun) {
				continue
			}
			pg.Transfers = pg.Transfers || transfers
			chart := &made.Nodes[t.Node]
			lane := slices.IndexFunc(ends[t.Node], func(end time.Duration) bool { return end <= t.Start })
			if lane < 0 {
				lane = len(ends[t.Node])
				ends[t.Node] = append(ends[t.Node], 0)
				chart.Lanes = append(chart.Lanes, nil)
			}
			ends[t.Node][lane] = t.End
			if float64(t.End-t.Start) < visible*float64(span) {
				pg.Hidden++
				continue
			}
			lane += len(chart.Lanes) - len(ends[t.Node])
			chart.Lanes[lane] = append(chart.Lanes[lane], newBar(p, t, span, critical[i], why[[2]int{t.Step, t.Node}]))
		}
	}
	for n, s := range p.Shares {
		made.Nodes[n].Note = fmt.Sprintf("%s in %s · %.0f%% warm · ends at %s", count(s.Jobs(), "target"), count(len(s.Partitions), "solve"), 100*s.Warm, seconds(s.Finish))
	}
	pg.charts.axis(span)
	if p.Bound > 0 {
		made.Bound = &tick{position(p.Bound, span), "lower bound " + seconds(p.Bound), false}
	}
}

func newBar(p *report.Report, t report.Task, span time.Duration, critical bool, why plan.Why) bar {
	step := p.Steps[t.Step]
	here := jobsOn(p, t)
	b := bar{
		Place:    spot(t.Start, t.End, span),
		Title:    taskName(p, t),
		Critical: critical,
	}
	switch {
	case t.Kind != report.TaskRun:
		b.Class, b.Label = "transfer", string(t.Kind)
	case !step.Work:
		b.Class, b.Label = "source", step.Name
	case len(step.Jobs) > 1:
		b.Class, b.Label = "shared", stageLabel(step, here)
	default:
		b.Class, b.Label = "own", strings.Join(here, ", ")
	}
	lines := []string{fmt.Sprintf("%s to %s on %s", seconds(t.Start), seconds(t.End), p.Nodes[t.Node].Name)}
	if t.Kind == report.TaskRun {
		lines = append(lines, fmt.Sprintf("cost %s at speed 1, %s", seconds(step.Cost), origin(step)))
	}
	if len(here) > 0 {
		lines = append(lines, "for "+Some(here, 8))
	}
	if n := len(step.Jobs) - len(here); n > 0 {
		lines = append(lines, "needed on other nodes by "+count(n, "target"))
	}
	if why != "" && t.Kind == report.TaskRun {
		lines = append(lines, "has to be run: "+string(why))
	}
	if critical {
		lines = append(lines, "on the critical path")
	}
	b.Text = strings.Join(lines, "\n")
	return b
}

// stageLabel is the label on the bar of a shared step.
func stageLabel(step report.Step, jobs []string) string {
	name := step.Stage
	if name == "" {
		name = step.Name
	}
	if len(jobs) > 2 {
		return fmt.Sprintf("%s (%d targets)", name, len(jobs))
	}
	return fmt.Sprintf("%s (%s)", name, strings.Join(jobs, ", "))
}

func (pg *page) tables(p *report.Report) {
	for n, s := range p.Shares {
		for k, part := range s.Partitions {
			for _, i := range part {
				j := p.Jobs[i]
				pg.Targets = append(pg.Targets, targetRow{
					Name: j.Name, Node: p.Nodes[n].Name, Solve: strconv.Itoa(k + 1), Done: seconds(j.Done), Own: seconds(j.Own), Shared: seconds(j.Shared),
					From: sources(j.From), State: rebuild(j, p.Nodes), Reason: j.Reason, Held: j.First == 0 && j.Steps > 0,
				})
			}
		}
	}
	for _, s := range p.Stages {
		pg.Stages = append(pg.Stages, stageRow{s.Name, seconds(s.Cost), strconv.Itoa(s.Steps), builtOn(s, 60), Some(s.Jobs, 6)})
	}
	rest, sum := 0, time.Duration(0)
	for _, i := range p.Critical {
		t := p.Tasks[i]
		if took := t.End - t.Start; took < p.Makespan/1000 {
			rest++
			sum += took
			continue
		}
		pg.Path = append(pg.Path, pathRow{seconds(t.Start), seconds(t.End - t.Start), p.Nodes[t.Node].Name, Some(jobsOn(p, t), 3), taskName(p, t)})
	}
	if rest > 0 {
		pg.PathMore = fmt.Sprintf("and %d more of %s together", rest, seconds(sum))
	}
}
