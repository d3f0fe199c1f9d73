package dbake

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// unwanted are phrases that stand in no comment, message or page, and what to write
// instead: see "What a change looks like" in CONTRIBUTING.md.
var unwanted = []struct {
	phrase  *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`(?i)\bhand(s|ed|ing)? over\b|\bhanded on\b`), "send, transfer, pass"},
	{regexp.MustCompile(`(?i)\b(tells?|told) of\b`), "reports, describes, shows"},
	{regexp.MustCompile(`(?i)\b(is|are) told in part\b`), "a sentence that says what is known"},
	{regexp.MustCompile(`(?i)\bno more than worth\b`), "is only"},
}

// partitive is "of which", which is good after a word of number only, as in "each of which".
var (
	partitive = regexp.MustCompile(`(?i)(\w+),? of which\b`)
	number    = regexp.MustCompile(`(?i)^(each|none|some|all|most|any|one|two|three|four|both|first|last)$`)
	// questions ask which; their "of which" is no relative clause.
	questions = regexp.MustCompile(`which (files|steps|file|step)\b.* of which (targets|steps)\b`)
)

// blemish returns an unwanted phrase of a text with what to write instead, "" for none.
func blemish(text string) string {
	text = strings.Join(strings.Fields(strings.ReplaceAll(text, "//", " ")), " ")
	for _, u := range unwanted {
		if m := u.phrase.FindString(text); m != "" {
			return m + " (better: " + u.instead + ")"
		}
	}
	for _, m := range partitive.FindAllStringSubmatch(text, -1) {
		if !number.MatchString(m[1]) && !questions.MatchString(text) {
			return m[0] + " (better: whose, or a sentence of its own)"
		}
	}
	return ""
}

// TestProse reads comments, messages and pages for phrases that nobody would say, and the
// names of functions.
func TestProse(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && path != "." && (strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata" || e.Name() == "bin"):
			return fs.SkipDir
		case path == "prose_test.go", path == "CONTRIBUTING.md": // which name the phrases
		case strings.HasSuffix(path, ".go"):
			files++
			proseOfGo(t, path)
		case strings.HasSuffix(path, ".md"):
			files++
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			for paragraph := range strings.SplitSeq(string(text), "\n\n") {
				if b := blemish(paragraph); b != "" {
					t.Errorf("%s: %s", path, b)
				}
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, files, 300)
}

// proseOfGo checks the comments, strings and names of a source file.
func proseOfGo(t *testing.T, path string) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, nil, parser.ParseComments)
	require.NoError(t, err)
	check := func(at token.Pos, text string) {
		if b := blemish(text); b != "" {
			t.Errorf("%s: %s", set.Position(at), b)
		}
	}
	for _, c := range f.Comments {
		check(c.Pos(), c.Text())
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.BasicLit); ok && s.Kind == token.STRING {
			check(s.Pos(), s.Value)
		}
		return true
	})
	namesOfGo(t, set, f)
}

func TestBlemish(t *testing.T) {
	for _, bad := range []string{
		"results that were handed\n// over", "a unit of which a node has nothing", "A cluster, of which a part is missing", "what a node tells of it",
	} {
		require.NotEmpty(t, blemish(bad), bad)
	}
	for _, good := range []string{
		"a chain, each of which waits", "which files make which steps of which targets run again", "what a node reports", "the other hand",
	} {
		require.Empty(t, blemish(good), good)
	}
}

// A function that returns a changed thing is named after what it does or returns: sort,
// sortedParts. A participle says neither. Only a question that is answered by yes or no,
// such as expired, may be one.
var (
	participle = regexp.MustCompile(`^(made|built|held|kept|sent|told|found|left|lost|met|paid|said|shown|known|given|taken|seen|written|driven|chosen|broken|begun|done|gone|drawn|hidden|spent|sought|brought|bought|thought|caught|taught|meant|dealt|felt|led|grown|thrown|blown|hung|stuck|understood|fallen|frozen|spoken|stolen|woken|got|\w*ed)$`)
	// notParticiples end like one.
	notParticiples = regexp.MustCompile(`^(need|seed|feed|speed|exceed|proceed|succeed|embed|shed|shred|bed)$`)
	oneWord        = regexp.MustCompile(`^[A-Za-z][a-z0-9]*$`)
)

// isParticiple reports whether a function's name is nothing but a participle.
func isParticiple(name string) bool {
	word := strings.ToLower(name)
	return oneWord.MatchString(name) && participle.MatchString(word) && !notParticiples.MatchString(word)
}

// asksYesOrNo reports whether a function returns a bool and nothing else.
func asksYesOrNo(f *ast.FuncType) bool {
	if f.Results == nil || f.Results.NumFields() != 1 {
		return false
	}
	id, ok := f.Results.List[0].Type.(*ast.Ident)
	return ok && id.Name == "bool"
}

// namesOfGo checks the names of the functions, and of the methods of interfaces, of a
// source file.
func namesOfGo(t *testing.T, set *token.FileSet, f *ast.File) {
	check := func(name *ast.Ident, typ *ast.FuncType) {
		if isParticiple(name.Name) && !asksYesOrNo(typ) {
			t.Errorf("%s: function %s is named by a participle (better: a verb or a noun)", set.Position(name.Pos()), name.Name)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			check(n.Name, n.Type)
		case *ast.InterfaceType:
			for _, m := range n.Methods.List {
				if typ, ok := m.Type.(*ast.FuncType); ok {
					check(m.Names[0], typ)
				}
			}
		}
		return true
	})
}

func TestIsParticiple(t *testing.T) {
	for _, bad := range []string{"sorted", "Kept", "quoted", "left"} {
		require.True(t, isParticiple(bad), bad)
	}
	for _, good := range []string{"sort", "sortedParts", "nodeLost", "Need", "speed", "between", "run"} {
		require.False(t, isParticiple(good), good)
	}
}
