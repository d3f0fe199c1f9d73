package local

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

func send(t *testing.T, method, url string, body []byte) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestRegistryKeepsAndDeletesBlobs(t *testing.T) {
	dir := t.TempDir()
	r, err := StartRegistry(t.Context(), dir)
	require.NoError(t, err)

	blob := []byte("a layer")
	dgst := digest.FromBytes(blob).String()
	start := send(t, http.MethodPost, "http://"+r.Addr+"/v2/shop/web/blobs/uploads/", nil)
	require.Equal(t, http.StatusAccepted, start.StatusCode)
	put := send(t, http.MethodPut, start.Header.Get("Location")+"&digest="+dgst, blob)
	require.Equal(t, http.StatusCreated, put.StatusCode)
	require.NoError(t, r.Close())

	// The content outlives the registry.
	r, err = listenRegistry(dir, r.Addr)
	require.NoError(t, err)
	get := send(t, http.MethodGet, "http://"+r.Addr+"/v2/shop/web/blobs/"+dgst, nil)
	got, err := io.ReadAll(get.Body)
	require.NoError(t, err)
	require.Equal(t, blob, got)
	del := send(t, http.MethodDelete, "http://"+r.Addr+"/v2/shop/web/blobs/"+dgst, nil)
	require.Equal(t, http.StatusAccepted, del.StatusCode)
	require.NoError(t, r.Close())
	require.Error(t, pingRegistry(t.Context(), r.Addr))
}

func TestRegistryLogsToItsFileAlone(t *testing.T) {
	dir := t.TempDir()
	stderr := os.Stderr
	read, write, err := os.Pipe()
	require.NoError(t, err)
	os.Stderr = write
	t.Cleanup(func() { os.Stderr = stderr })

	r, err := StartRegistry(t.Context(), dir)
	require.NoError(t, err)
	resp := send(t, http.MethodGet, "http://"+r.Addr+"/v2/shop/web/manifests/none", nil)
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
	require.NoError(t, r.Close())

	require.NoError(t, write.Close())
	out, err := io.ReadAll(read)
	require.NoError(t, err)
	require.Empty(t, string(out))
	log, err := os.ReadFile(filepath.Join(dir, "registry.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "manifest unknown", "the registry library does not find our logger any more")
}

func TestTwoRegistriesInOneProcess(t *testing.T) {
	a, err := StartRegistry(t.Context(), t.TempDir())
	require.NoError(t, err)
	b, err := StartRegistry(t.Context(), t.TempDir())
	require.NoError(t, err)
	require.NotEqual(t, a.Addr, b.Addr)
	require.NoError(t, pingRegistry(t.Context(), a.Addr))
	require.NoError(t, pingRegistry(t.Context(), b.Addr))

	_, err = listenRegistry(t.TempDir(), a.Addr)
	require.ErrorContains(t, err, "taken by another process")
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
}

func TestRegistryStorageUnusable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	_, err := StartRegistry(t.Context(), file)
	require.ErrorContains(t, err, "create registry storage")
}
