package frontend

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/units"
)

// movingImages answers for images, which have another digest in each version.
type movingImages struct{ version string }

func (m movingImages) Resolve(_ context.Context, req ImageRequest) (*Image, error) {
	img := assumedImage(req.Platform)
	img.Assumed, img.Digest = false, digest.FromString(m.version+req.Ref.String())
	return img, nil
}

const rememberedFiles = `
-- base/Dockerfile --
FROM golang:1.26
RUN --mount=type=secret,id=token,env=TOKEN apk add git
-- app/Dockerfile --
FROM base AS build
ARG PASSWORD
WORKDIR /src
COPY go.mod ./
RUN --mount=type=cache,target=/go --mount=type=secret,id=own echo $PASSWORD
COPY --link . .
FROM alpine as final
COPY --from=build /out /
-- app/.dockerignore --
*.md
-- app/go.mod --
module app
-- app/other.Dockerfile --
FROM alpine
`

// rememberedProject has a target that links another, with secrets, warnings and an inline
// Dockerfile beside.
func rememberedProject(dir string) *ir.Project {
	inline := "FROM alpine\nRUN echo inline\n"
	return &ir.Project{Dir: dir, Targets: []*ir.Target{
		{Name: "base", Context: ir.ParseContext("base", nil), Secrets: []ir.Secret{{ID: "token", Env: "TOKEN"}}},
		{
			Name: "app", Context: ir.ParseContext("app", nil), Args: map[string]string{"PASSWORD": "hunter2"}, Labels: map[string]string{"l": "1"},
			Contexts: map[string]ir.Source{"base": {Kind: ir.SourceTarget, Text: "target:base", Ref: "base"}}, Secrets: []ir.Secret{{ID: "own", Src: "file"}},
			DependsOn: []string{"base"},
		},
		{Name: "inline", Context: ir.ParseContext("app", nil), DockerfileInline: &inline},
	}}
}

// recalledUnits compiles a project and returns its units, and which of them were not
// compiled but remembered.
func recalledUnits(t *testing.T, p *ir.Project, o Options) (list []*Unit, recalled []string) {
	t.Helper()
	c, err := newCompilation(p, o)
	require.NoError(t, err)
	made := map[string][]*Unit{}
	for _, u := range p.Units() {
		links := map[string][]*Unit{}
		for _, name := range u.Target.Links() {
			links[name] = made[name]
		}
		in, err := c.prepare(t.Context(), u, links)
		require.NoError(t, err)
		key, err := in.encode(c)
		require.NoError(t, err)
		if c.recallUnit(t.Context(), in, key) != nil {
			recalled = append(recalled, u.Target.Name)
		}
		unit, err := c.compile(t.Context(), u, links)
		require.NoError(t, err)
		made[u.Target.Name] = append(made[u.Target.Name], unit)
		list = append(list, unit)
	}
	require.NoError(t, c.Units.Save())
	return list, recalled
}

// requireEqualUnits compares units but for the ids of progress groups, which are random.
func requireEqualUnits(t *testing.T, want, got []*Unit) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		x, y := *want[i], *got[i]
		for _, u := range []*Unit{&x, &y} {
			def, err := u.LLB()
			require.NoError(t, err)
			u.Definition, u.packed = def.CloneVT(), nil
			for _, md := range u.Definition.Metadata {
				if md.ProgressGroup != nil {
					md.ProgressGroup.Id = ""
				}
			}
			u.Warnings = append([]Warning(nil), u.Warnings...)
		}
		require.True(t, proto.Equal(x.Definition, y.Definition), "%s", x.ID)
		require.Len(t, y.Warnings, len(x.Warnings))
		for k := range x.Warnings {
			require.True(t, proto.Equal(x.Warnings[k].Source, y.Warnings[k].Source))
			require.Len(t, y.Warnings[k].Ranges, len(x.Warnings[k].Ranges))
			for r := range x.Warnings[k].Ranges {
				require.True(t, proto.Equal(x.Warnings[k].Ranges[r], y.Warnings[k].Ranges[r]))
			}
			x.Warnings[k].Source, y.Warnings[k].Source = nil, nil
			x.Warnings[k].Ranges, y.Warnings[k].Ranges = nil, nil
		}
		x.Definition, y.Definition = nil, nil
		require.Equal(t, x, y)
	}
}

