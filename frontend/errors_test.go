package frontend

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// Problems point at the user's files.
func TestErrors(t *testing.T) {
	at := func(line int) ir.Range {
		return ir.Range{Filename: "bake.hcl", Start: ir.Pos{Line: line, Column: 3}, End: ir.Pos{Line: line, Column: 9}}
	}
	origins := map[string]ir.Range{}
	for i, k := range []string{"context", "dockerfile", "target", "contexts", "platforms", "network", "ulimits", "shm-size", "extra-hosts", "policy", "dockerfile-inline", "resources", "attest"} {
		origins[k] = at(10 + i)
	}
	for _, tc := range []struct {
		name, files string
		target      ir.Target
		want        string
		excerpt     string
	}{
		{name: "no Dockerfile", files: "-- x --\n",
			want: "bake.hcl:11,3-9: failed to read dockerfile: open Dockerfile: no such file or directory"},
		{name: "no Dockerfile in context", files: "-- svc/x --\n", target: ir.Target{Context: ir.ParseContext("svc", nil)},
			want: "bake.hcl:11,3-9: failed to read dockerfile: open svc/Dockerfile: no such file or directory"},
		{name: "no Dockerfile directory", files: "-- x --\n", target: ir.Target{Dockerfile: "docker/Dockerfile"},
			want: "bake.hcl:11,3-9: failed to read dockerfile: open docker/Dockerfile: no such file or directory"},
		{name: "no context", files: "-- x --\n", target: ir.Target{Context: ir.ParseContext("gone", nil)},
			want: `bake.hcl:10,3-9: unable to prepare context: path "gone" not found`},
		{name: "named context", files: "-- Dockerfile --\nFROM x\n", target: ir.Target{Contexts: map[string]ir.Source{"x": ir.ParseNamedContext("gone")}},
			want: "bake.hcl:13,3-9: failed to get build context x: gone: no such file or directory"},
		{name: "context is a file", files: "-- Dockerfile --\nFROM x\n", target: ir.Target{Contexts: map[string]ir.Source{"x": ir.ParseNamedContext("Dockerfile")}},
			want: "bake.hcl:13,3-9: failed to get build context x: Dockerfile: not a directory"},
		{name: "link to nowhere", files: "-- Dockerfile --\nFROM x\n", target: ir.Target{Contexts: map[string]ir.Source{"x": ir.ParseNamedContext("target:gone")}},
			want: "bake.hcl:13,3-9: failed to find target gone"},
		{name: "empty Dockerfile", files: "-- svc/Dockerfile --\n", target: ir.Target{Context: ir.ParseContext("svc", nil)},
			want: "svc/Dockerfile: the Dockerfile cannot be empty"},
		{name: "unknown instruction", files: "-- svc/Dockerfile --\nFROM alpine\n\nRUM true\n", target: ir.Target{Context: ir.ParseContext("svc", nil)},
			want:    "svc/Dockerfile:3,1-9: dockerfile parse error on line 3: unknown instruction: RUM (did you mean RUN?)",
			excerpt: "svc/Dockerfile:3\n--------------------\n   1 |     FROM alpine\n   2 |     \n   3 | >>> RUM true\n   4 |     \n--------------------\n"},
		{name: "parse error", files: "-- Dockerfile --\nFROM alpine\nCOPY onlyone\n",
			want:    "Dockerfile:2,1-13: dockerfile parse error on line 2: COPY requires at least two arguments, but only one was provided. Destination could not be determined",
			excerpt: "Dockerfile:2\n--------------------\n   1 |     FROM alpine\n   2 | >>> COPY onlyone\n   3 |     \n--------------------\n"},
		{name: "unknown stage", files: "-- Dockerfile --\nFROM alpine AS base\n", target: ir.Target{Stage: "bse"},
			want: `bake.hcl:12,3-9: target stage "bse" could not be found (did you mean base?)`},
		{name: "findings are errors", files: "-- Dockerfile --\n# check=error=true\nFROM alpine as X\nMAINTAINER me\n",
			want: "Dockerfile:2,1-17: lint violation found for rules: FromAsCasing, MaintainerDeprecated, StageNameCasing; " +
				"FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 2); StageNameCasing: Stage name 'X' should be lowercase (line 2); " +
				"MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 3)",
			excerpt: "Dockerfile:2\n--------------------\n   1 |     # check=error=true\n   2 | >>> FROM alpine as X\n   3 |     MAINTAINER me\n   4 |     \n--------------------\n" +
				"Dockerfile:3\n--------------------\n   1 |     # check=error=true\n   2 |     FROM alpine as X\n   3 | >>> MAINTAINER me\n   4 |     \n--------------------\n"},
		{name: "base image", files: "-- Dockerfile --\nFROM alpine\nFROM missing:1\n",
			want:    "Dockerfile:2,1-15: missing:1: failed to resolve source metadata for docker.io/library/missing:1: docker.io/library/missing:1: not found",
			excerpt: "Dockerfile:2\n--------------------\n   1 |     FROM alpine\n   2 | >>> FROM missing:1\n   3 |     \n--------------------\n"},
		{name: "inline", files: "-- x --\n", target: ir.Target{DockerfileInline: ptr("FROM alpine\nRUM\n")},
			want:    "bake.hcl:20,3-9: dockerfile parse error on line 2: unknown instruction: RUM (did you mean RUN?)",
			excerpt: "t dockerfile-inline:2\n--------------------\n   1 |     FROM alpine\n   2 | >>> RUM\n   3 |     \n--------------------\n"},
		{name: "platform", files: "-- Dockerfile --\nFROM alpine\n", target: ir.Target{Platforms: []string{"not//one"}},
			want: `bake.hcl:14,3-9: "" is an invalid component of "not//one": platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument`},
		{name: "network", files: "-- Dockerfile --\nFROM alpine\n", target: ir.Target{Network: ptr("mine")},
			want: `bake.hcl:15,3-9: network mode "mine" not supported by buildkit`},
		{name: "ulimit", files: "-- Dockerfile --\nFROM alpine\n", target: ir.Target{Ulimits: []string{"many"}},
			want: `bake.hcl:16,3-9: invalid ulimit "many": invalid ulimit argument: many`},
		{name: "shm-size", files: "-- Dockerfile --\nFROM alpine\n", target: ir.Target{ShmSize: ptr("big")},
			want: `bake.hcl:17,3-9: invalid shm-size "big": invalid size: 'big'`},
		{name: "extra host", files: "-- Dockerfile --\nFROM alpine\n", target: ir.Target{ExtraHosts: map[string]string{"h": "nowhere"}},
			want: `bake.hcl:18,3-9: invalid host h:nowhere`},
		{name: "host gateway", files: "-- Dockerfile --\nFROM alpine\n", target: ir.Target{ExtraHosts: map[string]string{"h": "host-gateway"}},
			want: `bake.hcl:18,3-9: unable to derive the IP value for host-gateway: only a Docker engine knows it, and all nodes must have the same`},
		{name: "policy", files: "-- Dockerfile --\nFROM alpine\n", target: ir.Target{Policy: []ir.Policy{{Filename: "p.rego"}}},
			want: `bake.hcl:19,3-9: source policy p.rego of target t cannot be enforced; dbake does not evaluate Rego policies; build this target with docker buildx, or disable the policy with policy = ["disabled=true"]`},
		{name: "policy beside the Dockerfile", files: "-- svc/Dockerfile --\nFROM alpine\n-- svc/Dockerfile.rego --\n", target: ir.Target{Context: ir.ParseContext("svc", nil)},
			want: `bake.hcl:19,3-9: source policy svc/Dockerfile.rego of target t cannot be enforced; dbake does not evaluate Rego policies; build this target with docker buildx, or disable the policy with policy = ["disabled=true"]`},
		{name: "memory", files: "-- Dockerfile --\nFROM alpine\n", target: ir.Target{Resources: &ir.Resources{Memory: ptr("lots")}},
			want: `bake.hcl:21,3-9: invalid memory "lots": invalid size: 'lots'`},
		{name: "scanner", files: "-- Dockerfile --\nFROM alpine\n", target: ir.Target{Attest: []ir.Attest{{Type: "sbom", Attrs: map[string]string{"generator": "missing"}}}},
			want: `bake.hcl:22,3-9: failed to resolve source metadata for docker.io/library/missing:latest: docker.io/library/missing:latest: not found`},
		{name: "multi-platform", files: "-- Dockerfile --\nFROM alpine\n", target: ir.Target{Platforms: []string{"linux/amd64", "linux/arm64"}, Args: map[string]string{"BUILDKIT_MULTI_PLATFORM": "0"}},
			want: `bake.hcl:1,1-9: conflicting config: returning multiple target platforms is not allowed`},
		{name: "git context", files: "-- x --\n", target: ir.Target{Context: ir.ParseContext("https://example.com/repo.git", nil)},
			want: `bake.hcl:10,3-9: the content of https://example.com/repo.git has to be read; this can only be compiled with the help of a node, and none was given`},
		{name: "http context", files: "-- x --\n", target: ir.Target{Context: ir.ParseContext("https://example.com/x.tgz", nil)},
			want: `bake.hcl:10,3-9: the content of https://example.com/x.tgz has to be read; this can only be compiled with the help of a node, and none was given`},
		{name: "http Dockerfile", files: "-- x --\n", target: ir.Target{Dockerfile: "https://example.com/Dockerfile"},
			want: `bake.hcl:11,3-9: the Dockerfile https://example.com/Dockerfile has to be fetched; this can only be compiled with the help of a node, and none was given`},
		{name: "foreign frontend", files: "-- svc/Dockerfile --\n# syntax=example.com/other:1\nwhatever\n", target: ir.Target{Context: ir.ParseContext("svc", nil)},
			want: `bake.hcl:11,3-9: svc/Dockerfile is built by the frontend image example.com/other:1; this can only be compiled with the help of a node, and none was given`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tg := tc.target
			tg.Name = "t"
			tg.Origins = map[string]ir.Range{}
			for k, r := range origins {
				tg.Origins[k] = r
			}
			units, err := Compile(t.Context(), project(t, tc.files, &tg), options())
			require.Empty(t, units)
			require.EqualError(t, err, tc.want)
			require.Equal(t, tc.excerpt, sourceErr(t, err).Excerpt)
		})
	}
}

