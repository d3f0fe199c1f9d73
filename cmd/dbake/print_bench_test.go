package main

import (
	"cmp"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkPrint runs "dbake build --print" and "buildx bake --print" as processes,
// one after the other and in turns, on the real projects in testdata/bakefiles that
// print the most: of bake files and of compose files. It reports the median of each
// in milliseconds, and dbake's as a share of buildx's.
//
//	BUILDX=/path/to/buildx go test ./cmd/dbake -run '^$' -bench Print -benchtime 50x
func BenchmarkPrint(b *testing.B) {
	buildx := os.Getenv("BUILDX")
	if buildx == "" {
		b.Skip("BUILDX does not name the buildx to compare with")
	}
	dbake := filepath.Join(b.TempDir(), "dbake")
	out, err := exec.Command("go", "build", "-trimpath", "-o", dbake, ".").CombinedOutput()
	require.NoError(b, err, "%s", out)
	home := b.TempDir()

	for _, c := range largestCases(b, 3) {
		b.Run(c.name, func(b *testing.B) {
			once := func(tool ...string) time.Duration {
				cmd := exec.Command(tool[0], append(tool[1:], c.args...)...)
				cmd.Dir, cmd.Env = c.dir, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
				start := time.Now()
				out, err := cmd.Output()
				took := time.Since(start)
				require.NoError(b, err)
				require.NotEmpty(b, out)
				return took
			}
			var ours, theirs []time.Duration
			for b.Loop() {
				ours = append(ours, once(dbake, "build", "--print"))
				theirs = append(theirs, once(buildx, "bake", "--print"))
			}
			b.ReportMetric(0, "ns/op") // of both together says nothing
			b.ReportMetric(median(ours).Seconds()*1000, "dbake-ms")
			b.ReportMetric(median(theirs).Seconds()*1000, "buildx-ms")
			b.ReportMetric(median(ours).Seconds()/median(theirs).Seconds(), "dbake/buildx")
		})
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// printCase is one run of a real project.
type printCase struct {
	name string
	dir  string
	args []string
	size int64 // of what it prints
}

// largestCases returns the n projects of bake files and the n of compose files
// that print the most, each with the run that does.
func largestCases(b *testing.B, n int) []printCase {
	b.Helper()
	folders, err := filepath.Glob("../../testdata/bakefiles/*/case.json")
	require.NoError(b, err)
	var bake, compose []printCase
	for _, file := range folders {
		data, err := os.ReadFile(file)
		require.NoError(b, err)
		var c struct {
			Source string `json:"source"`
			Cwd    string `json:"cwd"`
			Runs   []struct {
				Name   string   `json:"name"`
				Args   []string `json:"args"`
				Expect string   `json:"expect"`
			} `json:"runs"`
		}
		require.NoError(b, json.Unmarshal(data, &c))
		if c.Source == "own" {
			continue
		}
		folder := filepath.Dir(file)
		p := printCase{name: filepath.Base(folder), dir: filepath.Join(folder, "files", c.Cwd)}
		for _, run := range c.Runs {
			golden, err := os.Stat(filepath.Join(folder, "golden."+run.Name+".json"))
			if run.Expect == "ok" && err == nil && golden.Size() > p.size {
				p.size, p.args = golden.Size(), run.Args
			}
		}
		if p.size == 0 {
			continue
		}
		if hasBakeFile(b, p.dir) {
			bake = append(bake, p)
		} else {
			compose = append(compose, p)
		}
	}
	largest := func(list []printCase) []printCase {
		slices.SortFunc(list, func(x, y printCase) int { return cmp.Compare(y.size, x.size) })
		return list[:min(n, len(list))]
	}
	return append(largest(bake), largest(compose)...)
}

func hasBakeFile(b *testing.B, dir string) bool {
	found := false
	require.NoError(b, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		found = found || strings.HasSuffix(path, ".hcl") || strings.HasSuffix(path, ".json")
		return err
	}))
	return found
}
