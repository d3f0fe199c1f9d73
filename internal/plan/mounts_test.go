package plan

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/llbmerge"
)

const mountProject = `
-- docker-bake.hcl --
group "default" { targets = ["api", "lib", "own", "long"] }
target "api" { dockerfile = "api.Dockerfile" }
target "lib" { dockerfile = "lib.Dockerfile" }
target "own" { dockerfile = "own.Dockerfile" }
target "long" { dockerfile = "long.Dockerfile" }
-- api.Dockerfile --
FROM scratch
RUN --mount=type=cache,target=/go --mount=type=cache,target=/own,sharing=private ["api"]
-- lib.Dockerfile --
FROM scratch
RUN --mount=type=cache,target=/root/go,id=/go,sharing=locked ["lib"]
-- own.Dockerfile --
FROM scratch
RUN --mount=type=cache,target=/go,sharing=private ["own"]
-- long.Dockerfile --
FROM scratch
RUN ["long"]
`

// step returns the vertex that runs a command.
func (p *project) step(b *Build, command string) int {
	for i, v := range b.Graph.Vertices {
		if args := v.Op.GetExec().GetMeta().GetArgs(); len(args) == 1 && args[0] == command {
			return i
		}
	}
	p.T.Fatalf("no step %s", command)
	return -1
}

// A mount is one thing whatever step works with it, and a private one none.
func TestMountNames(t *testing.T) {
	p := newProject(t, mountProject)
	b := p.prepare()
	api, lib, own := p.step(b, "api"), p.step(b, "lib"), p.step(b, "own")
	require.Len(t, b.Names.list[api].mounts, 1)
	require.Equal(t, b.Names.list[api].mounts, b.Names.list[lib].mounts)
	require.Empty(t, b.Names.list[own].mounts)
	require.Empty(t, b.Names.list[p.step(b, "long")].mounts)
	require.Equal(t, []string{"/root/go"}, MountPlaces(b.Graph.Vertices[lib]))
}

// A mount is filled for a step by an earlier run, or by a step that was done before it began.
func TestSetMounts(t *testing.T) {
	p := newProject(t, mountProject)
	b := p.prepare()
	ran := func(node, command string, from, to float64) Measurement {
		m := during(node, from, to)
		m.Vertex = b.Graph.Vertices[p.step(b, command)].Digest
		return m
	}
	mount := b.Names.list[p.step(b, "api")].mounts[0]
	for name, c := range map[string]struct {
		ms     []Measurement
		filled map[string]map[warm.MountID]bool
		want   []cost.Mounts
	}{
		"an empty node":       {[]Measurement{ran("a", "api", 0, 5), ran("a", "lib", 5, 8)}, map[string]map[warm.MountID]bool{"a": {}}, []cost.Mounts{cost.Cold, cost.Filled}},
		"at once":             {[]Measurement{ran("a", "api", 0, 5), ran("a", "lib", 4, 8)}, map[string]map[warm.MountID]bool{"a": {}}, []cost.Mounts{cost.Cold, cost.Cold}},
		"on another node":     {[]Measurement{ran("b", "api", 0, 5), ran("a", "lib", 5, 8)}, map[string]map[warm.MountID]bool{"a": {}, "b": {}}, []cost.Mounts{cost.Cold, cost.Cold}},
		"by an earlier run":   {[]Measurement{ran("a", "api", 0, 5)}, map[string]map[warm.MountID]bool{"a": {mount: true}}, []cost.Mounts{cost.Filled}},
		"nothing known":       {[]Measurement{ran("a", "api", 0, 5)}, nil, []cost.Mounts{""}},
		"no mount to be kept": {[]Measurement{ran("a", "own", 0, 5), ran("a", "long", 0, 5)}, map[string]map[warm.MountID]bool{"a": {}}, []cost.Mounts{"", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			b.Names.SetMounts(c.ms, c.filled)
			for i, m := range c.ms {
				require.Equal(t, c.want[i], m.Mounts)
			}
		})
	}
	fills := b.Names.Fills("a", []Measurement{ran("a", "lib", 1, 2), ran("b", "api", 0, 1), ran("a", "own", 0, 1)})
	at := during("a", 1, 2)
	require.Equal(t, map[warm.MountID][]warm.Trace{mount: {
		warm.NewTrace(`cached mount /root/go from exec lib with id "//go"`, at.Start, at.Start.Add(at.Took)),
		warm.NewTrace("cached mount /root/go from exec lib", at.Start, at.Start.Add(at.Took)),
	}}, fills)
	require.Empty(t, b.Names.Fills("a", nil), "what is cached is not measured, and fills nothing")
}

