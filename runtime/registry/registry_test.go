package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/docker/cli/cli/config/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/dockerconfig"
)

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard) // the registry's own log
	os.Exit(m.Run())
}

// server is a real registry in memory that remembers its requests.
type server struct {
	host string
	mu   sync.Mutex
	seen []string // "METHOD /path?query"
}

// serve starts a registry. guard may answer a request itself, and then returns
// true. start makes the server listen: (*httptest.Server).Start or StartTLS.
func serve(t *testing.T, start func(*httptest.Server), guard func(w http.ResponseWriter, r *http.Request) bool) (*server, *httptest.Server) {
	t.Helper()
	conf := &configuration.Configuration{Storage: configuration.Storage{
		"inmemory":    {},
		"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	conf.HTTP.Secret = rand.Text()
	conf.Catalog.MaxEntries = 1000
	conf.Validation.Manifests.Indexes.Platforms = "all" // refuse an index whose manifests are missing
	app := handlers.NewApp(context.Background(), conf)
	s := &server{}
	hs := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r.Method+" "+r.URL.RequestURI())
		s.mu.Unlock()
		if guard == nil || !guard(w, r) {
			app.ServeHTTP(w, r)
		}
	}))
	hs.Config.ErrorLog = log.New(io.Discard, "", 0)
	start(hs)
	t.Cleanup(func() {
		hs.Close()
		require.NoError(t, app.Shutdown())
	})
	s.host = hs.Listener.Addr().String()
	return s, hs
}

func (s *server) requests(prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.seen {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	c := New(o)
	t.Cleanup(c.Close)
	return c
}

// put pushes content under its digest, and returns its descriptor.
func put(t *testing.T, c *Client, repo, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	require.NoError(t, c.push(c.prepare(t.Context()), repo+"@"+desc.Digest.String(), desc, data))
	return desc
}

func putJSON(t *testing.T, c *Client, repo, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, err := json.MarshalIndent(v, "", "  ")
	require.NoError(t, err)
	return put(t, c, repo, mediaType, data)
}

func linux(arch string) ocispec.Platform { return ocispec.Platform{OS: "linux", Architecture: arch} }

// putImage pushes an image of one layer.
func putImage(t *testing.T, c *Client, repo, arch string) ocispec.Descriptor {
	t.Helper()
	layer := put(t, c, repo, ocispec.MediaTypeImageLayerGzip, []byte("layer "+arch))
	config := putJSON(t, c, repo, ocispec.MediaTypeImageConfig, ocispec.Image{Platform: linux(arch), Config: ocispec.ImageConfig{Env: []string{"ARCH=" + arch}}})
	return putJSON(t, c, repo, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer},
	})
}

// putAttested pushes an index as BuildKit does for one platform with provenance.
func putAttested(t *testing.T, c *Client, repo, arch string) (index, image, attestation ocispec.Descriptor) {
	t.Helper()
	image = putImage(t, c, repo, arch)
	p := linux(arch)
	image.Platform = &p
	statement := put(t, c, repo, "application/vnd.in-toto+json", []byte(`{"about":"`+arch+`"}`))
	config := putJSON(t, c, repo, ocispec.MediaTypeImageConfig, ocispec.Image{Platform: ocispec.Platform{OS: "unknown", Architecture: "unknown"}, Author: arch})
	attestation = putJSON(t, c, repo, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{statement},
	})
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{annotationRefType: refTypeAttestation, annotationRefDigest: image.Digest.String()}
	index = putJSON(t, c, repo, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{image, attestation},
	})
	return index, image, attestation
}

func TestTags(t *testing.T) {
	s, _ := serve(t, (*httptest.Server).Start, nil)
	c := newClient(t, Options{})
	repo := s.host + "/team/cache"

	tags, err := c.Tags(t.Context(), repo)
	require.NoError(t, err)
	require.Empty(t, tags)

	img := putImage(t, c, repo, "amd64")
	for _, tag := range []string{"b", "a"} {
		desc, err := c.PutIndex(t.Context(), Index{Names: []string{repo + ":" + tag}, Parts: []Part{{Digest: img.Digest}}})
		require.NoError(t, err)
		require.Equal(t, img.Digest, desc.Digest)
	}
	tags, err = c.Tags(t.Context(), repo+":whatever")
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, tags)
}

