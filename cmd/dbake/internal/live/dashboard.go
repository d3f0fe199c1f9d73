package live

import (
	"fmt"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/docker/go-units"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
	"github.com/dbake/dbake/internal/printable"
)

const (
	// twoPanes is the width from which targets stand beside the nodes.
	twoPanes = 150
	// settled is how long a step has to run before it is shown: what flashes by
	// cannot be read.
	settled = 200 * time.Millisecond
)

// layout says how many lines each part of the dashboard has. It depends on the size and
// on the number of nodes, and on nothing that changes all the time.
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
	lines := m.head(l.head)
	if l.split {
		left := (m.Width - 3) / 2
		right := m.Width - 3 - left
		a := append(m.lanes(l, left), m.news(l, left)...)
		b := m.targets(l, right)
		for i := range max(len(a), len(b)) {
			lines = append(lines, at(a, i, left)+faint.Render(" │ ")+at(b, i, right))
		}
	} else {
		lines = append(lines, m.lanes(l, m.Width)...)
		lines = append(lines, m.targets(l, m.Width)...)
		lines = append(lines, m.news(l, m.Width)...)
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

// head says how far the run is.
func (m *Model) head(n int) []string {
	s, w := m.Scene, m.Width
	c := s.Counts()
	sign := cyan.Render(spin(m.Now))
	if c.All > 0 && c.Done == c.All {
		sign = icon(scene.Done, m.Now)
	}
	state := sign + " " + bold.Render(fmt.Sprintf("%d/%d", c.Done, c.All)) + " targets"
	failed := ""
	if c.Failed > 0 {
		failed = red.Render(fmt.Sprintf("%d failed", c.Failed))
	}
	if c.Skipped > 0 {
		failed = strings.TrimPrefix(failed+", ", ", ") + yellow.Render(fmt.Sprintf("%d skipped", c.Skipped))
	}
	up := 0
	for _, n := range s.Nodes {
		if n.Up {
			up++
		}
	}
	work := ""
	done, cached, steps := s.Work()
	if steps > 0 {
		work = fmt.Sprintf("%d/%s", done, count(steps, "step"))
	}
	hits := ""
	if cached > 0 {
		hits = green.Render(fmt.Sprintf("%d cached", cached))
	}
	nodes := fmt.Sprintf("%d of %s", up, count(len(s.Nodes), "node"))
	if up == len(s.Nodes) {
		nodes = count(up, "node")
	}
	if up == 0 {
		nodes = "connecting"
	}
	clock := bold.Render(took(m.Now))
	if end := s.Ends(); end > 0 {
		clock += faint.Render(" of ") + about(max(end, m.Now))
	}
	lines := []string{ends(" "+join(w-ansi.StringWidth(clock)-3, state, failed, work, hits, nodes), clock+" ", w)}
	if n == 1 {
		return lines
	}
	part := s.Progress()
	percent := fmt.Sprintf(" %3.0f%% ", part*100)
	style := green
	if c.Failed > 0 {
		style = red
	}
	lines = append(lines, " "+bar(part, w-len(percent)-1, style)+percent)
	return append(lines, fit(" "+m.path(w-2), w))
}

// path says what decides the time: what was predicted, and what has taken longest.
func (m *Model) path(w int) string {
	s := m.Scene
	head := ""
	if s.Predicted > 0 {
		head = faint.Render("predicted ") + about(s.Predicted)
		if s.Bound > 0 {
			head += faint.Render(", bound ") + about(s.Bound)
		}
	}
	critical := ""
	if chain, long := s.Critical(m.Now); len(chain) > 0 && long >= settled {
		last := chain[len(chain)-1]
		critical = faint.Render("critical path ") + took(long)
		if len(chain) > 1 {
			critical += faint.Render(" in " + count(len(chain), "step"))
		}
		critical += faint.Render(": ") + m.colour(last.Node).Render(last.Node.Name) + " " + scene.Name(last.Targets, last.Name)
	}
	if head == "" || critical == "" {
		return head + critical
	}
	return head + faint.Render(" · ") + critical
}

// lanes are the nodes with what they run.
func (m *Model) lanes(l layout, w int) []string {
	var lines []string
	for i, n := range m.Scene.Nodes {
		if i >= l.nodes {
			break
		}
		lines = append(lines, m.lane(n, l, w)...)
	}
	if l.nodes > 0 && len(m.Scene.Nodes) == 0 {
		lines = append(lines, fit(faint.Render(" no node has answered yet"), w))
		for range l.steps {
			lines = append(lines, fit("", w))
		}
	}
	if l.more {
		busy := 0
		for _, n := range m.Scene.Nodes[l.nodes:] {
			if n.Open > 0 {
				busy++
			}
		}
		lines = append(lines, fit(faint.Render(fmt.Sprintf(" %s more, %d of them busy", count(len(m.Scene.Nodes)-l.nodes, "node"), busy)), w))
	}
	return lines
}

// lane is one node.
func (m *Model) lane(n *scene.Node, l layout, w int) []string {
	edge := m.colour(n).Render("▌")
	name := m.colour(n).Bold(true).Render(n.Name)
	var first *scene.Step // that runs for long enough to be shown
	for _, st := range n.Running {
		if first == nil && m.shown([]*scene.Step{st}) > 0 {
			first = st
		}
	}
	var parts []string
	switch {
	case n.Lost != "":
		edge, parts = red.Render("▌"), []string{red.Render("lost: " + n.Lost)}
	case n.Silent > 0:
		parts = append(parts, yellow.Render("silent for "+took(n.Silent)))
	case !n.Up:
		parts = append(parts, faint.Render("connecting"))
	case n.Open == 0 && len(n.Queue) == 0:
		parts = append(parts, faint.Render("idle"))
	}
	if n.Lost == "" {
		if all := n.Built + n.Open + len(n.Queue); all > 0 {
			parts = append(parts, fmt.Sprintf("%d/%s", n.Built, count(all, "target")))
		}
		if n.Steps > 0 {
			parts = append(parts, fmt.Sprintf("%d/%s", n.Done, count(n.Steps, "step")))
		}
		if n.Cached > 0 {
			parts = append(parts, green.Render(fmt.Sprintf("%d cached", n.Cached)))
		}
	}
	right := ""
	if busy := n.Open > 0 || len(n.Queue) > 0; busy && n.Ends > m.Now && m.Scene.Predicted > 0 && n.Up {
		right = faint.Render("done at ") + about(n.Ends)
	}
	if l.steps == 0 && first != nil && n.Lost == "" {
		// One line has to do.
		left := edge + name + " " + fmt.Sprintf("%d/%d", n.Built, n.Built+n.Open+len(n.Queue)) + " "
		if right != "" {
			right = about(n.Ends)
		}
		return []string{ends(left+m.step(first, min(w-ansi.StringWidth(left)-ansi.StringWidth(right)-1, 55)), right, w)}
	}
	left := edge + name + " " + join(w-ansi.StringWidth(right)-len(n.Name)-4, parts...)
	if room := w - ansi.StringWidth(left) - ansi.StringWidth(right) - 4; len(n.Queue) > 0 && room > 12 && n.Lost == "" {
		left += faint.Render(" · next ") + queue(n.Queue, room-8)
	}
	lines := []string{ends(left, right, w)}
	for i := range l.steps {
		line := edge
		switch {
		case l.steps == 1 && first != nil:
			others := ""
			if more := m.shown(n.Running) - 1; more > 0 {
				others = faint.Render(fmt.Sprintf(" +%d", more))
			}
			line += " " + m.step(first, w-2-ansi.StringWidth(others)) + others
		case i == l.steps-1 && m.shown(n.Running[min(i+1, len(n.Running)):]) > 0:
			line += faint.Render(fmt.Sprintf("  and %s more", count(m.shown(n.Running[i:]), "step")))
		case i < len(n.Running) && n.Running[i] != nil && m.Now-n.Running[i].Began >= settled:
			line += " " + m.step(n.Running[i], w-2)
		}
		lines = append(lines, fit(line, w))
	}
	return lines
}

// shown is the number of steps that run for long enough to be shown.
func (m *Model) shown(list []*scene.Step) int {
	n := 0
	for _, st := range list {
		if st != nil && m.Now-st.Began >= settled {
			n++
		}
	}
	return n
}

// queue names as many of the names as there is room for.
func queue(names []string, w int) string {
	text := ""
	for i, name := range names {
		left := len(names) - i
		more := ""
		if left > 1 {
			more = fmt.Sprintf(", +%d", left-1)
		}
		add := name
		if i > 0 {
			add = ", " + name
		}
		if ansi.StringWidth(text+add+more) > w {
			if i == 0 {
				return fmt.Sprintf("%d", left)
			}
			return text + fmt.Sprintf(", +%d", left)
		}
		text += add
	}
	return text
}

// step is a step that runs, with how long it has been and how long it takes.
func (m *Model) step(st *scene.Step, w int) string {
	elapsed := st.Elapsed(m.Now)
	right := fmt.Sprintf("%7s", took(elapsed))
	if w >= 56 {
		size := 8
		if w >= 90 {
			size = 16
		}
		extra := ""
		switch {
		case st.Total > 0:
			extra = bar(float64(st.Current)/float64(st.Total), size, cyan) + " " + fmt.Sprintf("%-7s", units.HumanSizeWithPrecision(float64(st.Total), 3))
		case st.Current > 0:
			extra = fit(units.HumanSizeWithPrecision(float64(st.Current), 3), size+8)
		case st.Expected > 0:
			style := cyan
			if elapsed > st.Expected+st.Expected/2+time.Second {
				style = yellow // takes longer than it should
			}
			extra = bar(float64(elapsed)/float64(st.Expected), size, style) + " " + fmt.Sprintf("%-7s", about(st.Expected))
		default:
			extra = strings.Repeat(" ", size+8)
		}
		right += " " + extra
	}
	return ends(icon(st.State, m.Now)+" "+scene.Name(st.Targets, st.Name), right, w)
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
		nodes += m.nodeName(name)
	}
	text, right := m.doing(t)
	left := cursor + icon(t.State, m.Now) + " " + style.Render(fit(t.Name, nameWidth)) + "  " + fit(nodes, nodeWidth) + "  " + text
	return ends(left, fmt.Sprintf("%7s ", right), w)
}

