//go:build integration

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// meeting is a server that lets nobody go on before all have come.
type meeting struct {
	mu   sync.Mutex
	come map[string]bool // guarded by mu
	all  int
}

// ServeHTTP implements http.Handler.
func (m *meeting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.come[r.URL.Path] = true
	if len(m.come) < m.all {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// Targets with a step of their own on a base image that is pulled in the same build run
// their steps at once, although a node of this machine is counted on for few: each step
// waits for those of all others, a minute at most.
func TestStepsOnPulledBase(t *testing.T) {
	w := newWorld(t, 2)
	for nodes := 1; nodes <= 2; nodes++ {
		for _, targets := range []int{2, 8} {
			w.renew(nodes)
			m := &meeting{come: map[string]bool{}, all: targets}
			server := httptest.NewServer(m)
			var names []string
			for i := range targets {
				names = append(names, fmt.Sprintf("%q", fmt.Sprint("t", i)))
			}
			dir := bakeDir(t, fmt.Sprintf(`
group "default" { targets = [%[1]s] }
target "t" {
  matrix = { n = [%[1]s] }
  name = n
  dockerfile-inline = <<EOT
FROM busybox:1
RUN for i in $(seq 600); do wget -q -O /dev/null %[2]s/${n} && exit 0; sleep 0.1; done; exit 1
EOT
}
`, strings.Join(names, ", "), server.URL))
			r := w.build(dir, nodes)
			server.Close()
			require.Zero(t, r.status, "%d targets on %d nodes; %d had begun: %s", targets, nodes, len(m.come), r.stderr)
		}
	}
}
