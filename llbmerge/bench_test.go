package llbmerge

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkMerge reports the time for each unit of a project in which every unit
// has a dozen ops, most of them shared.
func BenchmarkMerge(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		units := services(b, n)
		b.Run(fmt.Sprintf("units=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Merge(units); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/unit")
		})
	}
}

// BenchmarkMergeRandom reports the time for each op of random graphs.
func BenchmarkMergeRandom(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		units := newPlot(1, n).units(2)
		ops := 0
		for _, u := range units {
			ops += len(u.Definition.Def)
		}
		b.Run(fmt.Sprintf("ops=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Merge(units); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(ops), "ns/op-in")
		})
	}
}

func BenchmarkSlice(b *testing.B) {
	g := merge(b, services(b, 1000))
	ids := g.Units()
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			if _, err := g.Slice(ids[500]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if _, err := g.Slice(ids...); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Ten times the ops take about ten times the allocations, which unlike time can be
// counted.
func TestLinear(t *testing.T) {
	perOp := func(n int) float64 {
		units := newPlot(1, n).units(2)
		ops := 0
		for _, u := range units {
			ops += len(u.Definition.Def)
		}
		return testing.AllocsPerRun(1, func() {
			g, err := Merge(units)
			require.NoError(t, err)
			_, err = g.Slice(g.Units()...)
			require.NoError(t, err)
		}) / float64(ops)
	}
	require.InEpsilon(t, perOp(1000), perOp(10_000), 0.25)
}
