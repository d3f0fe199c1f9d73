package live

import (
	"fmt"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
	"github.com/dbake/dbake/internal/printable"
)

const (
	// twoPanes is the width from which targets stand beside the nodes.
	twoPanes = 150
	// settled is how long a step has to run before it is shown; shorter ones could not be
	// read.
	settled = 200 * time.Millisecond
)

// layout is the number of lines of each part of the dashboard. It depends only on the size
// of the screen and the number of nodes, so that nothing jumps.
type layout struct {
	head    int // 0 to 3
	nodes   int // that are shown
	steps   int // lines below each node
	more    bool
	news    int // without its title
	titled  bool
	targets int // lines below their title
	split   bool
}

func (m *Model) layout() layout {
	l := layout{head: 3, split: m.Width >= twoPanes && m.Height >= 12}
	if m.Height < 12 {
		l.head = 1
	}
	rest := m.Height - l.head - 1 // the last line is for keys
	n := max(1, len(m.Scene.Nodes))
	if rest < 6 {
		l.targets = max(0, rest-1)
		return l
	}
	lanes := (rest - 1) / 2
	if l.split {
		lanes = rest * 2 / 3
	}
	l.nodes = n
	if n > lanes {
		l.nodes, l.more = max(1, lanes-1), true
	} else {
		l.steps = min(lanes/n-1, map[bool]int{true: 6, false: 4}[l.split])
	}
	used := l.nodes*(1+l.steps) + map[bool]int{true: 1}[l.more]
	l.targets = rest - used - 1
	switch {
	case l.split:
		l.targets = rest - 1
		l.titled = true
		l.news = max(0, rest-used-1)
	case l.targets >= 14:
		l.titled = true
		l.news = min(6, l.targets/4)
		l.targets -= l.news + 1
	case l.targets >= 6:
		l.news = l.targets / 4
		l.targets -= l.news
	}
	return l
}

// rows is the number of targets that are shown at once.
func (m *Model) rows() int { return m.layout().targets }

// dashboard is the page that comes first.
func (m *Model) dashboard() []string {
	l := m.layout()
	m.follow()
	lines := m.drawing().head(l.head, m.Width)
	if l.split {
		left := (m.Width - 3) / 2
		right := m.Width - 3 - left
		a := append(m.drawing().lanes(l, left), m.drawing().news(l, left)...)
		b := m.targets(l, right)
		for i := range max(len(a), len(b)) {
			lines = append(lines, at(a, i, left)+faint.Render(" │ ")+at(b, i, right))
		}
	} else {
		lines = append(lines, m.drawing().lanes(l, m.Width)...)
		lines = append(lines, m.targets(l, m.Width)...)
		lines = append(lines, m.drawing().news(l, m.Width)...)
	}
	for len(lines) < m.Height-1 {
		lines = append(lines, fit("", m.Width))
	}
	return append(lines[:m.Height-1], m.foot())
}

func at(lines []string, i, w int) string {
	if i < len(lines) {
		return lines[i]
	}
	return fit("", w)
}

// targets is the list of targets.
func (m *Model) targets(l layout, w int) []string {
	list := m.list()
	remark := ""
	if len(list) > l.targets && l.targets > 0 {
		remark = faint.Render(fmt.Sprintf("%d–%d of %d", m.top+1, min(m.top+l.targets, len(list)), len(list)))
	}
	if m.filter.text != "" {
		remark = yellow.Render("/"+printable.Line(m.filter.text)) + " " + remark
	}
	lines := []string{rule("Targets", strings.TrimRight(remark, " "), w)}
	name, node := 4, 2
	for _, t := range m.Scene.Targets {
		name = max(name, ansi.StringWidth(t.Name))
	}
	for _, n := range m.Scene.Nodes {
		node = max(node, ansi.StringWidth(n.Name))
	}
	name, node = min(name, max(8, w/3)), min(node, max(4, w/6))
	for i := range l.targets {
		if m.top+i >= len(list) {
			break
		}
		lines = append(lines, m.row(list[m.top+i], name, node, w))
	}
	if len(list) == 0 && l.targets > 0 {
		text := "no target matches the filter"
		if m.filter.text == "" {
			text = "no target is known yet"
		}
		lines = append(lines, fit(faint.Render("   "+text), w))
	}
	for len(lines) < l.targets+1 {
		lines = append(lines, fit("", w))
	}
	return lines
}

// row is one target.
func (m *Model) row(t *scene.Target, nameWidth, nodeWidth, w int) string {
	cursor := " "
	style := plain
	if t.Name == m.selected {
		cursor, style = bold.Render("▸"), bold
	}
	nodes := ""
	for i, name := range t.Nodes {
		if i > 0 {
			nodes += faint.Render(",")
		}
		nodes += m.drawing().nodeName(name)
	}
	text, right := m.drawing().doing(t)
	left := cursor + icon(t.State, m.Now) + " " + style.Render(fit(t.Name, nameWidth)) + "  " + fit(nodes, nodeWidth) + "  " + text
	return ends(left, fmt.Sprintf("%7s ", right), w)
}

// foot explains the keys.
func (m *Model) foot() string {
	if m.page == question {
		return fit(yellow.Render(" Stop the build? ")+bold.Render("y")+faint.Render(" stops it, any other key goes on"), m.Width)
	}
	if m.filter.typing {
		return prompt(m.filter.text, "targets whose name contains this", m.Width)
	}
	remark := ""
	if m.failing {
		remark = yellow.Render("opens the log of what fails ")
	}
	return ends(keys(m.Width-ansi.StringWidth(remark)-1, "jk", "move", "enter", "log", "/", "filter", "f", "failing", "?", "help", "q", "stop"), remark, m.Width)
}

// prompt is the line in which a filter is typed.
func prompt(text, hint string, w int) string {
	line := " " + bold.Render("/") + printable.Line(text) + bold.Render("▏")
	return ends(line, faint.Render(hint+" "), w)
}

// keys lists keys with what they do, as many as there is room for.
func keys(w int, list ...string) string {
	line := " "
	for i := 0; i+1 < len(list); i += 2 {
		add := bold.Render(list[i]) + " " + faint.Render(list[i+1])
		if ansi.StringWidth(line)+ansi.StringWidth(add) > w {
			break
		}
		line += add + "  "
	}
	return line
}