// The node that has filled a mount gets what works with it where that ends sooner. Without one,
// or with nothing known of the mounts, the plan is as if there were none.
func TestFilledMountsDecide(t *testing.T) {
	p := newProject(t, mountProject)
	b := p.prepare()
	learn := func(command string, took float64, state cost.Mounts) {
		m := during("tcp://x:1", 0, took)
		m.Vertex, m.Mounts = b.Graph.Vertices[p.step(b, command)].Digest, state
		b.Record(p.History, []Measurement{m}, nil, nil, time.Unix(1_700_000_000, 0))
	}
	mount := b.Names.list[p.step(b, "api")].mounts[0]
	cold, filled := holding("a", nil), holding("b", nil)
	cold.Slots, filled.Slots = 1, 1
	filled.Holds.Mounts = map[warm.MountID]bool{mount: true}
	for _, command := range []string{"api", "lib"} {
		learn(command, 60, cost.Cold)
	}
	learn("own", 1, "")
	learn("long", 35, "")

	b = p.prepare()
	one := makePlan(t, b, "affinity", cold, filled)
	for _, v := range one.Problem.Vertices {
		require.Empty(t, v.Mounts, "the history knows one time only")
	}
	apart := one.Assignment.Node[job(b, "api")] != one.Assignment.Node[job(b, "lib")]
	require.True(t, apart)

	for _, command := range []string{"api", "lib"} {
		learn(command, 10, cost.Filled)
	}
	b = p.prepare()
	two := makePlan(t, b, "affinity", cold, filled)
	require.EqualValues(t, 1, two.Assignment.Node[job(b, "api")])
	require.EqualValues(t, 1, two.Assignment.Node[job(b, "lib")])
	require.EqualValues(t, 0, two.Assignment.Node[job(b, "long")])
	require.InDelta(t, 6, two.Problem.Vertices[p.step(b, "api")].Cold, 1e-9)

	nobody := makePlan(t, b, "affinity", cold, holding("b", nil))
	for i, v := range nobody.Problem.Vertices {
		require.Empty(t, v.Mounts)
		if i == p.step(b, "api") {
			require.EqualValues(t, 60, v.Cost)
		}
	}
	late := filled
	late.From = time.Second
	for _, v := range makePlan(t, b, "affinity", cold, late).Problem.Vertices {
		require.Empty(t, v.Mounts, "a node that has yet to come holds nothing")
	}
}

// job is the index of a job.
func job(b *Build, name string) int {
	for i, j := range b.Jobs {
		if j.Name == name {
			return i
		}
	}
	return -1
}

// A mount that begins with something is another one when that changes.
func TestMountsByWhatTheyBeginWith(t *testing.T) {
	p := newProject(t, `
-- docker-bake.hcl --
target "default" {}
-- Dockerfile --
FROM scratch AS base
COPY seed /
FROM scratch
RUN --mount=type=cache,target=/c,from=base ["run"]
-- seed --
one
`)
	mounts := func() []warm.MountID {
		b := p.prepare()
		i := p.step(b, "run")
		require.Equal(t, llbmerge.KindExec, b.Graph.Vertices[i].Kind)
		return b.Names.list[i].mounts
	}
	one := mounts()
	require.Equal(t, one, mounts())
	p.Replace("seed", "one", "other")
	require.NotEqual(t, one, mounts())
}
