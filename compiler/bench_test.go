package compiler_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler"
)

// generate returns a definition of n targets: matrices of ten, a user function,
// references between targets, and inheritance from a common base and, in chains of
// five, from each other.
func generate(n int) string {
	var b strings.Builder
	b.WriteString(`
variable "REGISTRY" {
  default = "r.example"
}
function "image" {
  params = [name, version]
  result = "${REGISTRY}/${name}:${lower(version)}"
}
target "_base" {
  args   = { A = "1", B = REGISTRY }
  labels = { x = "y" }
}
target "platforms" {
  platforms = ["linux/amd64", "linux/arm64"]
}
`)
	for i := range n / 10 {
		parent := "_base"
		if i%5 != 0 {
			parent = fmt.Sprintf("svc%d-A", i-1)
		}
		fmt.Fprintf(&b, `
target "svc%[1]d" {
  name      = "svc%[1]d-${v}"
  matrix    = { v = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J"] }
  inherits  = ["%[2]s"]
  context   = "svc%[1]d"
  args      = { V = v, N = "%[1]d" }
  tags      = [image("svc%[1]d", v), "${image("latest", v)}-%[1]d"]
  platforms = target.platforms.platforms
}
`, i, parent)
	}
	return b.String()
}

// BenchmarkCompile shows that time and memory grow with the number of targets and
// not faster: compare ns/target and B/target.
//
//	go test ./compiler -run '^$' -bench Compile -benchmem
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{500, 5_000, 50_000} {
		b.Run(fmt.Sprintf("targets=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			require.NoError(b, os.WriteFile(filepath.Join(dir, "docker-bake.hcl"), []byte(generate(n)), 0o644))
			o := compiler.Options{Dir: dir, Targets: []string{"svc*-*"}, Platform: "linux/amd64"}
			b.ReportAllocs()
			for b.Loop() {
				p, err := compiler.Compile(context.Background(), o)
				require.NoError(b, err)
				require.Len(b, p.Targets, n)
				require.NoError(b, compiler.WriteJSON(io.Discard, p))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/target")
		})
	}
}
