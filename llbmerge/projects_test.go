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
	units, compiled, g := mergeProject(t, compiler.Options{Dir: "storefront"})
	require.Equal(t, goImages+sites+3, units) // theme, seed, devbox
	require.Len(t, g.Vertices, want)
	require.Greater(t, compiled, want)
	locals := 0
	for _, v := range g.Vertices {
		if v.Kind == llbmerge.KindLocal {
			locals++
		}
	}
	require.Equal(t, 4, locals, "one for each directory")
}

// What a person counts in the Dockerfiles of the registry: thirteen targets on six
// Dockerfiles, four of which begin with the same image.
func TestDistribution(t *testing.T) {
	const (
		images  = 6                 // golang, alpine, xx, golangci-lint, go-mod-outdated, htmltest
		context = 1                 // the project, for all
		base    = 3                 // COPY --from=xx, apk, WORKDIR: once for the three targets of Dockerfile
		binary  = 3                 // version, go build, COPY: for all three
		release = 3                 // of "artifact": WORKDIR, tar, COPY
		image   = 3                 // apk, COPY of the configuration, COPY --from
		lint    = 3                 // apk, WORKDIR, RUN
		git     = 1 + 4             // git-validation; apk, test of COMMIT_RANGE, WORKDIR, RUN
		vendor  = 2 + 1 + 1 + 1 + 1 // apk, WORKDIR; vendored; update, validate, outdated
		docs    = 1 + 1 + 2         // apk; hugo; COPY --from=hugo, WORKDIR: for all three
		site    = 1 + 1 + 1 + 5     // build; COPY of server; COPY of out; test: WORKDIR, COPY, WORKDIR, ADD, RUN
		authors = 3 + 1 + 1         // apk, WORKDIR, git log; update, validate
		want    = images + context + base + binary + release + image + lint + git + vendor + docs + site + authors
	)
	units, _, g := mergeProject(t, compiler.Options{Dir: "distribution-distribution/files", Targets: []string{
		"binary", "artifact", "image", "lint", "validate-git", "validate-vendor", "update-vendor", "mod-outdated",
		"docs-export", "docs-image", "docs-test", "authors", "validate-authors",
	}})
	require.Equal(t, 13, units)
	require.Len(t, g.Vertices, want)
}

// What a person counts in the Dockerfiles of the docker command. A COPY --link is
// two steps: the copy, which is shared, and the merge with what is below it.
func TestDockerCLI(t *testing.T) {
	const (
		images     = 8                 // golang, alpine, xx, golangci-lint, shellcheck, go-mod-outdated, buildx-bin, compose-bin
		context    = 1                 // the project, for all
		base       = 2 + 2             // COPY --link --from=xx; apk, WORKDIR: for the eight targets of Dockerfile
		alpine     = 1                 // xx-apk, for all but the base of e2e
		tools      = 1 + 1             // goversioninfo, gotestsum
		build      = 2 + 3             // COPY --link; go build of binary and bin-image, of dynbinary, and of e2e-image, which has fewer args
		binaries   = 3                 // COPY --from=build of binary, dynbinary and bin-image
		test       = 2 + 1             // COPY --link --from=gotestsum, RUN
		coverage   = 1                 // COPY
		plugins    = 2 + 1             // go build of plugins and of e2e-image; COPY
		e2e        = 1 + 1             // apk; the merge with gotestsum, whose copy is that of test
		e2eCopies  = 5 * 2             // COPY --link of build, plugins, buildx, compose and the project
		lint       = 1 + 2 + 1         // WORKDIR, COPY --link, RUN
		shellcheck = 2                 // WORKDIR, RUN
		vendor     = 2 + 1 + 1 + 1 + 1 // apk, WORKDIR; vendored; update, validate, outdated
		authors    = 3 + 1 + 1         // apk, WORKDIR, generate; update, validate
		want       = images + context + base + alpine + tools + build + binaries + test + coverage + plugins + e2e + e2eCopies +
			lint + shellcheck + vendor + authors
	)
	units, _, g := mergeProject(t, compiler.Options{Dir: "docker-cli/files", Targets: []string{
		"binary", "dynbinary", "bin-image", "plugins", "test", "test-coverage", "e2e-image",
		"lint", "shellcheck", "validate-vendor", "update-vendor", "mod-outdated", "validate-authors", "update-authors",
	}})
	require.Equal(t, 14, units)
	require.Len(t, g.Vertices, want)
}

// What a person counts in the Dockerfiles of grid: four images on two platforms,
// three of which end with one image and the same first step on it. What they copy
// first is the same, but onto something else each.
func TestGrid(t *testing.T) {
	const (
		context = 1                                                     // the project, for all and both platforms
		images  = 4                                                     // grid-dev, ubuntu, node, httpd
		last    = 1                                                     // the first step on ubuntu
		copies  = 5 + 6                                                 // of Cargo.toml, of those of the contracts
		sources = 3                                                     // COPY of three packages
		commit  = 3                                                     // COPY .git, WORKDIR, RUN
		crate   = 3                                                     // cargo build, WORKDIR, cargo deb
		gridd   = 1 + copies + sources + 1 + crate + 1 + crate + commit // apt, ...; COPY of the examples; WORKDIR between the crates
		griddle = copies + sources + crate + 1 + crate + commit
		cli     = 1 + copies + sources + crate + commit // apt, ...
		own     = (3 + 2) + (3 + 1) + (2 + 2)           // COPY --from, RUN on ubuntu
		canopy  = 8 + commit                            // apk, WORKDIR, COPY, npm, COPY, npm, WORKDIR, tar
		sapling = 1 + 3 + 4*2 + 2                       // apk, COPY, (WORKDIR, npm) of each, WORKDIR, tar
		ui      = 2 + 1 + 1 + 1 + 1 + 1                 // COPY, tar, COPY, tar, COPY, printf
		want    = context + 2*(images+last+gridd+griddle+cli+own+canopy+sapling+ui)
	)
	units, _, g := mergeProject(t, compiler.Options{Dir: "hyperledger-archives-grid/files", Files: []string{"ci/docker-bake.hcl"}})
	require.Equal(t, 4*2, units)
	require.Len(t, g.Vertices, want)
}

// mergeProject compiles and merges a project of the test data. compiled is the number of
// distinct steps before merging.
func mergeProject(t *testing.T, o compiler.Options) (units, compiled int, g *llbmerge.Graph) {
	t.Helper()
	var err error
	o.Dir, err = filepath.Abs(filepath.Join("../testdata/bakefiles", o.Dir))
	require.NoError(t, err)
	o.Platform, o.Env = "linux/amd64", map[string]string{}
	p, err := compiler.Compile(t.Context(), o)
	require.NoError(t, err)
	all, err := frontend.Compile(t.Context(), p, frontend.Options{Resolver: anyImage{}})
	require.NoError(t, err)
	var list []llbmerge.Unit
	steps := map[digest.Digest]bool{}
	for _, u := range all {
		m := llbmerge.Unit{ID: string(u.ID), Definition: u.Definition, Locals: map[string]string{}}
		for name := range u.Locals {
			m.Locals[name] = name
		}
		list = append(list, m)
		for _, dt := range u.Definition.Def[:len(u.Definition.Def)-1] {
			steps[digest.FromBytes(dt)] = true
		}
	}
	g, err = llbmerge.Merge(list)
	require.NoError(t, err)
	return len(all), len(steps), g
}
