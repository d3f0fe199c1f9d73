package view

import (
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/memory/runs"
)

//go:embed trace.html
var tracePage string

var traceTemplate = pageTemplate("trace", tracePage)

// tracedPage is the data of a run's template.
type tracedPage struct {
	Title   string
	Figures []figure
	charts
	Failed, Tasks, Cached, Moved, Predicted bool // occur in the charts
	Notes                                   []string
	Changes                                 []changeRow
	ChangesMore                             string
	Failures                                []ranRow
	Path                                    []pathRow
	PathMore                                string
	Targets                                 []ranRow
}

type changeRow struct{ Then, Now, Change, Class, For, Name string }

type ranRow struct {
	Name, Node, Ran, Cached, Took, State string
	Bad                                  bool
}

// mostChanges is how many differences of two runs a page lists.
const mostChanges = 200

// RunPage prints a run as one self-contained page: a chart of each node over time, and the
// results of the targets. With another run, both are charted to one scale, and the steps
// that became slower or faster are listed; nil is none.
func RunPage(w io.Writer, r, then *runs.Run) error {
	pg := &tracedPage{Title: fmt.Sprintf("run %s of %s: %s in %s", r.ID, r.Project, r.Outcome, formatSeconds(r.Wall)), Figures: runFigures(r, then)}
	list := []*runs.Run{r}
	if then != nil {
		list = append(list, then)
	}
	var span time.Duration
	for _, x := range list {
		span = max(span, length(x))
	}
	if span <= 0 {
		span = time.Second
	}
	pg.axis(span)
	for i, x := range list {
		pg.addRun(x, span)
		if then != nil {
			c := &pg.Charts[i]
			c.Title, c.Note = "run "+x.ID, fmt.Sprintf("%s in %s, started %s", x.Outcome, formatSeconds(x.Wall), x.Started.Format("2006-01-02 15:04:05 MST"))
		}
	}
	pg.tables(r, then)
	return traceTemplate().Execute(w, pg)
}

