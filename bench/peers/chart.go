package peers

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/dbake/dbake/bench/real"
)

// palette has a colour for each contender, the baseline's first.
var palette = []color.Color{
	color.RGBA{11, 105, 163, 255}, color.RGBA{222, 145, 29, 255}, color.RGBA{110, 120, 130, 255},
	color.RGBA{171, 9, 30, 255}, color.RGBA{63, 145, 66, 255}, color.RGBA{135, 25, 198, 255},
}

// drawChart draws, for each project and scenario, the time of every contender as a
// multiple of the baseline's, in the format that the file's name says.
func drawChart(name string, runs []Run) error {
	base := baseline(runs)
	contenders := ranking(runs)
	type place struct{ project, scenario string }
	var places []place
	var labels []string
	for _, p := range order(runs, func(r Run) string { return r.Project }) {
		for _, s := range scenarios {
			if len(collect(runs, p, s, base, base).ratio) > 0 {
				places, labels = append(places, place{p, s}), append(labels, p+", "+s)
			}
		}
	}
	if len(places) == 0 {
		return nil
	}
	chart := plot.New()
	chart.Title.Text = "Time of a build, " + base + " = 1 (longer is slower)"
	chart.X.Min = 0
	chart.Legend.Top = true
	chart.Add(plotter.NewGrid())
	width := vg.Points(18 / float64(len(contenders)))
	for i, c := range contenders {
		values := make(plotter.Values, len(places))
		for k, at := range places {
			if ratio := collect(runs, at.project, at.scenario, c, base).ratio; len(ratio) > 0 {
				values[k] = real.Median(ratio)
			}
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		bars.Horizontal = true
		bars.LineStyle.Width = 0
		bars.Color = palette[i%len(palette)]
		bars.Offset = vg.Length(float64(len(contenders)-1)/2-float64(i)) * width
		chart.Add(bars)
		chart.Legend.Add(c, bars)
	}
	chart.NominalY(labels...)
	return chart.Save(20*vg.Centimeter, vg.Length(4+float64(len(places)))*vg.Centimeter, name)
}
