package live

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
)

// logPage is the log of one target.
type logPage struct {
	target string
	// top is the first row that is shown; with end it is the last rows that are, as
	// they come.
	top    int
	end    bool
	filter filter
	// rows are those of each step, as far as its log was broken into rows.
	rows map[*scene.Step]*rows
}

// rows is the log of a step as rows of a width.
type rows struct {
	width  int
	filter string
	taken  int // lines of the log
	drops  int
	list   []string
}

// open shows the log of a target, from its end on.
func (m *Model) open(name string) {
	m.selected, m.moved, m.page = name, true, logs
	m.log = logPage{target: name, end: true, rows: map[*scene.Step]*rows{}}
}

func (m *Model) logKey(key, text string) {
	p := &m.log
	if p.filter.key(key, text) {
		p.end = true
		return
	}
	switch key {
	case "down", "j":
		m.scroll(1)
	case "up", "k":
		m.scroll(-1)
	case "pgdown", "space":
		m.scroll(m.Height - 3)
	case "pgup", "b":
		m.scroll(3 - m.Height)
	case "ctrl+d":
		m.scroll(m.Height / 2)
	case "ctrl+u":
		m.scroll(-m.Height / 2)
	case "g", "home":
		p.top, p.end = 0, false
	case "G", "end":
		p.end = true
	case "right", "l", "n":
		m.other(1)
	case "left", "h", "p":
		m.other(-1)
	case "f":
		m.findFailing()
	case "/":
		p.filter.typing = true
	case "?":
		m.before, m.page = m.page, help
	case "esc", "q", "enter":
		if key == "esc" && p.filter.text != "" {
			p.filter = filter{}
			return
		}
		m.page = dashboard
	}
}

// other opens the log of a target further down the list.
func (m *Model) other(by int) {
	list := m.list()
	if i := slices.IndexFunc(list, func(t *scene.Target) bool { return t.Name == m.log.target }); i >= 0 {
		m.open(list[min(max(0, i+by), len(list)-1)].Name)
	}
}

// scroll moves the log by rows.
func (m *Model) scroll(by int) {
	p := &m.log
	last := max(0, len(m.logRows())-m.logHeight())
	if p.end {
		p.top = last
	}
	p.top = min(max(0, p.top+by), last)
	p.end = p.top == last && by > 0
}

func (m *Model) logHeight() int { return max(1, m.Height-2) }

// logPage is the page of a log: a title, the log, and the keys. Nothing stands beside
// the text, so that lines can be copied.
func (m *Model) logPage() []string {
	p, w := &m.log, m.Width
	t := m.Scene.Target(p.target)
	if t == nil {
		return []string{fit(" "+p.target, w)}
	}
	nodes := ""
	for _, n := range t.Nodes {
		nodes = strings.TrimPrefix(nodes+","+m.drawing().nodeName(n), ",")
	}
	text, clock := m.drawing().doing(t)
	title := icon(t.State, m.Now) + " " + join(w-12, bold.Render(t.Name), nodes)
	if room := w - ansi.StringWidth(title) - ansi.StringWidth(clock) - 12; room > 8 {
		title += faint.Render(" · ") + ansi.Truncate(text, room, "…")
	}
	lines := []string{rule(title, clock, w)}

	all, height := m.logRows(), m.logHeight()
	top := p.top
	if last := max(0, len(all)-height); p.end || top > last {
		top = last
	}
	for _, row := range all[top:min(top+height, len(all))] {
		lines = append(lines, fit(row, w))
	}
	if len(all) == 0 {
		lines = append(lines, fit(faint.Render(" nothing of this target has begun"), w))
	}
	for len(lines) < m.Height-1 {
		lines = append(lines, fit("", w))
	}
	return append(lines, m.logFoot(top, len(all)))
}

func (m *Model) logFoot(top, all int) string {
	p := &m.log
	if p.filter.typing {
		return prompt(p.filter.text, "lines that contain this", m.Width)
	}
	remark := green.Render("follows ")
	if !p.end {
		remark = faint.Render(fmt.Sprintf("%d–%d of %d ", min(top+1, all), min(top+m.logHeight(), all), all))
	}
	if p.filter.text != "" {
		remark = yellow.Render("/"+p.filter.text) + " " + remark
	}
	return ends(keys(m.Width-ansi.StringWidth(remark)-1, "jk", "scroll", "g/G", "ends", "←→", "other targets", "/", "filter", "f", "failing", "esc", "back"), remark, m.Width)
}

// logRows are the rows of all steps of the target.
func (m *Model) logRows() []string {
	t := m.Scene.Target(m.log.target)
	if t == nil {
		return nil
	}
	var all []string
	for _, st := range t.Steps() {
		if st.State == scene.Waiting && len(st.Log.Lines()) == 0 {
			continue
		}
		list := m.stepRows(st)
		if m.log.filter.text != "" && len(list) == 0 {
			continue
		}
		all = append(all, m.title(st))
		all = append(all, list...)
		if st.State == scene.Failed {
			for line := range strings.SplitSeq(ansi.Hardwrap(st.Err, m.Width, true), "\n") {
				all = append(all, red.Render(line))
			}
		}
	}
	return all
}

// title is the row above the log of a step.
func (m *Model) title(st *scene.Step) string {
	state := ""
	switch st.State {
	case scene.Cached:
		state = green.Render("cached")
	case scene.Running, scene.Done, scene.Failed, scene.Cancelled:
		state = took(st.RunTime(m.Now))
	}
	name := bold.Render(st.Name)
	if st.State == scene.Cached {
		name = faint.Render(st.Name)
	}
	return ends(icon(st.State, m.Now)+" "+m.drawing().colour(st.Node).Render(st.Node.Name)+" "+name, state+" ", m.Width)
}

// stepRows are the rows of a step's log. What was broken into rows once is kept.
func (m *Model) stepRows(st *scene.Step) []string {
	p := &m.log
	before, gap, drops := st.Log.Gap()
	r := p.rows[st]
	if r == nil || r.width != m.Width || r.filter != p.filter.text || r.drops != drops {
		r = &rows{width: m.Width, filter: p.filter.text, drops: drops}
		p.rows[st] = r
	}
	lines := st.Log.Lines()
	for ; r.taken < len(lines); r.taken++ {
		if gap > 0 && r.taken == before {
			r.list = append(r.list, yellow.Render(fmt.Sprintf("… %s left out …", count(gap, "line"))))
		}
		if line := lines[r.taken]; p.filter.matches(ansi.Strip(line)) {
			r.list = append(r.list, wrap(line, m.Width)...)
		}
	}
	return r.list
}

// wrap breaks a line of a log into rows.
func wrap(line string, w int) []string {
	line = expand(line)
	if ansi.StringWidth(line) <= w {
		return []string{line}
	}
	line = ansi.Hardwrap(line, w, true)
	if strings.Contains(line, "\x1b") {
		// Colours end with a row and begin again in the next one.
		var b strings.Builder
		ww := lipgloss.NewWrapWriter(&b)
		_, _ = io.WriteString(ww, line) // a builder takes all
		_ = ww.Close()
		line = b.String()
	}
	return strings.Split(line, "\n")
}

// expand replaces tabs by the spaces that a terminal shows for them.
func expand(line string) string {
	if !strings.Contains(line, "\t") {
		return line
	}
	var b strings.Builder
	column := 0
	for i, part := range strings.Split(line, "\t") {
		if i > 0 {
			n := 8 - column%8
			b.WriteString(strings.Repeat(" ", n))
			column += n
		}
		b.WriteString(part)
		column += ansi.StringWidth(part)
	}
	return b.String()
}
