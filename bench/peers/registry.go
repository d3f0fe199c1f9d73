package peers

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dbake/dbake/runtime/local"
)

// cacheRepository is the part of the registry in which every contender keeps its
// caches.
const cacheRepository = "buildcache"

// Requests are those that a registry got.
type Requests struct {
	// Get, Head and Write (POST, PUT, PATCH) count requests for caches, Images those
	// for anything else.
	Get    int `json:"cache_get"`
	Head   int `json:"cache_head"`
	Write  int `json:"cache_write"`
	Images int `json:"images"`
	// Manifests counts the caches written.
	Manifests int `json:"cache_manifests"`
	// In and Out are bytes of bodies, to and from the registry.
	In  int64 `json:"bytes_in"`
	Out int64 `json:"bytes_out"`
}

// Pulls are the blobs that were read of the base images: requests, and distinct blobs.
type Pulls struct {
	Blobs    int `json:"blobs"`
	Distinct int `json:"distinct"`
}

// Cache is the number of requests for caches.
func (r Requests) Cache() int { return r.Get + r.Head + r.Write }

// registry is a registry behind a proxy that counts.
type registry struct {
	addr     string
	dir      string
	backend  atomic.Pointer[local.Registry]
	server   *http.Server
	served   chan struct{}
	mu       sync.Mutex // guards what follows
	requests Requests
	layers   map[string]bool // digests of the blobs written outside of caches
	pulls    Pulls
	pulled   map[string]bool // digests of the blobs read
}

func newRegistry(ctx context.Context, dir string) (*registry, error) {
	backend, err := local.StartRegistry(ctx, dir)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, backend.Close())
	}
	r := &registry{addr: l.Addr().String(), dir: dir, served: make(chan struct{}), layers: map[string]bool{}, pulled: map[string]bool{}}
	r.backend.Store(backend)
	forward := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: r.backend.Load().Addr})
			p.Out.Host = p.In.Host // uploads continue where the client can reach them
		},
		ModifyResponse: func(resp *http.Response) error {
			r.note(resp.Request, resp)
			return nil
		},
	}
	r.server = &http.Server{Handler: forward, ReadHeaderTimeout: time.Minute}
	go func() {
		defer close(r.served)
		_ = r.server.Serve(l) // ends with close
	}()
	return r, nil
}

// note counts a request that was answered.
func (r *registry) note(req *http.Request, resp *http.Response) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := req.URL.Path
	if path == "/v2/" {
		return
	}
	if _, blob, ok := strings.Cut(path, "/blobs/"); ok && req.Method == http.MethodGet && resp.StatusCode < 300 {
		r.pulls.Blobs++
		r.pulled[blob] = true
	}
	r.requests.In += max(0, req.ContentLength)
	if req.Method != http.MethodHead {
		r.requests.Out += max(0, resp.ContentLength)
	}
	if !strings.HasPrefix(path, "/v2/"+cacheRepository) {
		r.requests.Images++
		query := req.URL.Query()
		if d := query.Get("digest") + query.Get("mount"); d != "" && resp.StatusCode == http.StatusCreated {
			r.layers[d] = true
		}
		return
	}
	switch req.Method {
	case http.MethodGet:
		r.requests.Get++
	case http.MethodHead:
		r.requests.Head++
	default:
		r.requests.Write++
		if req.Method == http.MethodPut && strings.Contains(path, "/manifests/") {
			r.requests.Manifests++
		}
	}
}

// count returns what was counted since the last call.
func (r *registry) count() (Requests, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	requests := r.requests
	r.requests = Requests{}
	return requests, len(r.layers)
}

// countPulls returns which blobs were read since the last call.
func (r *registry) countPulls() Pulls {
	r.mu.Lock()
	defer r.mu.Unlock()
	pulls := r.pulls
	pulls.Distinct = len(r.pulled)
	r.pulls, r.pulled = Pulls{}, map[string]bool{}
	return pulls
}

// empty removes all content; the address stays.
func (r *registry) empty(ctx context.Context) error {
	if err := errors.Join(r.backend.Load().Close(), os.RemoveAll(r.dir)); err != nil {
		return err
	}
	backend, err := local.StartRegistry(ctx, r.dir)
	if err != nil {
		return err
	}
	r.backend.Store(backend)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.layers = map[string]bool{}
	return nil
}

func (r *registry) close() error {
	err := r.server.Close()
	<-r.served
	return errors.Join(err, r.backend.Load().Close())
}
