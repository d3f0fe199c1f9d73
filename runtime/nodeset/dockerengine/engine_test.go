package dockerengine

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/dockerconfig"
)

func TestEngineHost(t *testing.T) {
	home := t.TempDir()
	meta := filepath.Join(home, ".docker", "contexts", "meta", digest.FromString("desk").Encoded())
	require.NoError(t, os.MkdirAll(meta, 0o755))
	write := func(path string, v any) {
		data, err := json.Marshal(v)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, data, 0o644))
	}
	write(filepath.Join(meta, "meta.json"), map[string]any{"Name": "desk", "Endpoints": map[string]any{"docker": map[string]any{"Host": "unix:///run/desk.sock"}}})
	for _, tt := range []struct {
		env        map[string]string
		want, fail string
	}{
		{nil, DefaultHost, ""},
		{map[string]string{"HOME": home}, DefaultHost, ""},
		{map[string]string{"HOME": home, "DOCKER_CONTEXT": "default"}, DefaultHost, ""},
		{map[string]string{"HOME": home, "DOCKER_CONTEXT": "desk"}, "unix:///run/desk.sock", ""},
		{map[string]string{"HOME": home, "DOCKER_CONTEXT": "desk", "DOCKER_HOST": "tcp://h:1"}, "tcp://h:1", ""},
		{map[string]string{"HOME": home, "DOCKER_CONTEXT": "none"}, "", "docker context none"},
	} {
		at, err := FromConfig(dockerconfig.New(tt.env, nil))
		got := at.Host
		if tt.fail != "" {
			require.ErrorContains(t, err, tt.fail)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, tt.want, got)
	}
	write(filepath.Join(home, ".docker", "config.json"), map[string]any{"currentContext": "desk"})
	got, err := FromConfig(dockerconfig.New(map[string]string{"HOME": home}, nil))
	require.NoError(t, err)
	require.Equal(t, Endpoint{Host: "unix:///run/desk.sock"}, got)
	at, err := FromContext(dockerconfig.New(map[string]string{"DOCKER_HOST": "tcp://h:1"}, nil), "default")
	require.NoError(t, err)
	require.Equal(t, "tcp://h:1", at.Host)

	// A context has certificates of its own.
	certs := filepath.Join(home, ".docker", "contexts", "tls", digest.FromString("desk").Encoded(), "docker")
	require.NoError(t, os.MkdirAll(certs, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(certs, "ca.pem"), nil, 0o644))
	got, err = FromContext(dockerconfig.New(map[string]string{"HOME": home}, nil), "desk")
	require.NoError(t, err)
	require.Equal(t, Endpoint{Host: "unix:///run/desk.sock", TLS: true, CACert: filepath.Join(certs, "ca.pem")}, got)
}

func TestNewEngine(t *testing.T) {
	for host, base := range map[string]string{
		"unix:///x.sock": "http://docker", "unix://": "http://docker", "tcp://h:1": "http://h:1", "h:1": "http://h:1",
		"http://h:1/prefix/": "http://h:1/prefix", "https://h:1": "https://h:1", "ssh://user@h": "http://docker",
	} {
		e, err := Open(dockerconfig.New(map[string]string{"DOCKER_HOST": host}, nil))
		require.NoError(t, err, host)
		require.Equal(t, base, e.base, host)
	}
	for _, env := range []map[string]string{
		{"DOCKER_HOST": "npipe:////./x"}, {"DOCKER_HOST": "ssh://h?x=y"},
		{"DOCKER_HOST": "tcp://h:1", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": t.TempDir()},
	} {
		_, err := Open(dockerconfig.New(env, nil))
		require.Error(t, err, env)
	}
}

// serve answers as an engine does.
func serve(t *testing.T, mux *http.ServeMux) *Engine {
	t.Helper()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	e, err := New(Endpoint{Host: strings.Replace(srv.URL, "http://", "tcp://", 1)})
	require.NoError(t, err)
	t.Cleanup(e.Close)
	return e
}

// TestHijack speaks another protocol through the engine.
func TestHijack(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /grpc", func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "h2c", r.Header.Get("Upgrade"))
		require.Equal(t, []string{"a", "b"}, r.Header.Values("X-Meta"))
		conn, buf, err := w.(http.Hijacker).Hijack()
		require.NoError(t, err)
		defer conn.Close()
		// What comes at once with the answer is not lost.
		_, err = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nhello ")
		require.NoError(t, err)
		line, err := buf.ReadString('\n')
		require.NoError(t, err)
		_, err = io.WriteString(conn, line)
		require.NoError(t, err)
	})
	mux.HandleFunc("POST /session", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"message":"page not found"}`)
	})
	e := serve(t, mux)
	conn, err := e.Hijack(t.Context(), "/grpc", "h2c", map[string][]string{"x-meta": {"a", "b"}})
	require.NoError(t, err)
	_, err = io.WriteString(conn, "engine\n")
	require.NoError(t, err)
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "hello engine\n", string(got))
	require.NoError(t, conn.Close())

	_, err = e.Hijack(t.Context(), "/session", "h2c", nil)
	require.ErrorContains(t, err, "has no BuildKit: page not found")
}

// TestHijackSilence has the engine say nothing.
func TestHijackSilence(t *testing.T) {
	mux := http.NewServeMux()
	asked, release := make(chan struct{}), make(chan struct{})
	mux.HandleFunc("POST /grpc", func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-release
	})
	e := serve(t, mux)
	defer close(release)
	late := errors.New("late")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(late)
	}()
	_, err := e.Hijack(ctx, "/grpc", "h2c", nil)
	require.ErrorIs(t, err, late)
}

func TestPushAndSave(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /images/h/x/push", func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "1", r.URL.Query().Get("tag"))
		dt, err := base64.URLEncoding.DecodeString(r.Header.Get("X-Registry-Auth"))
		require.NoError(t, err)
		require.JSONEq(t, `{"username":"u","password":"p","serveraddress":"h"}`, string(dt))
		_, _ = io.WriteString(w, `{"status":"x"}{"aux":{"Tag":"1","Digest":"sha256:abc","Size":1}}`)
	})
	mux.HandleFunc("POST /images/h/y/push", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"errorDetail":{"message":"denied"},"error":"denied"}`)
	})
	mux.HandleFunc("GET /images/get", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.URL.Query()["names"], " "))
	})
	e := serve(t, mux)
	digest, err := e.Push(t.Context(), "h/x", "1", Credentials{Username: "u", Password: "p", ServerAddress: "h"})
	require.NoError(t, err)
	require.Equal(t, "sha256:abc", digest)
	_, err = e.Push(t.Context(), "h/y", "1", Credentials{})
	require.ErrorContains(t, err, "push h/y:1 from the Docker engine at tcp://")
	require.ErrorContains(t, err, ": denied")
	require.NotContains(t, err.Error(), `"p"`)
	var out strings.Builder
	require.NoError(t, e.Save(t.Context(), []string{"a", "b"}, &out))
	require.Equal(t, "a b", out.String())
	require.True(t, IsNotFound(e.Pull(t.Context(), "none")))
}

