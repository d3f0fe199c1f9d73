package runtime

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// parts are the types that a run is made of.
var parts = []string{
	"work", "workers", "submission", "submissions", "nodeRun", "attendant", "accounts", "reporter", "exports", "caches", "waves",
	"exchange", "lostResults", "unread", "bases", "activity", "tracker", "trials", "drains",
}

// noImports makes every imported type unknown: those of the package are enough here.
type noImports struct{}

func (noImports) Import(string) (*types.Package, error) { return nil, errors.New("not looked at") }

// sources are the files of the package, tests apart, with what their names stand for.
type sources struct {
	set   *token.FileSet
	files []*ast.File
	info  *types.Info
	pkg   *types.Package
}

func readSources(t *testing.T) *sources {
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	s := &sources{set: token.NewFileSet(), info: &types.Info{
		Selections: map[*ast.SelectorExpr]*types.Selection{}, Uses: map[*ast.Ident]types.Object{},
	}}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(s.set, name, nil, 0)
		require.NoError(t, err)
		s.files = append(s.files, f)
	}
	config := types.Config{Importer: noImports{}, Error: func(error) {}}
	s.pkg, _ = config.Check("runtime", s.set, s.files, s.info) // unknown imports are errors
	return s
}

// TestPartsOwnTheirFields has the fields of a part written by its own methods and by what
// makes it, and by nothing else.
func TestPartsOwnTheirFields(t *testing.T) {
	s := readSources(t)
	set, files, info, pkg := s.set, s.files, s.info, s.pkg
	owner := map[types.Object]string{}
	for _, name := range parts {
		s, ok := pkg.Scope().Lookup(name).Type().Underlying().(*types.Struct)
		require.True(t, ok, name)
		for i := range s.NumFields() {
			owner[s.Field(i)] = name
		}
	}
	written := map[string]bool{}
	for _, f := range files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			by := methodOf(fn)
			for _, e := range writes(fn.Body) {
				name := owner[fieldOf(info, e)]
				if name == "" {
					continue
				}
				written[name] = true
				if by != name && by != "" {
					t.Errorf("%s: %s.%s writes a field of %s", set.Position(e.Pos()), by, fn.Name.Name, name)
				} else if by == "" && fn.Type.Results == nil {
					t.Errorf("%s: %s writes a field of %s, which it does not make", set.Position(e.Pos()), fn.Name.Name, name)
				}
			}
		}
	}
	for _, name := range []string{"submission", "nodeRun", "accounts", "waves", "exchange"} {
		require.True(t, written[name], "no field of %s is seen to be written", name)
	}
}

// methodOf is the type that a function is a method of; "" when it is none.
func methodOf(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	e := fn.Recv.List[0].Type
	if p, ok := e.(*ast.StarExpr); ok {
		e = p.X
	}
	return e.(*ast.Ident).Name
}

// writes returns what is assigned to, counted up or down, or deleted from.
func writes(body ast.Node) []ast.Expr {
	var list []ast.Expr
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				list = append(list, n.Lhs...)
			}
		case *ast.IncDecStmt:
			list = append(list, n.X)
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "delete" || f.Name == "clear") {
				list = append(list, n.Args[0])
			}
		}
		return true
	})
	return list
}

// fieldOf returns the field that e is, or is an element of; nil when it is neither.
func fieldOf(info *types.Info, e ast.Expr) types.Object {
	for {
		switch x := e.(type) {
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		case *ast.SelectorExpr:
			sel := info.Selections[x]
			if sel == nil || sel.Kind() != types.FieldVal {
				return nil
			}
			if inner, ok := x.X.(*ast.IndexExpr); ok { // of an element, as in a.results[j].State
				if o := fieldOf(info, inner); o != nil {
					return o
				}
			}
			return sel.Obj()
		default:
			return nil
		}
	}
}
