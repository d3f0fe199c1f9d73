// Package dbake holds the rule that all packages of the module keep: see [TestFloors].
package dbake

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// floors are the packages of the module from the bottom up: each imports only
// packages of lower lines, those of its own directory, and itself. After "not:"
// are modules that the packages of the line must not even reach.
const floors = `
compiler/ir internal/dockerconfig internal/localfile internal/pause internal/redact internal/stopwatch runtime/fault
compiler partition cachepolicy runtime/sched runtime/registry runtime/watchdog internal/memory internal/printable  not: github.com/moby/buildkit
frontend llbmerge runtime/layout runtime/nodeset runtime/publish
internal/cachestore internal/entitlement internal/plan runtime/cacheentry runtime/output
runtime/daemon
internal/imagekey runtime internal/report
internal/engine
cmd/dbake bench scripts
`

// alone are packages that import nothing of the module but their own directory, and
// tools.
var alone = []string{"internal/dockerconfig", "compiler/ir", "internal/localfile", "internal/pause", "internal/redact", "internal/memory", "internal/printable", "internal/stopwatch", "runtime/nodeset", "runtime/registry"}

// tools write files, wait, hide secrets and find the user's docker; every package may use
// them.
var tools = []string{"internal/localfile", "internal/pause", "internal/redact", "internal/dockerconfig"}

const module = "github.com/dbake/dbake/"

func TestFloors(t *testing.T) {
	type rules struct {
		floor     int
		forbidden []string
	}
	byFolder := map[string]rules{}
	for i, line := range strings.Split(strings.TrimSpace(floors), "\n") {
		folders, forbidden, _ := strings.Cut(line, "not:")
		for _, f := range strings.Fields(folders) {
			byFolder[f] = rules{floor: i, forbidden: strings.Fields(forbidden)}
		}
	}
	// folderOf returns the line's entry that a package belongs to: the longest
	// that it is, or is below of.
	folderOf := func(pkg string) string {
		for f := pkg; ; {
			if _, ok := byFolder[f]; ok {
				return f
			}
			i := strings.LastIndexByte(f, '/')
			if i < 0 {
				return ""
			}
			f = f[:i]
		}
	}

	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
	out, err := cmd.Output()
	require.NoError(t, err)
	dec := json.NewDecoder(bytes.NewReader(out))
	count := 0
	for {
		var p struct {
			ImportPath    string
			Imports, Deps []string
		}
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if p.ImportPath+"/" == module {
			continue // this test
		}
		pkg := strings.TrimPrefix(p.ImportPath, module)
		folder := folderOf(pkg)
		require.NotEmpty(t, folder, "%s is on no floor", pkg)
		count++
		for _, imported := range p.Imports {
			other, ok := strings.CutPrefix(imported, module)
			if !ok || folderOf(other) == folder {
				continue
			}
			require.Less(t, byFolder[folderOf(other)].floor, byFolder[folder].floor, "%s imports %s", pkg, other)
		}
		for _, a := range alone {
			if pkg != a && !strings.HasPrefix(pkg, a+"/") {
				continue
			}
			for _, imported := range p.Imports {
				if other, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(tools, other) {
					require.True(t, strings.HasPrefix(other+"/", a+"/"), "%s imports %s", pkg, other)
				}
			}
		}
		for _, mod := range byFolder[folder].forbidden {
			for _, dep := range p.Deps {
				require.False(t, dep == mod || strings.HasPrefix(dep, mod+"/"), "%s reaches %s", pkg, dep)
			}
		}
	}
	require.Greater(t, count, 10)
}

// ARCHITECTURE.md shows the same floors, is short enough to be read, and names no file
// and no identifier that does not exist; CONTRIBUTING.md neither.
func TestPapers(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	require.NoError(t, err)
	require.LessOrEqual(t, bytes.Count(text, []byte("\n")), 200)
	lines := strings.Split(strings.TrimSpace(floors), "\n")
	for i, line := range lines {
		folders, _, _ := strings.Cut(line, "not:")
		want := strings.Fields(folders)
		var shown []string
		for l := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(l, fmt.Sprintf("    %d  ", i)); ok {
				shown = strings.Fields(rest)
			}
		}
		for _, folder := range want {
			require.Contains(t, shown, folder, "floor %d of ARCHITECTURE.md", i)
		}
	}
	path := regexp.MustCompile("`([a-z][a-z0-9_./-]*)`")
	// An identifier has a capital inside, or is qualified by a package.
	identifier := regexp.MustCompile("`(?:[a-z]+\\.)?([A-Za-z][a-z0-9]+[A-Z]\\w*|[A-Z][a-z]\\w*)`")
	declared := declaredNames(t)
	for _, paper := range []string{"ARCHITECTURE.md", "CONTRIBUTING.md"} {
		text, err := os.ReadFile(paper)
		require.NoError(t, err)
		for _, m := range path.FindAllStringSubmatch(string(text), -1) {
			name := m[1]
			if built := strings.HasPrefix(name, "bin/"); !built && (strings.HasSuffix(name, ".go") || strings.Contains(name, "/")) {
				_, err := os.Stat(name)
				require.NoError(t, err, paper)
			}
		}
		for _, m := range identifier.FindAllStringSubmatch(string(text), -1) {
			if m[1] != "Makefile" {
				require.True(t, declared[m[1]], "%s: nothing is called %s", paper, m[1])
			}
		}
	}
}

// declaredNames are the names that the Go files of the module declare: of functions, types,
// constants, variables and fields.
func declaredNames(t *testing.T) map[string]bool {
	names := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if path != "." && (strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata" || e.Name() == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				names[n.Name.Name] = true
			case *ast.TypeSpec:
				names[n.Name.Name] = true
			case *ast.ValueSpec:
				for _, id := range n.Names {
					names[id.Name] = true
				}
			case *ast.Field:
				for _, id := range n.Names {
					names[id.Name] = true
				}
			}
			return true
		})
		return nil
	})
	require.NoError(t, err)
	return names
}