// TestBoot makes a container that is not there, with its files.
func TestBoot(t *testing.T) {
	var made map[string]any
	var files []string
	var notices []string
	started, conflict := false, false
	mux := http.NewServeMux()
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"CgroupDriver":"cgroupfs","SecurityOptions":["name=seccomp,profile=default","name=userns"]}`)
	})
	mux.HandleFunc("GET /containers/{name}/json", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"message":"No such container"}`)
	})
	mux.HandleFunc("POST /images/create", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"errorDetail":{"message":"no network"}}`) // but it is there
	})
	mux.HandleFunc("GET /images/moby/buildkit:x/json", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"ID":"sha256:1"}`) })
	mux.HandleFunc("POST /containers/create", func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "bk", r.URL.Query().Get("name"))
		require.NoError(t, json.NewDecoder(r.Body).Decode(&made))
		if conflict {
			w.WriteHeader(http.StatusConflict)
			return
		}
		_, _ = io.WriteString(w, `{"Id":"1"}`)
	})
	mux.HandleFunc("PUT /containers/bk/archive", func(w http.ResponseWriter, r *http.Request) {
		for tr := tar.NewReader(r.Body); ; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			files = append(files, h.Name)
		}
	})
	mux.HandleFunc("POST /containers/bk/start", func(w http.ResponseWriter, _ *http.Request) {
		started = true
		w.WriteHeader(http.StatusNoContent)
	})
	e := serve(t, mux)
	c := Container{
		Name: "bk", Image: "moby/buildkit:x", Cmd: []string{"--debug"}, Env: []string{"A=b"}, Volume: "bk_state", CgroupParent: "/docker/buildx",
		Restart: "unless-stopped", Network: "host", Limits: Limits{Memory: 7}, Files: map[string][]byte{"/etc/buildkit/a/b": []byte("x"), "/etc/buildkit/c": nil},
	}
	note := func(text string) { notices = append(notices, text) }
	require.NoError(t, e.Boot(t.Context(), c, note))
	require.True(t, started)
	require.Equal(t, []string{"etc/", "etc/buildkit/", "etc/buildkit/a/", "etc/buildkit/a/b", "etc/buildkit/c"}, files)
	require.Equal(t, []string{"pulling image moby/buildkit:x", "creating container bk", "starting container bk"}, notices)
	host := made["HostConfig"].(map[string]any)
	require.Equal(t, true, host["Privileged"])
	require.Equal(t, "host", host["NetworkMode"])
	require.Equal(t, "/docker/buildx", host["CgroupParent"])
	require.Equal(t, "host", host["UsernsMode"])
	require.Equal(t, 7.0, host["Memory"])
	require.Equal(t, []any{map[string]any{"Type": "volume", "Source": "bk_state", "Target": "/var/lib/buildkit"}}, host["Mounts"])
	require.Equal(t, []any{"--debug"}, made["Cmd"])

	conflict = true // another process makes it at the same moment
	require.NoError(t, e.Boot(t.Context(), c, note))
	c.Image = "none"
	require.ErrorContains(t, e.Boot(t.Context(), c, note), "create container bk: no network")
}
