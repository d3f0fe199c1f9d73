//go:build integration

package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/imagekey/keytest"
	"github.com/dbake/dbake/runtime/registry"
)

var (
	keyEdits = flag.Int("edits", 24, "how many random edits TestKeysAgainstBuilds builds")
	keySeed  = flag.Uint64("seed", 1, "what they are made of")
)

// nodeLife is for how many builds of TestKeysAgainstBuilds a node is kept. Its disk fills:
// every build runs all steps.
const nodeLife = 50

// movingBases are base images of three versions for two platforms, whose tags are moved.
// Those of amd64 can run commands.
const movingBases = `
variable "DBAKE_REGISTRY" { default = "" }
target "version" {
  name = "${base}-${version}"
  matrix = { base = ["base0", "base1"], version = ["1", "2", "3"] }
  dockerfile-inline = <<EOT
FROM busybox:1 AS amd64
FROM scratch AS arm64
ARG TARGETARCH
FROM $${TARGETARCH}
COPY <<EOF /version
${base} ${version}
EOF
EOT
  platforms = ["linux/amd64", "linux/arm64"]
  tags = ["${DBAKE_REGISTRY}/${base}:v${version}"]
}
group "default" { targets = ["version"] }
`

// TestKeysAgainstBuilds edits a project at random and builds each of its states with no
// use of caches: states of a target that have one key must be one image, and those that
// have different keys should be different images.
func TestKeysAgainstBuilds(t *testing.T) {
	dir := t.TempDir()
	y := newYard(t, dir, 1, "busybox")
	bases := t.TempDir()
	write(t, bases, movingBases)
	y.dir = bases
	r := y.run(slices.Concat([]string{"build", "--push"}, y.flags)...)
	require.Zero(t, r.status, r.stderr)
	y.dir = dir
	client := registry.New(registry.Options{Hosts: map[string]registry.Host{y.addr: {PlainHTTP: true}}})
	t.Cleanup(client.Close)
	move := func(base string, version int) error {
		data, desc, err := client.Manifest(t.Context(), fmt.Sprintf("%s/%s:v%d", y.addr, base, version))
		if err != nil {
			return err
		}
		return client.Push(t.Context(), y.addr+"/"+base+":1", desc, data)
	}
	p, err := keytest.New(dir, y.addr, *keySeed, 4, []string{"linux/amd64", "linux/arm64"}, move)
	require.NoError(t, err)

	type state struct{ digest, truth, key, after string }
	byKey, byDigest := map[string]state{}, map[string]state{} // by target and key or digest
	same, needless := 0, map[string]string{}                  // why a key differs although the image does not
	for round := range *keyEdits + 1 {
		after := "nothing"
		if round > 0 {
			after = p.Edit()
		}
		if round%nodeLife == nodeLife-1 {
			y.on(1)
		}
		r := y.run("explain", "--key", "--format", "json", "-o", "keys.out")
		require.Zero(t, r.status, r.stderr)
		data, err := os.ReadFile(filepath.Join(dir, "keys.out"))
		require.NoError(t, err)
		keys, err := view.ReadKeys(data)
		require.NoError(t, err)
		b := y.build("--reuse", "never", "--no-cache")
		truth := p.Truth()
		for _, name := range p.Targets() {
			require.NotEmpty(t, b.digests[name], b.stderr)
			require.Empty(t, keys[name].Unknown)
			now := state{b.digests[name], truth[name], keys[name].Digest.String(), after}
			if then, ok := byKey[name+now.key]; ok {
				same++
				require.Equal(t, then.digest, now.digest, "falsely unchanged: %s after %q and after %q (edit %d)\n%s\n%s", name, then.after, after, round, then.truth, now.truth)
			} else {
				byKey[name+now.key] = now
			}
			if then, ok := byDigest[name+now.digest]; !ok {
				byDigest[name+now.digest] = now
			} else if then.key != now.key {
				needless[name+" "+then.key+" "+now.key] = fmt.Sprintf("%s after %q and after %q", name, then.after, after)
			}
		}
	}
	require.NotZero(t, same)
	t.Logf("%d edits of %d targets: %d images of a known key, none of which differs; %d different images; %d pairs of keys of one image: %q",
		*keyEdits, len(p.Targets()), same, len(byDigest), len(needless), slices.Sorted(maps.Values(needless)))
}
