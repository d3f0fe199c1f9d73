package live

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/docker/go-units"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
	"github.com/dbake/dbake/runtime/output"
)

// drawing draws what a scene is at a time since the start of its run: parts of the
// dashboard that depend on nothing that keys change.
type drawing struct {
	scene *scene.Scene
	now   time.Duration
}

// colour is that of a node.
func (d drawing) colour(n *scene.Node) lipgloss.Style {
	return palette[max(0, slices.Index(d.scene.Nodes, n))%len(palette)]
}

// head shows how far the run is.
func (d drawing) head(n, w int) []string {
	s := d.scene
	c := s.Counts()
	sign := cyan.Render(spin(d.now))
	if c.All > 0 && c.Done == c.All {
		sign = icon(scene.Done, d.now)
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
	clock := bold.Render(took(d.now))
	if end := s.Ends(); end > 0 {
		clock += faint.Render(" of ") + about(max(end, d.now))
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
	return append(lines, fit(" "+d.path(w-2), w))
}

// path shows what decides the time: the prediction, and the longest chain so far.
func (d drawing) path(w int) string {
	s := d.scene
	head := ""
	if s.Predicted > 0 {
		head = faint.Render("predicted ") + about(s.Predicted)
		if s.Bound > 0 {
			head += faint.Render(", bound ") + about(s.Bound)
		}
	}
	critical := ""
	if chain, long := s.Critical(d.now); len(chain) > 0 && long >= settled {
		last := chain[len(chain)-1]
		critical = faint.Render("critical path ") + took(long)
		if len(chain) > 1 {
			critical += faint.Render(" in " + count(len(chain), "step"))
		}
		critical += faint.Render(": ") + d.colour(last.Node).Render(last.Node.Name) + " " + scene.Name(last.Targets, last.Name)
	}
	if head == "" || critical == "" {
		return head + critical
	}
	return head + faint.Render(" · ") + critical
}

// lanes are the nodes with what they run.
func (d drawing) lanes(l layout, w int) []string {
	var lines []string
	for i, n := range d.scene.Nodes {
		if i >= l.nodes {
			break
		}
		lines = append(lines, d.lane(n, l, w)...)
	}
	if l.nodes > 0 && len(d.scene.Nodes) == 0 {
		lines = append(lines, fit(faint.Render(" no node has answered yet"), w))
		for range l.steps {
			lines = append(lines, fit("", w))
		}
	}
	if l.more {
		busy := 0
		for _, n := range d.scene.Nodes[l.nodes:] {
			if n.Open > 0 {
				busy++
			}
		}
		lines = append(lines, fit(faint.Render(fmt.Sprintf(" %s more, %d of them busy", count(len(d.scene.Nodes)-l.nodes, "node"), busy)), w))
	}
	return lines
}

// lane is one node: its state, and below that the steps that it runs.
func (d drawing) lane(n *scene.Node, l layout, w int) []string {
	edge := d.colour(n).Render("▌")
	if n.Lost != "" {
		edge = red.Render("▌")
	}
	name := d.colour(n).Bold(true).Render(n.Name)
	var first *scene.Step // that runs for long enough to be shown
	for _, st := range n.Running {
		if first == nil && d.countShown([]*scene.Step{st}) > 0 {
			first = st
		}
	}
	right := ""
	if busy := n.Open > 0 || len(n.Queue) > 0; busy && n.Ends > d.now && d.scene.Predicted > 0 && n.Up {
		right = faint.Render("done at ") + about(n.Ends)
	}
	if l.steps == 0 && first != nil && n.Lost == "" {
		// One line has to do.
		left := edge + name + " " + fmt.Sprintf("%d/%d", n.Built, n.Built+n.Open+len(n.Queue)) + " "
		if right != "" {
			right = about(n.Ends)
		}
		return []string{ends(left+d.step(first, min(w-ansi.StringWidth(left)-ansi.StringWidth(right)-1, 55)), right, w)}
	}
	left := edge + name + " " + join(w-ansi.StringWidth(right)-len(n.Name)-4, state(n)...)
	if room := w - ansi.StringWidth(left) - ansi.StringWidth(right) - 4; len(n.Queue) > 0 && room > 12 && n.Lost == "" {
		left += faint.Render(" · next ") + queue(n.Queue, room-8)
	}
	lines := []string{ends(left, right, w)}
	for _, line := range d.running(n, first, l.steps, w) {
		lines = append(lines, fit(edge+line, w))
	}
	return lines
}

// state shows what a node is doing, and how much of its work is done.
func state(n *scene.Node) []string {
	var parts []string
	switch {
	case n.Lost != "":
		return []string{red.Render("lost: " + n.Lost)}
	case n.Silent > 0:
		parts = append(parts, yellow.Render("silent for "+took(n.Silent)))
	case !n.Up:
		parts = append(parts, faint.Render("connecting"))
	case n.Open == 0 && len(n.Queue) == 0:
		parts = append(parts, faint.Render("idle"))
	}
	if all := n.Built + n.Open + len(n.Queue); all > 0 {
		parts = append(parts, fmt.Sprintf("%d/%s", n.Built, count(all, "target")))
	}
	if n.Steps > 0 {
		parts = append(parts, fmt.Sprintf("%d/%s", n.Done, count(n.Steps, "step")))
	}
	if n.Cached > 0 {
		parts = append(parts, green.Render(fmt.Sprintf("%d cached", n.Cached)))
	}
	return parts
}

// running are the lines of the steps that a node runs; first is the first step that is
// shown. A step keeps its line; one for which there is no line takes that of a step that
// has ended, until another one begins there.
func (d drawing) running(n *scene.Node, first *scene.Step, lines, w int) []string {
	list := make([]string, lines)
	if lines == 0 {
		return list
	}
	all := d.countShown(n.Running)
	if lines == 1 && first != nil {
		others := ""
		if all > 1 {
			others = faint.Render(fmt.Sprintf(" +%d", all-1))
		}
		list[0] = " " + d.step(first, w-2-ansi.StringWidth(others)) + others
		return list
	}
	room := lines
	if all > lines {
		room--
		list[room] = faint.Render(fmt.Sprintf("  and %s more", count(all-room, "step")))
	}
	next := min(room, len(n.Running))
	for i := range min(room, len(n.Running)) {
		st := n.Running[i]
		for d.countShown([]*scene.Step{st}) == 0 && next < len(n.Running) {
			st, next = n.Running[next], next+1
		}
		if d.countShown([]*scene.Step{st}) > 0 {
			list[i] = " " + d.step(st, w-2)
		}
	}
	return list
}

// countShown is the number of steps that run for long enough to be shown.
func (d drawing) countShown(list []*scene.Step) int {
	n := 0
	for _, st := range list {
		if st != nil && d.now-st.Began >= settled {
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
func (d drawing) step(st *scene.Step, w int) string {
	elapsed := st.RunTime(d.now)
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
	return ends(icon(st.State, d.now)+" "+scene.Name(st.Targets, st.Name), right, w)
}

func (d drawing) nodeName(name string) string {
	for i, n := range d.scene.Nodes {
		if n.Name == name {
			return palette[i%len(palette)].Render(name)
		}
	}
	return name
}

// doing shows the state of a target, and since when it has it or how long it took.
func (d drawing) doing(t *scene.Target) (text, clock string) {
	done, cached, all := t.Counts()
	switch t.State {
	case scene.Running, scene.Writing:
		clock = took(d.now - t.Began)
		if st := t.Doing(); st != nil && (d.now-st.Began >= settled || t.State == scene.Writing) {
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
		in := func(p output.Place) bool {
			return slices.ContainsFunc(t.Images, func(i output.Image) bool { return i.Place == p })
		}
		if in(output.InRegistry) {
			text += faint.Render(", pushed")
		}
		if in(output.InEngine) {
			text += faint.Render(", loaded")
		}
		return text, took(t.Ended - t.Began)
	case scene.Failed, scene.Cancelled:
		return red.Render(t.Why), took(max(0, t.Ended-t.Began))
	case scene.Skipped:
		return yellow.Render("skipped: what it needs failed"), ""
	}
	if st := t.Doing(); st != nil && d.now-st.Began >= settled {
		// A step of it is built by a node for others.
		text := d.colour(st.Node).Render(st.Node.Name) + faint.Render(" builds for it: ") + st.Name
		if node, place := d.scene.Waits(t); place > 0 {
			text = faint.Render("waits for ") + d.nodeName(node) + faint.Render("; ") + text
		}
		return text, ""
	}
	if node, place := d.scene.Waits(t); place > 0 {
		return faint.Render("waits for ") + d.nodeName(node) + faint.Render(fmt.Sprintf(", place %d", place)), ""
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

// news are the latest events, the newest at the bottom.
func (d drawing) news(l layout, w int) []string {
	var lines []string
	if l.titled && l.news > 0 {
		lines = append(lines, rule("Events", "", w))
	}
	list := d.scene.News
	list = list[max(0, len(list)-l.news):]
	for i := range l.news {
		if i >= len(list) {
			lines = append(lines, fit("", w))
			continue
		}
		n := list[i]
		line := faint.Render(fmt.Sprintf("%7s ", took(n.At))) + newsIcons[n.Kind] + " "
		if n.Node != "" {
			line += d.nodeName(n.Node) + " "
		}
		text := n.Text
		if n.Kind == scene.Bad {
			text = red.Render(text)
		}
		lines = append(lines, fit(line+text, w))
	}
	return lines
}
