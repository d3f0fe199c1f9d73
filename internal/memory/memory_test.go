package memory

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/warm"
)

func TestPrune(t *testing.T) {
	warn := func(text string) { t.Error(text) }
	m := New(map[string]string{"XDG_CACHE_HOME": t.TempDir()}, warn)
	now := time.Now()
	add := func() {
		require.NoError(t, m.Nodes().Add("tcp://a:1", "id", warm.Gain{Steps: []warm.Names{{Result: "x"}}}, nil, now))
	}
	held := func() int { return len(m.Nodes().Holds("tcp://a:1", "id").Results) }
	add()
	m.Prune(now)
	require.Equal(t, 1, held())
	m.Prune(now.Add(20 * 24 * time.Hour))
	require.Equal(t, 1, held())
	m.Prune(now.Add(40 * 24 * time.Hour))
	require.Zero(t, held())

	// It was done today.
	add()
	files, err := filepath.Glob(filepath.Join(m.Dir("nodes"), "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.Chtimes(files[0], now.Add(-99*24*time.Hour), now.Add(-99*24*time.Hour)))
	m.Prune(now.Add(40*24*time.Hour + time.Minute))
	require.FileExists(t, files[0])

	// Nothing is kept anywhere.
	New(nil, warn).Prune(now)
}
