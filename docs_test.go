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

// block is a block of commands of a page.
type block struct {
	page  string
	line  int
	mark  string // the line before it that is not empty, if it is a comment
	text  string
	shell bool // it is for a shell as it stands
}

// command begins a line that is a command, and called is one inside of a file of a CI
// service.
var (
	command = regexp.MustCompile(`^(\$ )?(source |[A-Z_]+=\S+ )?(dbake|make|docker|go|git|cd|kubectl|curl|openssl|systemctl|ssh|source) `)
	called  = regexp.MustCompile(`(?m)^\s*(sh '|- run: |run: |- dbake )`)
)

// blocksOf returns the blocks of a page in which there are commands: those that are fenced
// as sh or hold calls, and those that are indented.
func blocksOf(t *testing.T, name string) (list []block) {
	t.Helper()
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	lines := strings.Split(string(data), "\n")
	mark := ""
	for i := 0; i < len(lines); i++ {
		lang, isFence := strings.CutPrefix(lines[i], "```")
		indented := strings.HasPrefix(lines[i], "    ") && (i == 0 || lines[i-1] == "" || strings.HasPrefix(lines[i-1], "<!--"))
		if !isFence && !indented {
			if lines[i] != "" {
				mark = lines[i]
			}
			continue
		}
		b := block{page: name, line: i + 1, mark: mark, shell: lang == "sh" || indented}
		mark = ""
		var text []string
		commands := lang == "sh"
		for i++; isFence && lines[i] != "```"; i++ {
			text = append(text, lines[i])
		}
		// A line that is empty does not end it if the next one is indented.
		more := func(i int) bool {
			return i < len(lines) && strings.HasPrefix(lines[i], "    ") || i+1 < len(lines) && lines[i] == "" && strings.HasPrefix(lines[i+1], "    ")
		}
		for i--; indented && more(i); i++ {
			line := strings.TrimPrefix(lines[i], "    ")
			commands = commands || command.MatchString(line)
			text = append(text, line)
		}
		if isFence {
			i++
		}
		b.text = strings.Join(text, "\n")
		if commands || lang != "sh" && isFence && called.MatchString(b.text) {
			list = append(list, b)
		}
	}
	return list
}

// aProject is what commands of pages are about: a repository with two targets.
const aProject = `set -e
mkdir api web
for t in api web; do printf 'FROM scratch\nCOPY main /main\n' > $t/Dockerfile; echo $t > $t/main; done
cat > docker-bake.hcl <<'END'
group "default" { targets = ["api", "web"] }
target "api" { context = "api" }
target "web" {
  context = "web"
  tags    = ["example.com/web:1"]
}
END
git init -q -b main .
git add .
git -c user.name=a -c user.email=a@example.com commit -qm one
git update-ref refs/remotes/origin/main HEAD
echo edited > api/main
`

// Every block of commands is run by a test, or says why it is not. Those of the
// tutorial are run by TestTutorial of cmd/dbake; a block that needs nothing but dbake or
// programs that most machines have is run here.
func TestBlocksOfCommands(t *testing.T) {
	missing, found, ran := "", 0, map[string]int{}
	dbake := sync.OnceValue(func() string {
		dir := t.TempDir()
		out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "dbake"), "./cmd/dbake").CombinedOutput()
		require.NoError(t, err, "%s", out)
		return dir
	})
	for _, name := range pages(t) {
		if name == filepath.Join("docs", "reference.md") {
			continue // made of the command line itself
		}
		for _, b := range blocksOf(t, name) {
			if name == filepath.Join("docs", "tutorial.md") {
				require.True(t, b.shell, "%s:%d: TestTutorial does not run this block", name, b.line)
				continue
			}
			found++
			if strings.HasPrefix(b.mark, "<!-- not run: ") {
				continue
			}
			need, ok := strings.CutPrefix(b.mark, "<!-- run: needs ")
			require.True(t, ok && b.shell, "%s:%d: nothing says whether this block is run:\n%s", name, b.line, b.text)
			need = strings.TrimSuffix(need, " -->")
			script, program, path := b.text, need, os.Getenv("PATH")
			if program, ok = strings.CutSuffix(need, " in a project"); ok {
				script = aProject + script
			}
			if program == "dbake" {
				path = dbake() + string(os.PathListSeparator) + path
			} else if !onPath(program) {
				missing = program
				continue
			}
			cmd := exec.Command("bash", "-e", "-c", script)
			cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "PATH="+path, "HOME="+t.TempDir(), "XDG_CACHE_HOME=", "XDG_DATA_HOME=")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s:%d:\n%s\n%s", name, b.line, b.text, out)
			ran[need]++
		}
	}
	require.Greater(t, found, 25)
	if missing != "" {
		t.Skipf("%s is not on this machine", missing)
	}
	require.NotZero(t, ran["dbake"])
	require.NotZero(t, ran["dbake in a project"])
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
