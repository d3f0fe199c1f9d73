package compiler_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
)

var update = flag.Bool("update", false, "rewrite the goldens of cases that are not printed by docker buildx")

// bakeCase is the case.json of a folder in testdata/bakefiles: a definition in
// files/, and what becomes of it under different arguments. The goldens are what
// "docker buildx bake --print" v0.38.2 printed: golden.RUN.json, or golden.RUN.err
// for a run that failed. With dbake set, they are from here.
type bakeCase struct {
	Source  string    `json:"source"` // "own", or the repository it is from
	Commit  string    `json:"commit"`
	License string    `json:"license"`
	Cwd     string    `json:"cwd"` // the working directory, below files/
	Dbake   bool      `json:"dbake"`
	Runs    []bakeRun `json:"runs"`
}

type bakeRun struct {
	Name      string            `json:"name"`
	Cwd       string            `json:"cwd"` // below that of the case
	Args      []string          `json:"args"`
	Env       map[string]string `json:"env"`
	Stdin     *string           `json:"stdin"`
	Expect    string            `json:"expect"`    // "ok" or "error"
	Unordered []string          `json:"unordered"` // lists whose order is random upstream
}

// TestBakefiles runs every case of testdata/bakefiles. A new case is a new folder.
func TestBakefiles(t *testing.T) {
	folders, err := filepath.Glob("../testdata/bakefiles/*/case.json")
	require.NoError(t, err)
	require.NotEmpty(t, folders)
	for _, file := range folders {
		folder := filepath.Dir(file)
		t.Run(filepath.Base(folder), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			var c bakeCase
			require.NoError(t, json.Unmarshal(data, &c))
			require.NotEmpty(t, c.Source, "a case names its source")
			require.NotEmpty(t, c.License, "a case names its licence")
			for _, run := range c.Runs {
				t.Run(run.Name, func(t *testing.T) { checkRun(t, folder, c, run) })
			}
		})
	}
}

func checkRun(t *testing.T, folder string, c bakeCase, run bakeRun) {
	dir, err := filepath.Abs(filepath.Join(folder, "files", c.Cwd, run.Cwd))
	require.NoError(t, err)
	o := options(t, dir, run.Args)
	o.Env = run.Env
	if run.Stdin != nil {
		o.Stdin = strings.NewReader(*run.Stdin)
	}
	golden := filepath.Join(folder, "golden."+run.Name+".json")
	if run.Expect == "error" {
		golden = filepath.Join(folder, "golden."+run.Name+".err")
	}

	out, err := compileAndPrint(t, o)
	if c.Dbake && *update {
		if err != nil {
			out = []byte("ERROR: " + err.Error() + "\n")
		}
		require.NoError(t, os.WriteFile(golden, out, 0o644))
	}
	want, readErr := os.ReadFile(golden)
	require.NoError(t, readErr)
	want = bytes.ReplaceAll(want, []byte("@CWD@"), []byte(dir))

	if run.Expect == "error" {
		require.Error(t, err)
		_, message, _ := strings.Cut(string(want), "ERROR: ")
		message, _, _ = strings.Cut(message, ";")
		require.Contains(t, err.Error(), strings.TrimSpace(message))
		return
	}
	require.NoError(t, err)
	if len(run.Unordered) == 0 {
		require.Equal(t, string(want), string(out))
		return
	}
	require.Equal(t, sortedLists(t, want, run.Unordered), sortedLists(t, out, run.Unordered))
}

// options reads the arguments of a run, the flags of the command line.
func options(t *testing.T, dir string, args []string) compiler.Options {
	t.Helper()
	o := compiler.Options{Dir: dir, Platform: "linux/amd64"}
	fs := flag.NewFlagSet("bake", flag.ContinueOnError)
	list := func(name string, dst *[]string) {
		fs.Func(name, "", func(s string) error { *dst = append(*dst, s); return nil })
	}
	list("f", &o.Files)
	list("file", &o.Files)
	list("set", &o.Overrides)
	list("var", &o.Vars)
	list("policy", &o.Policy)
	list("profile", &o.Profiles)
	list("exclude", &o.Exclude)
	fs.BoolVar(&o.Push, "push", false, "")
	fs.BoolVar(&o.Load, "load", false, "")
	fs.BoolVar(&o.WithDeps, "with-deps", false, "")
	fs.StringVar(&o.Call, "call", "", "")
	fs.BoolFunc("check", "", func(string) error { o.Call = "check"; return nil })
	optional := func(name string, dst **bool) {
		fs.BoolFunc(name, "", func(s string) error { b := s == "true"; *dst = &b; return nil })
	}
	optional("no-cache", &o.NoCache)
	optional("pull", &o.Pull)
	fs.StringVar(&o.SBOM, "sbom", "", "")
	fs.StringVar(&o.Provenance, "provenance", "", "")
	for {
		require.NoError(t, fs.Parse(args))
		if fs.NArg() == 0 {
			return o
		}
		o.Targets = append(o.Targets, fs.Arg(0))
		args = fs.Args()[1:]
	}
}

// compileAndPrint compiles and prints, and checks what holds for every project.
func compileAndPrint(t *testing.T, o compiler.Options) ([]byte, error) {
	t.Helper()
	p, err := compiler.Compile(context.Background(), o)
	if err != nil {
		return nil, err
	}
	checkProject(t, p)
	var b bytes.Buffer
	require.NoError(t, compiler.WriteJSON(&b, p))
	return b.Bytes(), nil
}

// checkProject checks the promises of ir.Project.
func checkProject(t *testing.T, p *ir.Project) {
	t.Helper()
	seen := map[string]bool{}
	for _, target := range p.Targets {
		for _, name := range append(target.Links(), target.DependsOn...) {
			require.True(t, seen[name], "%s comes before %s, which it needs", target.Name, name)
		}
		require.False(t, seen[target.Name])
		seen[target.Name] = true
	}
	require.True(t, slices.IsSortedFunc(p.Groups, func(a, b ir.Group) int { return strings.Compare(a.Name, b.Name) }))
}

// sortedLists returns a JSON document with the lists at the given paths, as
// ".group.app.targets", sorted.
func sortedLists(t *testing.T, data []byte, paths []string) any {
	t.Helper()
	var doc any
	require.NoError(t, json.Unmarshal(data, &doc))
	var walk func(v any, path string)
	walk = func(v any, path string) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				if path == "" {
					walk(x, k)
				} else {
					walk(x, path+"."+k)
				}
			}
		case []any:
			if slices.Contains(paths, path) {
				slices.SortFunc(v, func(a, b any) int {
					x, err := json.Marshal(a)
					require.NoError(t, err)
					y, err := json.Marshal(b)
					require.NoError(t, err)
					return bytes.Compare(x, y)
				})
			}
		}
	}
	walk(doc, "")
	return doc
}

// sourceErrors returns the errors with a place in err.
func sourceErrors(err error) []*ir.SourceError {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var list []*ir.SourceError
		for _, e := range joined.Unwrap() {
			list = append(list, sourceErrors(e)...)
		}
		return list
	}
	var e *ir.SourceError
	if errors.As(err, &e) {
		return []*ir.SourceError{e}
	}
	return nil
}