func TestTagsInPages(t *testing.T) {
	link := ""
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("last") == "" {
			w.Header().Set("Link", link)
			fmt.Fprint(w, `{"tags":["b","c"]}`)
			return
		}
		fmt.Fprint(w, `{"tags":["a","c"]}`)
	}))
	t.Cleanup(hs.Close)
	c := newClient(t, Options{})
	ref := hs.Listener.Addr().String() + "/x/y"

	link = `</v2/x/y/tags/list?n=1000&last=c>; rel="next"`
	tags, err := c.Tags(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c"}, tags)

	link = `<http://elsewhere.example/v2/x/y/tags/list?last=c>; rel="next"`
	_, err = c.Tags(t.Context(), ref)
	require.EqualError(t, err, "list tags of "+ref+": the list of tags goes on at another host")

	link = `</v2/x/y/tags/list?n=1000>; rel="next"`
	_, err = c.Tags(t.Context(), ref)
	require.EqualError(t, err, "list tags of "+ref+": the list of tags does not end")
}

func TestConfig(t *testing.T) {
	s, _ := serve(t, (*httptest.Server).Start, nil)
	c := newClient(t, Options{})
	repo := s.host + "/app"
	amd, _, _ := putAttested(t, c, repo, "amd64")
	arm, _, _ := putAttested(t, c, repo, "arm64")
	root, err := c.PutIndex(t.Context(), Index{Names: []string{repo}, Parts: []Part{{Digest: amd.Digest}, {Digest: arm.Digest}}})
	require.NoError(t, err)

	img, err := c.Config(t.Context(), repo, linux("arm64"))
	require.NoError(t, err)
	require.Equal(t, root.Digest, img.Root.Digest)
	require.Equal(t, []string{"ARCH=arm64"}, img.Config.Config.Env)
	require.Len(t, img.Layers, 1)
	require.JSONEq(t, string(img.Raw), mustJSON(t, img.Config))

	_, err = c.Config(t.Context(), repo, linux("s390x"))
	require.ErrorIs(t, err, ErrNotFound)

	// A reference to one image is that image.
	img, err = c.Config(t.Context(), repo+"@"+img.Manifest.Digest.String(), linux("amd64"))
	require.NoError(t, err)
	require.Equal(t, "arm64", img.Config.Architecture)
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return string(data)
}

func TestBlobLimitAndDigest(t *testing.T) {
	garble := false
	s, _ := serve(t, (*httptest.Server).Start, func(w http.ResponseWriter, r *http.Request) bool {
		if garble && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			fmt.Fprint(w, "0123456789")
			return true
		}
		return false
	})
	c := newClient(t, Options{})
	repo := s.host + "/app"
	desc := put(t, c, repo, "application/octet-stream", []byte("abcdefghij"))
	data, err := c.Blob(t.Context(), repo, desc, 10)
	require.NoError(t, err)
	require.Equal(t, "abcdefghij", string(data))

	_, err = c.Blob(t.Context(), repo, desc, 9)
	require.ErrorIs(t, err, ErrTooLarge)

	garble = true
	_, err = c.Blob(t.Context(), repo, desc, 10)
	require.ErrorContains(t, err, "instead of "+desc.Digest.String())
}

// The joined index is what one node would have pushed for both platforms.
func TestPutIndex(t *testing.T) {
	s, _ := serve(t, (*httptest.Server).Start, nil)
	c := newClient(t, Options{})
	repo := s.host + "/shop/app"
	arm, armImage, armAttestation := putAttested(t, c, repo, "arm64")
	// The second node pushed to a staging repository.
	amd, amdImage, amdAttestation := putAttested(t, c, s.host+"/staging", "amd64")

	index := Index{
		Names: []string{repo + ":1", repo, s.host + "/other:1"},
		Parts: []Part{
			{Digest: arm.Digest},
			{Repo: s.host + "/staging", Digest: amd.Digest},
		},
		Platforms: []ocispec.Platform{linux("amd64"), linux("arm64")},
	}
	want, err := json.MarshalIndent(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{amdImage, armImage, amdAttestation, armAttestation},
	}, "", "  ")
	require.NoError(t, err)

	for range 2 { // a second time changes nothing
		desc, err := c.PutIndex(t.Context(), index)
		require.NoError(t, err)
		require.Equal(t, digest.FromBytes(want), desc.Digest)
		for _, name := range index.Names {
			data, got, err := c.Manifest(t.Context(), name)
			require.NoError(t, err)
			require.Equal(t, string(want), string(data))
			require.Equal(t, desc.Digest, got.Digest)
			img, err := c.Config(t.Context(), name, linux("amd64"))
			require.NoError(t, err)
			require.Equal(t, "amd64", img.Config.Architecture)
		}
	}
	// Everything was mounted, nothing sent again: two images and two attestations
	// have two blobs each, and the third name's repository needed all eight.
	require.Zero(t, s.requests("PUT /v2/other/blobs/"))
	require.Zero(t, s.requests("PATCH /v2/other/blobs/"))
}

