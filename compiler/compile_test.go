package compiler_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
)

// project writes files, given as a list of name and content, and returns options
// for the directory they are in.
func project(t *testing.T, files ...string) compiler.Options {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		name := filepath.Join(dir, files[i])
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(files[i+1]), 0o644))
	}
	return compiler.Options{Dir: dir, Platform: "linux/amd64"}
}

func TestErrorsShowTheirLines(t *testing.T) {
	o := project(t, "docker-bake.hcl", `target "a" {
  args = { A = nope }
}
target "b" {
  tags = [missing]
  context = "x"
}
`)
	_, err := compiler.Compile(context.Background(), o)
	list := sourceErrors(err)
	e := list[len(list)-1]
	require.Equal(t, `docker-bake.hcl:2,16-20: Unknown variable; There is no variable named "nope"., and 3 other diagnostic(s)`, e.Error())
	require.Equal(t, `docker-bake.hcl:2
--------------------
   1 |     target "a" {
   2 | >>>   args = { A = nope }
   3 |     }
   4 |     target "b" {
--------------------
`, e.Excerpt)

	require.Len(t, list, 2, "the problem of the second target is told too, what follows from either is not")
	require.Equal(t, `docker-bake.hcl:5,11-18: Unknown variable; There is no variable named "missing".`, list[0].Error())
	require.Empty(t, list[0].Excerpt)
}

func TestDeepNestingIsAnError(t *testing.T) {
	for _, open := range []string{"[", "(", "{a=", "!", "-", "[-("} {
		o := project(t, "docker-bake.hcl", "X = "+strings.Repeat(open, 200_000))
		_, err := compiler.Compile(context.Background(), o)
		require.EqualError(t, err, "docker-bake.hcl: expressions are nested more than 10000 levels deep", open)
	}
	o := project(t, "docker-bake.json", `{"X":`+strings.Repeat("[", 200_000))
	_, err := compiler.Compile(context.Background(), o)
	require.EqualError(t, err, "docker-bake.json: expressions are nested more than 10000 levels deep")
}

// TestShortTuple: JSON with fewer elements than the type asks for is an error, also
// where the library panics.
func TestShortTuple(t *testing.T) {
	o := project(t, "docker-bake.hcl", "variable \"V\" {\n  type = tuple([string, number])\n}\n")
	o.Vars = []string{`V_JSON=["a"]`}
	_, err := compiler.Compile(context.Background(), o)
	require.ErrorContains(t, err, "failed to convert variable V from JSON")
}

// TestExcerptOfUnknownSyntax: lines are shown too of a file that has the name of no
// syntax and is of none.
func TestExcerptOfUnknownSyntax(t *testing.T) {
	o := project(t, "bake.HCL", "target \"a\" {\n  context =\n}\n")
	o.Files = []string{"bake.HCL"}
	_, err := compiler.Compile(context.Background(), o)
	var e *ir.SourceError
	require.ErrorAs(t, err, &e)
	require.Equal(t, "bake.HCL.hcl", e.Range.Filename)
	require.Contains(t, e.Excerpt, ">>>   context =")
}

func TestOrigins(t *testing.T) {
	o := project(t, "docker-bake.hcl", `target "base" {
  args = {
    A = "1"
    B = "2"
  }
}
target "app" {
  inherits = ["base"]
  args = { B = "3" }
  tags = ["x"]
}
`)
	o.Targets = []string{"app"}
	o.Overrides = []string{"app.platform=linux/amd64"}
	p, err := compiler.Compile(context.Background(), o)
	require.NoError(t, err)
	app := p.Target("app")
	require.Equal(t, "docker-bake.hcl:7,1-13", app.Origin("").String())
	require.Equal(t, "docker-bake.hcl:3,9-12", app.Origin("args.A").String())
	require.Equal(t, "docker-bake.hcl:9,16-19", app.Origin("args.B").String())
	require.Equal(t, "docker-bake.hcl:10,10-15", app.Origin("tags").String())
	require.Equal(t, "--set platform", app.Origin("platforms").String())
	require.Equal(t, "docker-bake.hcl:7,1-13", app.Origin("labels").String(), "what was not set is the block's")
}

