package view

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/dbake/dbake/internal/report"
)

// diagram is a plan as a graph: targets in boxes of their nodes, the stages they
// share, and the order that was asked for.
type diagram struct {
	plan   *report.Report
	stages []report.Stage
	users  [][]int // by stage: indices of jobs
	alone  [][]int // by node: stages that only this node needs
	spread []int   // stages that several nodes need
	hot    []bool  // by job: it is why the build does not end sooner
}

func newDiagram(p *report.Report) *diagram {
	d := &diagram{plan: p, stages: p.Stages, alone: make([][]int, len(p.Nodes)), hot: make([]bool, len(p.Jobs))}
	jobs, nodes := map[string]int{}, map[string]int{}
	for i, j := range p.Jobs {
		jobs[j.Name] = i
	}
	for i, n := range p.Nodes {
		nodes[n.Name] = i
	}
	for i, s := range d.stages {
		var users []int
		for _, name := range s.Jobs {
			users = append(users, jobs[name])
		}
		d.users = append(d.users, users)
		if all := slices.Concat(s.Nodes, s.Held); len(all) == 1 {
			n := nodes[all[0]]
			d.alone[n] = append(d.alone[n], i)
		} else {
			d.spread = append(d.spread, i)
		}
	}
	for _, i := range p.Critical {
		if users := p.Steps[p.Tasks[i].Step].Jobs; len(users) == 1 {
			d.hot[users[0]] = true
		}
	}
	return d
}

// nodeLabel, jobLabel and stageLabel return lines of text.
func (d *diagram) nodeLabel(n int) []string {
	s := d.plan.Shares[n]
	return []string{fmt.Sprintf("%s: %s, ends at %s", d.plan.Nodes[n].Name, count(s.Jobs(), "target"), seconds(s.Finish))}
}

func (d *diagram) jobLabel(j int) []string {
	job := d.plan.Jobs[j]
	state := "done at " + seconds(job.Done)
	if job.First == 0 && job.Steps > 0 {
		state = "held"
	}
	return []string{job.Name, "own " + seconds(job.Own) + ", " + state}
}

func (d *diagram) stageLabel(s int) []string {
	stage := d.stages[s]
	text := fmt.Sprintf("%s, %s", seconds(stage.Cost), count(stage.Steps, "step"))
	if len(stage.Nodes) > 1 {
		text += fmt.Sprintf(", built on %d nodes", len(stage.Nodes))
	}
	return []string{middle(stage.Name, 44), text}
}

// edges calls fn for every stage and target that needs it, then for every target
// that waits for another one.
func (d *diagram) edges(stage func(stage, job int), after func(before, job int)) {
	for s, users := range d.users {
		for _, j := range users {
			stage(s, j)
		}
	}
	for j, t := range d.plan.Problem.Targets {
		for _, before := range t.After {
			after(int(before), j)
		}
	}
}

// Dot prints the plan in the language of Graphviz.
func Dot(w io.Writer, p *report.Report) error {
	d := newDiagram(p)
	var b strings.Builder
	fmt.Fprintf(&b, "digraph plan {\n  rankdir=LR;\n  label=%s;\n", dotText([]string{headline(p)}))
	b.WriteString("  graph [fontname=\"sans-serif\", fontsize=12];\n  node [fontname=\"sans-serif\", fontsize=11, style=filled];\n  edge [fontname=\"sans-serif\", fontsize=10, color=\"#8a8f98\"];\n")
	stage := func(indent string, s int) {
		fmt.Fprintf(&b, "%ss%d [shape=ellipse, fillcolor=\"#d7f0e6\", color=\"#1b8a6b\", label=%s];\n", indent, s, dotText(d.stageLabel(s)))
	}
	for n := range p.Nodes {
		fmt.Fprintf(&b, "  subgraph cluster_%d {\n    label=%s;\n    style=rounded;\n    color=\"#8a8f98\";\n", n, dotText(d.nodeLabel(n)))
		for _, s := range d.alone[n] {
			stage("    ", s)
		}
		for j, job := range p.Jobs {
			if job.Node == n {
				border := `color="#2f6fd0"`
				if d.hot[j] {
					border = `color="#d9480f", penwidth=2`
				}
				fmt.Fprintf(&b, "    t%d [shape=box, fillcolor=\"#dbe8fb\", %s, label=%s];\n", j, border, dotText(d.jobLabel(j)))
			}
		}
		b.WriteString("  }\n")
	}
	for _, s := range d.spread {
		stage("  ", s)
	}
	d.edges(
		func(s, j int) { fmt.Fprintf(&b, "  s%d -> t%d;\n", s, j) },
		func(before, j int) { fmt.Fprintf(&b, "  t%d -> t%d [style=dashed, label=\"after\"];\n", before, j) },
	)
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

var dotEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ")

// dotText quotes lines as a label.
func dotText(lines []string) string {
	for i, l := range lines {
		lines[i] = dotEscapes.Replace(l)
	}
	return `"` + strings.Join(lines, `\n`) + `"`
}

// Mermaid prints the plan as a Mermaid flowchart.
func Mermaid(w io.Writer, p *report.Report) error {
	d := newDiagram(p)
	var b strings.Builder
	fmt.Fprintf(&b, "%%%% %s\nflowchart LR\n", strings.ReplaceAll(headline(p), "\n", " "))
	stage := func(indent string, s int) {
		fmt.Fprintf(&b, "%ss%d([%s]):::stage\n", indent, s, mermaidText(d.stageLabel(s)))
	}
	for n := range p.Nodes {
		fmt.Fprintf(&b, "  subgraph n%d [%s]\n", n, mermaidText(d.nodeLabel(n)))
		for _, s := range d.alone[n] {
			stage("    ", s)
		}
		for j, job := range p.Jobs {
			if job.Node == n {
				class := "target"
				if d.hot[j] {
					class = "critical"
				}
				fmt.Fprintf(&b, "    t%d[%s]:::%s\n", j, mermaidText(d.jobLabel(j)), class)
			}
		}
		b.WriteString("  end\n")
	}
	for _, s := range d.spread {
		stage("  ", s)
	}
	d.edges(
		func(s, j int) { fmt.Fprintf(&b, "  s%d --> t%d\n", s, j) },
		func(before, j int) { fmt.Fprintf(&b, "  t%d -. after .-> t%d\n", before, j) },
	)
	b.WriteString("  classDef target fill:#dbe8fb,stroke:#2f6fd0,color:#16202e\n")
	b.WriteString("  classDef critical fill:#dbe8fb,stroke:#d9480f,stroke-width:3px,color:#16202e\n")
	b.WriteString("  classDef stage fill:#d7f0e6,stroke:#1b8a6b,color:#16202e\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// A label in quotes may hold anything but these; "#" begins an entity.
var mermaidEscapes = strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "&", "#amp;", "`", "#96;", "\n", " ")

func mermaidText(lines []string) string {
	for i, l := range lines {
		lines[i] = mermaidEscapes.Replace(l)
	}
	return `"` + strings.Join(lines, "<br>") + `"`
}

// headline is the plan in one line.
func headline(p *report.Report) string {
	return fmt.Sprintf("%s on %s: %s, lower bound %s (%s)", count(len(p.Jobs), "target"), count(len(p.Nodes), "node"), seconds(p.Makespan), seconds(p.Bound), p.Strategy)
}

// count is a number of things: "1 step", "2 steps".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
