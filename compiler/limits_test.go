package compiler_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler"
)

// TestAbsurdInput: what doubles with every line, or has no end, is refused.
func TestAbsurdInput(t *testing.T) {
	t.Parallel()
	doubling := func(first, format string) string {
		var b strings.Builder
		b.WriteString(first + "\n")
		for i := 1; i < 60; i++ {
			fmt.Fprintf(&b, format+"\n", i, i-1)
		}
		return b.String()
	}
	for name, c := range map[string]struct{ text, want string }{
		"strings":    {doubling(`v0 = "aaaa"`, `v%d = "${v%[2]d}${v%[2]d}"`), "Value too large; the value is larger than 16 MiB"},
		"lists":      {doubling(`v0 = ["a"]`, `v%d = concat(v%[2]d, v%[2]d)`), "Value too large"},
		"references": {doubling("target \"t0\" {\n tags = [\"a\"]\n}", "target \"t%d\" {\n tags = concat(target.t%[2]d.tags, target.t%[2]d.tags)\n}"), "Value too large"},
		"matrix":     {"target \"m\" {\n name = \"m${a}-${b}\"\n matrix = { a = range(1000), b = range(1000) }\n}", "matrix has more than 100000 combinations"},
		"policies":   {doubling("target \"t0\" {\n policy = [\"strict=true\"]\n}", "target \"t%d\" {\n inherits = [\"t%[2]d\", \"t%[2]d\"]\n}"), "inherits more than 100000 values"},
	} {
		o := project(t, "docker-bake.hcl", c.text)
		o.Targets = []string{"t59"}
		_, err := compiler.Compile(context.Background(), o)
		require.ErrorContains(t, err, c.want, name)
	}

	o := project(t, "docker-bake.hcl", doubling("target \"t0\" {\n tags = [\"a\"]\n}", "target \"t%d\" {\n inherits = [\"t%[2]d\", \"t%[2]d\"]\n}"))
	o.Targets = []string{"t59"}
	p, err := compiler.Compile(context.Background(), o)
	require.NoError(t, err, "what is inherited twice is there once")
	require.Equal(t, []string{"a"}, p.Targets[0].Tags)

	o.Files, o.Stdin = []string{"-"}, endless{}
	_, err = compiler.Compile(context.Background(), o)
	require.ErrorContains(t, err, "more than 64 MiB: this is no build definition")
	o.Stdin = iotest.ErrReader(errors.New("broken"))
	_, err = compiler.Compile(context.Background(), o)
	require.ErrorContains(t, err, "read standard input: broken")
}

// endless is a file like /dev/zero.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestCompileEndsWithItsContext: nothing is evaluated for a command that has ended.
func TestCompileEndsWithItsContext(t *testing.T) {
	t.Parallel()
	o := project(t, "docker-bake.hcl", `target "default" {}`)
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("stop")
	cancel(stop)
	_, err := compiler.Compile(ctx, o)
	require.ErrorIs(t, err, stop)
}
