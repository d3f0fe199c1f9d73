package frontend

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// stubRegistry is a registry that has an image for amd64 and arm64 under every
// name, but for names that hold "missing". The config of an image holds its name.
type stubRegistry struct {
	*httptest.Server
	// auth is what basic credentials must be; empty lets everyone in.
	user, password string

	mu       sync.Mutex
	blobs    map[string]stubBlob // by digest
	tags     map[string]string   // "repo:tag" to digest
	requests map[string]int      // by "METHOD path"
	revision string              // change it to move all tags
	layers   map[string][]byte   // the layers of images that can be run, by name
}

type stubBlob struct {
	mediaType string
	data      []byte
}

func newStubRegistry(t *testing.T) *stubRegistry {
	t.Helper()
	s := &stubRegistry{blobs: map[string]stubBlob{}, tags: map[string]string{}, requests: map[string]int{}, layers: map[string][]byte{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *stubRegistry) host() string { return strings.TrimPrefix(s.URL, "http://") }

// moveTags makes every tag mean another image from now on.
func (s *stubRegistry) moveTags(revision string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision = revision
	s.tags = map[string]string{}
}

// addProgram makes name an image that runs program as /scan.
func (s *stubRegistry) addProgram(t *testing.T, name string, program []byte) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "scan", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg}))
	_, err := w.Write(program)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[name] = b.Bytes()
}

func (s *stubRegistry) count(prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for k, v := range s.requests {
		if strings.HasPrefix(k, prefix) {
			n += v
		}
	}
	return n
}

func (s *stubRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.user != "" {
		if u, p, ok := r.BasicAuth(); !ok || u != s.user || p != s.password {
			w.Header().Set("WWW-Authenticate", `Basic realm="stub"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	}
	s.requests[r.Method+" "+r.URL.Path]++
	repo, object, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
	if !ok {
		repo, object, ok = strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")
	}
	if !ok {
		return // the version check
	}
	if strings.Contains(repo, "missing") {
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	if !strings.HasPrefix(object, "sha256:") {
		object = s.image(repo, object)
	}
	b, ok := s.blobs[object]
	if !ok {
		http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", b.mediaType)
	w.Header().Set("Content-Length", fmt.Sprint(len(b.data)))
	w.Header().Set("Docker-Content-Digest", object)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b.data)
	}
}

// image makes the image of a name.
func (s *stubRegistry) image(repo, tag string) string {
	name := repo + ":" + tag
	if d, ok := s.tags[name]; ok {
		return d
	}
	index := ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex}
	for _, arch := range []string{"amd64", "arm64"} {
		content, ok := s.layers[name]
		if !ok {
			content = []byte(name + arch + s.revision) // nobody pulls it
		}
		layer := s.put(ocispecs.MediaTypeImageLayer, content)
		img := ocispecs.Image{
			Platform: ocispecs.Platform{OS: "linux", Architecture: arch},
			Config:   ocispecs.ImageConfig{Env: []string{"PATH=/bin", "NAME=" + name + s.revision}, Entrypoint: []string{"/scan"}},
			RootFS:   ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
		}
		if ok {
			// What frontend images say they can do.
			img.Config.Labels = map[string]string{"moby.buildkit.frontend.caps": "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts"}
		}
		manifest := s.putJSON(ocispecs.MediaTypeImageManifest, ocispecs.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2},
			MediaType: ocispecs.MediaTypeImageManifest,
			Config:    s.putJSON(ocispecs.MediaTypeImageConfig, img),
			Layers:    []ocispecs.Descriptor{layer},
		})
		manifest.Platform = &img.Platform
		index.Manifests = append(index.Manifests, manifest)
	}
	d := s.putJSON(ocispecs.MediaTypeImageIndex, index)
	s.tags[name] = d.Digest.String()
	return s.tags[name]
}

func (s *stubRegistry) putJSON(mediaType string, v any) ocispecs.Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs marshal
	}
	return s.put(mediaType, data)
}

func (s *stubRegistry) put(mediaType string, data []byte) ocispecs.Descriptor {
	d := digest.FromBytes(data)
	s.blobs[d.String()] = stubBlob{mediaType: mediaType, data: data}
	return ocispecs.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}
