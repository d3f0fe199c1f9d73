package plan

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/plan/plantest"
)

// results returns what the results of the targets of b are called.
func results(t *testing.T, b *Build) map[string]string {
	t.Helper()
	m, err := b.Makeup(context.Background(), filesum.Open("", time.Now()))
	require.NoError(t, err)
	list := map[string]string{}
	for _, u := range b.Units {
		name, _ := m.Unit(u.ID)
		list[u.Target.Name] = name.String()
	}
	return list
}

// A result has one name whatever is built besides, wherever the project lies and
// whatever its stages are called.
func TestMakeupIsOfTheResult(t *testing.T) {
	p := newProject(t, plantest.Shop)
	all := results(t, p.prepare())
	require.Equal(t, all["app"], results(t, p.prepare("app"))["app"])
	require.NotEqual(t, all["app"], all["web"])
	other := newProject(t, plantest.Shop)
	require.Equal(t, all, results(t, other.prepare()))
	other.Replace("Dockerfile", "AS deps", "AS base")
	other.Replace("Dockerfile", "FROM deps AS app", "# a comment\nFROM base AS app")
	other.Replace("Dockerfile", "FROM deps AS web", "FROM base AS web")
	require.Equal(t, all, results(t, other.prepare()))
	other.Replace("web/main.c", "web", "edited")
	now := results(t, other.prepare())
	require.Equal(t, all["app"], now["app"])
	require.NotEqual(t, all["web"], now["web"])
	require.Equal(t, all["docs"], now["docs"])
}

// The ids that secrets get where other targets declare others, proxies and --pull make
// no difference; which id is asked for does.
func TestMakeupLeavesOutWhatIsOfTheProject(t *testing.T) {
	const dockerfile = "-- Dockerfile --\nFROM busybox@sha256:0000000000000000000000000000000000000000000000000000000000000000\nRUN --mount=type=secret,id=token make\n-- a --\n1\n-- b --\n2\n"
	alone := newProject(t, "-- docker-bake.hcl --\ntarget \"default\" {\n  secret = [\"id=token,src=a\"]\n}\n"+dockerfile)
	beside := newProject(t, `-- docker-bake.hcl --
group "default" { targets = ["one", "two"] }
target "one" {
  secret = ["id=token,src=a"]
  pull = true
}
target "two" {
  secret = ["id=token,src=b"]
}
`+dockerfile)
	want := results(t, alone.prepare())["default"]
	require.Equal(t, map[string]string{"one": want, "two": want}, results(t, beside.prepare()))
	beside.Replace("Dockerfile", "id=token", "id=other")
	require.NotEqual(t, want, results(t, beside.prepare())["one"])
}

// What a step uses in another way than by copying counts whole.
func TestMakeupOfDirectories(t *testing.T) {
	for name, dockerfile := range map[string]string{
		"a directory is the base":           "FROM files\nRUN make\n",
		"a directory is the base of a copy": "FROM files\nCOPY other /\n",
		"a directory is the image":          "FROM files\n",
		"a directory is mounted":            "FROM scratch\nRUN --mount=from=files,target=/src make\n",
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, `-- docker-bake.hcl --
target "default" {
  contexts = { files = "files" }
}
-- files/sub/f --
1
-- other --
1
-- Dockerfile --
`+dockerfile)
			before := results(t, p.prepare())
			p.Write("files/sub/f", "2\n")
			edited := results(t, p.prepare())
			require.NotEqual(t, before, edited)
			require.NoError(t, os.Chmod(filepath.Join(p.Dir, "files/sub/f"), 0o755))
			require.NotEqual(t, edited, results(t, p.prepare()))
		})
	}
}

// What may be another thing tomorrow is named.
func TestMakeupUnknown(t *testing.T) {
	for dockerfile, want := range map[string]string{
		"FROM busybox:1\nADD https://example.com/f /\n": "https://example.com/f has no checksum",
		"FROM scratch\nADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 https://example.com/f /\n": "",
		"FROM busybox@sha256:0000000000000000000000000000000000000000000000000000000000000000\nRUN wget example.com\n":                   "",
		"FROM scratch\nADD https://example.com/r.git#0000000000000000000000000000000000000001 /\n":                                       "",
		"FROM busybox:1\n": "the digest of docker.io/library/busybox:1 is not known",
	} {
		p := newProject(t, "-- docker-bake.hcl --\ntarget \"default\" {}\n-- Dockerfile --\n"+dockerfile)
		b := p.prepare()
		m, err := b.Makeup(t.Context(), filesum.Open("", time.Now()))
		require.NoError(t, err)
		var unknown []string
		_, list := m.Unit(b.Units[0].ID)
		for _, i := range list {
			if i.Unknown != "" {
				unknown = append(unknown, i.Unknown)
			}
		}
		if want == "" {
			require.Empty(t, unknown, dockerfile)
		} else {
			require.Contains(t, unknown, want, dockerfile)
		}
	}
}

