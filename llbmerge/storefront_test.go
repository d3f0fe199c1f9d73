package llbmerge_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/llbmerge"
)

// anyImage knows every image, and that it has one layer.
type anyImage struct{}

func (anyImage) Resolve(_ context.Context, req frontend.ImageRequest) (*frontend.Image, error) {
	name := digest.FromString(req.Ref.String())
	config, err := json.Marshal(map[string]any{
		"os": req.Platform.OS, "architecture": req.Platform.Architecture,
		"config": map[string]any{"Env": []string{"PATH=/usr/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []digest.Digest{name}},
	})
	return &frontend.Image{Digest: name, Config: config}, err
}

// What a person counts in the Dockerfiles of the sample project.
func TestStorefront(t *testing.T) {
	const (
		goImages = 14    // twelve services, two jobs
		goShared = 2 + 6 // golang and static, the directory, toolchain: 1, libs: 4
		goOwn    = 3     // COPY, go build, COPY --from
		sites    = 3     // shop, help, status
		siteOwn  = 3     // COPY, render, COPY --from
		shared   = 2     // busybox, the stage pages: 1
		theme    = 1 + 3 // the directory of the sites, COPY, minify, COPY --from
		rendered = 2     // COPY --from=theme, COPY render.sh
		seed     = 1 + 2 // its directory, two COPY
		devbox   = 1 + 7 // its directory, five COPY --from, COPY, RUN
		want     = goShared + goImages*goOwn + shared + theme + rendered + sites*siteOwn + seed + devbox
	)
	dir, err := filepath.Abs("../testdata/bakefiles/storefront")
	require.NoError(t, err)
	p, err := compiler.Compile(t.Context(), compiler.Options{Dir: dir, Platform: "linux/amd64", Env: map[string]string{}})
	require.NoError(t, err)
	units, err := frontend.Compile(t.Context(), p, frontend.Options{Resolver: anyImage{}})
	require.NoError(t, err)
	require.Len(t, units, goImages+sites+3) // theme, seed, devbox

	var list []llbmerge.Unit
	compiled := map[digest.Digest]bool{}
	for _, u := range units {
		m := llbmerge.Unit{ID: string(u.ID), Definition: u.Definition, Locals: map[string]string{}}
		for name := range u.Locals {
			m.Locals[name] = name
		}
		list = append(list, m)
		for _, dt := range u.Definition.Def[:len(u.Definition.Def)-1] {
			compiled[digest.FromBytes(dt)] = true
		}
	}
	g, err := llbmerge.Merge(list)
	require.NoError(t, err)
	require.Len(t, g.Vertices, want)
	require.Greater(t, len(compiled), want)
	locals := 0
	for _, v := range g.Vertices {
		if v.Kind == llbmerge.KindLocal {
			locals++
		}
	}
	require.Equal(t, 4, locals, "one for each directory")
}