func TestPutIndexOfPlainImages(t *testing.T) {
	s, _ := serve(t, (*httptest.Server).Start, nil)
	c := newClient(t, Options{})
	repo := s.host + "/app"
	amd, arm := putImage(t, c, repo, "amd64"), putImage(t, c, repo, "arm64")
	v7 := ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	desc, err := c.PutIndex(t.Context(), Index{
		Names:       []string{repo},
		Parts:       []Part{{Digest: amd.Digest}, {Digest: arm.Digest, Platform: &v7, Annotations: map[string]string{"a": "b"}}},
		Annotations: map[string]string{"x": "y"},
	})
	require.NoError(t, err)
	data, err := c.Blob(t.Context(), repo, desc, MaxManifest)
	require.NoError(t, err)
	var idx ocispec.Index
	require.NoError(t, json.Unmarshal(data, &idx))
	require.Equal(t, map[string]string{"x": "y"}, idx.Annotations)
	require.Equal(t, linux("amd64"), *idx.Manifests[0].Platform) // from its config
	require.Equal(t, v7, *idx.Manifests[1].Platform)
	require.Equal(t, map[string]string{"a": "b"}, idx.Manifests[1].Annotations)
}

func TestPutIndexErrors(t *testing.T) {
	s, _ := serve(t, (*httptest.Server).Start, nil)
	c := newClient(t, Options{})
	repo := s.host + "/app"
	img := putImage(t, c, repo, "amd64")
	arm := putImage(t, c, repo, "arm64")
	amd64 := linux("amd64")
	docker := putJSON(t, c, repo, images.MediaTypeDockerSchema2Manifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: images.MediaTypeDockerSchema2Manifest,
		Config: put(t, c, repo, images.MediaTypeDockerSchema2Config, []byte(`{"os":"linux","architecture":"amd64"}`)),
	})
	missing := digest.FromString("missing")
	for _, tc := range []struct {
		name  string
		index Index
		want  string
	}{
		{"nothing", Index{}, "an image needs a name and a part"},
		{"bad name", Index{Names: []string{"A B"}, Parts: []Part{{}}}, "write A B: not the name of an image: invalid reference format: repository name (library/A B) must be lowercase"},
		{"name with digest", Index{Names: []string{repo + "@" + missing.String()}, Parts: []Part{{}}}, "write " + repo + "@" + missing.String() + ": a name with a digest cannot be given to something new"},
		{"missing part", Index{Names: []string{repo}, Parts: []Part{{Digest: missing}, {Digest: img.Digest}}}, "read " + repo + "@" + missing.String() + ": not found in registry " + s.host},
		{"two for one platform", Index{Names: []string{repo}, Parts: []Part{{Digest: img.Digest}, {Digest: arm.Digest, Platform: &amd64}}},
			"put together " + repo + ":latest: there are two images for platform linux/amd64, " + img.Digest.String() + " and " + arm.Digest.String()},
		{"annotations on docker's types", Index{Names: []string{repo}, Parts: []Part{{Digest: docker.Digest}}, Annotations: map[string]string{"a": "b"}},
			"put together " + repo + ":latest: an index of docker's media types cannot have annotations; set oci-mediatypes=true on the output"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := c.PutIndex(t.Context(), tc.index)
			require.EqualError(t, err, tc.want)
		})
	}
	tags, err := c.Tags(t.Context(), repo)
	require.NoError(t, err)
	require.Empty(t, tags)
}

