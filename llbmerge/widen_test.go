package llbmerge

import (
	"context"
	"fmt"
	gofs "io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil"
)

// The argument in the package documentation, against the filter that decides what
// is sent to a node: whatever other units need, what a unit selects of a widened
// directory is what it selects of its own.
func TestWideningShowsNoMore(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			dir := randomTree(t, rng)
			excludes := [][]string{nil, {"*/a.md"}, {"**/*.md", "!x/a.md"}, {"y", "!y/b.go"}}[rng.IntN(4)]
			mine, others := randomPaths(rng), randomPaths(rng)
			narrow := transfer(t, dir, mine, excludes)
			wide := transfer(t, dir, append(slices.Clone(mine), others...), excludes)
			for p := range narrow {
				require.Equal(t, narrow[p], wide[p], "nothing is lost")
			}
			for _, p := range mine {
				want, ok := selection(narrow, p)
				if !ok {
					continue
				}
				got, ok := selection(wide, p)
				require.True(t, ok)
				require.Equal(t, want, got, "%s of %v besides %v", p, mine, others)
			}
		})
	}
}

var fileNames = []string{"a.md", "b.go", "c.js", "x", "y", "z"}

// randomTree returns a directory of files, directories and links.
func randomTree(t *testing.T, rng *rand.Rand) string {
	root := t.TempDir()
	var fill func(dir string, depth int)
	fill = func(dir string, depth int) {
		for _, name := range fileNames {
			p := filepath.Join(dir, name)
			switch n := rng.IntN(10); {
			case n < 3:
			case n == 3:
				to := fileNames[rng.IntN(len(fileNames))]
				if rng.IntN(2) == 0 {
					to = "/" + path.Join(to, fileNames[rng.IntN(len(fileNames))])
				}
				if to != name { // a link to itself is an error in any build
					require.NoError(t, os.Symlink(to, p))
				}
			case n < 7 && depth < 3:
				require.NoError(t, os.Mkdir(p, 0o755))
				fill(p, depth+1)
			default:
				require.NoError(t, os.WriteFile(p, nil, 0o600))
			}
		}
	}
	fill(root, 0)
	return root
}

// randomPaths returns paths as they stand in Dockerfiles.
func randomPaths(rng *rand.Rand) []string {
	elems := append([]string{"*", "?", "*.go", "a*"}, fileNames...)
	paths := make([]string, 1+rng.IntN(3))
	for i := range paths {
		for range 1 + rng.IntN(3) {
			paths[i] = path.Join(paths[i], elems[rng.IntN(len(elems))])
		}
		if isOdd(paths[i]) {
			panic(paths[i])
		}
	}
	return paths
}

// transfer returns what a session sends of a directory.
func transfer(t *testing.T, dir string, follow, excludes []string) map[string]string {
	disk, err := fsutil.NewFS(dir)
	require.NoError(t, err)
	filtered, err := fsutil.NewFilterFS(disk, &fsutil.FilterOpt{FollowPaths: follow, ExcludePatterns: excludes})
	require.NoError(t, err)
	sent := map[string]string{}
	require.NoError(t, filtered.Walk(context.Background(), "", func(p string, entry gofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		sent[filepath.ToSlash(p)] = info.Mode().String()
		if info.Mode()&gofs.ModeSymlink != 0 {
			to, err := os.Readlink(filepath.Join(dir, p))
			if err != nil {
				return err
			}
			sent[filepath.ToSlash(p)] += " " + to
		}
		return nil
	}))
	return sent
}

// selection returns what a copy of p takes: the files that p matches, of links
// their targets, and what is below them. It is false when a link leads nowhere,
// on which the copy fails.
func selection(sent map[string]string, p string) ([]string, bool) {
	elems := strings.Split(p, "/")
	wild := slices.IndexFunc(elems, func(e string) bool { return strings.ContainsAny(e, "*?") })
	if wild < 0 {
		wild = len(elems) - 1
	}
	base, ok := resolveLinks(sent, path.Join(elems[:wild]...), 0)
	if !ok {
		return nil, !exists(sent, path.Join(elems[:wild]...))
	}
	pattern := path.Join(base, path.Join(elems[wild:]...))
	var list []string
	for name := range sent {
		if ok, _ := path.Match(pattern, name); !ok {
			continue
		}
		target, ok := resolveLinks(sent, name, 0)
		if !ok {
			return nil, false
		}
		for below, what := range sent {
			if below == target || strings.HasPrefix(below, target+"/") || target == "" {
				list = append(list, name+": "+below+" "+what)
			}
		}
	}
	slices.Sort(list)
	return list, true
}

func exists(sent map[string]string, p string) bool {
	_, ok := sent[p]
	return ok
}

// resolveLinks follows the links of p, the last one included.
func resolveLinks(sent map[string]string, p string, depth int) (string, bool) {
	if depth > 20 {
		return "", false
	}
	at := ""
	elems := strings.Split(p, "/")
	for i, e := range elems {
		if e == "" {
			continue
		}
		next := path.Join(at, e)
		what, ok := sent[next]
		if !ok {
			return "", false
		}
		if _, to, ok := strings.Cut(what, " "); ok {
			if !strings.HasPrefix(to, "/") {
				to = path.Join(at, to)
			}
			rest := path.Join(elems[i+1:]...)
			return resolveLinks(sent, strings.TrimPrefix(path.Join("/", to, rest), "/"), depth+1)
		}
		at = next
	}
	return at, true
}