// Each change makes exactly those units compiled again that it concerns, and whatever is
// remembered, units are those that are compiled without a memory.
func TestRemember(t *testing.T) {
	all := []string{"base", "app", "inline"}
	write := func(name, text string) func(*testing.T, *ir.Project, *Options) {
		return func(t *testing.T, p *ir.Project, _ *Options) {
			require.NoError(t, os.WriteFile(filepath.Join(p.Dir, name), []byte(text), 0o600))
		}
	}
	for name, test := range map[string]struct {
		change func(*testing.T, *ir.Project, *Options)
		want   []string // remembered
	}{
		"nothing":                           {func(*testing.T, *ir.Project, *Options) {}, all},
		"source file":                       {write("app/go.mod", "module other"), all},
		"Dockerfile":                        {write("app/Dockerfile", "FROM base\nRUN another\n"), []string{"base", "inline"}},
		"ignore file":                       {write("app/.dockerignore", "*.txt\n"), []string{"base"}},
		"ignore file beside the Dockerfile": {write("app/Dockerfile.dockerignore", "*.txt\n"), []string{"base", "inline"}},
		"linked Dockerfile":                 {write("base/Dockerfile", "FROM golang:1.26\nRUN new\n"), []string{"inline"}},
		"comment in a linked Dockerfile": {
			write("base/Dockerfile", "# comment\nFROM golang:1.26\nRUN --mount=type=secret,id=token,env=TOKEN apk add git\n"), []string{"inline"},
		},
		"lower case Dockerfile": {func(t *testing.T, p *ir.Project, _ *Options) {
			require.NoError(t, os.Rename(filepath.Join(p.Dir, "app/Dockerfile"), filepath.Join(p.Dir, "app/dockerfile")))
		}, []string{"base", "inline"}},
		"other Dockerfile": {func(_ *testing.T, p *ir.Project, _ *Options) { p.Targets[1].Dockerfile = "other.Dockerfile" }, []string{"base", "inline"}},
		"arg":              {func(_ *testing.T, p *ir.Project, _ *Options) { p.Targets[1].Args["PASSWORD"] = "other" }, []string{"base", "inline"}},
		"label":            {func(_ *testing.T, p *ir.Project, _ *Options) { p.Targets[1].Labels["l"] = "2" }, []string{"base", "inline"}},
		"stage":            {func(_ *testing.T, p *ir.Project, _ *Options) { p.Targets[1].Stage = "build" }, []string{"base", "inline"}},
		"platform":         {func(_ *testing.T, p *ir.Project, _ *Options) { p.Targets[1].Platforms = []string{"linux/arm64"} }, []string{"base", "inline"}},
		"platform of nodes": {func(_ *testing.T, _ *ir.Project, o *Options) {
			o.NodePlatform.Architecture, o.NodePlatform.Variant = "arm64", ""
		}, nil},
		"inline Dockerfile": {func(_ *testing.T, p *ir.Project, _ *Options) {
			text := "FROM alpine\nRUN echo other\n"
			p.Targets[2].DockerfileInline = &text
		}, []string{"base", "app"}},
		"source of a secret": {func(_ *testing.T, p *ir.Project, _ *Options) { p.Targets[0].Secrets[0].Env = "OTHER" }, nil},
		"id of a secret that another declares": {func(_ *testing.T, p *ir.Project, _ *Options) {
			p.Targets[2].Secrets = []ir.Secret{{ID: "own", Env: "ELSE"}}
		}, nil},
		"images": {func(_ *testing.T, _ *ir.Project, o *Options) { o.Resolver = movingImages{"2"} }, nil},
		"proxy": {func(_ *testing.T, _ *ir.Project, o *Options) {
			o.ProxyArgs = map[string]string{"HTTP_PROXY": "http://p"}
		}, nil},
		"provenance":  {func(_ *testing.T, _ *ir.Project, o *Options) { o.DefaultProvenance = "mode=max" }, nil},
		"build again": {func(_ *testing.T, p *ir.Project, _ *Options) { p.Targets[1].Tags = []string{"name"} }, all},
	} {
		t.Run(name, func(t *testing.T) {
			dir, memory := t.TempDir(), t.TempDir()
			writeFiles(t, dir, rememberedFiles)
			open := func() *units.Store { return units.Open(memory, dir, time.Now()) }
			o := options()
			o.Resolver = movingImages{"1"}
			o.Units = open()
			first, recalled := recalledUnits(t, rememberedProject(dir), o)
			require.Empty(t, recalled)
			plain := o
			plain.Units = nil
			units, err := Compile(t.Context(), rememberedProject(dir), plain)
			require.NoError(t, err)
			requireEqualUnits(t, units, first)
			require.NotEmpty(t, first[1].Warnings)

			p := rememberedProject(dir)
			o.Units = open()
			test.change(t, p, &o)
			second, recalled := recalledUnits(t, p, o)
			require.Equal(t, test.want, recalled)
			o.Units = nil
			units, err = Compile(t.Context(), p, o)
			require.NoError(t, err)
			requireEqualUnits(t, units, second)
		})
	}
}

