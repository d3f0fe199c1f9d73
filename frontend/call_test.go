package frontend

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

const callFiles = `
-- svc/Dockerfile --
# base of all
FROM alpine AS base
ARG VERSION=1
FROM base as app
MAINTAINER me
RUN --mount=type=secret,id=token true
-- clean/Dockerfile --
FROM alpine
RUN true
-- broken/Dockerfile --
FROM alpine AS a
RUM true
-- linked/Dockerfile --
FROM app AS one
`

func call(t *testing.T, target *ir.Target) (*Called, string, error) {
	t.Helper()
	target.Name = "t"
	p := project(t, callFiles, &ir.Target{Name: "app", Context: ir.ParseContext("svc", nil)}, target)
	called, err := Call(t.Context(), p, options())
	require.NoError(t, err)
	require.Len(t, called, 1)
	var b strings.Builder
	err = called[0].Print(&b)
	return called[0], b.String(), err
}

func TestCallLint(t *testing.T) {
	for _, method := range []string{"check", "lint", "lint,format=json"} {
		c, text, err := call(t, &ir.Target{Context: ir.ParseContext("svc", nil), Call: method})
		require.NoError(t, err)
		require.Equal(t, "lint", c.Method)
		require.Equal(t, 1, c.StatusCode)
		golden(t, "call-lint", text)
		require.Contains(t, string(c.JSON()), `"ruleName": "MaintainerDeprecated"`)
	}
	c, text, err := call(t, &ir.Target{Context: ir.ParseContext("clean", nil), Call: "check"})
	require.NoError(t, err)
	require.Zero(t, c.StatusCode)
	require.Equal(t, "Check complete, no warnings found.\n", text)

	c, text, err = call(t, &ir.Target{Context: ir.ParseContext("broken", nil), Call: "check"})
	require.Equal(t, 1, c.StatusCode)
	require.Empty(t, text)
	require.EqualError(t, err, "dockerfile parse error on line 2: unknown instruction: RUM (did you mean RUN?)\nbroken/Dockerfile:2\n--------------------\n   1 |     FROM alpine AS a\n   2 | >>> RUM true\n   3 |     \n--------------------\n")
}

func TestCallOthers(t *testing.T) {
	c, text, err := call(t, &ir.Target{Context: ir.ParseContext("svc", nil), Call: "outline", Args: map[string]string{"VERSION": "2"}})
	require.NoError(t, err)
	require.Zero(t, c.StatusCode)
	golden(t, "call-outline", text)

	_, text, err = call(t, &ir.Target{Context: ir.ParseContext("svc", nil), Call: "targets"})
	require.NoError(t, err)
	golden(t, "call-targets", text)

	_, text, err = call(t, &ir.Target{Context: ir.ParseContext("svc", nil), Call: "subrequests.describe"})
	require.NoError(t, err)
	golden(t, "call-describe", text)

	// What a target links to is compiled for it.
	_, text, err = call(t, &ir.Target{Context: ir.ParseContext("linked", nil), Call: "outline", Contexts: map[string]ir.Source{"app": ir.ParseNamedContext("target:app")}, Platforms: []string{"linux/arm64"}})
	require.NoError(t, err)
	require.Contains(t, text, "TARGET:")
}

func TestCallUnknown(t *testing.T) {
	p := project(t, callFiles, &ir.Target{Name: "t", Context: ir.ParseContext("svc", nil), Call: "nothing"}, &ir.Target{Name: "u", Context: ir.ParseContext("clean", nil)})
	called, err := Call(t.Context(), p, options())
	require.Empty(t, called)
	require.EqualError(t, err, "bake.hcl:1,1-9: unsupported request frontend.nothing")
}

// A lint is the same text in every run.
func TestCallIsStable(t *testing.T) {
	first, _, _ := call(t, &ir.Target{Context: ir.ParseContext("svc", nil), Call: "check"})
	again, _, _ := call(t, &ir.Target{Context: ir.ParseContext("svc", nil), Call: "check"})
	require.Equal(t, first.Result, again.Result)
}
