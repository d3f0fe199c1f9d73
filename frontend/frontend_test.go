package frontend

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var amd64 = ocispecs.Platform{OS: "linux", Architecture: "amd64"}

// stubImages is a resolver that knows every image but those whose name holds
// "missing". Each image has one layer, ENV BASE=<reference>, and the digest of its
// name.
type stubImages struct {
	mu    sync.Mutex
	asked []string
}

func (s *stubImages) Resolve(_ context.Context, req ImageRequest) (*Image, error) {
	name := req.Ref.String()
	s.mu.Lock()
	s.asked = append(s.asked, name)
	s.mu.Unlock()
	if strings.Contains(name, "missing") {
		return nil, fmt.Errorf("%s: not found", name)
	}
	config, err := json.Marshal(map[string]any{
		"os":           req.Platform.OS,
		"architecture": req.Platform.Architecture,
		"variant":      req.Platform.Variant,
		"config":       map[string]any{"Env": []string{"PATH=/usr/bin", "BASE=" + name}, "Entrypoint": []string{"/scan"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{digest.FromString(name).String()}},
	})
	return &Image{Digest: digest.FromString(name), Config: config}, err
}

// project writes the files of a txtar archive to a directory and makes targets
// its project.
func project(t *testing.T, archive string, targets ...*ir.Target) *ir.Project {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, archive)
	for _, tg := range targets {
		tg.Dockerfile = cmp.Or(tg.Dockerfile, "Dockerfile")
		if tg.Origins == nil {
			tg.Origins = map[string]ir.Range{}
		}
		tg.Origins[""] = ir.Range{Filename: "bake.hcl", Start: ir.Pos{Line: 1, Column: 1}, End: ir.Pos{Line: 1, Column: 9}}
	}
	return &ir.Project{Dir: dir, Targets: targets}
}

func writeFiles(t testing.TB, dir, archive string) {
	t.Helper()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		p := filepath.Join(dir, filepath.FromSlash(f.Name))
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, f.Data, 0o644))
	}
}

func options() Options {
	return Options{Resolver: &stubImages{}, NodePlatform: amd64}
}

func compile(t *testing.T, p *ir.Project) []*Unit {
	t.Helper()
	units, err := Compile(t.Context(), p, options())
	require.NoError(t, err)
	return units
}

// ops decodes a definition, its terminal op left out.
func ops(t *testing.T, def *pb.Definition) []*pb.Op {
	t.Helper()
	var list []*pb.Op
	for _, dt := range def.Def {
		op := new(pb.Op)
		require.NoError(t, op.UnmarshalVT(dt))
		list = append(list, op)
	}
	if len(list) > 0 {
		require.Nil(t, list[len(list)-1].Op)
		list = list[:len(list)-1]
	}
	return list
}

// text draws a definition: one paragraph for each op, inputs by number.
func text(t *testing.T, def *pb.Definition) string {
	t.Helper()
	var b strings.Builder
	number := map[string]int{}
	for i, dt := range def.Def {
		op := new(pb.Op)
		require.NoError(t, op.UnmarshalVT(dt))
		number[string(digest.FromBytes(dt))] = i
		fmt.Fprintf(&b, "%d", i)
		for _, in := range op.Inputs {
			fmt.Fprintf(&b, " <%d", number[in.Digest])
			if in.Index != 0 {
				fmt.Fprintf(&b, ":%d", in.Index)
			}
		}
		if p := op.Platform; p != nil {
			fmt.Fprintf(&b, " [%s/%s%s]", p.OS, p.Architecture, p.Variant)
		}
		if md := def.Metadata[string(digest.FromBytes(dt))]; md.GetIgnoreCache() {
			b.WriteString(" nocache")
		}
		switch o := op.Op.(type) {
		case *pb.Op_Source:
			fmt.Fprintf(&b, " %s\n", o.Source.Identifier)
			for _, k := range ir.SortedKeys(o.Source.Attrs) {
				fmt.Fprintf(&b, "    %s=%s\n", k, o.Source.Attrs[k])
			}
		case *pb.Op_Exec:
			e := o.Exec
			fmt.Fprintf(&b, " exec %q\n    env %q\n", e.Meta.Args, e.Meta.Env)
			if e.Network != 0 || e.Security != 0 || len(e.Meta.ExtraHosts) > 0 || len(e.Meta.Ulimit) > 0 {
				fmt.Fprintf(&b, "    net=%s sec=%s hosts=%v ulimit=%v\n", e.Network, e.Security, e.Meta.ExtraHosts, e.Meta.Ulimit)
			}
			for _, m := range e.Mounts {
				fmt.Fprintf(&b, "    mount %s %s in=%d out=%d %s%s\n", m.MountType, m.Dest, m.Input, m.Output, m.GetSecretOpt().GetID(), m.GetSSHOpt().GetID())
			}
		case *pb.Op_File:
			for _, a := range o.File.Actions {
				fmt.Fprintf(&b, " file %T\n", a.Action)
				if c := a.GetCopy(); c != nil {
					fmt.Fprintf(&b, "    %s -> %s\n", c.Src, c.Dest)
				}
			}
		case nil:
			b.WriteString(" end\n")
		default:
			fmt.Fprintf(&b, " %T\n", o)
		}
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	p := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(p, []byte(got), 0o644))
	}
	want, err := os.ReadFile(p)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

