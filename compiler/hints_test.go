package compiler_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler"
)

// TestHints checks what an error says beyond what docker buildx does.
func TestHints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, file, text string
		targets, set     []string
		env              map[string]string
		want             string // of the last error
	}{
		{name: "var", text: `target "default" { tags = ["a:${var.TAG}"] }`,
			want: `There is no variable named "var"., and 1 other diagnostic(s). Variables are named without a prefix: write TAG instead of var.TAG`},
		{name: "env value", text: `target "default" { tags = ["a:${env.TAG}"] }`, want: `declare variable "TAG" {} and write TAG`},
		{name: "env function", text: `target "default" { tags = [env("TAG")] }`, want: `declare variable "TAG" {} and write TAG`},
		{name: "env of nothing", text: `target "default" { tags = [getenv()] }`, want: `declare variable "NAME" {} and write NAME`},
		{name: "utf-16", text: "\xff\xfet\x00a\x00", want: "The file is UTF-16 (little-endian)"},
		{name: "utf-16 without mark", text: "\x00t\x00a\x00r", want: "The file looks like UTF-16"},
		{name: "latin-1", text: "# caf\xe9\ntarget \"default\" { labels = { a = \"caf\xe9\" } }", want: "Byte 0xE9 in line 1 is not UTF-8; the file may be Latin-1"},
		{name: "zeros", text: "target \"a\" { context = \"\xe9\" }\n\x00 aaaaaaaaaaaaaaaaaaaaaaaaaaaa", want: "The file holds zero bytes"},
		{name: "empty list", text: `variable "X" { type = list(string) }`, env: map[string]string{"X": ""},
			want: "failed to parse  as CSV: EOF. X is set and empty: unset it to have the default, or set X_JSON to [] or {} to have nothing"},
		{name: "tilde", text: `target "default" { secret = ["id=a,src=~/.npmrc"] }`, want: `"~" is not replaced here`},
		{name: "near", text: `target "backend" {}`, targets: []string{"bakend"},
			want: `failed to find target bakend; Did you mean "backend"? There is only "backend".`},
		{name: "default", text: `target "a" {}` + "\n" + `group "g" { targets = ["a"] }`,
			want: `no target or group is named "default": name what is to be built, one or several of "g", "a", or "*" for all`},
		{name: "no targets", text: `variable "X" {}`, targets: []string{"a"}, want: "failed to find target a; the definition has no targets"},
		{name: "comma", text: `target "a" {}`, targets: []string{"a,b"}, want: "failed to find target a,b; names are separated by spaces"},
		{name: "space", text: `target "a" {}`, targets: []string{"a b"}, want: "the name holds white space"},
		{name: "star", text: `target "a" {}`, targets: []string{"docker-bake.hcl"}, want: `failed to find target docker-bake_hcl; "docker-bake.hcl" is the name of a file: quote patterns`},
		{name: "command", text: `target "a" {}`, targets: []string{"bake"}, want: `"bake" stands where a target is expected`},
		{name: "url", text: `target "a" {}`, targets: []string{"a", "https://example.com/x.git"}, want: "a URL that a definition is read from goes before"},
		{name: "group of nothing", text: `group "g" { targets = ["web-ap"] }` + "\n" + `target "web-app" {}`, targets: []string{"g"},
			want: `docker-bake.hcl:1,1-10: failed to find target web-ap; Did you mean "web-app"?`},
		{name: "group as parent", text: `group "g" { targets = ["a"] }` + "\n" + `target "a" { inherits = ["g"] }`, targets: []string{"a"},
			want: `failed to find target g; "g" is a group`},
		{name: "set of a group", text: `group "g" { targets = ["a"] }` + "\n" + `target "a" {}`, targets: []string{"a"}, set: []string{"g.tag=x"},
			want: `could not find any target matching 'g'; "g" is a group`},
		{name: "set of nothing", text: `target "web" {}`, targets: []string{"web"}, set: []string{"wb.tag=x"},
			want: `could not find any target matching 'wb'; Did you mean "web"? There is only "web".`},
		{name: "unknown key", text: `target "web" {}`, targets: []string{"web"}, set: []string{"web.platfrom=x"},
			want: `unknown key: platfrom Did you mean "platform"?`},
		{name: "escapes in json", file: "docker-bake.json", text: `{"target": {"default": {"tags": ["\"a\u00e9\"\n${NOPE}"]}}}`,
			want: `docker-bake.json:1,50-54: Unknown variable`},
		{name: "json after escapes", file: "docker-bake.json", text: `{"target": {"default": {"args": {"a\"": "\\", "b": "${NOPE}"}}}}`,
			want: `docker-bake.json:1,55-59: Unknown variable`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file := c.file
			if file == "" {
				file = "docker-bake.hcl"
			}
			o := project(t, file, c.text)
			o.Targets, o.Env, o.Overrides = c.targets, c.env, c.set
			_, err := compiler.Compile(context.Background(), o)
			require.Error(t, err)
			text := err.Error()
			require.Contains(t, text[strings.LastIndexByte(text, '\n')+1:], c.want)
		})
	}
}

// TestManyNames checks that an error lists some of many names.
func TestManyNames(t *testing.T) {
	t.Parallel()
	o := project(t, "docker-bake.hcl", `target "t" {
  name   = "t${i}"
  matrix = { i = range(1000) }
}
`)
	o.Targets = []string{"nope"}
	_, err := compiler.Compile(context.Background(), o)
	require.ErrorContains(t, err, `"t10" and 989 more.`)
	require.Less(t, len(err.Error()), 200)
}

// TestFileAtURL: -f takes files.
func TestFileAtURL(t *testing.T) {
	t.Parallel()
	o := project(t, "docker-bake.hcl", "")
	o.Files = []string{"https://example.com/docker-bake.hcl"}
	_, err := compiler.Compile(context.Background(), o)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "a definition that is read from a URL is named before the targets, without -f")
}

// TestBrokenDotEnvIsNamed has the error name the file at fault, .env.
func TestBrokenDotEnvIsNamed(t *testing.T) {
	t.Parallel()
	o := project(t, "compose.yaml", "services: {a: {build: .}}\n")
	for content, want := range map[string]string{
		"\ufeffA=1\n":  "It is the file .env that cannot be read: it begins with a byte order mark; save it as UTF-8 without one",
		"A='x\n":       "It is the file .env that cannot be read",
		"\xe9\xe9'=\n": "It is the file .env that cannot be read. Byte 0xE9 in line 1 is not UTF-8",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(o.Dir, ".env"), []byte(content), 0o644))
		_, err := compiler.Compile(context.Background(), o)
		require.ErrorContains(t, err, want)
	}
}
