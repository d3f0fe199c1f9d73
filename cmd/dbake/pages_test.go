package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	fence      = regexp.MustCompile("(?ms)^```.*?^```$")
	inlineCode = regexp.MustCompile("`(dbake [^`]+)`")
	continued  = regexp.MustCompile(`\\\n\s*`)
	comment    = regexp.MustCompile(`\s+#.*$`)
	shellWord  = regexp.MustCompile(`(?:"[^"]*"|'[^']*'|[^\s"'])+`)
)

// commandsOf returns the commands of dbake that a page shows outside of its fenced blocks,
// which other tests run.
func commandsOf(page string) (list []string) {
	page = continued.ReplaceAllString(fence.ReplaceAllString(page, ""), " ")
	for line := range strings.Lines(page) {
		code, ok := strings.CutPrefix(line, "    ")
		if !ok {
			for _, m := range inlineCode.FindAllStringSubmatch(line, -1) {
				list = append(list, m[1])
			}
			continue
		}
		code = comment.ReplaceAllString(strings.TrimSpace(code), "")
		for _, part := range regexp.MustCompile(`&&|\|\||;| \| `).Split(code, -1) {
			if part = strings.TrimSpace(part); strings.HasPrefix(part, "dbake ") {
				list = append(list, part)
			}
		}
	}
	return list
}

// What pages show of the command line can be typed: commands and flags are those of today.
func TestCommandsOfPages(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	require.NoError(t, err)
	top, err := filepath.Glob(filepath.Join("..", "..", "*.md"))
	require.NoError(t, err)
	count := 0
	for _, page := range append(pages, top...) {
		if filepath.Base(page) == "reference.md" {
			continue // made of the command line itself
		}
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, command := range commandsOf(string(text)) {
			if strings.ContainsAny(command, "…|[") || strings.HasSuffix(command, "...") {
				continue // no command, but what commands are like
			}
			var args []string
			for _, w := range shellWord.FindAllString(command, -1)[1:] {
				args = append(args, strings.NewReplacer(`"`, "", "'", "").Replace(w))
			}
			count++
			var root cli
			parser, err := newParser(&root, io.Discard, io.Discard, func(int) {})
			require.NoError(t, err)
			_, err = parser.Parse(args)
			if err != nil && !strings.HasPrefix(err.Error(), `expected "<`) { // a command can be named without what it is about
				t.Errorf("%s: %s: %v", page, command, err)
			}
		}
	}
	require.Greater(t, count, 60)
}