const webFiles = `
-- web/Dockerfile --
FROM alpine AS base
RUN apk add curl
FROM base
ARG VERSION=dev
COPY src /src
RUN echo $VERSION
-- web/src/main --
-- web/.dockerignore --
*.md
!keep.md
-- api/Dockerfile --
FROM alpine AS base
RUN apk add curl
FROM base
COPY --from=golang:1.26 /usr/local/go /go
COPY --from=shared /x /x
RUN --mount=type=bind,from=busybox,target=/b true
-- api/Dockerfile.dockerignore --
only-for-api
-- api/.dockerignore --
not-used
-- shared/x --
`

func TestCompileLocal(t *testing.T) {
	p := project(t, webFiles,
		&ir.Target{Name: "web", Context: ir.ParseContext("web", nil), Args: map[string]string{"VERSION": "1.2"}, Labels: map[string]string{"a": "b"}},
		&ir.Target{Name: "api", Context: ir.ParseContext("api", nil), Contexts: map[string]ir.Source{"shared": ir.ParseNamedContext("shared")}},
	)
	units := compile(t, p)
	require.Len(t, units, 2)
	golden(t, "local-web", text(t, units[0].Definition))
	golden(t, "local-api", text(t, units[1].Definition))
	require.Equal(t, []string{"docker.io/library/alpine:latest"}, units[0].Images)
	require.Empty(t, units[0].Assumed)

	for _, u := range units {
		for name, l := range u.Locals {
			require.True(t, strings.HasPrefix(name, "dir-"), name)
			require.True(t, isDir(l.Dir))
		}
	}
	var config struct {
		Config struct {
			Env    []string
			Labels map[string]string
		}
	}
	require.NoError(t, json.Unmarshal(units[0].Config, &config))
	require.Contains(t, config.Config.Env, "BASE=docker.io/library/alpine:latest")
	require.Equal(t, map[string]string{"a": "b"}, config.Config.Labels)
	require.Contains(t, units[0].Metadata, "containerimage.base.config")
	require.NotContains(t, units[0].Metadata, "refs.platforms")
}

// Definitions must not depend on where the project lies.
func TestDefinitionIsStable(t *testing.T) {
	target := func() *ir.Target {
		return &ir.Target{Name: "web", Context: ir.ParseContext("web", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("api")}}
	}
	a := compile(t, project(t, webFiles, target()))
	b := compile(t, project(t, webFiles, target()))
	require.Equal(t, a[0].Definition.Def, b[0].Definition.Def)
	require.Equal(t, a[0].Config, b[0].Config)
	require.Equal(t, ir.SortedKeys(a[0].Locals), ir.SortedKeys(b[0].Locals))
}

