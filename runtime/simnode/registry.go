package simnode

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is a registry in memory. Nodes use it directly, the client over HTTP: see Dial.
// The zero value is empty and ready for use.
type Registry struct {
	mu     sync.Mutex
	blobs  map[digest.Digest][]byte
	tags   map[string]digest.Digest // by repository and tag, "host/name:tag", or digest
	types  map[digest.Digest]string // media types of manifests
	refuse int                      // how many writes are still refused
	wires  wires
	server *http.Server
	listen *listener
	wg     sync.WaitGroup
}

// Refuse has the next n writes of nodes fail, as of a registry that is busy.
func (r *Registry) Refuse(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = n
}

// busyError is a node's error about a busy registry.
type busyError struct{ host string }

func (e *busyError) Error() string {
	return fmt.Sprintf("failed to push: unexpected status from PUT request to http://%s/v2/: 503 Service Unavailable", e.host)
}

// put stores blobs and, unless mediaType is "", a manifest under a ref.
func (r *Registry) put(ref, mediaType string, manifest []byte, blobs ...[]byte) (digest.Digest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse > 0 {
		r.refuse--
		host, _, _ := strings.Cut(ref, "/")
		return "", &busyError{host}
	}
	for _, b := range blobs {
		r.store(b)
	}
	d := r.store(manifest)
	if r.types == nil {
		r.types, r.tags = map[digest.Digest]string{}, map[string]digest.Digest{}
	}
	r.types[d] = mediaType
	r.tags[ref] = d
	return d, nil
}

// store is called with the lock held.
func (r *Registry) store(dt []byte) digest.Digest {
	if r.blobs == nil {
		r.blobs = map[digest.Digest][]byte{}
	}
	d := digest.FromBytes(dt)
	r.blobs[d] = dt
	return d
}

// Blob returns a blob or manifest; ok is false when it is not there.
func (r *Registry) Blob(d digest.Digest) (dt []byte, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dt, ok = r.blobs[d]
	return dt, ok
}

// Resolve returns the digest that a ref stands for.
func (r *Registry) Resolve(ref string) (d digest.Digest, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, found, ok := strings.Cut(ref, "@"); ok {
		_, held := r.blobs[digest.Digest(found)]
		return digest.Digest(found), held
	}
	d, ok = r.tags[ref]
	if !ok {
		return "", false
	}
	_, ok = r.blobs[d]
	return d, ok
}

// Lose deletes a blob.
func (r *Registry) Lose(d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.blobs, d)
}

// Layers returns the digests of the blobs that are layers, sorted.
func (r *Registry) Layers() []digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []digest.Digest
	for d, dt := range r.blobs {
		if bytes.HasPrefix(dt, []byte(layerPrefix)) {
			list = append(list, d)
		}
	}
	slices.Sort(list)
	return list
}

// Names returns the refs that were written, with tags or digests, sorted.
func (r *Registry) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.tags))
}

// Tags returns those of a repository, sorted.
func (r *Registry) Tags(name string) []string {
	var tags []string
	for _, ref := range r.Names() {
		if tag, ok := strings.CutPrefix(ref, name+":"); ok {
			tags = append(tags, tag)
		}
	}
	return tags
}

// Dial connects a client of registries to r, whatever the address.
func (r *Registry) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	r.mu.Lock()
	if r.server == nil {
		r.server, r.listen = &http.Server{Handler: r}, newListener()
		server, listen := r.server, r.listen
		r.wg.Go(func() { _ = server.Serve(listen) }) // ends with Close
	}
	listen := r.listen
	r.mu.Unlock()
	client, server := r.wires.connect()
	select {
	case listen.conns <- server:
		return client, nil
	case <-listen.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Close ends what Dial has started; it can be dialled again.
func (r *Registry) Close() {
	r.mu.Lock()
	server := r.server
	r.server, r.listen = nil, nil
	r.mu.Unlock()
	if server != nil {
		_ = server.Close() // of connections in memory
		r.wires.cut()
	}
	r.wg.Wait()
}

// registryPath takes the path of a request apart.
var registryPath = regexp.MustCompile(`^/v2/(.*)/(manifests|blobs|tags)/(.*)$`)

// ServeHTTP implements http.Handler with the parts of the protocol that clients of caches
// and tags use.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	m := registryPath.FindStringSubmatch(req.URL.Path)
	if m == nil {
		w.WriteHeader(http.StatusOK) // "/v2/"
		return
	}
	name, kind, what := req.Host+"/"+m[1], m[2], m[3]
	switch {
	case kind == "blobs" && strings.HasPrefix(what, "uploads/"):
		r.upload(w, req)
	case kind == "manifests" && req.Method == http.MethodPut:
		dt, err := io.ReadAll(req.Body)
		if err != nil {
			return // the client is gone
		}
		ref := name + ":" + what
		if strings.Contains(what, ":") {
			ref = name + "@" + what
		}
		d, err := r.put(ref, req.Header.Get("Content-Type"), dt)
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Docker-Content-Digest", d.String())
		w.WriteHeader(http.StatusCreated)
	case kind == "tags":
		r.list(w, name)
	case req.Method == http.MethodGet || req.Method == http.MethodHead:
		r.serve(w, req, name, what)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// serve sends a blob or a manifest.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request, name, what string) {
	ref := name + ":" + what
	if strings.Contains(what, ":") {
		ref = name + "@" + what
	}
	d, ok := r.Resolve(ref)
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	dt, _ := r.Blob(d)
	r.mu.Lock()
	kind := r.types[d]
	r.mu.Unlock()
	if kind == "" {
		kind = "application/octet-stream"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(dt)))
	w.WriteHeader(http.StatusOK)
	if req.Method == http.MethodGet {
		_, _ = w.Write(dt) // a client that is gone needs nothing
	}
}

// upload takes a blob in one piece.
func (r *Registry) upload(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodPost {
		w.Header().Set("Location", req.URL.Path+"1")
		w.WriteHeader(http.StatusAccepted)
		return
	}
	dt, err := io.ReadAll(req.Body)
	if err != nil {
		return // the client is gone
	}
	r.mu.Lock()
	d := r.store(dt)
	r.mu.Unlock()
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

// list sends the tags of a repository.
func (r *Registry) list(w http.ResponseWriter, name string) {
	var tags []string
	for _, tag := range r.Tags(name) {
		tags = append(tags, strconv.Quote(tag))
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"name":%q,"tags":[%s]}`, name, strings.Join(tags, ",")) // as above
}

// layer describes a layer blob.
func layer(dt []byte) ocispecs.Descriptor {
	return ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: digest.FromBytes(dt), Size: int64(len(dt))}
}
