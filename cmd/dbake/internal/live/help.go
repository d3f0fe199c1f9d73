package live

import (
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// manual is the text of the help page.
var manual = []struct{ key, text string }{
	{"j k ↓ ↑", "move the cursor; scroll a log"},
	{"space b", "a page down, a page up (also PgDn, PgUp)"},
	{"g G", "first and last; at its end a log follows what is printed"},
	{"enter", "the log of the target under the cursor, while others go on"},
	{"← →", "in a log: that of the target before, of the next one"},
	{"/", "filter: targets by name, lines of a log by what they contain"},
	{"f", "the log of what failed; again: of the next. Before anything failed: opens it when something does"},
	{"esc q", "back; on the first page, q asks whether to stop the build"},
	{"ctrl-c", "stop the build; a second time, at once"},
	{"ctrl-z", "suspend dbake"},
	{"", ""},
	{"▌n1", "a node: targets and steps done, answered from a cache, when it is expected to be done, what it builds next"},
	{"✓ = ✗ -", "built, from a cache, failed, skipped or stopped"},
	{"⇄ →", "work that another node took over; a result that was sent to one"},
	{"~", "predicted: from earlier runs, or a guess before there are any"},
	{"", ""},
	{"", "Text can be selected with the mouse as always. When the build has ended, the summary and the logs of what failed are on the terminal."},
}

func (m *Model) helpPage() []string {
	w := m.Width
	lines := []string{rule("Help", faint.Render("any key goes back"), w)}
	for _, line := range manual {
		indent := 11
		if w < 40 {
			indent = 8
		}
		parts := strings.Split(ansi.Wordwrap(line.text, max(10, w-indent-1), ""), "\n")
		for i, part := range parts {
			key := ""
			if i == 0 {
				key = bold.Render(line.key)
			}
			lines = append(lines, fit(" "+fit(key, indent-1)+part, w))
		}
	}
	return lines
}
