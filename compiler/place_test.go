package compiler

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/hcl/v2"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// TestGuardedNamesThePlace gives up what does not end: the error says where it was.
func TestGuardedNamesThePlace(t *testing.T) {
	src := sources{"bake.hcl": []byte("a = 1\nb = forever()\n")}
	line := func(n int) hcl.Range {
		return hcl.Range{Filename: "bake.hcl", Start: hcl.Pos{Line: n, Column: 1, Byte: 6}, End: hcl.Pos{Line: n, Column: 2, Byte: 7}}
	}
	for name, c := range map[string]struct {
		enter func(*place)
		want  string
	}{
		"expression": {func(p *place) {
			p.inFile("other.hcl")
			before := p.enter(line(2))
			p.leave(p.enter(line(1)))
			require.Equal(t, "other.hcl", before.Filename)
		}, "bake.hcl:2,1-2: the definition takes more than 2m0s to evaluate, and was here when it was given up"},
		"file":    {func(p *place) { p.inFile("compose.yaml") }, "compose.yaml: the definition takes more than 2m0s to evaluate"},
		"nowhere": {func(*place) {}, "the definition takes more than 2m0s to evaluate"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				at, over := &place{}, make(chan struct{})
				defer close(over)
				err := guard(t.Context(), at, src, func() error {
					c.enter(at)
					<-over
					return nil
				})
				require.EqualError(t, err, c.want)
				var located *ir.SourceError
				if name == "expression" {
					require.ErrorAs(t, err, &located)
					require.Contains(t, located.Excerpt, ">>> b = forever()")
				}
			})
		})
	}
}

// TestGuardedEndsWithItsContext does not wait for what is evaluated.
func TestGuardedEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		over, begun := make(chan struct{}), make(chan struct{})
		defer close(over)
		go func() {
			<-begun
			cancel(context.Canceled)
		}()
		err := guard(ctx, &place{}, nil, func() error {
			close(begun)
			<-over
			return nil
		})
		require.ErrorIs(t, err, context.Canceled)
	})
}
