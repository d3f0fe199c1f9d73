//go:build integration

package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBasesArePassedOn builds on two nodes from an image of a registry that counts: each
// of its blobs is read once, and not at all by new nodes.
func TestBasesArePassedOn(t *testing.T) {
	w := newWorld(t, 2)
	target, err := url.Parse("http://" + w.registry)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	var mu sync.Mutex
	read := map[string]int{} // by path; guarded by mu
	upstream := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			mu.Lock()
			read[r.URL.Path]++
			mu.Unlock()
		}
		proxy.ServeHTTP(rw, r)
	}))
	defer upstream.Close()
	host := strings.TrimPrefix(upstream.URL, "http://")
	dir := t.TempDir()
	text := ""
	for _, name := range []string{"one", "two"} {
		text += "target \"" + name + "\" {\n  dockerfile-inline = \"FROM " + host + "/library/busybox:1\\nRUN sleep 2 && echo " + name + " >/" + name + "\"\n}\n"
	}
	text += "group \"default\" {\n  targets = [\"one\", \"two\"]\n}\n"
	write(t, dir, text)
	build := func() map[string]int {
		r := w.build(dir, 2, "--cache-registry="+w.registry+"/cache,bases=true", "--no-cache", "--strategy=round-robin")
		require.Zero(t, r.status, r.stderr)
		require.NotContains(t, r.stderr, "it is pulled from its registry")
		mu.Lock()
		defer mu.Unlock()
		got := read
		read = map[string]int{}
		return got
	}
	first := build()
	require.NotEmpty(t, first)
	again := 0
	for _, n := range first {
		if n > 1 {
			again++
		}
	}
	require.LessOrEqual(t, again, 1, "the config is read to compile the Dockerfiles, too: %v", first)
	w.renew(2)
	require.LessOrEqual(t, len(build()), 1)
}
