package peers

import (
	"context"
	"io"
	"os"
	"os/exec"
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
	for _, p := range projects(filepath.Join("..", "..", "testdata", "bakefiles", "storefront"), isle) {
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
		"services": {154 * time.Second, 28 * time.Second},
		"fat":      {65 * time.Second, 12500 * time.Millisecond},
		"ladder":   {45 * time.Second, 18 * time.Second},
	} {
		for _, p := range projects("", "") {
			if p.name == name {
				require.Equal(t, want, [2]time.Duration{p.bound(1), p.bound(8)}, name)
			}
		}
	}
}

// isle is where the bake file of a real project is.
var isle = filepath.Join("..", "..", "testdata", "bakefiles", "Islandora-Devops-isle-buildkit", "files")

func TestExpand(t *testing.T) {
	groups := map[string]struct{ Targets []string }{
		"default": {[]string{"a", "web"}}, "web": {[]string{"b", "a", "c"}},
	}
	require.Equal(t, []string{"a", "b", "c"}, expand(groups, "default"))
}

// example is two rounds of two contenders, with one failed build.
func example() []Run {
	return []Run{
		{Project: "p", Scenario: cold, Contender: "queue", Round: 1, Seconds: 30, Bound: 8, Steps: 20, Requests: Requests{Get: 3, Head: 4, Write: 5, Manifests: 2}, Sent: 2e6, Layers: 7, StepSeconds: 90, Longest: 6, Slots: 8, Pulls: Pulls{4, 2}},
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

| scenario | contender | ratio | seconds | from | to | bound | steps | step time | cache requests | cache manifests | base blobs | sent MB | layers |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
| cold | dbake | 1.00 | 15.0 | 10.0 | 20.0 | 8.0 | 12 | 0.0 | 2 | 0 | 0 | 0.5 | 3 |
| cold | queue | 2.50 | 35.0 | 30.0 | 40.0 | 8.0 | 21 | 45.0 | 6 | 1 | 2 of 1 | 1.0 | 4 |
| no change | dbake | 1.00 | 2.0 | 2.0 | 2.0 |  | 0 | 0.0 | 0 | 0 | 0 | 0.0 | 0 |
| no change | queue | failed 1 times |

Medians of 2 rounds; ratio is the time against dbake in the same round, above 1 is slower.
`, out.String())
}

func TestFiles(t *testing.T) {
	var csv, lines strings.Builder
	require.NoError(t, writeCSV(&csv, example()))
	require.Contains(t, csv.String(), "p,cold,queue,1,30.000,8.000,20,3,4,5,2,0,0,0,2000000,7,90.000,6.000,8,4,2,\n")
	require.NoError(t, writeJSON(&lines, example()[:1]))
	require.Contains(t, lines.String(), `"cache_get":3`)
	chart := filepath.Join(t.TempDir(), "chart.svg")
	require.NoError(t, drawChart(chart, example()))
	text, err := os.ReadFile(chart)
	require.NoError(t, err)
	require.Contains(t, string(text), "dbake")
}

// A run can be made in parts: the rounds of each file follow those of the files before.
func TestParts(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, runs []Run) string {
		name = filepath.Join(dir, name)
		require.NoError(t, create(name, func(w io.Writer) error { return writeJSON(w, runs) }))
		return name
	}
	first, second := example(), example()
	for i := range second {
		second[i].Commit = "def"
	}
	second = append(second, Run{Commit: "def", Project: "q", Scenario: cold, Contender: "dbake", Round: 1, Seconds: 1})
	a, b := file("a.json", first), file("b.json", second)
	runs, err := earlier(a + "," + b)
	require.NoError(t, err)
	require.Equal(t, first, runs[:len(first)])
	require.Equal(t, map[string]int{"p": 4, "q": 1}, rounds(runs))
	got := collect(runs, "p", cold, "queue", "dbake")
	require.Equal(t, []float64{3, 2, 3, 2}, got.ratio)
	var out strings.Builder
	require.NoError(t, writeTables(&out, runs))
	require.Contains(t, out.String(), "\nMedians of 1 to 4 rounds; ")

	var stdout, stderr strings.Builder
	require.NoError(t, Main(t.Context(), []string{"-rounds", "0", "-with", a}, &stdout, &stderr))
	require.Contains(t, stdout.String(), "### p")
	require.ErrorContains(t, Main(t.Context(), []string{"-rounds", "0"}, &stdout, &stderr), "no rounds to measure")
	require.NoError(t, os.WriteFile(b, []byte("{"), 0o644))
	require.ErrorContains(t, Main(t.Context(), []string{"-with", b}, &stdout, &stderr), b+": ")
	require.ErrorContains(t, Main(t.Context(), []string{"-with", b + "x"}, &stdout, &stderr), b+"x: no such file")
}

// TestRuntime checks that the runtime of a node notes only starts and their ends.
func TestRuntime(t *testing.T) {
	dir := t.TempDir()
	steps := filepath.Join(dir, "it's")
	fake := filepath.Join(dir, "runc")
	require.NoError(t, os.WriteFile(fake, []byte("#!/bin/sh\nexit 3\n"), 0o755))
	shim := filepath.Join(dir, "shim")
	n := node{name: "n1"}
	require.NoError(t, os.WriteFile(shim, []byte(n.runtime(fake, steps)), 0o755))
	for _, args := range [][]string{{"--log", "x", "run", "id"}, {"kill", "id"}} {
		err := exec.Command(shim, args...).Run()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, 3, exit.ExitCode(), args)
	}
	text, err := os.ReadFile(steps)
	require.NoError(t, err)
	require.Regexp(t, `^n1\nn1 \d+\n$`, string(text))
	require.Equal(t, 1, parseSteps(string(text)).count)
	n.slow = 3
	require.Contains(t, n.runtime("runc", "steps"), "; sleep 3\n")
	require.Equal(t, execution{2, 7, 5}, parseSteps("n1\nn1 5\nn2\nn2 2\nn3 x\n"))
}

func TestLeastBound(t *testing.T) {
	runs := []Run{
		{Project: "p", Scenario: cold, StepSeconds: 80, Longest: 6, Slots: 8},
		{Project: "p", Scenario: cold, StepSeconds: 160, Longest: 6, Slots: 8},
		{Project: "p", Scenario: cold, Error: "failed", StepSeconds: 1},
		{Project: "p", Scenario: noChange},
		{Project: "q", Scenario: cold, StepSeconds: 90, Longest: 9}, // without a limit
	}
	require.Equal(t, 10., leastBound(runs, "p", cold))
	require.Zero(t, leastBound(runs, "p", noChange))
	require.Equal(t, 9., leastBound(runs, "q", cold))
}

// What a run says goes between the marks, losses first.
func TestReadme(t *testing.T) {
	name := filepath.Join(t.TempDir(), "README.md")
	require.NoError(t, os.WriteFile(name, []byte("# Title\n\n"+beginMark+"\nstale\n"+endMark+"\n\nend\n"), 0o644))
	runs := append(example(), Run{Project: "p", Scenario: oneFile, Contender: "dbake", Round: 2, Seconds: 4}, Run{Project: "p", Scenario: oneFile, Contender: "queue", Round: 2, Seconds: 1})
	for i := range runs {
		runs[i].Commit = "abc"
	}
	for range 2 {
		require.NoError(t, writeReadme(name, runs, facts{command: "go run ./bench peers", when: "2026-01-01"}))
	}
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	got := string(text)
	require.True(t, strings.HasPrefix(got, "# Title\n\n"+beginMark+"\n\n    go run ./bench peers\n\nCommit abc, 2026-01-01, on "), got)
	require.True(t, strings.HasSuffix(got, "\n\n"+endMark+"\n\nend\n"), got)
	require.Contains(t, got, "Geometric mean of all times against dbake: queue 0.79.\n\nLost, by more than 5 %:\n\n- p, one file: queue takes 0.25 of the time\n")
	require.Equal(t, 1, strings.Count(got, "### p"))
	require.NotContains(t, got, "stale")

	require.NoError(t, os.WriteFile(name, []byte("nothing"), 0o644))
	require.ErrorContains(t, writeReadme(name, runs, facts{}), "are missing")
}

// The phases of a build are those that it printed last, and each has its median.
func TestPhases(t *testing.T) {
	const printed = "PHASE  said before\nlogs: x\n\nPHASE                TIME    PART  CPU\nread the definition  0.5s    5%    0.25s\nrun steps            9.125s  95%   1s\nall                  9.625s  100%  1.25s\nWARNING: x\n"
	got := parsePhases(printed)
	require.Equal(t, []Phase{{"read the definition", 0.5, 0.25}, {"run steps", 9.125, 1}, {"all", 9.625, 1.25}}, got)
	require.Nil(t, parsePhases("PHASE"))
	runs := []Run{
		{Project: "p", Scenario: noChange, Contender: "dbake", Round: 1, Seconds: 1, Phases: got},
		{Project: "p", Scenario: noChange, Contender: "dbake", Round: 2, Seconds: 1, Phases: []Phase{{"read the definition", 1.5, 0.75}}},
		{Project: "p", Scenario: noChange, Contender: "bake", Round: 1, Seconds: 1},
	}
	var out strings.Builder
	require.NoError(t, writePhases(&out, runs))
	require.Equal(t, `
| project | scenario | contender | phase | seconds | processor seconds |
|---|---|---|---|---|---|
| p | no change | dbake | read the definition | 1.000 | 0.500 |
| p | no change | dbake | run steps | 9.125 | 1.000 |
| p | no change | dbake | all | 9.625 | 1.250 |
`, out.String())
}
