package plan

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/filesum"
)

// BenchmarkContent names what is read of a directory of 10,000 files: cold reads all
// of them, warm finds their digests from the run before.
func BenchmarkContent(b *testing.B) {
	dir, cache := b.TempDir(), b.TempDir()
	text := make([]byte, 4<<10)
	for i := range 10_000 {
		name := filepath.Join(dir, fmt.Sprintf("d%02d", i/100), fmt.Sprintf("f%04d", i))
		copy(text, name)
		require.NoError(b, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(b, os.WriteFile(name, text, 0o644))
	}
	run := func(b *testing.B) {
		sums := filesum.Open(cache, time.Now().Add(time.Hour))
		c, err := readContent(context.Background(), sums, dir, read{path: "/"}, nil, false)
		require.NoError(b, err)
		require.EqualValues(b, 10_000*len(text), c.bytes)
		require.NoError(b, sums.Save())
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, os.RemoveAll(cache))
			run(b)
		}
	})
	b.Run("warm", func(b *testing.B) {
		for b.Loop() {
			run(b)
		}
	})
}
