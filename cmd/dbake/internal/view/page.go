package view

import (
	_ "embed"
	"fmt"
	"html/template"
	"strconv"
	"sync"
	"time"
)

// pageParts are the parts that all pages share: their style, the charts, and the script
// that zooms, finds and moves in them.
//
//go:embed page.html
var pageParts string

// pageTemplate returns the template of a page, which is parsed when it is first asked for.
func pageTemplate(name, text string) func() *template.Template {
	return sync.OnceValue(func() *template.Template {
		return template.Must(template.Must(template.New(name).Parse(pageParts)).Parse(text))
	})
}

type figure struct{ Name, Value, Note string }

// charts are one or more charts of one scale.
type charts struct {
	Span   float64 // in seconds
	Ticks  []tick
	Charts []chart
}

type tick struct {
	Left template.CSS
	Text string
	End  bool // no room to its right
}

type chart struct {
	Title, Note string
	Bound       *tick
	Nodes       []nodeChart
}

// tallChart is the number of lanes from which on a chart is higher than a screen.
const tallChart = 25

// Tall reports whether the axis below the chart is out of sight at its top.
func (c chart) Tall() bool {
	lanes := 0
	for _, n := range c.Nodes {
		lanes += len(n.Lanes)
	}
	return lanes >= tallChart
}

type nodeChart struct {
	Name, Note string
	Lanes      [][]bar
	Marks      []bar // below them, of what took no time
}

type bar struct {
	Place    template.CSS
	Class    string
	Label    string
	Title    string
	Text     string // lines
	Critical bool
}

// axis makes the ticks.
func (c *charts) axis(span time.Duration) {
	c.Span = span.Seconds()
	step := tickStep(span)
	for at := time.Duration(0); at <= span; at += step {
		c.Ticks = append(c.Ticks, tick{position(at, span), shortTime(at), at > span*19/20})
	}
}

// spot is where a bar stands, and how long it is.
func spot(start, end, span time.Duration) template.CSS {
	return template.CSS(fmt.Sprintf("left:%.3f%%;width:%.3f%%", 100*float64(start)/float64(span), 100*float64(end-start)/float64(span)))
}

func position(at, span time.Duration) template.CSS {
	return template.CSS(fmt.Sprintf("left:%.3f%%", 100*float64(at)/float64(span)))
}

// tickStep returns a round time that fits five to ten times into span.
func tickStep(span time.Duration) time.Duration {
	unit := time.Millisecond
	for {
		for _, f := range []time.Duration{1, 2, 5} {
			if span <= 10*f*unit {
				return f * unit
			}
		}
		unit *= 10
	}
}

func shortTime(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}
