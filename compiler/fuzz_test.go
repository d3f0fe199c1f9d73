package compiler_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler"
)

// seed adds the contents of the files of the conformance cases that match.
func seed(f *testing.F, pattern string) {
	for _, p := range []string{"../testdata/bakefiles/*/files/", "../testdata/bakefiles/*/files/*/"} {
		names, err := filepath.Glob(p + pattern)
		require.NoError(f, err)
		for _, name := range names {
			data, err := os.ReadFile(name)
			require.NoError(f, err)
			if len(data) < 1<<12 {
				f.Add(data)
			}
		}
	}
}

// compileTwice checks that a definition compiles or fails without crashing, and
// the same way each time. Functions that return something new each time are left
// out.
func compileTwice(t *testing.T, o compiler.Options, data []byte) {
	for _, f := range []string{"timestamp", "uuidv4", "bcrypt"} {
		if bytes.Contains(data, []byte(f)) {
			t.Skip()
		}
	}
	run := func() (string, string) {
		o.Stdin = bytes.NewReader(data)
		p, err := compiler.Compile(context.Background(), o)
		if err != nil {
			return "", err.Error()
		}
		checkProject(t, p)
		var b strings.Builder
		require.NoError(t, compiler.WriteJSON(&b, p))
		return b.String(), ""
	}
	out, failure := run()
	again, failureAgain := run()
	require.Equal(t, out, again)
	require.Equal(t, failure, failureAgain)
}

// fuzzFile returns options that read the fuzzed definition from a file, so that
// its name decides the syntax.
func fuzzFile(t *testing.T, name string, data []byte) compiler.Options {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	return compiler.Options{Dir: dir, Targets: []string{"*"}, Platform: "linux/amd64", Strict: true,
		Env: map[string]string{"VERSION": "1", "LIST_JSON": `["a"]`}}
}

func FuzzHCL(f *testing.F) {
	seed(f, "*.hcl")
	f.Fuzz(func(t *testing.T, data []byte) {
		compileTwice(t, fuzzFile(t, "docker-bake.hcl", data), data)
	})
}

func FuzzJSON(f *testing.F) {
	seed(f, "*.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		compileTwice(t, fuzzFile(t, "docker-bake.json", data), data)
	})
}

func FuzzSet(f *testing.F) {
	for _, s := range []string{
		"*.args.X=1", "app.tags+=x", "a*.platform=linux/amd64,linux/arm64", "*.push=true", "*.output=type=local,dest=x",
		"*.secret.token=env=X", "*.secrets=id=a,src=b", "*.ssh=default=/tmp/x", "*.cache-to+=type=registry,ref=r",
		"*.resources.memory=1g", "*.attest=type=sbom,disabled=true", "app.contexts.base=target:base", "*.policy=reset=true",
		"*.no-cache=maybe", "*.network=host", "[.x=y", "*.extra-hosts.h=1", "*.labels.a.b=c", "*.load=1", "*.args.X",
	} {
		f.Add(s, "app")
	}
	f.Fuzz(func(t *testing.T, set, target string) {
		o := fuzzFile(t, "docker-bake.hcl", []byte(`
target "base" {
  output = ["type=image"]
  secret = ["id=token,env=T"]
}
target "app" {
  inherits = ["base"]
  tags     = ["a", "b"]
  cache-to = ["r"]
}
group "all" {
  targets = ["app", "base"]
}
`))
		o.Strict = false
		o.Overrides = []string{set, set}
		o.Targets = []string{target}
		compileTwice(t, o, nil)
	})
}
