package engine

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// Credentials go to the targets that read from where the definition lies, no
// others.
func TestDefinitionAccess(t *testing.T) {
	declared := ir.Secret{ID: "GIT_AUTH_TOKEN.example.com", Src: "token"}
	p := &ir.Project{Targets: []*ir.Target{
		{Name: "root", Context: ir.Tree(".", "https://example.com/a.git")},
		{Name: "named", Context: ir.ParseContext("out", nil), Contexts: map[string]ir.Source{"x": {Kind: ir.SourceTree, Path: "x"}}},
		{Name: "neighbour", Context: ir.ParseContext("https://example.com/b.git", nil)},
		{Name: "stranger", Context: ir.ParseContext("https://example.org/a.git", nil)},
		{Name: "local", Context: ir.ParseContext(".", nil)},
		{Name: "declares", Context: ir.Tree(".", "https://example.com/a.git"), Secrets: []ir.Secret{declared}},
	}}
	s := &standby{engine: &Engine{Config: Config{Env: map[string]string{"BUILDX_BAKE_GIT_AUTH_TOKEN": "t"}}}}
	require.Same(t, p, s.withAccess(p), "the definition is local")

	s.url = "https://example.com/a.git#main"
	token := ir.Secret{ID: "GIT_AUTH_TOKEN.example.com", Env: "BUILDX_BAKE_GIT_AUTH_TOKEN"}
	want := [][]ir.Secret{{token}, {token}, {token}, nil, nil, {declared}}
	for i, target := range s.withAccess(p).Targets {
		require.Equal(t, want[i], target.Secrets, target.Name)
		require.Empty(t, target.SSH)
	}
	require.Empty(t, p.Targets[0].Secrets, "what is printed does not change")

	s.engine.Env = map[string]string{"BUILDX_BAKE_GIT_SSH": "key"}
	s.url = "git@example.com:a.git"
	p.Targets[0].Context = ir.Tree(".", s.url)
	with := s.withAccess(p).Targets
	require.Equal(t, []ir.SSH{{ID: "default", Paths: []string{"key"}}}, with[0].SSH)
	require.Empty(t, with[1].SSH, "it was not asked whether the agent may be used")
}