func TestCopyBetweenRegistries(t *testing.T) {
	a, _ := serve(t, (*httptest.Server).Start, nil)
	b, _ := serve(t, (*httptest.Server).Start, nil)
	c := newClient(t, Options{})
	index, _, _ := putAttested(t, c, a.host+"/app", "amd64")
	require.NoError(t, c.Copy(t.Context(), a.host+"/app:x", b.host+"/copy", index))
	img, err := c.Config(t.Context(), b.host+"/copy@"+index.Digest.String(), linux("amd64"))
	require.NoError(t, err)
	require.Equal(t, "amd64", img.Config.Architecture)
	data, err := c.Blob(t.Context(), b.host+"/copy", img.Layers[0], 100)
	require.NoError(t, err)
	require.Equal(t, "layer amd64", string(data))

	other := put(t, c, a.host+"/app", "application/octet-stream", bytes.Repeat([]byte("x"), 1<<20))
	copyOne := func(from, to string, desc ocispec.Descriptor) error {
		src, dst, err := repositories(from, to)
		require.NoError(t, err)
		return c.copyBlob(c.prepare(t.Context()), src, dst, desc)
	}
	require.NoError(t, copyOne(a.host+"/app", b.host+"/copy", other))
	_, err = c.Blob(t.Context(), b.host+"/copy", other, 1<<20)
	require.NoError(t, err)
	err = copyOne(a.host+"/none", b.host+"/copy", ocispec.Descriptor{MediaType: "x", Digest: digest.FromString("none"), Size: 4})
	require.ErrorIs(t, err, ErrNotFound)
}

func TestMirror(t *testing.T) {
	s, _ := serve(t, (*httptest.Server).Start, nil)
	c := newClient(t, Options{Hosts: map[string]Host{"docker.io": {Mirrors: []string{s.host}}}})
	want := putImage(t, c, s.host+"/library/busybox", "amd64")
	desc, err := c.Resolve(t.Context(), "busybox@"+want.Digest.String())
	require.NoError(t, err)
	require.Equal(t, want.Digest, desc.Digest)
}

// dockerConfig writes docker's configuration with a login for host.
func dockerConfig(t *testing.T, host, user, password string) Credentials {
	t.Helper()
	dir := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth), 0o600))
	return DockerCredentials(dockerconfig.New(map[string]string{"DOCKER_CONFIG": dir}, nil))
}

func TestBasicLogin(t *testing.T) {
	s, _ := serve(t, (*httptest.Server).Start, func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, ok := r.BasicAuth(); ok && user == "me" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	repo := s.host + "/app"
	c := newClient(t, Options{Credentials: dockerConfig(t, s.host, "me", "secret")})
	img := putImage(t, c, repo, "amd64")
	_, err := c.PutIndex(t.Context(), Index{Names: []string{repo + ":1"}, Parts: []Part{{Digest: img.Digest}}})
	require.NoError(t, err)
	tags, err := c.Tags(t.Context(), repo)
	require.NoError(t, err)
	require.Equal(t, []string{"1"}, tags)

	data, _, err := c.Manifest(t.Context(), repo+":1")
	require.NoError(t, err)
	denied := "access denied by registry " + s.host + "; log in with 'docker login " + s.host + "', or the account lacks the right"
	for name, o := range map[string]Options{
		"no credentials":    {},
		"wrong credentials": {Credentials: dockerConfig(t, s.host, "me", "wrong")},
		"none for the host": {Credentials: dockerConfig(t, "example.com", "me", "secret")},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, o)
			_, err := c.Resolve(t.Context(), repo+":1")
			require.EqualError(t, err, "read "+repo+":1: "+denied)
			require.ErrorIs(t, err, ErrDenied)
			_, err = c.Tags(t.Context(), repo)
			require.EqualError(t, err, "list tags of "+repo+": "+denied)
			err = c.push(c.prepare(t.Context()), repo+":2", img, data)
			require.EqualError(t, err, "write "+repo+":2: "+denied)
		})
	}
}

