package view

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/dbake/dbake/internal/report"
)

// Curve prints what a build takes on 1 node and more, with a chart.
func Curve(w io.Writer, c *report.Curve) error {
	if len(c.Points) == 0 {
		_, err := fmt.Fprintln(w, "nothing is to be built: no node is needed")
		return err
	}
	longest := 0.0
	for _, p := range c.Points {
		longest = max(longest, p.Makespan)
	}
	t := newTable(0, 1, 2, 3, 4, 5)
	t.row("NODES", "MAKESPAN", "NODE-SECONDS", "RELEASED", "NEXT SAVES", "FOR", "")
	for _, p := range c.Points {
		count := strconv.Itoa(p.Count)
		if p.Assumed > 0 {
			count = "~" + count
		}
		if !p.Possible {
			t.row(count, "-", "-", "-", "-", "-", "cannot build everything")
			continue
		}
		saves, costs := "-", "-"
		if p.Saves != nil {
			saves = fmt.Sprintf("%.1fs", *p.Saves)
			if p.Makespan > 0 {
				saves += fmt.Sprintf(" %2.0f%%", 100**p.Saves/p.Makespan)
			}
			costs = fmt.Sprintf("%+.1f", *p.Costs)
		}
		t.row(count, fmt.Sprintf("%.1fs", p.Makespan), fmt.Sprintf("%.1f", p.NodeSeconds), fmt.Sprintf("%.1f", p.Released), saves, costs, blocks(p.Makespan, longest))
	}
	if err := t.write(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	last := c.Points[len(c.Points)-1]
	if c.Enough < last.Count {
		paragraph(w, "  ", fmt.Sprintf("more than %s would not end sooner", count(c.Enough, "node")))
	}
	if last.Assumed > 0 {
		paragraph(w, "  ", fmt.Sprintf("assumed (~): nodes beyond the %d that exist, like these in turn, which hold nothing of this build", c.Given))
	}
	paragraph(w, "  ", "node-seconds: all nodes kept until the end; released: each let go when its part is done; for: what the next node adds to node-seconds")
	return nil
}

// blocks is a horizontal bar for a part of a whole; none for nothing.
func blocks(part, whole float64) string {
	const most = 30
	if part <= 0 {
		return ""
	}
	return strings.Repeat("█", cmp.Or(int(most*part/whole+0.5), 1))
}
