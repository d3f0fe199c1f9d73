//go:build integration

package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	lostBuilds = flag.Int("lost.builds", 4, "how many builds of TestLostCache lose a part of their cache")
	lostSeed   = flag.Int("lost.seed", 0, "the first seed of TestLostCache; with 6 the first step is lost, too")
)

// lostFile has three targets on shared steps, none of which gives the same result twice.
const lostFile = `
variable "DBAKE_REGISTRY" { default = "" }
group "default" { targets = ["a", "b", "c"] }
target "t" {
  matrix = { n = ["a", "b", "c"] }
  name = n
  dockerfile-inline = <<EOT
FROM busybox
RUN head -c 1000 /dev/urandom > /1
RUN head -c 1000 /dev/urandom > /2
RUN echo ${n}; head -c 1000 /dev/urandom > /3
COPY file /etc/file
RUN cat /1 /2 /3 > /4; echo ${n}
RUN head -c 1000 /dev/urandom > /5
EOT
  tags = ["${DBAKE_REGISTRY}/lost/${n}:1"]
  output = ["type=registry"]
}
`

// A cache that has lost some of its layers is a miss for the steps that stand on these:
// the build succeeds, nothing else is built again, and the next one finds a whole cache.
func TestLostCache(t *testing.T) {
	w := newWorld(t, 1)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("some text"), 0o644))
	write(t, dir, lostFile)
	build := func() (ran int, said string) {
		r := w.build(dir, 1, "--cache-registry", w.registry+"/lost/cache")
		require.Zero(t, r.status, r.stderr)
		found := regexp.MustCompile(`(?m)^ +n1 +\d+ +(\d+) `).FindStringSubmatch(r.stderr)
		require.NotNil(t, found, r.stderr)
		ran, err := strconv.Atoi(found[1])
		require.NoError(t, err)
		return ran, r.stderr
	}
	ran, said := build()
	require.Equal(t, 2+3*4, ran, said)
	base := len(layersOf(t, w.registry+"/lost/a:1")) - 6
	layers := func() map[string][]string { // of the steps of each target
		list := map[string][]string{}
		for _, name := range []string{"a", "b", "c"} {
			list[name] = layersOf(t, fmt.Sprintf("%s/lost/%s:1", w.registry, name))[base:]
		}
		return list
	}
	for i := *lostSeed; i < *lostSeed+*lostBuilds; i++ {
		rng := rand.New(rand.NewPCG(uint64(i), 0))
		gone, lost := map[string]bool{}, map[string]bool{}
		var all []string
		for _, name := range []string{"a", "b", "c"} {
			for _, l := range layers()[name] {
				if !slices.Contains(all, l) {
					all = append(all, l)
				}
			}
		}
		for range 1 + len(all)/10 {
			l := all[rng.IntN(len(all))]
			gone[l] = true
			require.NoError(t, os.RemoveAll(filepath.Join(w.state, "registry/docker/registry/v2/blobs/sha256", l[7:9], l[7:])))
		}
		for _, name := range []string{"a", "b", "c"} {
			found := false
			for step, l := range layers()[name] {
				if found = found || gone[l]; found && step < 2 {
					lost[fmt.Sprint(step)] = true // of all targets
				} else if found {
					lost[fmt.Sprint(step, name)] = true
				}
			}
		}
		before := layers()
		w.renew(1)
		_, said := build()
		// What ran again gave another layer, but for the COPY.
		for name, list := range layers() {
			for step, l := range list {
				id := fmt.Sprint(step, name)
				if step < 2 {
					id = fmt.Sprint(step)
				}
				same := l == before[name][step]
				require.True(t, same != lost[id] || step == 3, "build %d lost %d layers: step %s, same layer %v, lost %v\n%s", i, len(gone), id, same, lost[id], said)
			}
		}
		require.Regexp(t, `WARNING: cache \S+/lost/cache:\S+ names a layer that is gone or damaged`, said)
	}
	w.renew(1)
	ran, said = build()
	require.Zero(t, ran, said)
	require.NotContains(t, said, "WARNING: cache")
}
