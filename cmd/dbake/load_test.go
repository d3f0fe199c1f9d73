package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/dockerconfig"
)

// fakeEngine answers as the Docker engine does. The handler of /images/load is
// given; info is its status.
func fakeEngine(t *testing.T, info string, load http.HandlerFunc) map[string]string {
	t.Helper()
	// The path of a socket is short; that of a test need not be.
	dir, err := os.MkdirTemp("", "engine")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	mux := http.NewServeMux()
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, info) })
	mux.HandleFunc("POST /images/load", load)
	srv := httptest.NewUnstartedServer(mux)
	require.NoError(t, srv.Listener.Close())
	srv.Listener, err = net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	srv.Start()
	t.Cleanup(srv.Close)
	return map[string]string{"DOCKER_HOST": "unix://" + filepath.Join(dir, "s")}
}

const containerdStore = `{"DriverStatus":[["Backing","x"],["driver-type","io.containerd.snapshotter.v1"]]}`

func loadedProject(t ...*ir.Target) *ir.Project { return &ir.Project{Targets: t} }

func TestLoad(t *testing.T) {
	var got string
	env := fakeEngine(t, "{}", func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err == nil {
			got = string(data)
		}
		_, _ = io.WriteString(w, `{"stream":"Loaded image: x"}`+"\n")
	})
	a := loader{dockerconfig.New(env, nil)}
	p := loadedProject(&ir.Target{Name: "a"}, &ir.Target{Name: "b", Outputs: []ir.Output{{Type: "docker"}}})
	out, load, err := a.load(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, p, out)
	w, err := load(t.Context())
	require.NoError(t, err)
	_, err = io.WriteString(w, "an archive")
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Equal(t, "an archive", got)
}

func TestLoadFails(t *testing.T) {
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"status": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"message":"no space left"}`)
		}, ": no space left"},
		"status without a message": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusTeapot)
		}, ": 418 I'm a teapot"},
		"in the stream": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, `{"stream":"x"}{"errorDetail":{"message":"invalid tar"},"error":"older"}`)
		}, ": invalid tar"},
		"older engine": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, `{"error":"older"}`)
		}, ": older"},
		"not the engine": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, `<html>`)
		}, "read its answer"},
	} {
		t.Run(name, func(t *testing.T) {
			a := loader{dockerconfig.New(fakeEngine(t, "{}", tt.answer), nil)}
			_, load, err := a.load(t.Context(), loadedProject(&ir.Target{Name: "b", Outputs: []ir.Output{{Type: "docker"}}}))
			require.NoError(t, err)
			w, err := load(t.Context())
			require.NoError(t, err)
			// The engine may have hung up while this is written; Close says why.
			_, _ = io.Copy(w, strings.NewReader(strings.Repeat("x", 1<<20)))
			require.ErrorContains(t, w.Close(), tt.want)
		})
	}
}

func TestPrepareLoad(t *testing.T) {
	load := []ir.Output{{Type: "image"}, {Type: "docker", Attrs: map[string]string{"name": "x"}}}
	several := &ir.Target{Name: "several", Platforms: []string{"linux/amd64,linux/arm64"}, Outputs: load}
	nothing := func(http.ResponseWriter, *http.Request) {}

	// Nothing is loaded: no engine is asked.
	for _, o := range []ir.Output{{Type: "docker", Dest: "x.tar"}, {Type: "docker", Dest: "-"}, {Type: "docker", Attrs: map[string]string{"tar": "false"}}, {Type: "image"}} {
		p := loadedProject(&ir.Target{Name: "t", Outputs: []ir.Output{o}})
		out, load, err := loader{dockerconfig.New(map[string]string{"DOCKER_HOST": "unix:///nonexistent"}, nil)}.load(t.Context(), p)
		require.NoError(t, err)
		require.Nil(t, load)
		require.Same(t, p, out)
	}

	old := loader{dockerconfig.New(fakeEngine(t, `{"DriverStatus":null}`, nothing), nil)}
	_, _, err := old.load(t.Context(), loadedProject(several))
	require.EqualError(t, err, "target several: docker exporter does not currently support exporting manifest lists; the Docker engine stores several platforms and attestations only with the containerd image store")
	_, _, err = old.load(t.Context(), loadedProject(&ir.Target{Name: "sbom", Attest: []ir.Attest{{Type: "sbom"}}, Outputs: load}))
	require.ErrorContains(t, err, "manifest lists")
	_, _, err = old.load(t.Context(), loadedProject(&ir.Target{Name: "t", Attest: []ir.Attest{{Type: "sbom", Disabled: true}}, Outputs: load}))
	require.NoError(t, err)
	_, _, err = old.load(t.Context(), loadedProject(&ir.Target{Name: "t", Outputs: []ir.Output{{Type: "docker", Attrs: map[string]string{"context": "desk"}}}}))
	require.ErrorContains(t, err, "docker context desk")

	containerd := loader{dockerconfig.New(fakeEngine(t, containerdStore, nothing), nil)}
	out, _, err := containerd.load(t.Context(), loadedProject(several))
	require.NoError(t, err)
	require.Equal(t, []ir.Output{{Type: "image"}, {Type: "oci", Attrs: map[string]string{"name": "x", "prefer-image-digest": "true"}}}, out.Targets[0].Outputs)
	require.Equal(t, "docker", several.Outputs[1].Type, "the project is not changed")
}