// Only keeps what is wanted and what that reads.
func TestOnly(t *testing.T) {
	p := newProject(t, `-- docker-bake.hcl --
group "default" { targets = ["base", "app", "other"] }
target "base" {
  dockerfile-inline = "FROM scratch\nCOPY a /\n"
  tags = ["base:1"]
  output = ["type=image"]
}
target "app" {
  dockerfile-inline = "FROM base\nCOPY b /\n"
  contexts = { base = "target:base" }
  output = ["type=image"]
}
target "other" {
  dockerfile-inline = "FROM scratch\nCOPY a b /\n"
}
-- a --
1
-- b --
1
`)
	b := p.prepare()
	known := Memory{History: p.History, Files: filesum.Open("", time.Now())}
	app, err := b.Only(t.Context(), map[string]bool{"app": true}, known)
	require.NoError(t, err)
	require.Len(t, app.Jobs, 2)
	require.Equal(t, "base", app.Jobs[0].Name)
	require.True(t, app.Jobs[0].Target.Linked)
	require.Empty(t, app.Jobs[0].Target.Outputs)
	require.Len(t, app.Jobs[1].Target.Outputs, 1)
	require.Len(t, b.Jobs[0].Target.Outputs, 1, "the build itself is not changed")
	whole := results(t, b)
	for name, result := range results(t, app) {
		require.Equal(t, whole[name], result)
	}
}

// Steps that would run again, and the files that make them.
func TestCompare(t *testing.T) {
	p := newProject(t, plantest.Shop)
	prepare := func() *Build {
		b := p.prepare()
		b.Names.files = true
		again, err := b.Reread(t.Context(), filesum.Open("", time.Now()))
		require.NoError(t, err)
		return again
	}
	before := prepare()
	require.Empty(t, before.Compare(before))
	p.Write("app/main.c", "edited\n")
	p.Write("app/new.c", "new\n")
	got := prepare().Compare(before)
	require.Len(t, got, 2)
	require.Equal(t, []FileChange{{"app/main.c", "edited"}, {"app/new.c", "added"}}, got[0].Files)
	require.Equal(t, WhyFiles, got[0].Why)
	require.Equal(t, []string{"app"}, got[0].Targets)
	require.Contains(t, got[1].Step, "RUN make app")
	require.Empty(t, got[1].Why, "it stands on the step before")
	p.Replace("Dockerfile", "make deps", "make all deps")
	got = prepare().Compare(before)
	require.Contains(t, got[0].Step, "RUN make all deps")
	require.Equal(t, []string{"app", "web"}, got[0].Targets)
	require.Equal(t, WhyCommand, got[0].Why)
}

// What several targets share is built on every node that can.
func TestShared(t *testing.T) {
	p := newProject(t, plantest.Shop)
	b := p.prepare()
	known := Memory{History: p.History, Files: filesum.Open("", time.Now())}
	caches := []ir.CacheEntry{{Type: "registry", Attrs: map[string]string{"ref": "x/cache"}}}
	nodes := []Node{holding("n1", nil), holding("n2", nil)}
	shared, plan, err := b.SharedBuild(t.Context(), nodes, false, caches, known)
	require.NoError(t, err)
	require.Len(t, shared.Jobs, 2)
	require.Equal(t, "deps on n1", shared.Jobs[0].Name)
	require.Equal(t, caches, shared.Jobs[0].Target.CacheFrom)
	require.Empty(t, shared.Jobs[0].Target.Outputs)
	require.Equal(t, [][][]int{{{0}}, {{1}}}, plan.Partitions)
	for _, v := range shared.Graph.Vertices {
		require.NotContains(t, v.Step, "make app")
	}
	everything, _, err := b.SharedBuild(t.Context(), nodes, true, nil, known)
	require.NoError(t, err)
	require.Len(t, everything.Jobs, 6)
	_, _, err = p.prepare("docs").SharedBuild(t.Context(), nodes, false, nil, known)
	require.ErrorIs(t, err, ErrNothingShared)
}