func TestLinkErrorsNameTheContext(t *testing.T) {
	o := project(t, "docker-bake.hcl", `target "default" {
  contexts = {
    base = "target:nope"
  }
}
`)
	_, err := compiler.Compile(context.Background(), o)
	require.EqualError(t, err, "docker-bake.hcl:3,12-25: failed to find target nope")
}

const dependent = `
target "tool" {}
target "lib" {
  depends_on = ["tool", "gone"]
}
target "app" {
  contexts = { lib = "target:lib" }
}
target "extra" {}
group "default" {
  targets = ["app", "extra"]
}
`

func names(p *ir.Project) []string {
	var list []string
	for _, t := range p.Targets {
		name := t.Name
		if t.Linked {
			name += " (linked)"
		}
		list = append(list, name)
	}
	return list
}

func TestSelection(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*compiler.Options)
		want []string
	}{
		{"as upstream", func(*compiler.Options) {}, []string{"lib (linked)", "app", "extra"}},
		{"excluded", func(o *compiler.Options) { o.Exclude = []string{"extra"} }, []string{"lib (linked)", "app"}},
		{"excluded but read", func(o *compiler.Options) { o.Exclude = []string{"ex*,lib"} }, []string{"lib (linked)", "app"}},
		{"with dependencies", func(o *compiler.Options) { o.WithDeps = true }, []string{"tool", "lib", "app", "extra"}},
		{"with dependencies but one", func(o *compiler.Options) { o.WithDeps, o.Exclude = true, []string{"tool"} },
			[]string{"lib", "app", "extra"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := project(t, "docker-bake.hcl", dependent)
			tc.set(&o)
			p, err := compiler.Compile(context.Background(), o)
			require.NoError(t, err)
			checkProject(t, p)
			require.Equal(t, tc.want, names(p))
		})
	}

	o := project(t, "docker-bake.hcl", dependent)
	o.Exclude = []string{"nope"}
	_, err := compiler.Compile(context.Background(), o)
	require.EqualError(t, err, `exclude: failed to find target nope; There are "default", "tool", "lib", "app", "extra".`)
}

func TestDependsOnOrders(t *testing.T) {
	o := project(t, "docker-bake.hcl", dependent)
	o.Targets = []string{"lib", "tool"}
	p, err := compiler.Compile(context.Background(), o)
	require.NoError(t, err)
	require.Equal(t, []string{"tool", "lib"}, names(p))
	require.Equal(t, []string{"tool"}, p.Target("lib").DependsOn, "names that nothing has order nothing")

	o = project(t, "docker-bake.hcl", `
target "a" {
  depends_on = ["b"]
}
target "b" {
  contexts = { a = "target:a" }
}
`)
	o.Targets = []string{"*"}
	_, err = compiler.Compile(context.Background(), o)
	require.EqualError(t, err, "depends_on loop: a -> b -> a")
}

