package llbmerge

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// images knows every image, and that it has one layer.
type images struct{}

func (images) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": "amd64",
		"config": map[string]any{"Env": []string{"PATH=/usr/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []digest.Digest{digest.FromString(ref)}},
	})
	return ref, digest.FromString(ref), config, err
}

// compile returns the unit of a Dockerfile over the directory called dir.
func compile(t testing.TB, id, dir, dockerfile string, excludes ...string) Unit {
	t.Helper()
	caps := pb.Caps.CapSet(pb.Caps.All())
	opt := dockerfile2llb.ConvertOpt{
		MetaResolver:   images{},
		TargetPlatform: &ocispecs.Platform{OS: "linux", Architecture: "amd64"},
		LLBCaps:        &caps,
		SourceMap:      llb.NewSourceMap(nil, id+".Dockerfile", "Dockerfile", []byte(dockerfile)),
		Config:         dockerui.Config{},
	}
	if len(excludes) > 0 {
		st := llb.Local(dockerui.DefaultLocalNameContext, llb.ExcludePatterns(excludes))
		opt.MainContext = &st
	}
	res, err := dockerfile2llb.Dockerfile2LLB(context.Background(), []byte(dockerfile), opt)
	require.NoError(t, err)
	def, err := res.State.Marshal(context.Background())
	require.NoError(t, err)
	return Unit{ID: id, Definition: def.ToPB(), Locals: map[string]string{dockerui.DefaultLocalNameContext: dir}}
}

const service = `FROM golang:1.26 AS base
RUN apk add git make
WORKDIR /src
FROM base AS deps
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/root/go go mod download
FROM deps AS build
COPY shared ./shared
COPY services/NAME ./services/NAME
RUN --mount=type=bind,source=tools,target=/tools go build -o /out/NAME ./services/NAME
FROM alpine:3.22
RUN adduser -D app
COPY --from=build /out/NAME /usr/bin/NAME
ENTRYPOINT ["/usr/bin/NAME"]
`

func services(t testing.TB, n int) []Unit {
	var units []Unit
	for i := range n {
		name := fmt.Sprintf("svc%d", i)
		units = append(units, compile(t, name, "repo", strings.ReplaceAll(service, "NAME", name)))
	}
	return units
}

// Counted by hand. Shared by all ten: the directory, two images, six steps (apk,
// WORKDIR, COPY go.mod, go mod download, COPY shared, adduser). For each service
// of its own: COPY services/NAME, go build, COPY --from.
func TestTenServices(t *testing.T) {
	units := services(t, 10)
	raw := map[digest.Digest]bool{}
	for _, u := range units {
		for _, dt := range u.Definition.Def[:len(u.Definition.Def)-1] {
			raw[digest.FromBytes(dt)] = true
		}
	}
	g := merge(t, units)
	checkGraph(t, g)
	require.Len(t, g.Vertices, 9+10*3)
	// As compiled, only what is above no local source was shared: two images, apk,
	// WORKDIR, adduser.
	require.Len(t, raw, 5+10*7)

	kinds := map[Kind]int{}
	for _, v := range g.Vertices {
		kinds[v.Kind]++
		if len(v.Users) != 10 {
			require.Len(t, v.Users, 1, v.Step)
			continue
		}
		if v.Kind == KindExec {
			require.Len(t, v.Locations, 10)
		}
	}
	require.Equal(t, map[Kind]int{KindLocal: 1, KindImage: 2, KindExec: 3 + 10, KindFile: 3 + 20}, kinds)
	require.Len(t, g.Groups(), 1+10)

	all, err := g.Slice(g.Units()...)
	require.NoError(t, err)
	checkDefinition(t, g, all, g.Units())
	require.Len(t, all.Def, 39+2)
	require.Len(t, all.Source.Infos, 10)
}

