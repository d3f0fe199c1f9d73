package local

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/registry"
)

// TestResting reads and writes the registry of a cluster that does not run and cannot be
// seen from elsewhere, and finds all of it when it runs.
func TestResting(t *testing.T) {
	c, err := Open(t.Context(), Options{StateDir: t.TempDir()})
	require.NoError(t, err)
	r, err := c.Resting()
	require.NoError(t, err)
	client := func(dial func(context.Context, string, string) (net.Conn, error)) *registry.Client {
		c := registry.New(registry.Options{Hosts: map[string]registry.Host{r.Addr(): {PlainHTTP: true}}, Dial: dial, Patience: registry.Patience{Away: -1}})
		t.Cleanup(c.Close)
		return c
	}
	within := client(func(ctx context.Context, _, addr string) (net.Conn, error) {
		require.Equal(t, c.Registry(), addr)
		return r.Dial(ctx)
	})
	data := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	desc := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
	ref := c.Registry() + "/shop/web:1"
	require.NoError(t, within.Push(t.Context(), ref, desc, data))
	got, err := within.Resolve(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, desc, got)
	_, err = client(nil).Resolve(t.Context(), ref)
	require.ErrorIs(t, err, registry.ErrUnreachable)
	require.NoFileExists(t, filepath.Join(c.StateDir(), "registry", "registry.log"))

	// Another process starts the cluster meanwhile.
	running, err := listenRegistry(filepath.Join(c.StateDir(), "registry"), c.Registry())
	require.NoError(t, err)
	got, err = client(nil).Resolve(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, desc, got)
	require.NoError(t, running.Close())
	require.NoError(t, r.Close())
	_, err = r.Dial(t.Context())
	require.ErrorIs(t, err, net.ErrClosed)

	// A place where there can be none.
	require.NoError(t, os.RemoveAll(filepath.Join(c.StateDir(), "registry")))
	require.NoError(t, os.WriteFile(filepath.Join(c.StateDir(), "registry"), nil, 0o600))
	_, err = c.Resting()
	require.Error(t, err)
}
