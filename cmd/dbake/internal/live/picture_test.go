package live

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"github.com/stretchr/testify/require"
)

// TestPicture compares docs/live.svg, which the README shows, with what the view draws;
// -update draws it anew.
func TestPicture(t *testing.T) {
	p := newPlay(3, "api", "web", "worker", "auth", "cron", "docs", "mail", "search")
	shop := []string{"api", "web", "worker", "auth", "cron", "docs"}
	p.queue("n1", "n2", "n3")
	for _, target := range shop {
		p.job(target, "submitted")
	}
	for i, n := range []string{"n1", "n2", "n3"} {
		p.at(float64(11+i)).step(n, "", -1, 0.5, float64(10+i), "")
	}
	p.at(12).step("n1", "api", 0, 12, 0, "cached")
	p.step("n1", "api", 1, 12, -1, "")
	p.at(13).step("n1", "auth", 0, 13, -1, "")
	p.step("n2", "web", 0, 13, -1, "")
	p.step("n2", "cron", 0, 15, -1, "")
	p.at(20).step("n3", "worker", 0, 13.5, 6.4, "")
	p.step("n3", "worker", 1, 20, -1, "")
	p.step("n3", "docs", 0, 14, -1, "")
	p.at(31).step("n1", "api", 1, 12, 19, "")
	p.job("api", "built")
	p.at(32).job("api", "exported")
	p.at(35).node["mail"] = "n3"
	p.step("n3", "docs", 0, 14, 20, "")
	p.step("n3", "docs", 1, 34, -1, "")
	p.tell(move(p, "mail", "n1", "n3"))
	p.job("mail", "submitted")
	p.queue("n1", "n2", "n3")
	m := p.at(36.4).model()
	m.Width, m.Height = 110, 32

	got := svg(m.Frame())
	file := filepath.Join("..", "..", "..", "..", "docs", "live.svg")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "go test ./cmd/dbake/internal/live -run TestPicture -update draws it anew")
}

// A cell of the picture, in pixels, and its colours by number.
const cellWidth, cellHeight, fontSize = 8.4, 18, 14

var svgColours = map[int]string{
	1: "#f7768e", 2: "#9ece6a", 3: "#e0af68", 4: "#7aa2f7", 5: "#bb9af7", 6: "#7dcfff", 12: "#8db0ff", 13: "#c8b0ff", 14: "#a4daff",
}

// look is how characters look.
type look struct {
	colour      int // 0 is that of text
	bold, faint bool
}

// svg draws a frame of text with colours.
func svg(frame string) string {
	lines := strings.Split(strings.TrimRight(frame, "\n"), "\n")
	width := 0
	for _, l := range lines {
		width = max(width, ansi.StringWidth(l))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="%d">`+"\n",
		float64(width)*cellWidth+24, len(lines)*cellHeight+20, fontSize)
	b.WriteString("<title>dbake build on three nodes</title>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1a1b26\"/>\n")
	now := look{}
	for i, l := range lines {
		fmt.Fprintf(&b, `<text y="%d" xml:space="preserve" fill="#c0caf5">`, i*cellHeight+24)
		column := 0
		for l != "" {
			var text string
			text, l = cut(l)
			if text == "" {
				l = now.read(l)
				continue
			}
			if strings.TrimSpace(text) != "" {
				fmt.Fprintf(&b, `<tspan x="%.1f"%s>%s</tspan>`, float64(column)*cellWidth+12, now.attributes(), html.EscapeString(text))
			}
			column += ansi.StringWidth(text)
		}
		b.WriteString("</text>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// cut returns the text before the first control sequence, and the rest.
func cut(l string) (text, rest string) {
	if i := strings.IndexByte(l, '\x1b'); i >= 0 {
		return l[:i], l[i:]
	}
	return l, ""
}

// read takes a control sequence from the beginning of l, and returns the rest.
func (k *look) read(l string) string {
	end := strings.IndexFunc(l[1:], func(r rune) bool { return r >= '@' && r <= '~' && r != '[' })
	if end < 0 {
		return ""
	}
	codes, rest := strings.TrimPrefix(l[1:1+end], "["), l[2+end:]
	if l[1+end] != 'm' {
		return rest
	}
	for c := range strings.SplitSeq(codes, ";") {
		switch n, _ := strconv.Atoi(c); { // none is 0
		case n == 0:
			*k = look{}
		case n == 1:
			k.bold = true
		case n == 2:
			k.faint = true
		case n == 22:
			k.bold, k.faint = false, false
		case n >= 30 && n < 38:
			k.colour = n - 30
		case n == 39:
			k.colour = 0
		case n >= 90 && n < 98:
			k.colour = n - 90 + 8
		}
	}
	return rest
}

func (k look) attributes() string {
	s := ""
	if c := svgColours[k.colour]; c != "" {
		s += ` fill="` + c + `"`
	}
	if k.bold {
		s += ` font-weight="bold"`
	}
	if k.faint {
		s += ` opacity="0.6"`
	}
	return s
}
