package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// docs/reference.md is what the command line says of itself. "make reference" writes it
// anew.
func TestReferenceIsFresh(t *testing.T) {
	var out, errs bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, dir: t.TempDir(), env: map[string]string{}}
	require.Zero(t, run([]string{"reference"}, a), "%s", errs.String())
	file := filepath.Join("..", "..", "docs", "reference.md")
	if *update {
		require.NoError(t, os.WriteFile(file, out.Bytes(), 0o644))
	}
	page, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(page), out.String(), "run make reference")
}

// The man page holds every flag, and no line that a formatter would take for a request.
func TestManPage(t *testing.T) {
	var out, errs bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, dir: t.TempDir(), env: map[string]string{}}
	require.Zero(t, run([]string{"reference", "--format", "man"}, a), "%s", errs.String())
	require.Contains(t, out.String(), ".B \\-f, \\-\\-file")
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, ".") {
			require.Regexp(t, `^\.(TH|SH|SS|PP|TP|B|I|nf|fi)\b`, line)
		}
	}
}