func TestStrict(t *testing.T) {
	o := project(t, "docker-bake.hcl", `variable "UNUSED" {
  descripton = "z"
}
tarjet "q" {}
target "a" {
  dockerfil  = "x"
  tags       = ["foo"]
  cache-to   = ["type=registry,ref=r"]
  depends_on = ["zz"]
  args {
    A = 1
  }
}
target "b" {
  tags       = ["docker.io/library/foo:latest"]
  cache-to   = ["type=registry,ref=docker.io/library/r"]
  depends_on = [nope]
}
group "default" {
  targets = ["a", "b"]
}
`)
	p, err := compiler.Compile(context.Background(), o)
	require.NoError(t, err)
	require.Empty(t, p.Warnings, "only when asked for")

	o.Strict = true
	p, err = compiler.Compile(context.Background(), o)
	require.NoError(t, err)
	var warnings []string
	for _, w := range p.Warnings {
		require.NotEmpty(t, w.Excerpt)
		warnings = append(warnings, w.Error())
	}
	require.Equal(t, []string{
		`docker-bake.hcl:1,10-18: Unused variable; Nothing refers to "UNUSED".`,
		`docker-bake.hcl:2,3-13: Unknown attribute; A variable has no attribute "descripton". Did you mean "description"?`,
		`docker-bake.hcl:4,1-7: Unknown block; Blocks of type "tarjet" are ignored. Did you mean "target"?`,
		`docker-bake.hcl:6,3-12: Unknown attribute; A target has no attribute "dockerfil". Did you mean "dockerfile"?`,
		`docker-bake.hcl:9,16-22: Unknown target in depends_on; There is no target "zz".`,
		`docker-bake.hcl:10,3-7: Unknown block; "args" is an attribute of a target: write it with an equals sign.`,
		`docker-bake.hcl:15,16-48: Tag built twice; Targets "a" and "b" both build docker.io/library/foo:latest: one overwrites the other.`,
		`docker-bake.hcl:16,16-57: Cache exported twice; Targets "a" and "b" both export to registry,ref=docker.io/library/r:latest: one overwrites the other.`,
		`docker-bake.hcl:17,16-17: Ignored depends_on; Unsuitable value type: Unsuitable value: value must be known`,
		`docker-bake.hcl:17,17-21: Ignored depends_on; Unknown variable: There is no variable named "nope".`,
	}, warnings)

	listed, err := compiler.List(context.Background(), o, "targets", &bytes.Buffer{})
	require.NoError(t, err)
	require.Len(t, listed, 8, "all but those of targets that are built together")
}

func TestList(t *testing.T) {
	o := project(t, "docker-bake.hcl", `
variable "TAG" {
  description = "of all images"
  default     = "latest"
}
variable "LIST" {
  type = list(string)
}
target "app" {
  description = "the app"
}
target "_private" {}
group "all" {
  targets = ["lib", "app"]
}
target "lib" {}
`)
	for spec, want := range map[string]string{
		"targets": "TARGET\tDESCRIPTION\nall\tapp, lib\napp\tthe app\nlib\t\n",
		"type=targets,format=json": `[
  {
    "name": "all",
    "description": "app, lib",
    "group": true
  },
  {
    "name": "app",
    "description": "the app"
  },
  {
    "name": "lib"
  }
]
`,
		"variables": "VARIABLE\tTYPE\t\tVALUE\tDESCRIPTION\nLIST\t\tlist of string\t<null>\t\nTAG\t\t\t\tlatest\tof all images\n",
		"type=variables,format=json": `[
  {
    "name": "LIST",
    "type": "list of string"
  },
  {
    "name": "TAG",
    "description": "of all images",
    "value": "latest"
  }
]
`,
	} {
		var b strings.Builder
		warnings, err := compiler.List(context.Background(), o, spec, &b)
		require.NoError(t, err)
		require.Empty(t, warnings)
		require.Equal(t, want, b.String(), spec)
	}
	_, err := compiler.List(context.Background(), o, "nope", &bytes.Buffer{})
	require.EqualError(t, err, `invalid list type "nope"`)
}

// fakeRemote serves one definition and records what it was asked for.
type fakeRemote struct {
	def      compiler.RemoteDefinition
	err      error
	url      string
	names    []string
	optional bool
}

func (r *fakeRemote) ReadDefinition(_ context.Context, url string, names []string, optional bool) (*compiler.RemoteDefinition, error) {
	r.url, r.names, r.optional = url, names, optional
	if r.err != nil {
		return nil, r.err
	}
	return &r.def, nil
}

