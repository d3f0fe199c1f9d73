//go:build integration

package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	onceSeeds = flag.Int("once.seeds", 0, "how often TestOneResult tries everything; 0 is a part of it, once")
	onceFirst = flag.Uint64("once.first", 0, "the first seed of these")
)

// onceFile is a base whose step never gives the same result twice, and four targets on
// it, as buildx#1112 reports.
const onceFile = `
variable "DBAKE_REGISTRY" { default = "" }
group "default" { targets = ["base", "app"] }
target "base" {
  dockerfile-inline = "FROM busybox\nCOPY file /etc/file\nRUN head -c 100000 /dev/urandom > /rnd\n"
  tags = ["${DBAKE_REGISTRY}/%[1]s/base:1"]
  output = ["type=image,push=true"]
}
target "app" {
  matrix = { n = ["1","2","3","4"] }
  name = "app${n}"
  contexts = { base = "target:base" }
  dockerfile-inline = "FROM base\nRUN sleep %[2]d; echo ${n} > /n\n"
  tags = ["${DBAKE_REGISTRY}/%[1]s/app${n}:1"]
  output = ["type=image,push=true"]
}
`

// disturbance is what happens to a build.
type disturbance string

const (
	undisturbed disturbance = "undisturbed"
	stolen      disturbance = "stolen" // one node was to build everything
	lost        disturbance = "lost"   // a node falls silent in the middle
)

// All images of a build stand on the layers of the base that was pushed, and the
// registry has as many layers as when one node had built all, however many do, through
// whatever they share results, whatever is stolen or lost.
func TestOneResult(t *testing.T) {
	w := newWorld(t, 4)
	build := 0
	try := func(seed uint64, n int, through string, what disturbance) {
		t.Run(fmt.Sprintf("%d nodes, through the %s, %s, seed %d", n, through, what, seed), func(t *testing.T) {
			build++
			oneResult{world: w, t: t, name: fmt.Sprintf("once%d", build), seed: seed}.build(n, through, what)
		})
	}
	if *onceSeeds == 0 {
		try(1, 1, "client", undisturbed)
		try(2, 2, "registry", stolen)
		try(3, 4, "client", lost)
		return
	}
	for seed := *onceFirst; seed < *onceFirst+uint64(*onceSeeds); seed++ {
		for _, n := range []int{1, 2, 4} {
			for _, through := range []string{"client", "registry"} {
				for _, what := range []disturbance{undisturbed, stolen, lost} {
					if n > 1 || what == undisturbed {
						try(seed, n, through, what)
					}
				}
			}
		}
	}
}

// oneResult is one build of the test.
type oneResult struct {
	*world
	t    *testing.T
	name string
	seed uint64
}

func (o oneResult) build(n int, through string, what disturbance) {
	t := o.t
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte(o.name), 0o644))
	seconds := 1
	if what == stolen {
		seconds = 4 // or what a thief has to fetch is not worth it
	}
	write(t, dir, fmt.Sprintf(onceFile, o.name, seconds))
	rng := rand.New(rand.NewPCG(o.seed, uint64(len(what))))
	args := []string{"build", "--no-cache", "--progress", "plain", "--state-dir", o.state, "--node-timeout", "2s", "--var", "DBAKE_REGISTRY=" + o.registry}
	slots := ""
	switch what {
	case stolen:
		slots = ",slots=1"
		args = append(args, "--strategy", "single")
	default:
		args = append(args, "--strategy", []string{"affinity", "round-robin", "queue", "single", "heft"}[rng.IntN(5)])
	}
	for i, addr := range o.addrs[:n] {
		args = append(args, "--nodes", fmt.Sprintf("n%d=%s%s", i+1, addr, slots))
	}
	if through == "registry" {
		args = append(args, "--cache-registry", o.registry+"/"+o.name+"/cache")
	}
	cmd := o.command(dir, args...)
	stderr, status := start(t, cmd)
	said, resume := "", func() {}
	r := bufio.NewReader(stderr)
	if what == lost {
		// At some time while it has something to do.
		for range 1 + rng.IntN(25) {
			line, err := r.ReadString('\n')
			said += line
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
		}
		resume = o.stop("n1")
	}
	rest, err := io.ReadAll(r)
	resume()
	require.NoError(t, err)
	require.Zero(t, status(), "%s%s", said, rest)
	said += string(rest)
	if what == stolen {
		require.Contains(t, said, "stolen from n1")
	}
	o.check(said)
}

