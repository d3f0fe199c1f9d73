package faults

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// answer is what a front says instead of the registry behind it.
type answer int

const (
	honest       answer = iota
	unauthorized        // 401, and no way to log in
	tooMany             // 429 with Retry-After: 1
	broken              // 503
	html                // a page, as of a captive portal, with 200
	hangUp              // the connection is cut
	mute                // nothing at all
)

// front stands before a registry and spoils some of the answers.
type front struct {
	server *httptest.Server
	real   http.Handler
	life   context.Context
	end    context.CancelFunc

	mu     sync.Mutex // guards what follows
	answer answer
	left   int                      // how many answers are still spoiled; < 0 = all
	match  func(*http.Request) bool // which
	seen   func(*http.Request)      // sees every request; may be nil
	calm   chan struct{}            // closed when the spoiling ends
}

// newFront stands before the registry at a host and port.
func newFront(registry string) *front {
	life, end := context.WithCancel(context.Background())
	f := &front{life: life, end: end, calm: make(chan struct{})}
	f.real = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: registry})
			r.Out.Host = r.In.Host // the registry builds its locations with it
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) },
	}
	f.server = httptest.NewUnstartedServer(f)
	f.server.Start()
	return f
}

func (f *front) addr() string { return f.server.Listener.Addr().String() }

func (f *front) close() {
	f.end()
	f.server.CloseClientConnections()
	f.server.Close()
}

// spoil spoils the next n answers, or all (n < 0), to requests that match.
func (f *front) spoil(a answer, n int, match func(*http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer, f.left, f.match = a, n, match
	close(f.calm)
	f.calm = make(chan struct{})
}

func (f *front) watch(seen func(*http.Request)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = seen
}

// next returns the answer to a request, and what ends a silence.
func (f *front) next(r *http.Request) (answer, chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen != nil {
		f.seen(r)
	}
	if f.answer == honest || f.left == 0 || !f.match(r) {
		return honest, nil
	}
	f.left--
	return f.answer, f.calm
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a, calm := f.next(r)
	switch a {
	case honest:
		f.real.ServeHTTP(w, r)
	case unauthorized:
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
	case tooMany:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "slow down", http.StatusTooManyRequests)
	case broken:
		http.Error(w, "under repair", http.StatusServiceUnavailable)
	case html:
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html><body>Please log in to the network</body></html>") // nobody may be there
	case hangUp:
		panic(http.ErrAbortHandler)
	case mute:
		select {
		case <-calm:
		case <-f.life.Done():
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	}
}

func isUpload(r *http.Request) bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead
}

func isRead(r *http.Request) bool { return !isUpload(r) && strings.Contains(r.URL.Path, "/manifests/") }

func all(*http.Request) bool { return true }

func TestFront(t *testing.T) {
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(behind.Close)
	f := newFront(behind.Listener.Addr().String())
	t.Cleanup(f.close)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(method string) (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+f.addr()+"/v2/x/manifests/y", nil)
		require.NoError(t, err)
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	status := func(method string, want int) {
		t.Helper()
		got, err := get(method)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	status(http.MethodGet, http.StatusTeapot)
	f.spoil(tooMany, 1, isUpload)
	status(http.MethodGet, http.StatusTeapot)
	status(http.MethodPost, http.StatusTooManyRequests)
	status(http.MethodPost, http.StatusTeapot)
	f.spoil(broken, -1, isRead)
	for range 3 {
		status(http.MethodGet, http.StatusServiceUnavailable)
	}
	f.spoil(unauthorized, -1, all)
	status(http.MethodGet, http.StatusUnauthorized)
	f.spoil(html, -1, all)
	status(http.MethodGet, http.StatusOK)
	f.spoil(hangUp, -1, all)
	_, err := get(http.MethodPost)
	require.ErrorIs(t, err, io.EOF)

	heard := make(chan struct{})
	f.watch(func(*http.Request) { close(heard) })
	f.spoil(mute, -1, all)
	done := make(chan error, 1)
	go func() {
		_, err := get(http.MethodPost)
		done <- err
	}()
	<-heard
	f.watch(nil)
	f.spoil(honest, 0, nil)
	require.ErrorIs(t, <-done, io.EOF)
	status(http.MethodGet, http.StatusTeapot)

	behind.Close()
	_, err = get(http.MethodPost)
	require.ErrorIs(t, err, io.EOF)
	_, _, err = net.SplitHostPort(f.addr())
	require.NoError(t, err)
}