func TestRemote(t *testing.T) {
	const url = "https://github.com/a/b.git#main:sub"
	const definition = `
target "default" {
  context    = "dir"
  contexts   = { other = "../o", here = "cwd://h" }
  args       = { CTX = BAKE_CMD_CONTEXT }
}
target "root" {}
target "local" {
  context = "cwd://x/../y"
}
`
	remote := &fakeRemote{def: compiler.RemoteDefinition{
		Files: []compiler.RemoteFile{{Name: "docker-bake.hcl", Data: []byte(definition)}},
		Tree:  true, URL: url,
	}}
	o := project(t, "extra.hcl", "target \"default\" {\n  tags = [\"t\"]\n}\n")
	o.Remote = remote
	o.Files = []string{"docker-bake.hcl", "cwd://extra.hcl"}
	o.Targets = []string{url, "https://example.com/ctx.git", "default", "root", "local"}
	p, err := compiler.Compile(context.Background(), o)
	require.NoError(t, err)
	require.Equal(t, url, remote.url)
	require.Equal(t, []string{"docker-bake.hcl"}, remote.names)
	require.False(t, remote.optional)

	d := p.Target("default")
	require.Equal(t, "https://github.com/a/b.git#main:sub/dir", d.Context.Text)
	require.Equal(t, ir.SourceTree, d.Context.Kind)
	require.Equal(t, "dir", d.Context.Path)
	require.Equal(t, ir.SourceTree, d.Contexts["other"].Kind)
	require.Equal(t, "../o", d.Contexts["other"].Path)
	require.Equal(t, "https://example.com/ctx.git", d.Args["CTX"])
	require.Equal(t, []string{"t"}, d.Tags, "local files come after remote ones")
	require.Equal(t, url, p.Target("root").Context.Text)
	require.Equal(t, ir.Source{Text: "y", Path: "y"}, p.Target("local").Context)

	o.Files, o.Targets = nil, []string{url}
	_, err = compiler.Compile(context.Background(), o)
	require.NoError(t, err)
	require.True(t, remote.optional)
	require.Contains(t, remote.names, "docker-bake.override.hcl")

	remote.err = errors.New("no such repository")
	_, err = compiler.Compile(context.Background(), o)
	require.EqualError(t, err, "read "+url+": no such repository")

	o.Remote = nil
	_, err = compiler.Compile(context.Background(), o)
	require.EqualError(t, err, "read "+url+": remote definitions need a node that can fetch them")
}

func TestRemoteSubdirectories(t *testing.T) {
	for _, tc := range []struct{ url, context, want string }{
		{"https://github.com/a/b.git", "dir", "https://github.com/a/b.git#:dir"},
		{"https://github.com/a/b.git#main", "./dir/", "https://github.com/a/b.git#main:dir"},
		{"https://github.com/a/b.git?ref=main&subdir=s", "dir", "https://github.com/a/b.git?ref=main&subdir=s%2Fdir"},
		{"git@github.com:a/b.git", "dir", "git@github.com:a/b.git#:dir"},
		{"", "dir", ""},
	} {
		o := project(t)
		o.Remote = &fakeRemote{def: compiler.RemoteDefinition{
			Files: []compiler.RemoteFile{{Name: "b.hcl", Data: []byte("target \"default\" {\n context = \"" + tc.context + "\"\n}\n")}},
			Tree:  true, URL: tc.url,
		}}
		o.Targets = []string{"https://github.com/a/b.git"}
		if strings.HasPrefix(tc.url, "git@") {
			key := filepath.Join(o.Dir, "agent")
			o.Env = map[string]string{"SSH_AUTH_SOCK": key}
			listen(t, key)
		}
		p, err := compiler.Compile(context.Background(), o)
		require.NoError(t, err)
		require.Equal(t, tc.want, p.Target("default").Context.Text)
	}
}

// listen makes a socket that passes for the one of an ssh agent.
func listen(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
}