// check compares the layers of the images.
func (o oneResult) check(said string) {
	t := o.t
	base := layersOf(t, o.registry+"/"+o.name+"/base:1")
	all := map[string]bool{}
	for _, l := range base {
		all[l] = true
	}
	for n := 1; n <= 4; n++ {
		app := layersOf(t, fmt.Sprintf("%s/%s/app%d:1", o.registry, o.name, n))
		require.Len(t, app, len(base)+1, said)
		require.Equal(t, base, app[:len(base)], said)
		all[app[len(base)]] = true
	}
	require.Len(t, all, len(base)+4, said)
}

// manyFiles has a target that reads from several others, which stand on steps that copy from
// the context: whichever nodes build them, a node learns of their results after it has looked
// such steps up for something else.
const manyFiles = `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" { default = "" }
group "default" { targets = ["tool", "gomod", "service", "devbox"] }
target "base" {
  dockerfile-inline = "FROM busybox\nRUN head -c 1000 /dev/urandom > /base # %[1]s"
}
target "tool" {
  contexts = { base = "target:base" }
  dockerfile-inline = "FROM base\nRUN sleep 1; head -c 1000 /dev/urandom > /tool"
  output = ["type=cacheonly"]
}
target "libs" {
  contexts = { tool = "target:tool" }
  dockerfile-inline = "FROM tool\nWORKDIR /src\nCOPY go.mod .\nCOPY internal internal\nRUN sleep 1; head -c 1000 /dev/urandom > /libs"
}
target "gomod" {
  contexts = { libs = "target:libs" }
  dockerfile-inline = "FROM busybox\nCOPY --from=libs /src/go.mod /go.mod\nRUN head -c 1000 /dev/urandom > /gomod"
  output = ["type=cacheonly"]
}
target "service" {
  matrix = { n = ["1","2","3","4","5","6"] }
  name = "service${n}"
  contexts = { libs = "target:libs" }
  dockerfile-inline = "FROM libs\nCOPY services/${n} services/${n}\nRUN --mount=type=bind,source=internal,target=/mnt sleep 1; cat services/${n}/main /mnt/main /dev/urandom | head -c 1000 > /service"
  output = ["type=cacheonly"]
}
target "devbox" {
  contexts = { s1 = "target:service1", s2 = "target:service2", s3 = "target:service3" }
  dockerfile-inline = "FROM s1\nCOPY --from=s2 /service /s2\nCOPY --from=s3 /service /s3\nRUN head -c 1000 /dev/urandom > /devbox"
  tags = ["${DBAKE_REGISTRY}/%[1]s/devbox:1"]
  output = ["type=image,push=true"]
}
-- go.mod --
go.mod of %[1]s
-- internal/main --
internal/main of %[1]s
-- services/1/main --
services/1/main of %[1]s
-- services/2/main --
services/2/main of %[1]s
-- services/3/main --
services/3/main of %[1]s
-- services/4/main --
services/4/main of %[1]s
-- services/5/main --
services/5/main of %[1]s
-- services/6/main --
services/6/main of %[1]s
`

