//go:build integration

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A URL that holds something else each time it is asked has one content in a build, also
// where it was read before and where the cache is not wanted.
func TestURLHasOneContent(t *testing.T) {
	w := newWorld(t, 2)
	var asked atomic.Int64
	start := time.Now().UnixNano() // no two runs of the test are answered alike
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			rw.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		fmt.Fprintf(rw, "answer %d of %d\n", asked.Add(1), start)
	}))
	defer server.Close()
	dir := bakeDir(t, fmt.Sprintf(`
group "default" { targets = ["a", "b"] }
target "t" {
  matrix = { n = ["a", "b"] }
  name = n
  dockerfile-inline = "FROM busybox\nADD %s/latest.txt /f\nRUN sleep 1; cp /f /${n}\n"
  output = ["type=local,dest=out/${n}"]
}
`, server.URL))
	for _, args := range [][]string{{"--strategy", "round-robin"}, {"--strategy", "round-robin", "--no-cache"}, {"--no-cache"}, {}} {
		r := w.build(dir, 2, append(args, "--allow", "fs.write=out")...)
		require.Zero(t, r.status, r.stderr)
		a, err := os.ReadFile(filepath.Join(dir, "out", "a", "f"))
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(dir, "out", "b", "f"))
		require.NoError(t, err)
		require.Equal(t, string(a), string(b), r.stderr)
		require.Contains(t, string(a), "answer ")
	}
}
