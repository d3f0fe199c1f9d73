package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// What is asked about is not built, unless what is built links to it.
func TestSplit(t *testing.T) {
	p := &ir.Project{Targets: []*ir.Target{
		{Name: "base", Call: "check", Tags: []string{"t"}, Outputs: []ir.Output{{Type: "image"}}},
		{Name: "asked", Call: "outline"},
		{Name: "alone", Call: "targets", Contexts: map[string]ir.Source{"x": ir.ParseNamedContext("target:asked")}},
		{Name: "app", Call: "build", Contexts: map[string]ir.Source{"x": ir.ParseNamedContext("target:base")}, DependsOn: []string{"asked", "base"}},
	}}
	called, build := split(p)
	require.Equal(t, []*ir.Target{p.Targets[0], p.Targets[1], p.Targets[2]}, called)
	require.Equal(t, []*ir.Target{
		{Name: "base", Tags: []string{"t"}, Linked: true},
		{Name: "app", Call: "build", Contexts: map[string]ir.Source{"x": ir.ParseNamedContext("target:base")}, DependsOn: []string{"base"}},
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
		p := &ir.Project{Targets: []*ir.Target{{Context: ir.ParseContext(tt.context, nil), SSH: tt.ssh}}}
		require.Equal(t, tt.want, withAgents(p).Targets[0].SSH, tt.context)
		require.Equal(t, tt.ssh, p.Targets[0].SSH, "the project is not changed")
	}
}