func TestServiceDetails(t *testing.T) {
	g := merge(t, services(t, 2))
	find := func(step string) *Vertex {
		i := slices.IndexFunc(g.Vertices, func(v *Vertex) bool { return strings.Contains(v.Step, step) })
		require.GreaterOrEqual(t, i, 0, step)
		return g.Vertices[i]
	}
	v := find("go mod download")
	require.Equal(t, KindExec, v.Kind)
	require.Equal(t, "deps", v.Stage)
	require.Equal(t, "/bin/sh -c go mod download", v.Command)
	require.Equal(t, &ocispecs.Platform{OS: "linux", Architecture: "amd64"}, v.Platform)
	require.Equal(t, []string{"svc0", "svc1"}, v.Users)
	require.Equal(t, "[deps 2/2] RUN --mount=type=cache,target=/root/go go mod download", v.Step)

	require.Len(t, v.Locations, 2)
	for i, l := range v.Locations {
		require.Equal(t, v.Users[i], l.Unit)
		require.Equal(t, l.Unit+".Dockerfile", l.File.Filename)
		require.Equal(t, int32(6), l.Ranges[0].Start.Line)
	}

	// One unit alone points into its own Dockerfile only.
	def, err := g.Slice("svc1")
	require.NoError(t, err)
	require.Len(t, def.Source.Infos, 1)
	require.Equal(t, "svc1.Dockerfile", def.Source.Infos[0].Filename)
	require.Equal(t, v.Step, def.Metadata[string(v.Digest)].Description["llb.customname"])

	local := find("load build context")
	require.Equal(t, &Local{
		Name:        "repo",
		FollowPaths: []string{"go.mod", "go.sum", "services/svc0", "services/svc1", "shared", "tools"},
	}, local.Local)
}

