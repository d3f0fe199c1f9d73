package sim

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"math"
)

// WritePlot draws the gap of every strategy as SVG: a dot per instance, a bar at
// the geometric mean, on a logarithmic axis.
func WritePlot(w io.Writer, rows []Row, title string) error {
	const (
		left, top, rowHeight, width, right = 110, 64, 44, 680, 90
	)
	summaries := Summarise(rows)
	worst := 1.01
	for _, s := range summaries {
		worst = max(worst, s.Worst)
	}
	x := func(gap float64) float64 { return left + width*math.Log(max(gap, 1))/math.Log(worst) }
	height := top + rowHeight*len(summaries) + 44
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="13">`+"\n", left+width+right, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fff"/>`+"\n")
	fmt.Fprintf(&b, `<text x="%d" y="26" font-size="16" font-weight="600" fill="#1f2933">%s</text>`+"\n", left, html.EscapeString(title))
	fmt.Fprintf(&b, `<text x="%d" y="46" fill="#616e7c">makespan / lower bound, 1 = cannot be shorter; bar = geometric mean of %d instances</text>`+"\n", left, summaries[0].Instances)
	bottom := top + rowHeight*len(summaries)
	next := 0.0
	for _, tick := range []float64{1, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100} {
		if tick > worst*1.0001 || x(tick) < next {
			continue
		}
		next = x(tick) + 34
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#e4e7eb"/>`, x(tick), x(tick), top, bottom)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#616e7c">%g</text>`+"\n", x(tick), bottom+20, tick)
	}
	for i, s := range summaries {
		y := top + rowHeight*i + rowHeight/2
		colour := "#7b8794"
		if s.Strategy == "affinity" || s.Strategy == "exact" {
			colour = "#0b69a3"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="#1f2933">%s</text>`, left-12, y+4, html.EscapeString(s.Strategy))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="16" fill="%s" opacity="0.22" rx="2"/>`, left, y-8, max(2, x(s.Gap)-left), colour)
		for k, r := range rows {
			if r.Strategy == s.Strategy {
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%d" r="3" fill="%s" opacity="0.75"><title>%s: %.4f</title></circle>`,
					x(r.Gap), y-6+k%5*3, colour, html.EscapeString(r.Instance), r.Gap)
			}
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s" font-weight="600">%.3f</text>`+"\n", left+width+14, y+4, colour, s.Gap)
	}
	b.WriteString("</svg>\n")
	_, err := w.Write(b.Bytes())
	return err
}