// A policy that is switched off does not stand in the way.
func TestPolicyDisabled(t *testing.T) {
	compile(t, project(t, "-- Dockerfile --\nFROM alpine\n-- Dockerfile.rego --\n", &ir.Target{Name: "t", Policy: []ir.Policy{{Disabled: true}}}))
}

// A link cannot lead out of the directory, as it could not on a node.
func TestDockerfileLinks(t *testing.T) {
	p := project(t, "-- svc/real --\nFROM alpine\n-- secret --\nFROM alpine\n", &ir.Target{Name: "t", Context: ir.ParseContext("svc", nil)})
	link := filepath.Join(p.Dir, "svc", "Dockerfile")
	require.NoError(t, os.Symlink("real", link))
	compile(t, p)
	require.NoError(t, os.Remove(link))
	require.NoError(t, os.Symlink("../secret", link))
	_, err := Compile(t.Context(), p, options())
	require.ErrorContains(t, err, "failed to read dockerfile: open svc/Dockerfile: no such file or directory")
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(os.ErrDeadlineExceeded)
	_, err := Compile(ctx, project(t, webFiles, &ir.Target{Name: "t", Context: ir.ParseContext("web", nil)}), options())
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestSeveralErrors(t *testing.T) {
	p := project(t, "-- a/Dockerfile --\nRUM\n-- b/Dockerfile --\nFROM missing\n-- c/Dockerfile --\nFROM alpine\n",
		&ir.Target{Name: "a", Context: ir.ParseContext("a", nil)}, &ir.Target{Name: "b", Context: ir.ParseContext("b", nil), Platforms: []string{"linux/amd64", "linux/arm64"}}, &ir.Target{Name: "c", Context: ir.ParseContext("c", nil)})
	units, err := Compile(t.Context(), p, options())
	require.Len(t, units, 1)
	joined, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok)
	require.Len(t, joined.Unwrap(), 2)
	for _, e := range joined.Unwrap() {
		require.False(t, sourceErr(t, e).Range.IsZero())
	}
}