// after returns a time of a run as a duration.
func after(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// length is the time that a chart of a run has to cover.
func length(r *runs.Run) time.Duration {
	var end float64
	for _, s := range r.Steps {
		end = max(end, s.Start+s.Took)
	}
	for _, t := range r.Tasks {
		end = max(end, t.Start+t.Took)
	}
	return after(end)
}

func runFigures(r, then *runs.Run) []figure {
	ran, cached := 0, 0
	for _, s := range r.Steps {
		if s.Cached {
			cached++
		} else {
			ran++
		}
	}
	var busy float64
	for _, s := range r.Steps {
		busy += s.Took
	}
	wall := figure{"Wall time", formatSeconds(r.Wall), r.Outcome}
	if then != nil {
		wall.Note = fmt.Sprintf("%s, %s than then (%s)", r.Outcome, slower(then.Wall, r.Wall), formatSeconds(then.Wall))
	}
	list := []figure{wall}
	if r.Predicted > 0 {
		list = append(list, figure{"Predicted", formatSeconds(r.Predicted), "no plan could take less than " + formatSeconds(r.Bound)})
	}
	var path float64
	for _, i := range r.CriticalPath() {
		path += r.Steps[i].Took
	}
	failed := 0
	for _, t := range r.Targets {
		if t.State == "failed" {
			failed++
		}
	}
	targets := "none failed"
	if failed > 0 {
		targets = count(failed, "target") + " failed"
	}
	return append(list,
		figure{"Critical path", formatSeconds(path), "in the steps that decided the end"},
		figure{"Steps run", fmt.Sprint(ran), fmt.Sprintf("%d from a cache, %s of work", cached, formatSeconds(busy))},
		figure{"Targets", fmt.Sprint(len(r.Targets)), fmt.Sprintf("on %s; %s", count(len(r.Nodes), "node"), targets)},
	)
}

// slower compares two times in words.
func slower(then, now float64) string {
	switch d := now - then; {
	case d > 0.05:
		return formatSeconds(d) + " slower"
	case d < -0.05:
		return formatSeconds(-d) + " faster"
	}
	return "no other"
}

// addRun adds the chart of a run.
func (pg *tracedPage) addRun(r *runs.Run, span time.Duration) {
	c := chart{}
	if at := after(r.Predicted - r.Lead); r.Predicted > 0 && at > 0 && at <= span {
		c.Bound = &tick{position(at, span), "predicted end", false}
		pg.Predicted = true
	}
	critical := map[int]bool{}
	for _, i := range r.CriticalPath() {
		critical[i] = true
	}
	for _, n := range r.Nodes {
		chart := nodeChart{Name: n.Name, Note: fmt.Sprintf("%s run · %d cached · busy %s", count(n.Ran, "step"), n.Cached, formatSeconds(n.Busy))}
		if n.Lost != "" {
			chart.Note += " · lost: " + n.Lost
		}
		above := &rows{span: span}
		for i, s := range r.Steps {
			if s.Node == n.Name && !s.Cached {
				b := stepBar(r, s, critical[i])
				pg.Failed = pg.Failed || s.Error != ""
				pg.Moved = pg.Moved || strings.Contains(b.Class, "moved")
				above.add(b, s.Start, s.Took)
			}
		}
		chart.Lanes = above.lanes
		below := &rows{span: span}
		for _, t := range r.Tasks {
			if t.Node == n.Name {
				pg.Tasks = true
				below.add(taskBar(t), t.Start, t.Took)
			}
		}
		chart.Lanes = append(chart.Lanes, below.lanes...)
		chart.Marks = marks(r, n.Name, span)
		pg.Cached = pg.Cached || len(chart.Marks) > 0
		c.Nodes = append(c.Nodes, chart)
	}
	pg.Charts = append(pg.Charts, c)
}

// rows puts bars in as many lanes as there are at a time.
type rows struct {
	span  time.Duration
	ends  []float64
	lanes [][]bar
}

func (l *rows) add(b bar, start, took float64) {
	lane := slices.IndexFunc(l.ends, func(end float64) bool { return end <= start })
	if lane < 0 {
		lane = len(l.ends)
		l.ends, l.lanes = append(l.ends, 0), append(l.lanes, nil)
	}
	l.ends[lane] = start + took
	b.Place = spot(after(start), after(start+took), l.span)
	l.lanes[lane] = append(l.lanes[lane], b)
}

// stepBar is the bar of a step that ran.
func stepBar(r *runs.Run, s runs.Step, critical bool) bar {
	b := bar{Class: "own", Label: Some(s.Targets, 2), Title: s.Name, Critical: critical}
	if len(s.Targets) > 1 {
		b.Class = "shared"
	}
	if b.Label == "" {
		b.Label = s.Name
	}
	lines := []string{fmt.Sprintf("%s to %s on %s: %s", formatSeconds(s.Start), formatSeconds(s.Start+s.Took), s.Node, formatSeconds(s.Took))}
	if len(s.Targets) > 0 {
		lines = append(lines, "for "+Some(s.Targets, 8))
	}
	if s.Error != "" {
		b.Class = "failed"
		lines = append(lines, "failed: "+s.Error)
	}
	for _, m := range r.Moves {
		if m.Node == s.Node && m.At <= s.Start+s.Took && slices.ContainsFunc(s.Targets, func(t string) bool { return slices.Contains(m.Targets, t) }) {
			b.Class += " moved"
			lines = append(lines, movedFrom(m))
			break
		}
	}
	if critical {
		lines = append(lines, "on the critical path")
	}
	b.Text = strings.Join(lines, "\n")
	return b
}

func movedFrom(m runs.Move) string {
	if m.From == "" || m.From == m.Node {
		return "given again: " + m.Why
	}
	return fmt.Sprintf("moved here from %s: %s", m.From, m.Why)
}

// taskBar is the bar of a task that is not a step.
func taskBar(t runs.Task) bar {
	b := bar{Class: "transfer", Label: string(t.Kind), Title: t.Name}
	lines := []string{fmt.Sprintf("%s to %s on %s: %s", formatSeconds(t.Start), formatSeconds(t.Start+t.Took), t.Node, formatSeconds(t.Took))}
	if len(t.Targets) > 0 {
		lines = append(lines, "for "+Some(t.Targets, 8))
	}
	if t.Error != "" {
		b.Class = "failed"
		lines = append(lines, "failed: "+t.Error)
	}
	b.Text = strings.Join(lines, "\n")
	return b
}

// marks show when a node had results from a cache; those that are too near each other share
// one mark.
func marks(r *runs.Run, node string, span time.Duration) []bar {
	const apart = 150 // that many have room beside each other
	var list []bar
	var at float64
	var names []string
	flush := func() {
		if len(names) == 0 {
			return
		}
		b := bar{Class: "mark", Title: count(len(names), "step") + " from a cache", Place: spot(after(at), after(at), span)}
		if len(names) == 1 {
			b.Title = names[0]
		}
		b.Text = fmt.Sprintf("from a cache, at %s on %s", formatSeconds(at), node)
		if len(names) > 1 {
			b.Text += "\n" + strings.Join(names[:min(len(names), 8)], "\n")
			if len(names) > 8 {
				b.Text += fmt.Sprintf("\nand %d more", len(names)-8)
			}
		}
		list, names = append(list, b), nil
	}
	var cached []runs.Step
	for _, s := range r.Steps {
		if s.Node == node && s.Cached {
			cached = append(cached, s)
		}
	}
	slices.SortStableFunc(cached, func(x, y runs.Step) int { return cmp.Compare(x.Start, y.Start) })
	for _, s := range cached {
		start := min(s.Start, span.Seconds()*0.995) // or it is beyond the edge
		if start-at > span.Seconds()/apart {
			flush()
		}
		if len(names) == 0 {
			at = start
		}
		names = append(names, stepOf(s))
	}
	flush()
	return list
}

func (pg *tracedPage) tables(r, then *runs.Run) {
	for _, t := range r.Targets {
		row := ranRow{Name: t.Name, Node: strings.Join(t.Nodes, ", "), State: t.State, Bad: t.State == "failed" || t.State == "skipped"}
		if t.Reason != "" {
			row.State += ": " + t.Reason
		}
		ran, cached, took := 0, 0, 0.
		for _, s := range r.Steps {
			if !slices.Contains(s.Targets, t.Name) {
				continue
			}
			if s.Cached {
				cached++
			} else {
				ran++
				took += s.Took
			}
		}
		row.Ran, row.Cached, row.Took = fmt.Sprint(ran), fmt.Sprint(cached), formatSeconds(took)
		pg.Targets = append(pg.Targets, row)
		if row.Bad {
			pg.Failures = append(pg.Failures, row)
		}
	}
	for _, i := range r.CriticalPath() {
		s := r.Steps[i]
		pg.Path = append(pg.Path, pathRow{formatSeconds(s.Start), formatSeconds(s.Took), s.Node, Some(s.Targets, 3), s.Name})
	}
	for _, m := range r.Moves {
		pg.Notes = append(pg.Notes, fmt.Sprintf("At %s %s went to %s, %s.", formatSeconds(m.At), Some(m.Targets, 4), m.Node, movedFrom(m)))
	}
	if then == nil {
		return
	}
	changes := runs.Compare(then, r)
	slices.SortStableFunc(changes, func(x, y runs.Change) int { return cmp.Compare(math.Abs(effect(y)), math.Abs(effect(x))) })
	for i, c := range changes {
		if left := len(changes) - i; i == mostChanges {
			pg.ChangesMore = fmt.Sprintf("and %d more", left)
			break
		} else if math.Abs(effect(c)) < tellingChange {
			pg.ChangesMore = count(left, "step") + " took the same time, to a twentieth of a second"
			break
		}
		pg.Changes = append(pg.Changes, newChangeRow(c))
	}
}

// tellingChange is the least difference in seconds that is listed.
const tellingChange = 0.05

// effect is how much longer a step took.
func effect(c runs.Change) float64 {
	var d float64
	if c.Now != nil {
		d += *c.Now
	}
	if c.Then != nil {
		d -= *c.Then
	}
	return d
}

// newChangeRow is the row of a difference.
func newChangeRow(c runs.Change) changeRow {
	row := changeRow{Then: "-", Now: "-", For: Some(c.Targets, 3), Name: c.Step}
	if c.Then != nil {
		row.Then = formatSeconds(*c.Then)
	}
	if c.Now != nil {
		row.Now = formatSeconds(*c.Now)
	}
	switch {
	case c.Then == nil:
		row.Change, row.Class = "ran now only", "slow"
	case c.Now == nil:
		row.Change, row.Class = "ran then only", "quick"
	default:
		row.Change, row.Class = difference(after(effect(c))), "slow"
		if effect(c) < 0 {
			row.Class = "quick"
		}
	}
	return row
}