// Every op must be found under the digest of its bytes.
func TestDigests(t *testing.T) {
	units := compile(t, project(t, webFiles,
		&ir.Target{Name: "web", Context: ir.ParseContext("web", nil)},
		&ir.Target{Name: "api", Context: ir.ParseContext("api", nil), Contexts: map[string]ir.Source{"shared": ir.ParseNamedContext("target:web")}},
	))
	for _, u := range units {
		known := map[string]bool{}
		for _, dt := range u.Definition.Def {
			var op pb.Op
			require.NoError(t, op.UnmarshalVT(dt))
			for _, in := range op.Inputs {
				require.True(t, known[in.Digest])
			}
			known[string(digest.FromBytes(dt))] = true
		}
		for dgst := range u.Definition.Metadata {
			require.True(t, known[dgst])
		}
		for dgst := range u.Definition.Source.Locations {
			require.True(t, known[dgst])
		}
	}
}

func TestLinks(t *testing.T) {
	p := project(t, webFiles+`
-- child/Dockerfile --
FROM base
RUN echo child
`,
		&ir.Target{Name: "web", Context: ir.ParseContext("web", nil), Platforms: []string{"linux/amd64", "linux/arm64"}},
		&ir.Target{Name: "child", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:web")}, Platforms: []string{"linux/arm64"}},
		&ir.Target{Name: "native", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:web")}},
		&ir.Target{Name: "grandchild", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:child")}},
	)
	units := compile(t, p)
	require.Len(t, units, 5)
	require.Equal(t, []ir.UnitID{"web@linux/amd64", "web@linux/arm64", "child@linux/arm64", "native", "grandchild"},
		[]ir.UnitID{units[0].ID, units[1].ID, units[2].ID, units[3].ID, units[4].ID})
	require.True(t, units[0].MultiPlatform)
	require.False(t, units[2].MultiPlatform)

	contains := func(whole, part *Unit) bool {
		for _, dt := range part.Definition.Def[:len(part.Definition.Def)-1] {
			if !slices.ContainsFunc(whole.Definition.Def, func(o []byte) bool { return string(o) == string(dt) }) {
				return false
			}
		}
		return true
	}
	require.True(t, contains(units[2], units[1]))
	require.False(t, contains(units[2], units[0]))
	require.True(t, contains(units[3], units[0]))
	require.True(t, contains(units[4], units[2]))
	require.Equal(t, units[1].Locals, units[4].Locals)
	require.Contains(t, string(units[4].Config), "BASE=docker.io/library/alpine:latest")
	golden(t, "links-grandchild", text(t, units[4].Definition))
}

func TestLinkToFailedTarget(t *testing.T) {
	p := project(t, `
-- Dockerfile --
FROM missing
-- child/Dockerfile --
FROM base
-- other/Dockerfile --
FROM alpine
`,
		&ir.Target{Name: "parent", Platforms: []string{"linux/amd64", "linux/arm64"}},
		&ir.Target{Name: "child", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:parent")}},
		&ir.Target{Name: "other", Context: ir.ParseContext("other", nil)},
	)
	units, err := Compile(t.Context(), p, options())
	require.Len(t, units, 1)
	require.Equal(t, ir.UnitID("other"), units[0].ID)
	var ue *UnitError
	require.ErrorAs(t, err, &ue)
	require.Equal(t, ir.UnitID("parent@linux/amd64"), ue.Unit)
	require.Equal(t, "Dockerfile:1,1-13: missing: failed to resolve source metadata for docker.io/library/missing:latest: docker.io/library/missing:latest: not found", err.Error())
}

func TestInline(t *testing.T) {
	df := "FROM alpine\nCOPY x /x\n"
	p := project(t, "-- ctx/x --\n", &ir.Target{Name: "a", Context: ir.ParseContext("ctx", nil), DockerfileInline: &df})
	u := compile(t, p)[0]
	require.Len(t, u.Locals, 1)
	golden(t, "inline", text(t, u.Definition))
}

func sourceErr(t *testing.T, err error) *ir.SourceError {
	t.Helper()
	var se *ir.SourceError
	require.True(t, errors.As(err, &se), "%v", err)
	return se
}