// A target that reads from targets of several nodes uses their results, although its node
// has looked the steps below them up for another target before.
func TestOneResultOfMany(t *testing.T) {
	w := newWorld(t, 3)
	for _, through := range []string{"client", "registry"} {
		for _, strategy := range []string{"rendezvous", "queue", "random"} {
			t.Run(strategy+", through the "+through, func(t *testing.T) {
				name := "many-" + strategy + "-" + through
				dir := project(t, fmt.Sprintf(manyFiles, name))
				args := append([]string{"build", "--progress", "plain", "--history", "none", "--state-dir", w.state, "--strategy", strategy, "--var", "DBAKE_REGISTRY=" + w.registry}, w.on(3)...)
				if through == "registry" {
					args = append(args, "--cache-registry", w.registry+"/"+name+"/cache")
				}
				r := w.run(dir, args...)
				require.Zero(t, r.status, r.stderr)
				require.NotContains(t, r.stderr, " and again by ", r.stderr)
				if through == "client" {
					return
				}
				// Whatever stood in for a result, caches hold what stands on it.
				before := runSteps(t, w.addrs, "")
				r = w.run(dir, append(args, "--reuse", "never")...)
				require.Zero(t, r.status, r.stderr)
				require.Equal(t, before, runSteps(t, w.addrs, ""), "a second build runs no step\n%s", r.stderr)
			})
		}
	}
}

// ladderFile has targets that start from each other: each of five rungs from the one before, and
// two leaves from each.
const ladderFile = `
-- docker-bake.hcl --
variable "DBAKE_REGISTRY" { default = "" }
group "default" { targets = ["rung", "leaf"] }
target "rung" {
  matrix = { n = [1, 2, 3, 4, 5] }
  name = "rung${n}"
  contexts = n == 1 ? { parent = "docker-image://busybox" } : { parent = "target:rung${n - 1}" }
  dockerfile-inline = "FROM parent\nCOPY files/rung${n} /\nRUN sleep 1; head -c 1000 /dev/urandom > /of${n}"
  tags = ["${DBAKE_REGISTRY}/%[1]s/rung${n}:1"]
  output = ["type=image,push=true"]
}
target "leaf" {
  matrix = { n = [1, 2, 3, 4, 5], side = ["a", "b"] }
  name = "leaf${n}${side}"
  contexts = { parent = "target:rung${n}" }
  dockerfile-inline = "FROM parent\nCOPY files/leaf${n}${side} /\nRUN sleep 1; head -c 1000 /dev/urandom > /leaf"
  tags = ["${DBAKE_REGISTRY}/%[1]s/leaf${n}${side}:1"]
  output = ["type=image,push=true"]
}
`

// Of targets that start from each other, each step is executed once, whatever nodes build them.
func TestOneResultOfLadder(t *testing.T) {
	w := newWorld(t, 4)
	for _, through := range []string{"client", "registry"} {
		t.Run("through the "+through, func(t *testing.T) {
			name := "ladder-" + through
			dir := project(t, fmt.Sprintf(ladderFile, name))
			require.NoError(t, os.Mkdir(filepath.Join(dir, "files"), 0o755))
			for n := range 5 {
				for _, f := range []string{"rung%d", "leaf%da", "leaf%db"} {
					f = fmt.Sprintf(f, n+1)
					require.NoError(t, os.WriteFile(filepath.Join(dir, "files", f), []byte(name+f), 0o644))
				}
			}
			args := []string{"build", "--progress", "plain", "--history", "none", "--state-dir", w.state, "--var", "DBAKE_REGISTRY=" + w.registry}
			for i, addr := range w.addrs {
				args = append(args, "--nodes", fmt.Sprintf("n%d=%s,slots=2", i+1, addr))
			}
			if through == "registry" {
				args = append(args, "--cache-registry", w.registry+"/"+name+"/cache")
			}
			r := w.run(dir, args...)
			require.Zero(t, r.status, r.stderr)
			require.NotContains(t, r.stderr, " and again by ", r.stderr)
			layers := func(target string) []string { return layersOf(t, w.registry+"/"+name+"/"+target+":1") }
			for n := range 5 {
				rung := layers(fmt.Sprintf("rung%d", n+1))
				on := []string{fmt.Sprintf("leaf%da", n+1), fmt.Sprintf("leaf%db", n+1)}
				if n < 4 {
					on = append(on, fmt.Sprintf("rung%d", n+2))
				}
				for _, target := range on {
					require.Equal(t, rung, layers(target)[:len(rung)], "%s does not stand on the image of rung%d\n%s", target, n+1, r.stderr)
				}
			}
		})
	}
}