func TestTokenLogin(t *testing.T) {
	var mu sync.Mutex
	var scopes []string
	var s *server
	s, _ = serve(t, (*httptest.Server).Start, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			user, _, _ := r.BasicAuth()
			if err := r.ParseForm(); err == nil && user == "" {
				user = r.Form.Get("username")
			}
			if user != "me" {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			mu.Lock()
			scopes = append(scopes, strings.Fields(strings.Join(append(r.Form["scope"], r.URL.Query()["scope"]...), " "))...)
			mu.Unlock()
			fmt.Fprint(w, `{"token":"t0ken","access_token":"t0ken"}`)
			return true
		}
		if r.Header.Get("Authorization") == "Bearer t0ken" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="reg"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	c := newClient(t, Options{Credentials: dockerConfig(t, s.host, "me", "secret")})
	img := putImage(t, c, s.host+"/app", "amd64")
	_, err := c.Tags(t.Context(), s.host+"/app")
	require.NoError(t, err)
	_, err = c.Resolve(t.Context(), s.host+"/app@"+img.Digest.String())
	require.NoError(t, err)
	require.NoError(t, c.Copy(t.Context(), s.host+"/app", s.host+"/copy", img))
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(scopes)
	require.Equal(t, []string{"repository:app:pull", "repository:app:pull,push", "repository:copy:pull,push"},
		slices.DeleteFunc(slices.Compact(scopes), func(s string) bool { return s == "" }))

	_, err = newClient(t, Options{Credentials: dockerConfig(t, s.host, "you", "x")}).Tags(t.Context(), s.host+"/app")
	require.ErrorIs(t, err, ErrDenied)
}

// TestTokenThatExpires: a token that has expired in the middle of what is done is got
// anew, and nothing is lost.
func TestTokenThatExpires(t *testing.T) {
	var mu sync.Mutex
	live, given := map[string]bool{}, 0
	expire := func() {
		mu.Lock()
		defer mu.Unlock()
		clear(live)
	}
	s, _ := serve(t, (*httptest.Server).Start, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/token" {
			given++
			token := fmt.Sprint("token", given)
			live[token] = true
			fmt.Fprintf(w, `{"token":%q,"access_token":%[1]q,"expires_in":70}`, token)
			return true
		}
		if live[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")] {
			if r.Method == http.MethodPost || r.Method == http.MethodPut {
				clear(live) // the next request comes too late
			}
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="reg",error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	repo := s.host + "/app"
	c := newClient(t, Options{Credentials: dockerConfig(t, s.host, "me", "secret")})
	img := putImage(t, c, repo, "amd64")
	expire()
	_, err := c.PutIndex(t.Context(), Index{Names: []string{repo + ":1", repo + ":2"}, Parts: []Part{{Digest: img.Digest}}})
	require.NoError(t, err)
	expire()
	tags, err := c.Tags(t.Context(), repo)
	require.NoError(t, err)
	require.Equal(t, []string{"1", "2"}, tags)
	expire()
	require.NoError(t, c.Copy(t.Context(), repo, s.host+"/copy", img))
	expire()
	_, err = c.Resolve(t.Context(), s.host+"/copy@"+img.Digest.String())
	require.NoError(t, err)
	mu.Lock()
	defer mu.Unlock()
	require.Greater(t, given, 4)
}

func TestForbidden(t *testing.T) {
	s, _ := serve(t, (*httptest.Server).Start, func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"errors":[{"code":"DENIED","message":"your plan has expired"}]}`)
		return true
	})
	_, err := newClient(t, Options{}).Resolve(t.Context(), s.host+"/app:1")
	require.EqualError(t, err, "read "+s.host+"/app:1: access denied by registry "+s.host+" (your plan has expired); log in with 'docker login "+s.host+"', or the account lacks the right")
}

func TestNotFoundAndOtherAnswers(t *testing.T) {
	code := http.StatusTeapot
	s, _ := serve(t, (*httptest.Server).Start, func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v2/odd/") {
			w.WriteHeader(code)
			return true
		}
		return false
	})
	c := newClient(t, Options{})
	_, err := c.Resolve(t.Context(), s.host+"/app:1")
	require.EqualError(t, err, "read "+s.host+"/app:1: not found in registry "+s.host)
	require.ErrorIs(t, err, ErrNotFound)
	_, err = c.Resolve(t.Context(), s.host+"/odd:1")
	require.EqualError(t, err, "read "+s.host+"/odd:1: the registry answered 418 I'm a teapot")
	_, err = c.Tags(t.Context(), s.host+"/odd")
	require.EqualError(t, err, "list tags of "+s.host+"/odd: the registry answered 418 I'm a teapot")
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	host := l.Addr().String()
	require.NoError(t, l.Close())
	c := newClient(t, Options{Patience: Patience{Away: -1}})
	for _, call := range []func() error{
		func() error { _, err := c.Resolve(t.Context(), host+"/app:1"); return err },
		func() error { _, err := c.Tags(t.Context(), host+"/app:1"); return err },
	} {
		err := call()
		require.ErrorIs(t, err, ErrUnreachable)
		require.ErrorContains(t, err, "/app:1: registry "+host+" cannot be reached: dial tcp "+host+": connect: connection refused")
	}
}

func TestTLS(t *testing.T) {
	s, hs := serve(t, (*httptest.Server).StartTLS, nil)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hs.Certificate().Raw})
	for name, h := range map[string]Host{"authority": {RootCAs: [][]byte{ca}}, "any": {Insecure: true}} {
		t.Run(name, func(t *testing.T) {
			_, err := newClient(t, Options{Hosts: map[string]Host{s.host: h}}).Tags(t.Context(), s.host+"/app")
			require.NoError(t, err)
		})
	}
	_, err := newClient(t, Options{}).Tags(t.Context(), s.host+"/app")
	require.ErrorIs(t, err, ErrUnreachable)
	require.ErrorContains(t, err, "certificate")
	_, err = newClient(t, Options{Hosts: map[string]Host{s.host: {RootCAs: [][]byte{[]byte("x")}}}}).Tags(t.Context(), s.host+"/app")
	require.ErrorContains(t, err, "no certificate in the PEM of its authority")

	plain, _ := serve(t, (*httptest.Server).Start, nil)
	// A host that is listed is taken at its word.
	_, err = newClient(t, Options{Hosts: map[string]Host{plain.host: {}}}).Tags(t.Context(), plain.host+"/app")
	require.ErrorIs(t, err, ErrUnreachable)
	require.ErrorContains(t, err, "speaks plain HTTP, which must be allowed for it")
	_, err = newClient(t, Options{Hosts: map[string]Host{plain.host: {PlainHTTP: true}}}).Tags(t.Context(), plain.host+"/app")
	require.NoError(t, err)
}

func TestCancelled(t *testing.T) {
	release := make(chan struct{})
	asked := make(chan struct{}, 1)
	s, _ := serve(t, (*httptest.Server).Start, func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-release:
		}
		return true
	})
	t.Cleanup(func() { close(release) })
	cause := errors.New("the user gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(cause)
	}()
	_, err := newClient(t, Options{}).Resolve(ctx, s.host+"/app:1")
	require.ErrorIs(t, err, cause)
	require.NotErrorIs(t, err, ErrUnreachable)
}

// silentHelper is a configuration whose credential helper never answers.
type silentHelper struct{ asked, end chan struct{} }

func (s silentHelper) GetAuthConfig(string) (types.AuthConfig, error) {
	s.asked <- struct{}{}
	<-s.end
	return types.AuthConfig{}, nil
}

// TestCredentialHelperThatHangs: a helper that does not answer is given up, is named,
// and is not asked again; it holds up nobody whose context has ended.
func TestCredentialHelperThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		helper := silentHelper{asked: make(chan struct{}, 9), end: make(chan struct{})}
		defer close(helper.end)
		c := newClient(t, Options{Credentials: func(host string) (string, string, error) {
			_, err := askHelper(helper, host)
			return "", "", err
		}})
		for range 2 {
			begun := time.Now()
			_, _, err := c.credentials("r.example")
			var hangs *HelperError
			require.ErrorAs(t, err, &hangs)
			require.EqualError(t, err, "credentials for r.example: the credential helper of the Docker configuration has not answered for 1m0s")
			require.LessOrEqual(t, time.Since(begun), HelperTimeout)
		}
		require.Len(t, helper.asked, 1)

		cause := errors.New("the user gave up")
		ctx, cancel := context.WithCancelCause(t.Context())
		begun := time.Now()
		go func() {
			<-helper.asked // the first one's
			<-helper.asked
			cancel(cause)
		}()
		err := heeding(ctx, func() error {
			_, _, err := c.credentials("other.example")
			return err
		})
		require.ErrorIs(t, err, cause)
		require.Zero(t, time.Since(begun))
	})
}

// TestCredentialHelpers: what a helper says gets there, and one that fails, says
// something else or is missing is named with its words and the registry.
func TestCredentialHelpers(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	for name, script := range map[string]string{
		"good":    `read host; echo "$host" >> ` + filepath.Join(bin, "asked") + `; echo "{\"Username\":\"me\",\"Secret\":\"secret of $host\"}"`,
		"bad":     `echo "token has expired, run: acme login"; exit 1`,
		"garbage": `echo "Your session: hunter2"`,
		"empty":   `exit 0`,
		"none":    `echo "credentials not found in native keychain"; exit 1`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credsStore":"bad","credHelpers":{
		"good.test":"good","garbage.test":"garbage","empty.test":"empty","missing.test":"nosuch","none.test":"none","`+hubKey+`":"good"}}`), 0o600))
	c := newClient(t, Options{Credentials: DockerCredentials(dockerconfig.New(map[string]string{"DOCKER_CONFIG": dir}, nil))})
	for _, tt := range []struct{ host, user, secret, fails string }{
		{host: "good.test", user: "me", secret: "secret of good.test"},
		{host: "good.test", user: "me", secret: "secret of good.test"},
		{host: dockerHub, user: "me", secret: "secret of " + hubKey},
		{host: "none.test"},
		{host: "other.test", fails: "credentials for other.test: credential helper docker-credential-bad: .*token has expired, run: acme login"},
		{host: "garbage.test", fails: "credentials for garbage.test: credential helper docker-credential-garbage: "},
		{host: "empty.test", fails: "credentials for empty.test: credential helper docker-credential-empty: "},
		{host: "missing.test", fails: "credentials for missing.test: credential helper docker-credential-nosuch: .*not found"},
	} {
		user, secret, err := c.credentials(tt.host)
		require.Equal(t, []string{tt.user, tt.secret}, []string{user, secret}, tt.host)
		if tt.fails == "" {
			require.NoError(t, err, tt.host)
			continue
		}
		require.Error(t, err, tt.host)
		require.Regexp(t, "^"+tt.fails, err.Error())
		require.NotContains(t, err.Error(), "hunter2", "what a helper says when it succeeds may be a secret")
	}
	asked, err := os.ReadFile(filepath.Join(bin, "asked"))
	require.NoError(t, err)
	require.Equal(t, "good.test\n"+hubKey+"\n", string(asked), "each is asked for once")
}