func TestSelects(t *testing.T) {
	file := func(a *pb.FileAction) *pb.Op {
		return &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{a}}}}
	}
	// The source under test is input 1.
	copies := func(c *pb.FileActionCopy) *pb.Op {
		return file(&pb.FileAction{SecondaryInput: 1, Action: &pb.FileAction_Copy{Copy: c}})
	}
	mounts := func(m ...*pb.Mount) *pb.Op { return &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Mounts: m}}} }
	owner := func(input int64) *pb.ChownOpt {
		return &pb.ChownOpt{Group: &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: "x", Input: input}}}}
	}
	for name, test := range map[string]struct {
		op   *pb.Op
		want bool
	}{
		"copy of a path":              {copies(&pb.FileActionCopy{Src: "/src"}), true},
		"copy of a path, not clean":   {copies(&pb.FileActionCopy{Src: "./x/../src/"}), true},
		"copy of a path below":        {copies(&pb.FileActionCopy{Src: "/src/main.go"}), false},
		"copy of a wildcard":          {copies(&pb.FileActionCopy{Src: "/*.go"}), true},
		"copy of another wildcard":    {copies(&pb.FileActionCopy{Src: "/*.js"}), false},
		"copy of all":                 {copies(&pb.FileActionCopy{Src: "/"}), false},
		"copy with excludes":          {copies(&pb.FileActionCopy{Src: "/src", ExcludePatterns: []string{"x"}}), true},
		"copy of patterns":            {copies(&pb.FileActionCopy{Src: "/", IncludePatterns: []string{"src", "*.go"}}), true},
		"copy of other patterns":      {copies(&pb.FileActionCopy{Src: "/", IncludePatterns: []string{"src", "*.js"}}), false},
		"copy of patterns in matches": {copies(&pb.FileActionCopy{Src: "/*.go", IncludePatterns: []string{"src"}}), false},
		"copy with owners from it":    {copies(&pb.FileActionCopy{Src: "/src", Owner: owner(1)}), false},
		"copy with owners":            {copies(&pb.FileActionCopy{Src: "/src", Owner: owner(0)}), true},
		"copy onto it":                {file(&pb.FileAction{Input: 1, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: "/src"}}}), false},
		"another input":               {file(&pb.FileAction{SecondaryInput: 2, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: "/"}}}), true},
		"mkfile in it":                {file(&pb.FileAction{Input: 1, SecondaryInput: -1, Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{}}}), false},
		"mkfile with owners from it":  {file(&pb.FileAction{SecondaryInput: -1, Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Owner: owner(1)}}}), false},
		"mkdir with owners from it":   {file(&pb.FileAction{SecondaryInput: -1, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Owner: owner(1)}}}), false},
		"symlink with owners from it": {file(&pb.FileAction{SecondaryInput: -1, Action: &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{Owner: owner(1)}}}), false},
		"something else with it":      {file(&pb.FileAction{SecondaryInput: 1, Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{}}}), false},
		"mount of a path":             {mounts(&pb.Mount{Input: 1, Output: -1, Dest: "/x", Selector: "/src"}), true},
		"mount of all":                {mounts(&pb.Mount{Input: 1, Output: -1, Dest: "/x"}), false},
		"mount with an output":        {mounts(&pb.Mount{Input: 1, Output: 0, Dest: "/x", Selector: "/src"}), false},
		"mount as root":               {mounts(&pb.Mount{Input: 1, Output: -1, Dest: "/", Selector: "/src"}), false},
		"start of a cache":            {mounts(&pb.Mount{Input: 1, Output: -1, Dest: "/x", Selector: "/src", MountType: pb.MountType_CACHE}), false},
		"secret beside":               {mounts(&pb.Mount{Input: 1, Output: -1, Dest: "/x", MountType: pb.MountType_SECRET}), true},
		"merge":                       {&pb.Op{Op: &pb.Op_Merge{}}, false},
		"diff":                        {&pb.Op{Op: &pb.Op_Diff{}}, false},
		"unknown":                     {&pb.Op{}, false},
	} {
		require.Equal(t, test.want, selects(test.op, 1, []string{"*.go", "src"}), name)
	}
}

func TestOddPaths(t *testing.T) {
	for p, odd := range map[string]bool{
		"a": false, "a/b": false, "*.go": false, "a/**/b?": false, "a+b": false, "(a)": false,
		"!a": true, " a": true, "a ": true, "..": true, "../a": true, "[a]": true, `a\*`: true, "a+*": true, "(*": true, ".": true,
	} {
		require.Equal(t, odd, isOdd(p), p)
	}
	require.Equal(t, "a/b", strings.Join([]string{cleanPath("/a/./b/")}, ""))
	require.Equal(t, ".", cleanPath("/"))
	require.Equal(t, ".", cleanPath(""))
}