func TestLocals(t *testing.T) {
	for name, test := range map[string]struct {
		units []Unit
		want  []Local
	}{
		"paths of one directory": {
			units: []Unit{
				compile(t, "a", "repo", "FROM scratch\nCOPY a /"),
				compile(t, "b", "repo", "FROM alpine\nCOPY b/*.go c /dir/\nADD --chown=1:1 d /"),
				compile(t, "c", "repo", "FROM alpine\nRUN --mount=type=bind,source=x,target=/x true\nCOPY --parents y/./z/**/*.txt /\nCOPY --exclude=*.md docs /"),
			},
			want: []Local{{Name: "repo", FollowPaths: []string{"a", "b/*.go", "c", "d", "docs", "x", "y/z/**/*.txt"}}},
		},
		"everything wins": {
			units: []Unit{
				compile(t, "a", "repo", "FROM scratch\nCOPY a /"),
				compile(t, "b", "repo", "FROM scratch\nCOPY . /"),
			},
			want: []Local{{Name: "repo"}},
		},
		"other directory": {
			units: []Unit{
				compile(t, "a", "repo", "FROM scratch\nCOPY a /"),
				compile(t, "b", "site", "FROM scratch\nCOPY b /"),
			},
			want: []Local{{Name: "repo", FollowPaths: []string{"a"}}, {Name: "site", FollowPaths: []string{"b"}}},
		},
		"other excludes": {
			units: []Unit{
				compile(t, "a", "repo", "FROM scratch\nCOPY a /", "*.md"),
				compile(t, "b", "repo", "FROM scratch\nCOPY a /", "*.md", "!x.md"),
				compile(t, "c", "repo", "FROM scratch\nCOPY a /"),
			},
			want: []Local{
				{Name: "repo", ExcludePatterns: []string{"*.md"}},
				{Name: "repo", ExcludePatterns: []string{"*.md", "!x.md"}},
				{Name: "repo", FollowPaths: []string{"a"}},
			},
		},
		"a pattern that means something else among others": {
			units: []Unit{
				compile(t, "a", "repo", "FROM scratch\nCOPY !a /"),
				compile(t, "b", "repo", "FROM scratch\nCOPY b /"),
				compile(t, "c", "repo", "FROM scratch\nCOPY c /"),
			},
			want: []Local{{Name: "repo", FollowPaths: []string{"!a"}}, {Name: "repo", FollowPaths: []string{"b", "c"}}},
		},
		"a frontend that narrows what it takes whole": {
			units: []Unit{
				marshal(t, "a", llb.Scratch().File(llb.Copy(llb.Local("context", llb.FollowPaths([]string{"a"})), "/", "/"))),
				marshal(t, "b", llb.Local("context", llb.FollowPaths([]string{"b"}))),
				marshal(t, "c", llb.Merge([]llb.State{llb.Image("x"), llb.Local("context", llb.FollowPaths([]string{"c"}))})),
				marshal(t, "d", llb.Local("context", llb.FollowPaths([]string{"d"})).Run(llb.Shlex("x")).Root()),
				marshal(t, "e", llb.Scratch().File(llb.Copy(llb.Local("context", llb.FollowPaths([]string{"e"})), "e", "/"))),
				marshal(t, "f", llb.Scratch().File(llb.Copy(llb.Local("context", llb.FollowPaths([]string{"f"})), "f", "/"))),
				marshal(t, "g", llb.Local("context", llb.FollowPaths([]string{"g"})).File(llb.Mkfile("/g", 0o600, nil))),
				marshal(t, "h", llb.Scratch().File(llb.Copy(llb.Local("context", llb.FollowPaths([]string{"h"})), "i", "/"))),
			},
			want: []Local{
				{Name: "repo", FollowPaths: []string{"a"}},
				{Name: "repo", FollowPaths: []string{"b"}},
				{Name: "repo", FollowPaths: []string{"c"}},
				{Name: "repo", FollowPaths: []string{"d"}},
				{Name: "repo", FollowPaths: []string{"e", "f"}},
				{Name: "repo", FollowPaths: []string{"g"}},
				{Name: "repo", FollowPaths: []string{"h"}},
			},
		},
		"attributes of equal meaning": {
			units: []Unit{
				marshal(t, "a", llb.Local("context", llb.ExcludePatterns([]string{"x"}), llb.Differ(llb.DiffMetadata, false), llb.SharedKeyHint("a"))),
				marshal(t, "b", llb.Local("context", llb.ExcludePatterns([]string{"x"}), llb.SessionID("s"), llb.FollowPaths([]string{"/"}))),
				marshal(t, "c", llb.Local("context", llb.ExcludePatterns([]string{"x"}), llb.Differ(llb.DiffNone, false))),
			},
			want: []Local{{Name: "repo", ExcludePatterns: []string{"x"}}, {Name: "repo", ExcludePatterns: []string{"x"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := merge(t, test.units)
			var got []Local
			hints := map[string]bool{}
			for _, v := range g.Vertices {
				if v.Kind == KindLocal {
					got = append(got, *v.Local)
					hints[v.Op.GetSource().Attrs[pb.AttrSharedKeyHint]] = true
				}
			}
			require.Equal(t, test.want, got)
			require.Len(t, hints, len(got), "each has its own copy on a node")
			require.Equal(t, describe(g), describe(merge(t, cut(t, g, g.Units()...))))
		})
	}
}

// A node finds its copy of a directory again when other paths of it are needed.
func TestHintIsStable(t *testing.T) {
	hint := func(units ...Unit) string {
		g := merge(t, units)
		for _, v := range g.Vertices {
			if v.Kind == KindLocal {
				return v.Op.GetSource().Attrs[pb.AttrSharedKeyHint]
			}
		}
		return ""
	}
	a := compile(t, "a", "repo", "FROM scratch\nCOPY a /")
	b := compile(t, "b", "repo", "FROM scratch\nCOPY b /")
	require.NotEmpty(t, hint(a))
	require.Equal(t, hint(a), hint(a, b))
}

// marshal returns the unit of a state over the directory "repo".
func marshal(t testing.TB, id string, st llb.State) Unit {
	t.Helper()
	def, err := st.Marshal(context.Background(), llb.LinuxAmd64)
	require.NoError(t, err)
	return Unit{ID: id, Definition: def.ToPB(), Locals: map[string]string{"context": "repo"}}
}