func TestDockerCredentialsFromAPipe(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "config.json"), 0o600))
	_, _, err := DockerCredentials(dockerconfig.New(map[string]string{"DOCKER_CONFIG": dir}, nil))("r.example")
	require.ErrorContains(t, err, "config.json: not a regular file")
}

func TestDockerCredentials(t *testing.T) {
	creds := dockerConfig(t, hubKey, "me", "secret")
	user, secret, err := creds(dockerHub)
	require.NoError(t, err)
	require.Equal(t, []string{"me", "secret"}, []string{user, secret})
	user, secret, err = creds("example.com")
	require.NoError(t, err)
	require.Empty(t, user+secret)

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"auths":{"r.example":{"identitytoken":"tok"}}}`), 0o600))
	creds = DockerCredentials(dockerconfig.New(map[string]string{"DOCKER_CONFIG": dir}, nil))
	user, secret, err = creds("r.example")
	require.NoError(t, err)
	require.Equal(t, []string{"", "tok"}, []string{user, secret})

	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{`), 0o600))
	_, _, err = DockerCredentials(dockerconfig.New(map[string]string{"DOCKER_CONFIG": dir}, nil))("r.example")
	require.ErrorContains(t, err, "config.json: ")
}

// A registry that turns out to speak plain HTTP is asked so where somebody says that it
// may, and only what is in its repositories.
func TestPlainHTTPThatIsLearned(t *testing.T) {
	const far = "registry.far.test:5000"
	for name, allowed := range map[string]bool{"allowed": true, "not allowed": false} {
		t.Run(name, func(t *testing.T) {
			_, hs := serve(t, (*httptest.Server).Start, nil)
			var asked []string
			c := newClient(t, Options{
				Plain: func(_ context.Context, repo string) bool {
					asked = append(asked, repo)
					return allowed
				},
				Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, network, hs.Listener.Addr().String())
				},
			})
			_, err := c.Tags(t.Context(), far+"/some/app")
			if !allowed {
				require.ErrorIs(t, err, ErrUnreachable)
				require.ErrorContains(t, err, "speaks plain HTTP, which must be allowed for it")
				require.Equal(t, []string{far + "/some/app"}, asked)
				return
			}
			require.NoError(t, err)
			data := []byte("a layer")
			desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data))}
			require.NoError(t, c.Push(t.Context(), far+"/other:1", desc, data))
			require.Equal(t, []string{far + "/some/app"}, asked, "once for each registry")
		})
	}
}
