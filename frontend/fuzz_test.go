package frontend

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// FuzzCompile checks that no Dockerfile brings the compiler down, that problems
// are reported as such, and that compiling twice gives the same bytes.
func FuzzCompile(f *testing.F) {
	for _, seed := range []string{
		"FROM alpine\nRUN true\n",
		"# syntax=docker/dockerfile:1\nFROM --platform=$BUILDPLATFORM alpine AS a\nCOPY --from=b --chmod=1 x /y\nFROM a\n",
		"FROM scratch\nCOPY <<EOF /x\ntext\nEOF\nRUN --mount=type=secret,id=a,env=B <<E\nx\nE\n",
		"ARG A\nFROM $A\nADD https://example.com/x.git#main /y\n# escape=`\n",
		"FROM alpine\nRUM\n",
		"",
	} {
		f.Add([]byte(seed), "", false)
	}
	f.Add([]byte("FROM alpine AS a\nARG X=1\nRUN echo $X\nFROM a AS b\n"), "a", true)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, dockerfile []byte, stage string, sbom bool) {
		text := string(dockerfile)
		target := &ir.Target{Name: "t", Context: ir.ParseContext(".", nil), DockerfileInline: &text, Stage: stage, Secrets: []ir.Secret{{ID: "a", Env: "A"}}}
		if sbom {
			target.Attest = []ir.Attest{{Type: "sbom"}}
		}
		p := &ir.Project{Dir: dir, Targets: []*ir.Target{target}}
		first, err := Compile(t.Context(), p, options())
		if err != nil {
			sourceErr(t, err)
			return
		}
		again, err := Compile(t.Context(), p, options())
		require.NoError(t, err)
		require.Equal(t, first[0].Definition.Def, again[0].Definition.Def)
		require.Equal(t, first[0].Config, again[0].Config)
	})
}
