package plan

import (
	"testing"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/llbmerge"
)

func TestDivide(t *testing.T) {
	target := &ir.Target{Name: "app"}
	graph := &llbmerge.Graph{}
	job := Job{Name: "app", Target: target}
	for _, name := range []string{"linux/amd64", "linux/arm64", "linux/386", "linux/riscv64"} {
		p := platforms.MustParse(name)
		id := ir.UnitID("app@" + name)
		job.Units = append(job.Units, &frontend.Unit{ID: id, Target: target, Platform: p})
		graph.Vertices = append(graph.Vertices, &llbmerge.Vertex{Kind: llbmerge.KindExec, Platform: &p, Users: []string{string(id)}})
	}
	b := &Build{Graph: graph, Jobs: []Job{{Name: "other", Target: &ir.Target{Name: "other"}, Units: job.Units[:1]}, job}}
	node := func(names ...string) Node {
		var list []ocispecs.Platform
		for _, n := range names {
			list = append(list, platforms.MustParse(n))
		}
		return Node{Platforms: list}
	}
	for _, tt := range []struct {
		name  string
		nodes []Node
		want  []string
	}{
		{"one for all", []Node{node("linux/amd64", "linux/arm64", "linux/386", "linux/riscv64")}, []string{"app"}},
		{"unknown is all", []Node{node("linux/amd64"), {}}, []string{"app"}},
		{"two", []Node{node("linux/amd64", "linux/386"), node("linux/arm64", "linux/riscv64")}, []string{"app@linux/amd64,linux/386", "app@linux/arm64,linux/riscv64"}},
		{"each", []Node{node("linux/386"), node("linux/amd64"), node("linux/riscv64"), node("linux/arm64")}, []string{"app@linux/amd64,linux/386", "app@linux/arm64", "app@linux/riscv64"}},
		{"none", []Node{node("linux/arm64", "linux/riscv64")}, []string{"app@linux/amd64", "app@linux/arm64,linux/riscv64", "app@linux/386"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.Divide(tt.nodes)
			var names []string
			for _, j := range got.Jobs {
				names = append(names, j.Name)
			}
			require.Equal(t, append([]string{"other"}, tt.want...), names)
			require.Len(t, b.Jobs, 2, "b is as it was")
		})
	}
}
