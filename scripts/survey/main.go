// Command survey counts what a review of the tree begins with: lines, comments, sizes
// and complexity of functions, documented exports and method sets, by package. Tests,
// generated files and testdata are left out.
//
//	go run ./scripts/survey [-check] [DIR...]
//
// With -check it lists what is beyond the limits of CONTRIBUTING.md and fails if there
// is anything.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The limits of CONTRIBUTING.md.
const (
	maxLines      = 80
	maxComplexity = 25
	maxMethods    = 30
)

func main() {
	check := flag.Bool("check", false, "list what is beyond the limits, and fail")
	flag.Parse()
	roots := flag.Args()
	if len(roots) == 0 {
		roots = []string{"."}
	}
	if err := run(roots, *check); err != nil {
		fmt.Fprintln(os.Stderr, "survey:", err)
		os.Exit(1)
	}
}

func run(roots []string, check bool) error {
	var list []*counts
	all := &counts{name: "all", methods: map[string]int{}}
	for _, root := range roots {
		found, err := survey(root)
		if err != nil {
			return err
		}
		list = append(list, found...)
	}
	for _, p := range list {
		all.add(p)
	}
	if check {
		if len(all.beyond) > 0 {
			fmt.Println(strings.Join(all.beyond, "\n"))
			return fmt.Errorf("%d beyond the limits", len(all.beyond))
		}
		return nil
	}
	slices.SortFunc(list, func(a, b *counts) int { return cmp.Or(cmp.Compare(b.lines, a.lines), cmp.Compare(a.name, b.name)) })
	fmt.Println("| package | lines | comment lines % | comment words /100 lines | fn median | fn p95 | fn max | max cyclomatic | exports documented | files > 500 | largest method set |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|")
	for _, p := range append([]*counts{all}, list...) {
		fmt.Println(p.row())
	}
	return nil
}

// counts are those of a package.
type counts struct {
	name                string
	files, long         int // long have more than 500 lines
	lines               int
	comments, words     int
	functions           []int // lines of each
	complexity          int   // the largest
	exports, documented int
	methods             map[string]int // by type
	beyond              []string       // what is beyond the limits
}

func (c *counts) add(p *counts) {
	c.files, c.long, c.lines = c.files+p.files, c.long+p.long, c.lines+p.lines
	c.comments, c.words = c.comments+p.comments, c.words+p.words
	c.functions = append(c.functions, p.functions...)
	c.complexity = max(c.complexity, p.complexity)
	c.exports, c.documented = c.exports+p.exports, c.documented+p.documented
	for name, n := range p.methods {
		c.methods[p.name+"."+name] = n
		if n > maxMethods {
			c.beyond = append(c.beyond, fmt.Sprintf("%s.%s: %d methods", p.name, name, n))
		}
	}
	c.beyond = append(c.beyond, p.beyond...)
}

func (c *counts) row() string {
	slices.Sort(c.functions)
	at := func(share float64) int {
		if len(c.functions) == 0 {
			return 0
		}
		return c.functions[min(len(c.functions)-1, int(share*float64(len(c.functions))))]
	}
	largest, methods := "", 0
	for name, n := range c.methods {
		if n > methods || n == methods && name < largest {
			largest, methods = name, n
		}
	}
	exports := "–"
	if c.exports > 0 {
		exports = fmt.Sprintf("%d of %d", c.documented, c.exports)
	}
	return fmt.Sprintf("| %s | %d | %.1f | %.0f | %d | %d | %d | %d | %s | %d of %d | %d (%s) |", c.name, c.lines,
		100*float64(c.comments)/float64(max(1, c.lines)), 100*float64(c.words)/float64(max(1, c.lines)),
		at(0.5), at(0.95), at(1), c.complexity, exports, c.long, c.files, methods, largest)
}

