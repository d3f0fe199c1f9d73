package frontend

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/units"
)

// BenchmarkCompile compiles projects of services that repeat the same base
// stages. Run it with
//
//	go test -bench Compile -benchmem ./frontend
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("units=%d", n), func(b *testing.B) {
			p := services(b, n)
			for b.Loop() {
				units, err := Compile(b.Context(), p, options())
				require.NoError(b, err)
				require.Len(b, units, n)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/unit")
		})
	}
}

// BenchmarkRecall has the same units remembered, and reports also what all of them take of
// memory: their definitions are decoded one after the other.
func BenchmarkRecall(b *testing.B) {
	const n = 1000
	p, o := services(b, n), options()
	memory := b.TempDir()
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	var held float64
	o.Units = units.Open(memory, p.Dir, time.Now())
	_, err := Compile(b.Context(), p, o)
	require.NoError(b, err)
	require.NoError(b, o.Units.Save())
	for b.Loop() {
		before := heap()
		o.Units = units.Open(memory, p.Dir, time.Now())
		list, err := Compile(b.Context(), p, o)
		require.NoError(b, err)
		require.NoError(b, o.Units.Save())
		for _, u := range list {
			_, err := u.LLB()
			require.NoError(b, err)
		}
		held = heap() - before
		runtime.KeepAlive(list)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/n, "µs/unit")
	b.ReportMetric(held/n/1024, "KiB/unit")
}

// services returns a project of n services.
func services(b testing.TB, n int) *ir.Project {
	dir := b.TempDir()
	p := &ir.Project{Dir: dir}
	var files strings.Builder
	for i := range n {
		name := fmt.Sprintf("svc%d", i)
		fmt.Fprintf(&files, "-- %s/Dockerfile --\nFROM golang:1.26 AS build\nRUN apk add git make\nWORKDIR /src\nCOPY go.mod go.sum ./\nRUN go mod download\nCOPY . .\nRUN go build -o /out/%s .\nFROM alpine\nRUN apk add ca-certificates\nCOPY --from=build /out/%s /usr/bin/\nENTRYPOINT [\"/usr/bin/%s\"]\n", name, name, name, name)
		p.Targets = append(p.Targets, &ir.Target{Name: name, Context: ir.ParseContext(name, nil), Dockerfile: "Dockerfile"})
	}
	writeFiles(b, dir, files.String())
	return p
}
