package plan

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/partition"
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
	b := &Build{Graph: graph, prices: &prices{graph: newGraph(graph)}, Jobs: []Job{{Name: "other", Target: &ir.Target{Name: "other"}, Units: job.Units[:1]}, job}}
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

func TestEmulates(t *testing.T) {
	for _, tt := range []struct {
		native, p string
		want      bool
	}{
		{"linux/amd64", "linux/amd64", false},
		{"linux/amd64", "linux/amd64/v3", false},
		{"linux/amd64", "linux/386", false},
		{"linux/amd64", "linux/arm64", true},
		{"linux/amd64", "linux/arm/v7", true},
		{"linux/arm64", "linux/arm64/v8", false},
		{"linux/arm64", "linux/arm/v7", false},
		{"linux/arm64", "linux/amd64", true},
		{"linux/arm/v7", "linux/arm64", true},
		{"linux/riscv64", "linux/s390x", true},
	} {
		require.Equal(t, tt.want, Emulates(platforms.MustParse(tt.native), platforms.MustParse(tt.p)), "%s on %s", tt.p, tt.native)
	}
	require.False(t, Emulates(ocispecs.Platform{}, platforms.MustParse("linux/arm64")), "nothing is known")
}

// multi is a target of two platforms that is pushed, and one beside it.
const multi = `
-- docker-bake.hcl --
group "default" { targets = ["app", "other"] }
target "app" {
  platforms = ["linux/amd64", "linux/arm64"]
  output = ["type=registry"]
  tags = ["registry.example/app"]
}
target "other" {
  dockerfile-inline = "FROM busybox:1\nRUN other"
}
-- Dockerfile --
FROM busybox:1
ARG TARGETARCH
RUN make $TARGETARCH
`

// machine is a node that runs both platforms, the second by emulation.
func machine(name, native, foreign string) Node {
	n := holding(name, nil)
	n.Native = platforms.MustParse(native)
	n.Platforms = []ocispecs.Platform{n.Native, platforms.MustParse(foreign)}
	return n
}

func chooseParts(t *testing.T, b *Build, may func(*ir.Target) bool, nodes ...Node) (*Build, *Plan) {
	t.Helper()
	s, err := partition.Lookup("affinity")
	require.NoError(t, err)
	b, p, err := b.Choose(t.Context(), nodes, s, partition.Options{Budget: 10_000}, may)
	require.NoError(t, err)
	return b, p
}

// placement returns where each job is.
func placement(p *Plan) map[string]string {
	at := map[string]string{}
	for i, t := range p.Problem.Targets {
		at[t.Name] = p.Nodes[p.Assignment.Node[i]].Name
	}
	return at
}

func TestChooseDividesWhereThatIsSooner(t *testing.T) {
	amd, arm := machine("amd", "linux/amd64", "linux/arm64"), machine("arm", "linux/arm64", "linux/amd64")
	project := newProject(t, multi)
	b := project.prepare()
	divided, p := chooseParts(t, b, nil, amd, arm)
	at := placement(p)
	require.Equal(t, "amd", at["app@linux/amd64"])
	require.Equal(t, "arm", at["app@linux/arm64"])
	require.Len(t, divided.Jobs, 3)
	require.Less(t, p.Makespan, p.Undivided)
	require.Empty(t, p.Emulations())

	// A saved plan divides the same way.
	saved := &Saved{Parts: []Part{{"app", []string{"linux/amd64"}}, {"app", []string{"linux/arm64"}}}}
	for n, list := range p.Partitions {
		node := SavedNode{Name: p.Nodes[n].Name}
		for _, part := range list {
			var names []string
			for _, j := range part {
				names = append(names, divided.Jobs[j].Name)
			}
			node.Partitions = append(node.Partitions, names)
		}
		saved.Nodes = append(saved.Nodes, node)
	}
	again, restored, err := b.Restore([]Node{amd, arm}, saved, nil)
	require.NoError(t, err)
	require.Equal(t, at, placement(restored))
	require.Len(t, again.Jobs, 3)

	// One node, or one that cannot be reached by who joins the parts: undivided.
	_, p = chooseParts(t, b, nil, amd)
	require.Len(t, p.Problem.Targets, 2)
	require.Equal(t, []EmulatedPlatform{{"amd", "linux/arm64", Emulation}}, p.Emulations())
	_, p = chooseParts(t, b, func(*ir.Target) bool { return false }, amd, arm)
	require.Len(t, p.Problem.Targets, 2)
	require.Zero(t, p.Undivided)
}

