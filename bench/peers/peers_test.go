package peers

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler"
)

// TestProjects compiles every project, before and after each edit, and holds the
// number of its targets against its bound.
func TestProjects(t *testing.T) {
	for _, p := range projects(filepath.Join("..", "..", "testdata", "bakefiles", "storefront")) {
		t.Run(p.name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, p.write(dir, "registry.example:5000/library/busybox:1"))
			for _, e := range p.edits {
				before, err := os.ReadFile(filepath.Join(dir, e.file))
				require.NoError(t, err)
				require.NoError(t, e.make(dir))
				after, err := os.ReadFile(filepath.Join(dir, e.file))
				require.NoError(t, err)
				require.Equal(t, string(before)+e.text, string(after))
			}
			project, err := compiler.Compile(context.Background(), compiler.Options{
				Dir: dir, Env: map[string]string{"REGISTRY": "registry.example:5000"}, Platform: platforms.Format(platforms.DefaultSpec()),
			})
			require.NoError(t, err)
			require.NotEmpty(t, project.Targets)
			for _, target := range project.Targets {
				require.NotEmpty(t, target.Outputs, target.Name)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	for name, want := range map[string][2]time.Duration{ // of 1 and of 8 slots
		"services": {172 * time.Second, 21500 * time.Millisecond},
		"fat":      {65 * time.Second, 12500 * time.Millisecond},
		"ladder":   {45 * time.Second, 18 * time.Second},
	} {
		for _, p := range projects("") {
			if p.name == name {
				require.Equal(t, want, [2]time.Duration{p.bound(1), p.bound(8)}, name)
			}
		}
	}
}

func TestExpand(t *testing.T) {
	groups := map[string]struct{ Targets []string }{
		"default": {[]string{"a", "web"}}, "web": {[]string{"b", "a", "c"}},
	}
	require.Equal(t, []string{"a", "b", "c"}, expand(groups, "default"))
}

// example is two rounds of two contenders, one build of which failed.
func example() []Run {
	return []Run{
		{Project: "p", Scenario: cold, Contender: "queue", Round: 1, Seconds: 30, Bound: 8, Steps: 20, Requests: Requests{Get: 3, Head: 4, Write: 5, Manifests: 2}, Sent: 2e6, Layers: 7},
		{Project: "p", Scenario: cold, Contender: "dbake", Round: 1, Seconds: 10, Bound: 8, Steps: 12, Requests: Requests{Get: 1, Write: 2, Manifests: 1}, Sent: 1e6, Layers: 6},
		{Project: "p", Scenario: noChange, Contender: "dbake", Round: 1, Seconds: 2},
		{Project: "p", Scenario: cold, Contender: "dbake", Round: 2, Seconds: 20, Bound: 8, Steps: 12},
		{Project: "p", Scenario: cold, Contender: "queue", Round: 2, Seconds: 40, Bound: 8, Steps: 22},
		{Project: "p", Scenario: noChange, Contender: "queue", Round: 2, Error: "exit status 1"},
	}
}

func TestTables(t *testing.T) {
	var out strings.Builder
	require.NoError(t, writeTables(&out, example()))
	require.Equal(t, `
### p

| scenario | contender | ratio | seconds | from | to | bound | steps | cache requests | cache manifests | sent MB | layers |
|---|---|---|---|---|---|---|---|---|---|---|---|
| cold | dbake | 1.00 | 15.0 | 10.0 | 20.0 | 8.0 | 12 | 2 | 0 | 0.5 | 3 |
| cold | queue | 2.50 | 35.0 | 30.0 | 40.0 | 8.0 | 21 | 6 | 1 | 1.0 | 4 |
| no change | dbake | 1.00 | 2.0 | 2.0 | 2.0 |  | 0 | 0 | 0 | 0.0 | 0 |
| no change | queue | failed 1 times |

Medians of 2 rounds; ratio is the time against dbake in the same round, above 1 is slower.
`, out.String())
}

func TestFiles(t *testing.T) {
	var csv, lines strings.Builder
	require.NoError(t, writeCSV(&csv, example()))
	require.Contains(t, csv.String(), "p,cold,queue,1,30.000,8.000,20,3,4,5,2,0,0,0,2000000,7,\n")
	require.NoError(t, writeJSON(&lines, example()[:1]))
	require.Contains(t, lines.String(), `"cache_get":3`)
	chart := filepath.Join(t.TempDir(), "chart.svg")
	require.NoError(t, drawChart(chart, example()))
	text, err := os.ReadFile(chart)
	require.NoError(t, err)
	require.Contains(t, string(text), "dbake")
}

// TestRuntime checks that the runtime of a node notes only starts.
func TestRuntime(t *testing.T) {
	n := node{name: "n1"}
	text := n.runtime("/usr/sbin/runc", "/tmp/it's")
	require.Equal(t, "#!/bin/sh\nfor a; do [ \"$a\" = run ] && { echo n1 >>'/tmp/it'\\''s'; break; }; done\nexec '/usr/sbin/runc' \"$@\"\n", text)
	n.slow = 3
	require.Contains(t, n.runtime("runc", "steps"), "; sleep 3; break;")
}
