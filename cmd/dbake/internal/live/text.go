package live

import (
	"fmt"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
)

// Colours are those of the terminal's own palette, which suits its background. Grey is not
// used: in some palettes it is the colour of the background.
var (
	plain  = lipgloss.NewStyle()
	bold   = lipgloss.NewStyle().Bold(true)
	faint  = lipgloss.NewStyle().Faint(true)
	red    = lipgloss.NewStyle().Foreground(lipgloss.Color("1"))
	green  = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	yellow = lipgloss.NewStyle().Foreground(lipgloss.Color("3"))
	cyan   = lipgloss.NewStyle().Foreground(lipgloss.Color("6"))
)

// palette holds the colours of nodes: neither red nor green, which have a meaning.
var palette = []lipgloss.Style{
	lipgloss.NewStyle().Foreground(lipgloss.Color("6")),
	lipgloss.NewStyle().Foreground(lipgloss.Color("5")),
	lipgloss.NewStyle().Foreground(lipgloss.Color("4")),
	lipgloss.NewStyle().Foreground(lipgloss.Color("3")),
	lipgloss.NewStyle().Foreground(lipgloss.Color("14")),
	lipgloss.NewStyle().Foreground(lipgloss.Color("13")),
	lipgloss.NewStyle().Foreground(lipgloss.Color("12")),
}

// spinner holds the frames of the sign for a running step, each shown for a tenth of a
// second.
var spinner = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

func spin(now time.Duration) string {
	return spinner[int(now/(100*time.Millisecond))%len(spinner)]
}

// icon is the sign of a state.
func icon(st scene.State, now time.Duration) string {
	switch st {
	case scene.Running:
		return cyan.Render(spin(now))
	case scene.Writing:
		return cyan.Render("↑")
	case scene.Done:
		return green.Render("✓")
	case scene.Cached:
		return green.Render("=")
	case scene.Failed:
		return red.Render("✗")
	case scene.Skipped, scene.Cancelled:
		return yellow.Render("-")
	}
	return faint.Render("·")
}

// fit makes s exactly w columns wide.
func fit(s string, w int) string {
	if w <= 0 {
		return ""
	}
	n := ansi.StringWidth(s)
	if n > w {
		s = ansi.Truncate(s, w, "…")
		n = ansi.StringWidth(s)
	}
	return s + strings.Repeat(" ", w-n)
}

// ends puts left and right at the two ends of w columns; left gives way.
func ends(left, right string, w int) string {
	n := ansi.StringWidth(right)
	if n == 0 || n >= w {
		return fit(left, w)
	}
	return fit(left, w-n-1) + " " + right
}

// join joins those parts that are not "", as many from the first on as there is room
// for; "" is between none.
func join(w int, parts ...string) string {
	line := ""
	sep := faint.Render(" · ")
	for _, p := range parts {
		switch {
		case p == "":
		case line == "":
			line = p
		case ansi.StringWidth(line)+3+ansi.StringWidth(p) > w:
			return line
		default:
			line += sep + p
		}
	}
	return line
}

// took is a duration as people read it: "3.2s", "1m05s", "2h10m".
func took(d time.Duration) string {
	switch {
	case d < time.Minute-50*time.Millisecond:
		return fmt.Sprintf("%.1fs", max(0, d).Seconds())
	case d < time.Hour-500*time.Millisecond:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
}

// about formats a predicted time.
func about(d time.Duration) string {
	if d < 10*time.Second {
		return "~" + took(d)
	}
	return "~" + strings.TrimSuffix(took(d.Round(time.Second)), ".0s") + map[bool]string{true: "s"}[d.Round(time.Second) < time.Minute]
}

// bar is a line of w columns, filled in part.
func bar(part float64, w int, style lipgloss.Style) string {
	if w <= 0 {
		return ""
	}
	halves := int(min(max(part, 0), 1) * float64(2*w))
	full := strings.Repeat("━", halves/2)
	if halves%2 == 1 {
		full += "╸"
	}
	return style.Render(full) + faint.Render(strings.Repeat("─", w-(halves+1)/2))
}

// rule is a line with a title at its left and a remark at its right.
func rule(title, remark string, w int) string {
	if w < 4 {
		return fit("", w)
	}
	left := faint.Render("─ ") + bold.Render(title) + " "
	right := ""
	if remark != "" {
		right = " " + remark + faint.Render(" ─")
	}
	gap := w - ansi.StringWidth(left) - ansi.StringWidth(right)
	if gap < 1 {
		return fit(left, w)
	}
	return left + faint.Render(strings.Repeat("─", gap)) + right
}

// count is a number of things.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