// Neither values of build arguments nor of secrets can be read in the memory.
func TestMemoryIsSealed(t *testing.T) {
	dir, memory := t.TempDir(), t.TempDir()
	writeFiles(t, dir, rememberedFiles)
	o := options()
	o.Units = units.Open(memory, dir, time.Now())
	made, err := Compile(t.Context(), rememberedProject(dir), o)
	require.NoError(t, err)
	require.NoError(t, o.Units.Save())
	for _, u := range made {
		require.Nil(t, u.Definition, "it is packed")
		require.False(t, u.IsEmpty())
		def, err := u.LLB()
		require.NoError(t, err)
		require.NotEmpty(t, def.Def)
	}
	files, err := os.ReadDir(memory)
	require.NoError(t, err)
	require.Len(t, files, 1)
	data, err := os.ReadFile(filepath.Join(memory, files[0].Name()))
	require.NoError(t, err)
	for _, word := range []string{"hunter2", "TOKEN", "alpine", "apk"} {
		require.False(t, strings.Contains(string(data), word), word)
	}
}

// A unit that is damaged in the memory is malformed, and nothing worse.
func FuzzDecodeKept(f *testing.F) {
	whole, err := (&keptUnit{Locals: []string{"a"}, config: []byte("{}"), definition: []byte{1}}).encode()
	require.NoError(f, err)
	f.Add(whole)
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := decodeKept(data)
		if err != nil {
			return
		}
		again, err := k.encode()
		require.NoError(t, err)
		_, err = decodeKept(again)
		require.NoError(t, err)
	})
}

// A definition is decoded as any other, and equal parts of two are one.
func TestDecode(t *testing.T) {
	p, o := services(t, 2), options()
	list, err := Compile(t.Context(), p, o)
	require.NoError(t, err)
	parts := &newUnpacker(&capSets{}).parts
	var defs []*pb.Definition
	for _, u := range list {
		data, err := (proto.MarshalOptions{Deterministic: true}).Marshal(u.Definition)
		require.NoError(t, err)
		def, err := parts.decode(data)
		require.NoError(t, err)
		require.True(t, proto.Equal(u.Definition, def))
		require.NotNil(t, def.Source.Infos[0].Definition)
		for i := 0; i < len(data); i += 7 {
			data[i] ^= 0xff // damage is an error or another definition
			_, _ = parts.decode(data)
			data[i] ^= 0xff
		}
		clear(data) // nothing of it is kept
		require.True(t, proto.Equal(u.Definition, def))
		defs = append(defs, def)
	}
	for _, name := range []string{"FROM docker.io/library/golang", "RUN apk add git make"} {
		var said []*pb.OpMetadata
		var places []*pb.Locations
		for _, def := range defs {
			for d, md := range def.Metadata {
				if strings.Contains(md.Description["llb.customname"], name) {
					said, places = append(said, md), append(places, def.Source.Locations[d])
				}
			}
		}
		require.Len(t, said, 2, name)
		require.Same(t, said[0], said[1])
		require.Same(t, places[0], places[1])
	}
}
