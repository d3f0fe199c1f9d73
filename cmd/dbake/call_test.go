package main

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/distribution/reference"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/runtime/registry"
)

func TestCallFlag(t *testing.T) {
	for _, tt := range []struct {
		call  string
		check bool
		want  callFlag
	}{
		{"", false, callFlag{}},
		{"", true, callFlag{method: "lint"}},
		{"build", false, callFlag{}},
		{"check", true, callFlag{method: "lint"}},
		{"lint,format=json", true, callFlag{method: "lint", json: true}},
		{"outline,format=text,ignorestatus=1", false, callFlag{method: "outline", ignoreStatus: true}},
		{"format=json,targets", false, callFlag{method: "targets", json: true}},
	} {
		got, err := (&definitionFlags{Call: tt.call, Check: tt.check}).callFlag()
		require.NoError(t, err, tt.call)
		require.Equal(t, tt.want, got, tt.call)
	}
	for call, want := range map[string]string{
		"a,b":              "invalid print value: a,b",
		"a,ignorestatus=x": "invalid ignorestatus print value",
		"a,b=c":            "invalid print field: b=c",
	} {
		_, err := (&definitionFlags{Call: call}).callFlag()
		require.ErrorContains(t, err, want)
	}
}

// What is asked about is not built, unless what is built links to it.
func TestSplit(t *testing.T) {
	p := &ir.Project{Targets: []*ir.Target{
		{Name: "base", Call: "check", Tags: []string{"t"}, Outputs: []ir.Output{{Type: "image"}}},
		{Name: "asked", Call: "outline"},
		{Name: "alone", Call: "targets", Contexts: map[string]string{"x": "target:asked"}},
		{Name: "app", Call: "build", Contexts: map[string]string{"x": "target:base"}, DependsOn: []string{"asked", "base"}},
	}}
	called, build := split(p)
	require.Equal(t, []*ir.Target{p.Targets[0], p.Targets[1], p.Targets[2]}, called)
	require.Equal(t, []*ir.Target{
		{Name: "base", Tags: []string{"t"}, Linked: true},
		{Name: "app", Call: "build", Contexts: map[string]string{"x": "target:base"}, DependsOn: []string{"base"}},
	}, build.Targets)
	require.Equal(t, []string{"asked", "base"}, p.Targets[3].DependsOn, "the project is not changed")

	called, build = split(&ir.Project{Targets: p.Targets[3:]})
	require.Empty(t, called)
	require.Len(t, build.Targets, 1)
}

// A context that is read over ssh needs an agent, though no step does.
func TestWithAgents(t *testing.T) {
	agent, key := []ir.SSH{{ID: "default"}}, []ir.SSH{{ID: "default", Paths: []string{"key"}}}
	for _, tt := range []struct {
		context   string
		ssh, want []ir.SSH
	}{
		{"git@github.com:x/y.git", nil, agent},
		{"ssh://git@example.com/x.git#main", nil, agent},
		{"git@github.com:x/y.git", key, key},
		{"https://github.com/x/y.git", nil, nil},
		{"git://example.com/x.git", nil, nil},
		{"https://user@example.com/x.git", nil, nil},
		{".", nil, nil},
	} {
		p := &ir.Project{Targets: []*ir.Target{{Context: tt.context, SSH: tt.ssh}}}
		require.Equal(t, tt.want, withAgents(p).Targets[0].SSH, tt.context)
		require.Equal(t, tt.ssh, p.Targets[0].SSH, "the project is not changed")
	}
}

// resolverFunc is a frontend.Resolver.
type resolverFunc func() (*frontend.Image, error)

func (f resolverFunc) Resolve(context.Context, frontend.ImageRequest) (*frontend.Image, error) {
	return f()
}

// Only what is wrong with the network is made up for by a guess, and each guess is
// told once.
func TestUnreachable(t *testing.T) {
	ref, err := reference.ParseNormalizedNamed("example.com/x:1")
	require.NoError(t, err)
	req := frontend.ImageRequest{Ref: ref}
	var noted []string
	known, guess := &frontend.Image{Digest: "d"}, &frontend.Image{Assumed: true}
	answer := func(img *frontend.Image, err error) frontend.Resolver {
		return resolverFunc(func() (*frontend.Image, error) { return img, err })
	}
	u := &unreachable{noted: map[string]bool{}, note: func(image string, _ error) { noted = append(noted, image) }}

	u.Resolver, u.offline = answer(known, nil), answer(guess, nil)
	img, err := u.Resolve(t.Context(), req)
	require.NoError(t, err)
	require.Same(t, known, img)

	missing := errors.New("not found")
	u.Resolver = answer(nil, missing)
	_, err = u.Resolve(t.Context(), req)
	require.ErrorIs(t, err, missing)

	u.Resolver = answer(nil, &registry.Error{Kind: registry.ErrUnreachable, Err: &net.DNSError{Err: "no such host"}})
	for range 2 {
		img, err = u.Resolve(t.Context(), req)
		require.NoError(t, err)
		require.Same(t, guess, img)
	}
	require.Equal(t, []string{"example.com/x:1"}, noted)

	u.offline = answer(known, nil)
	img, err = u.Resolve(t.Context(), frontend.ImageRequest{Ref: reference.TrimNamed(ref)})
	require.NoError(t, err)
	require.Same(t, known, img)
	require.Len(t, noted, 1)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = u.Resolve(ctx, req)
	require.Error(t, err)
}