// What one node would have to write as a whole is not divided unless it has to be.
func TestChooseKeepsTogether(t *testing.T) {
	amd, arm := machine("amd", "linux/amd64", "linux/arm64"), machine("arm", "linux/arm64", "linux/amd64")
	for _, output := range []string{
		`output = ["type=oci,dest=x.tar"]`, `output = ["type=image"]`, `output = ["type=registry", "type=local,dest=x"]`,
		`output = ["type=registry,push-by-digest=true"]`, `output = []`,
		"output = [\"type=registry\"]\n cache-to = [\"type=registry,ref=registry.example/cache\"]",
	} {
		project := newProject(t, multi)
		project.Replace("docker-bake.hcl", `output = ["type=registry"]`, output)
		_, p := chooseParts(t, project.prepare(), nil, amd, arm)
		require.Len(t, p.Problem.Targets, 2, output)
	}
	project := newProject(t, multi)
	project.Replace("docker-bake.hcl", `output = ["type=registry"]`, "output = [\"type=registry\"]\n cache-to = [\"type=inline\"]")
	_, p := chooseParts(t, project.prepare(), nil, amd, arm)
	require.Len(t, p.Problem.Targets, 3)
}

// A plan with a choice is never worse than the one without.
func TestChooseIsNeverWorse(t *testing.T) {
	s, err := partition.Lookup("affinity")
	require.NoError(t, err)
	archs := []string{"linux/amd64", "linux/arm64", "linux/riscv64"}
	for seed := range uint64(25) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var hcl, names strings.Builder
		for i := range 1 + rng.IntN(4) {
			fmt.Fprintf(&names, "%q,", fmt.Sprint("t", i))
			list := archs[:1+rng.IntN(3)]
			fmt.Fprintf(&hcl, "target \"t%d\" {\n platforms = [\"%s\"]\n output = [\"type=registry\"]\n tags = [\"registry.example/t%d\"]\n dockerfile-inline = \"FROM busybox:1\\nARG TARGETARCH\\nRUN shared $TARGETARCH\\nRUN own %d $TARGETARCH\"\n}\n", i, strings.Join(list, `","`), i, i)
		}
		project := newProject(t, fmt.Sprintf("-- docker-bake.hcl --\ngroup \"default\" { targets = [%s] }\n%s", names.String(), hcl.String()))
		b := project.prepare()
		var nodes []Node
		for n := range 2 + rng.IntN(2) {
			node := holding(fmt.Sprint("n", n), nil)
			node.Native = platforms.MustParse(archs[rng.IntN(3)])
			for _, name := range archs {
				node.Platforms = append(node.Platforms, platforms.MustParse(name))
			}
			node.Speed, node.Slots = float64(1+rng.IntN(3)), 1+rng.IntN(3)
			nodes = append(nodes, node)
		}
		without, err := Make(t.Context(), b.Divide(nodes), nodes, s, partition.Options{Budget: 10_000})
		require.NoError(t, err)
		_, p := chooseParts(t, b, nil, nodes...)
		require.LessOrEqual(t, p.Makespan, without.Makespan, "seed %d", seed)
		require.LessOrEqual(t, p.Bound, p.Makespan)
		if p.Undivided > 0 {
			require.Equal(t, without.Makespan, p.Undivided)
			require.LessOrEqual(t, p.Makespan+joining, without.Makespan)
		}
	}
}

// What emulation costs is learned.
func TestEmulationIsLearned(t *testing.T) {
	project := newProject(t, multi)
	b := project.prepare("app")
	amd, arm := machine("amd", "linux/amd64", "linux/arm64"), machine("arm", "linux/arm64", "linux/amd64")
	var list []Measurement
	for _, v := range b.Graph.Vertices {
		if v.Kind != llbmerge.KindExec {
			continue
		}
		for _, n := range []Node{amd, arm} {
			m := during(n.Addr, 0, 10)
			if n.emulates(*v.Platform) {
				m = during(n.Addr, 20, 40) // twice as long
			}
			m.Vertex, m.Native = v.Digest, n.Native
			list = append(list, m)
		}
	}
	b.Record(project.History, list, nil, nil, time.Unix(1_700_000_000, 0))
	b = project.prepare("app")
	problem, err := b.problem([]Node{amd, arm})
	require.NoError(t, err)
	for i, foreign := range []string{"linux/arm64", "linux/amd64"} {
		factor := problem.Nodes[i].Emulates[foreign]
		require.Greater(t, factor, 1.5)
		require.Less(t, factor, 5.)
	}
}