func (m *Model) nodeName(name string) string {
	for i, n := range m.Scene.Nodes {
		if n.Name == name {
			return palette[i%len(palette)].Render(name)
		}
	}
	return name
}

// doing says what a target does or has come to, and since when or how long it took.
func (m *Model) doing(t *scene.Target) (text, clock string) {
	done, cached, all := t.Counts()
	switch t.State {
	case scene.Running, scene.Writing:
		clock = took(m.Now - t.Began)
		if st := t.Doing(); st != nil && (m.Now-st.Began >= settled || t.State == scene.Writing) {
			return st.Name, clock
		}
		if t.State == scene.Writing {
			return "writes outputs", clock
		}
		if all > 0 {
			return faint.Render(fmt.Sprintf("%d of %s done", done, count(all, "step"))), clock
		}
		return faint.Render("starts"), clock
	case scene.Done:
		text = green.Render("built")
		if all > 0 {
			text += faint.Render(", ") + count(all, "step")
		}
		if cached == all && all > 0 {
			text += green.Render(", all cached")
		} else if cached > 0 {
			text += green.Render(fmt.Sprintf(", %d cached", cached))
		}
		for _, img := range t.Images {
			if img.Pushed {
				text += faint.Render(", pushed")
				break
			}
		}
		return text, took(t.Ended - t.Began)
	case scene.Failed, scene.Cancelled:
		return red.Render(t.Why), took(max(0, t.Ended-t.Began))
	case scene.Skipped:
		return yellow.Render("skipped: what it needs failed"), ""
	}
	if st := t.Doing(); st != nil && m.Now-st.Began >= settled {
		// A step of it is built by a node for others.
		text := m.colour(st.Node).Render(st.Node.Name) + faint.Render(" builds for it: ") + st.Name
		if node, place := m.Scene.Waits(t); place > 0 {
			text = faint.Render("waits for ") + m.nodeName(node) + faint.Render("; ") + text
		}
		return text, ""
	}
	if node, place := m.Scene.Waits(t); place > 0 {
		return faint.Render("waits for ") + m.nodeName(node) + faint.Render(fmt.Sprintf(", place %d", place)), ""
	}
	return faint.Render("waits"), ""
}

var newsIcons = map[scene.Kind]string{
	scene.Moved:    yellow.Render("⇄"),
	scene.Sent:     cyan.Render("→"),
	scene.Warned:   yellow.Render("!"),
	scene.Good:     green.Render("+"),
	scene.Bad:      red.Render("✗"),
	scene.Remarked: faint.Render("·"),
}

// news is what has happened last, the newest at the bottom.
func (m *Model) news(l layout, w int) []string {
	var lines []string
	if l.titled && l.news > 0 {
		lines = append(lines, rule("Events", "", w))
	}
	list := m.Scene.News
	list = list[max(0, len(list)-l.news):]
	for i := range l.news {
		if i >= len(list) {
			lines = append(lines, fit("", w))
			continue
		}
		n := list[i]
		line := faint.Render(fmt.Sprintf("%7s ", took(n.At))) + newsIcons[n.Kind] + " "
		if n.Node != "" {
			line += m.nodeName(n.Node) + " "
		}
		text := n.Text
		if n.Kind == scene.Bad {
			text = red.Render(text)
		}
		lines = append(lines, fit(line+text, w))
	}
	return lines
}

// foot says what keys do.
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
