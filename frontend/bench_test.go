package frontend

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// BenchmarkCompile compiles projects of services that repeat the same base
// stages. Run it with
//
//	go test -bench Compile -benchmem ./frontend
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("units=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			p := &ir.Project{Dir: dir}
			var files strings.Builder
			for i := range n {
				name := fmt.Sprintf("svc%d", i)
				fmt.Fprintf(&files, "-- %s/Dockerfile --\nFROM golang:1.26 AS build\nRUN apk add git make\nWORKDIR /src\nCOPY go.mod go.sum ./\nRUN go mod download\nCOPY . .\nRUN go build -o /out/%s .\nFROM alpine\nRUN apk add ca-certificates\nCOPY --from=build /out/%s /usr/bin/\nENTRYPOINT [\"/usr/bin/%s\"]\n", name, name, name, name)
				p.Targets = append(p.Targets, &ir.Target{Name: name, Context: ir.ParseContext(name, nil), Dockerfile: "Dockerfile"})
			}
			writeFiles(b, dir, files.String())
			for b.Loop() {
				units, err := Compile(b.Context(), p, options())
				require.NoError(b, err)
				require.Len(b, units, n)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/unit")
		})
	}
}
