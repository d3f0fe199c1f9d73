package dbake

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// pages are the documents that people read.
func pages(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob("*.md")
	require.NoError(t, err)
	below, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	list = append(list, below...)
	require.Greater(t, len(list), 10)
	return list
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	fenced  = regexp.MustCompile("(?ms)^```.*?^```$")
	notWord = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the names by which the headings of a page are linked to.
func anchors(page string) map[string]bool {
	names := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		names[strings.ReplaceAll(notWord.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return names
}

// Links inside of the repository lead to files and headings that exist.
func TestLinks(t *testing.T) {
	checked := 0
	for _, name := range pages(t) {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		page := fenced.ReplaceAllString(string(text), "")
		for _, m := range link.FindAllStringSubmatch(page, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := name
			if target != "" {
				file = filepath.Join(filepath.Dir(name), target)
			}
			to, err := os.ReadFile(file)
			if info, statErr := os.Stat(file); statErr == nil && info.IsDir() {
				err = nil
			}
			require.NoError(t, err, "%s: link to %s", name, m[1])
			if anchor != "" {
				require.True(t, anchors(fenced.ReplaceAllString(string(to), ""))[anchor], "%s: %s has no heading #%s", name, file, anchor)
			}
			checked++
		}
	}
	require.Greater(t, checked, 20)
}

// The index names every page.
func TestIndex(t *testing.T) {
	index, err := os.ReadFile(filepath.Join("docs", "README.md"))
	require.NoError(t, err)
	for _, page := range pages(t) {
		if name, ok := strings.CutPrefix(page, "docs"+string(filepath.Separator)); ok && name != "README.md" {
			require.True(t, strings.Contains(string(index), "]("+name+")"), "docs/README.md does not list %s", name)
		}
	}
}

// Every block of commands is run by a test, or says why it is not. Those of the
// tutorial are run by TestTutorial of cmd/dbake; a block that needs nothing but dbake or
// programs that most machines have is run here.
func TestBlocksOfCommands(t *testing.T) {
	ran, missing := 0, ""
	dbake := sync.OnceValue(func() string {
		dir := t.TempDir()
		out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "dbake"), "./cmd/dbake").CombinedOutput()
		require.NoError(t, err, "%s", out)
		return dir
	})
	for _, name := range pages(t) {
		if name == filepath.Join("docs", "tutorial.md") {
			continue
		}
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		before := ""
		for rest := string(text); ; {
			var ok bool
			if before, rest, ok = strings.Cut(rest, "\n```sh\n"); !ok {
				break
			}
			var block string
			block, rest, ok = strings.Cut(rest, "\n```")
			require.True(t, ok, "%s: a block does not end", name)
			mark := before[strings.LastIndexByte(before, '\n')+1:]
			if strings.HasPrefix(mark, "<!-- not run: ") {
				continue
			}
			need, ok := strings.CutPrefix(mark, "<!-- run: needs ")
			require.True(t, ok, "%s: nothing says whether this block is run:\n%s", name, block)
			program, path := strings.TrimSuffix(need, " -->"), os.Getenv("PATH")
			if program == "dbake" {
				path = dbake() + string(os.PathListSeparator) + path
			} else if !onPath(program) {
				missing = program
				continue
			}
			cmd := exec.Command("bash", "-e", "-c", block)
			cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "PATH="+path)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s:\n%s\n%s", name, block, out)
			ran++
		}
	}
	if missing != "" {
		t.Skipf("%s is not on this machine", missing)
	}
	require.NotZero(t, ran)
}

// What stands for something else in a message that a page shows: NAME, or what is left out.
var placeholder = regexp.MustCompile(`\b[A-Z]{4,}\b|…`)

// The messages that docs/troubleshooting.md explains are those of the program.
func TestMessagesOfTroubleshooting(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("docs", "troubleshooting.md"))
	require.NoError(t, err)
	var source strings.Builder
	require.NoError(t, filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		source.Write(text)
		return err
	}))
	messages := 0
	for line := range strings.Lines(string(page)) {
		row := strings.Split(line, " | ")
		if len(row) != 2 {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[0], -1) {
			messages++
			for _, part := range placeholder.Split(m[1], -1) {
				part = strings.Trim(part, " ()[]:;")
				require.True(t, strings.Contains(source.String(), part), "%s: nothing says %q", m[1], part)
			}
		}
	}
	require.Greater(t, messages, 10)
}

func onPath(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}
