package compiler_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
		"lists":      {doubling(`v0 = ["a"]`, `v%d = concat(v%[2]d, v%[2]d)`), "the value is larger than 16 MiB"},
		"references": {doubling("target \"t0\" {\n tags = [\"a\"]\n}", "target \"t%d\" {\n tags = concat(target.t%[2]d.tags, target.t%[2]d.tags)\n}"), "the value is larger than 16 MiB"},
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
	require.ErrorContains(t, err, "more than 64 MiB: this is not a build definition")
	o.Stdin = iotest.ErrReader(errors.New("broken"))
	_, err = compiler.Compile(context.Background(), o)
	require.ErrorContains(t, err, "read standard input: broken")
}

// TestAbsurdCall: one call that would make a huge value is refused at its place
// before it makes it.
func TestAbsurdCall(t *testing.T) {
	t.Parallel()
	var given strings.Builder
	given.WriteString("r = range(1000)\nv0 = \"aaaaaaaaaaaaaaaa\"\n")
	for i := 1; i < 20; i++ {
		fmt.Fprintf(&given, "v%d = \"${v%[2]d}${v%[2]d}\"\n", i, i-1)
	}
	for _, call := range []string{
		`setproduct(r, r, r)`,
		`setproduct(r, r, r, r, r, r, r, r)`,
		`format("%999999999s", "a")`,
		`format("%.999999999f", 1)`,
		`format("%99999999999999999999999s", "a")`,
		`format("%[1]s%[1]s%[1]s", v19)`,
		`formatlist("%s%s", r, v19)`,
		`formatlist("%99999s", r)`,
		`indent(999999999, "a\nb")`,
		`indent(1e300, "a\nb")`,
		`replace(v19, "a", v19)`,
		`replace(v19, "", v19)`,
		`regex_replace(v19, "a", v15)`,
		`regex_replace(v19, "(a*)", "$1$1$1")`,
		`regexall("a", v19)`,
		`join(v19, [for i in r : "a"])`,
		`split("", v19)`,
		`concat([v19], [v19], [v19])`,
		`merge({ a = v19 }, { b = v19 })`,
		`setunion([v19], ["${v19}b"])`,
		`csvdecode(replace(v15, "a", "a,b\n"))`,
		`jsondecode(replace(v15, "a", "[],"))`,
		`jsondecode(replace(v10, "a", "["))`,
	} {
		o := project(t, "docker-bake.hcl", given.String()+"target \"default\" {\n description = \"${length(jsonencode("+call+"))}\"\n}")
		_, err := compiler.Compile(context.Background(), o)
		require.ErrorContains(t, err, "the value is larger than 16 MiB", call)
		require.ErrorContains(t, err, "docker-bake.hcl:23,", call)
	}
	for call, want := range map[string]string{
		`format("%5s|%%|%[1]q", "a")`:                       "    a|%|\"a\"",
		`strlen(indent(1000, replace(v8, "a", "\n")))`:      "4100096",
		`length(formatlist("%s", [for i in r : v6]))`:       "1000",
		`length(formatlist("%s-%s", [for i in r : v6], r))`: "1000",
		`strlen(join(v6, [for i in r : "a"]))`:              "1023976",
	} {
		o := project(t, "docker-bake.hcl", given.String()+"target \"default\" {\n tags = [\"a\"]\n description = "+call+"\n}")
		p, err := compiler.Compile(context.Background(), o)
		require.NoError(t, err, call)
		require.Equal(t, want, p.Targets[0].Description, call)
	}
}

// TestDeepInput: what is nested without end is refused, and what is merely deep is not
// slow.
func TestDeepInput(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 501 {
		b.WriteString(strings.Repeat(" ", i) + "a:\n\n")
	}
	o := project(t, "compose.yaml", b.String())
	_, err := compiler.Compile(context.Background(), o)
	require.ErrorContains(t, err, "compose.yaml: lines are indented more than 500 levels deep")

	b.Reset()
	b.WriteString("target \"t\" {}\ngroup \"g0\" { targets = [\"t\"] }\n")
	for i := 1; i < 5000; i++ {
		fmt.Fprintf(&b, "group \"g%d\" { targets = [\"g%d\", \"t\"] }\n", i, i-1)
	}
	o = project(t, "docker-bake.hcl", b.String())
	o.Targets = []string{"g4999"}
	p, err := compiler.Compile(context.Background(), o)
	require.NoError(t, err)
	require.Len(t, p.Targets, 1)
}

// TestFunctionsCallEachOther: a call of a function is one evaluation of its result,
// however deep.
func TestFunctionsCallEachOther(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("function \"f0\" {\n params = [a]\n result = a\n}\n")
	for i := 1; i < 60; i++ {
		fmt.Fprintf(&b, "function \"f%d\" {\n params = [a]\n result = f%d(a)\n}\n", i, i-1)
	}
	b.WriteString("target \"default\" {\n description = f59(\"a\")\n}\n")
	p, err := compiler.Compile(context.Background(), project(t, "docker-bake.hcl", b.String()))
	require.NoError(t, err)
	require.Equal(t, "a", p.Targets[0].Description)
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

// TestEndlessFiles: files that compose files name and that have no end, and chains of
// files that are too long, are refused with their place.
func TestEndlessFiles(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"services:\n  a:\n    build: .\n    env_file: /dev/zero\n":                       "compose.yaml:4,1-24: /dev/zero is a device and not a file",
		"services:\n  a:\n    build: .\n    env_file: [{path: /dev/zero}]\n":             "compose.yaml:4,",
		"services:\n  a:\n    build: .\n    extends: {file: /dev/zero, service: b}\n":    "compose.yaml:4,",
		"include:\n  - /dev/zero\nservices:\n  a:\n    build: .\n":                       "compose.yaml:2,1-14: /dev/zero is a device",
		"include:\n  - path: [/dev/zero]\nservices:\n  a:\n    build: .\n":               "compose.yaml:2,",
		"include:\n  - path: b.yaml\n    env_file: /dev/zero\nservices: {a: {build: .}}": "compose.yaml:3,",
		"services:\n  a:\n    build: .\n    env_file: /dev/null\n":                       "",
	} {
		o := project(t, "compose.yaml", text)
		_, err := compiler.Compile(context.Background(), o)
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "/dev/zero is a device and not a file")
	}

	o := project(t, "compose.yaml", "include: [c1.yaml]\nservices: {a: {build: .}}\n")
	for i := range 200 {
		text := fmt.Sprintf("include: [c%d.yaml]\nservices: {s%d: {build: .}}\n", i+1, i)
		require.NoError(t, os.WriteFile(filepath.Join(o.Dir, fmt.Sprintf("c%d.yaml", i)), []byte(text), 0o644))
	}
	_, err := compiler.Compile(context.Background(), o)
	require.ErrorContains(t, err, "c101.yaml:1,")
	require.ErrorContains(t, err, "files include or extend each other more than 100 levels deep")

	require.NoError(t, os.Symlink("/dev/zero", filepath.Join(o.Dir, ".env")))
	_, err = compiler.Compile(context.Background(), o)
	require.ErrorContains(t, err, ".env is a device and not a file")
}
