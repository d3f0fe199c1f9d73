package schematest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const metadata = `{"api": {"image.name": "r/api:1", "containerimage.digest": "sha256:%s", "dbake.images": [{"name": "r/api:1", "digest": "sha256:%s"}]}, "buildx.build.warnings": []}`

// What a schema does not list is found, wherever it stands; so is what has another type.
func TestClosed(t *testing.T) {
	good := strings.ReplaceAll(metadata, "%s", strings.Repeat("a", 64))
	require.NoError(t, Check("metadata", []byte(good)))
	for _, bad := range []string{
		strings.Replace(good, `"image.name"`, `"image.other"`, 1),
		strings.Replace(good, `{"name"`, `{"new": 1, "name"`, 1),
		strings.Replace(good, `"r/api:1"`, `1`, 1),
		strings.Replace(good, `sha256:`, `sha256`, 1),
	} {
		require.Error(t, Check("metadata", []byte(bad)), bad)
	}
	note := `{"node": "", "targets": [], "event": "note", "message": "hello"}`
	require.NoError(t, CheckLines("rawjson", []byte(note+"\n\n"+`{"node": "n1", "targets": ["api"]}`+"\n")))
	for _, bad := range []string{
		strings.Replace(note, `"note"`, `"telegram"`, 1),
		strings.Replace(note, `"message"`, `"massage"`, 1),
		strings.Replace(note, `"node": "", `, "", 1),
		`{"node": "n1", "targets": ["api"], "logs": [{"node": "n1", "targets": [], "data": "", "timestamp": "now"}]}`,
	} {
		require.Error(t, CheckLines("rawjson", []byte(note+"\n"+bad)), bad)
	}
	require.Error(t, Check("none", []byte("{}")))
}

// Every schema compiles, and is a page that automation.md leads to.
func TestSchemas(t *testing.T) {
	dir, err := directory()
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 5)
	page, err := os.ReadFile(filepath.Join(dir, "..", "automation.md"))
	require.NoError(t, err)
	for _, f := range files {
		_, err := compile(strings.TrimSuffix(filepath.Base(f), ".json"))
		require.NoError(t, err)
		require.Contains(t, string(page), "](schema/"+filepath.Base(f)+")")
	}
}
