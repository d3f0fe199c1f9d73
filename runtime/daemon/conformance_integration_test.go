//go:build integration

package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dbake/dbake/runtime/local"
	"github.com/dbake/dbake/runtime/local/localtest"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/registry"
)

// TestMain fails when a test leaves a goroutine behind, other than the one that the
// registry library starts and never ends.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/docker/go-events.(*Broadcaster).run"))
}

// TestConformanceReal tries the cases on a real daemon.
func TestConformanceReal(t *testing.T) {
	node := localtest.Start(t, 1).Nodes()[0]
	busybox, err := exec.LookPath("busybox")
	require.NoError(t, err, "this test needs a static busybox on PATH")
	shell, err := os.ReadFile(busybox)
	require.NoError(t, err)
	dir := localtest.Dir(t)
	r, err := local.StartRegistry(t.Context(), dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	c := registry.New(registry.Options{})
	t.Cleanup(c.Close)
	conform(t, subject{
		spec: nodeset.Spec{Name: "node", Addr: node.Addr}, registry: r.Addr, shell: shell,
		digest: func(t *testing.T, ref string) string {
			d, err := c.Resolve(t.Context(), ref)
			require.NoError(t, err)
			return d.Digest.String()
		},
		manifest: func(t *testing.T, ref string) []byte {
			dt, _, err := c.Manifest(t.Context(), ref)
			require.NoError(t, err)
			return dt
		},
		lose: func(t *testing.T, blob string) {
			hex := digest.Digest(blob).Encoded()
			path := filepath.Join(dir, "docker/registry/v2/blobs/sha256", hex[:2], hex)
			require.FileExists(t, filepath.Join(path, "data"))
			require.NoError(t, os.RemoveAll(path))
		},
	})
}
