package engine

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Marks are read and changed by the same rule: what cannot be read is not overwritten.
func TestDrainMarks(t *testing.T) {
	now := time.Unix(1_700_000_000, 0).UTC()
	for content, want := range map[string]map[string]time.Time{
		"":                                   {},
		"null":                               {},
		`{"tcp://b":"2023-11-14T22:13:20Z"}`: {"tcp://b": now},
		`{"tcp://b":"2023-11-14T22:13:20Z"`:  nil, // damaged
	} {
		choice := Nodes{StateDir: t.TempDir()}
		marks, file := choice.drainMarks(), filepath.Join(choice.StateDir, marksFile)
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		got, err := marks.read()
		if want == nil {
			require.ErrorContains(t, err, "is damaged")
			require.ErrorContains(t, marks.set([]string{"tcp://a"}, true, now), "is damaged")
			require.False(t, marks.has("tcp://b"))
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.NoError(t, marks.set([]string{"tcp://a"}, true, now))
		require.NoError(t, marks.set([]string{"tcp://b"}, false, now))
		got, err = marks.read()
		require.NoError(t, err)
		require.Equal(t, map[string]time.Time{"tcp://a": now}, got)
	}
	none := drainMarks{}
	got, err := none.read()
	require.NoError(t, err)
	require.Empty(t, got)
}
