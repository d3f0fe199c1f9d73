package view

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
)

func TestWarnings(t *testing.T) {
	show := func(debug bool, list ...frontend.Warning) string {
		var b strings.Builder
		var remarks []plan.Remark
		for _, w := range list {
			remarks = append(remarks, plan.Remark{Warning: w})
		}
		Warnings(&b, remarks, debug)
		return b.String()
	}
	at := func(line int) ir.Range {
		return ir.Range{Filename: "svc/Dockerfile", Start: ir.Pos{Line: line}, End: ir.Pos{Line: line}}
	}
	casing := frontend.Warning{
		Range: at(3), Message: "Casing: 'as' does not match (line 3)", Detail: "It should.", URL: "https://example.com/casing",
		Excerpt: "svc/Dockerfile:3\n---\n",
	}
	require.Empty(t, show(false))
	require.Equal(t, "\n 1 warning found (use dbake --debug to expand):\n - Casing: 'as' does not match (svc/Dockerfile:3)\n", show(false, casing))
	require.Equal(t, `
 2 warnings found:
 - Casing: 'as' does not match (svc/Dockerfile:3)
It should.
More info: https://example.com/casing
svc/Dockerfile:3
---

 - no place

`, show(true, casing, frontend.Warning{Message: "no place"}))
}
