package plan

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan/plantest"
	"github.com/dbake/dbake/partition"
)

// project is a project with what it takes to prepare it.
type project struct{ *plantest.Project }

func newProject(t *testing.T, archive string) *project {
	t.Helper()
	return &project{plantest.New(t, archive)}
}

func (p *project) prepare(targets ...string) *Build {
	p.T.Helper()
	b, err := Prepare(context.Background(), p.Compile(targets...), frontend.Options{
		Dir: p.Dir, Resolver: frontend.NewRegistryResolver(frontend.RegistryOptions{Offline: true}),
	}, Memory{History: p.History, Files: filesum.Open("", time.Now())})
	require.NoError(p.T, err)
	return b
}

// holding returns a node that holds all steps of b.
func holding(name string, b *Build) Node {
	n := Node{Name: name, Addr: "tcp://" + name + ":1", Speed: 1, Slots: 2}
	if b == nil {
		return n
	}
	var steps []digest.Digest
	for _, v := range b.Graph.Vertices {
		if v.Kind.IsStep() {
			steps = append(steps, v.Digest)
		}
	}
	n.Holds = warm.NewHoldings(b.Names.Of(steps))
	return n
}

func makePlan(t *testing.T, b *Build, strategy string, nodes ...Node) *Plan {
	t.Helper()
	s, err := partition.Lookup(strategy)
	require.NoError(t, err)
	p, err := Make(context.Background(), b, nodes, s, partition.Options{Budget: 10_000})
	require.NoError(t, err)
	return p
}

func TestWhatAStepReads(t *testing.T) {
	p := newProject(t, `
-- svc/a/main.c --
a
-- svc/a/skip --
skipped
-- svc/b/main.c --
bbb
-- real/x --
x
`)
	require.NoError(t, os.Symlink("real", filepath.Join(p.Dir, "link")))
	for name, c := range map[string]struct {
		read  read
		bytes int64
	}{
		"everything":                {read{path: "/"}, 12},
		"a directory":               {read{path: "/svc/a"}, 2},
		"a file":                    {read{path: "/svc/b/main.c"}, 4},
		"a wildcard":                {read{path: "/svc/*/main.c"}, 6},
		"through a link":            {read{path: "/link/x"}, 6},
		"what is not there":         {read{path: "/nothing"}, 0},
		"a pattern below the root":  {read{path: "/", includes: []string{"svc/b"}}, 4},
		"what leads out of the way": {read{path: "/svc/../real"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readContent(context.Background(), filesum.Open("", time.Now()), p.Dir, c.read, []string{"svc/*/skip"}, false)
			require.NoError(t, err)
			require.Equal(t, c.bytes, got.bytes)
			require.NotEmpty(t, got.key)
		})
	}
}

func TestSmallJobsAreOneSolve(t *testing.T) {
	var s, d strings.Builder
	s.WriteString("-- docker-bake.hcl --\ngroup \"default\" { targets = [\"t\"] }\ntarget \"t\" {\n  name = \"t${i}\"\n  matrix = { i = [")
	for i := range 20 {
		fmt.Fprintf(&s, "%d, ", 100+i)
	}
	s.WriteString("] }\n  args = { I = i }\n}\n")
	d.WriteString("-- Dockerfile --\nFROM busybox:1\nARG I\nCOPY f /f$I\n-- f --\nx\n")
	p := makePlan(t, newProject(t, s.String()+d.String()).prepare(), "single", holding("a", nil))
	var sizes []int
	for _, part := range p.Partitions[0] {
		sizes = append(sizes, len(part))
	}
	require.Equal(t, []int{8, 8, 4}, sizes)
}

func TestSecrets(t *testing.T) {
	p := newProject(t, `
-- docker-bake.hcl --
group "default" { targets = ["x", "y", "z", "none"] }
target "x" {
  secret = ["id=tok,env=X", "id=one,env=ONE"]
}
target "y" {
  secret = ["id=tok,env=Y"]
}
target "z" {
  secret = ["id=one,env=ONE"]
}
target "none" {}
-- Dockerfile --
FROM busybox:1
RUN --mount=type=secret,id=tok --mount=type=secret,id=one make
`)
	b := p.prepare()
	var sources []string
	for _, id := range ir.SortedKeys(b.Secrets) {
		sources = append(sources, b.Secrets[id].Env)
		require.NotContains(t, id, "undeclared")
	}
	require.ElementsMatch(t, []string{"X", "Y", "ONE"}, sources)
	// For each target, the ids that its step asks for and what is served.
	served := map[string][]string{}
	for _, v := range b.Graph.Vertices {
		if v.Op.GetExec() == nil {
			continue
		}
		for _, u := range v.Users {
			for _, m := range v.Op.GetExec().GetMounts() {
				if s := m.GetSecretOpt(); s != nil {
					served[u] = append(served[u], b.Secrets[s.ID].Env)
				}
			}
		}
	}
	require.Equal(t, map[string][]string{"x": {"X", "ONE"}, "y": {"Y", ""}, "z": {"", "ONE"}, "none": {"", ""}}, served)
}

func TestUnplaceable(t *testing.T) {
	p := newProject(t, plantest.Shop)
	p.Replace("docker-bake.hcl", `context = "docs"`, "context = \"docs\"\n  platforms = [\"linux/s390x\"]")
	b := p.prepare()
	n := holding("a", nil)
	n.Platforms = append(n.Platforms, b.Units[0].Platform)
	s, err := partition.Lookup("single")
	require.NoError(t, err)
	_, err = Make(context.Background(), b, []Node{n}, s, partition.Options{})
	require.ErrorIs(t, err, ErrNoNode)
	require.ErrorContains(t, err, "docker-bake.hcl:")
	require.ErrorContains(t, err, "linux/s390x")
}