// survey counts the packages below a directory.
func survey(root string) ([]*counts, error) {
	byDir := map[string]*counts{}
	var list []*counts
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if name := e.Name(); name == "testdata" || name != "." && name != ".." && strings.HasPrefix(name, ".") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		dir := filepath.Dir(path)
		c := byDir[dir]
		if c == nil {
			c = &counts{name: dir, methods: map[string]int{}}
			byDir[dir], list = c, append(list, c)
		}
		return c.file(path)
	})
	return list, err
}

// file counts a file, unless it is generated.
func (c *counts) file(path string) error {
	src, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, src, parser.ParseComments)
	if err != nil {
		return err
	}
	if ast.IsGenerated(f) {
		return nil
	}
	c.files++
	lines := strings.Count(string(src), "\n")
	c.lines += lines
	if lines > 500 {
		c.long++
	}
	c.remarks(path, src)
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			c.function(set, d)
		case *ast.GenDecl:
			c.declaration(d)
		}
	}
	return nil
}

// remarks counts the lines that hold nothing but a comment, and the words of all.
func (c *counts) remarks(path string, src []byte) {
	set := token.NewFileSet()
	file := set.AddFile(path, -1, len(src))
	var s scanner.Scanner
	s.Init(file, src, nil, scanner.ScanComments)
	code, comment := map[int]bool{}, map[int]bool{}
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			break
		}
		first := file.Line(pos)
		if tok != token.COMMENT {
			if text != "\n" {
				code[first] = true
			}
			continue
		}
		c.words += len(strings.Fields(strings.TrimLeft(text, "/* ")))
		for i := range 1 + strings.Count(text, "\n") {
			comment[first+i] = true
		}
	}
	for line := range comment {
		if !code[line] {
			c.comments++
		}
	}
}

func (c *counts) function(set *token.FileSet, d *ast.FuncDecl) {
	name, receiver := d.Name.Name, ""
	if d.Recv != nil {
		if receiver = typeName(d.Recv.List[0].Type); receiver != "" {
			c.methods[receiver]++
			name = receiver + "." + name
		}
	}
	if d.Name.IsExported() && (receiver == "" || ast.IsExported(receiver)) {
		c.export(d.Doc)
	}
	lines := set.Position(d.End()).Line - set.Position(d.Pos()).Line + 1
	paths := complexity(d)
	c.functions = append(c.functions, lines)
	c.complexity = max(c.complexity, paths)
	at := set.Position(d.Pos())
	if lines > maxLines {
		c.beyond = append(c.beyond, fmt.Sprintf("%s:%d: %s: %d lines", at.Filename, at.Line, name, lines))
	}
	if paths > maxComplexity {
		c.beyond = append(c.beyond, fmt.Sprintf("%s:%d: %s: complexity %d", at.Filename, at.Line, name, paths))
	}
}

// declaration counts exported types, constants and variables. A comment on a group is
// one for all of it.
func (c *counts) declaration(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() {
				c.export(s.Doc, d.Doc, s.Comment)
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() {
					c.export(s.Doc, d.Doc, s.Comment)
				}
			}
		}
	}
}

func (c *counts) export(docs ...*ast.CommentGroup) {
	c.exports++
	if slices.ContainsFunc(docs, func(doc *ast.CommentGroup) bool { return doc != nil }) {
		c.documented++
	}
}

// typeName is the name of a receiver's type.
func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.IndexExpr:
		return typeName(e.X)
	case *ast.IndexListExpr:
		return typeName(e.X)
	}
	return ""
}

// complexity is the cyclomatic complexity: 1 and the number of branches, those of
// functions inside included.
func complexity(d *ast.FuncDecl) int {
	n := 1
	ast.Inspect(d, func(node ast.Node) bool {
		switch x := node.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if x.List != nil {
				n++
			}
		case *ast.CommClause:
			if x.Comm != nil {
				n++
			}
		case *ast.BinaryExpr:
			if x.Op == token.LAND || x.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}
