package runtime

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// What serves a cache is asked whether it answers, at its place and for nothing that may
// be a secret.
func TestCacheProbe(t *testing.T) {
	for _, tt := range []struct {
		kind           string
		attrs          map[string]string
		probe, address string
	}{
		{cacheRegistry, map[string]string{"ref": "r.test:5000/cache:1"}, "docker-image://r.test:5000/cache:1", "r.test:5000"},
		{cacheRegistry, map[string]string{"ref": "r.test:5000/cache"}, "docker-image://r.test:5000/cache:latest", "r.test:5000"},
		{cacheRegistry, map[string]string{"ref": "user/cache"}, "docker-image://docker.io/user/cache:latest", "docker.io"},
		{cacheRegistry, map[string]string{"ref": "r.test/c@sha256:" + strings.Repeat("0", 64)}, "docker-image://r.test/c@sha256:" + strings.Repeat("0", 64), "r.test"},
		{cacheGHA, map[string]string{"url": "http://one.test:81/a/b?token=x", "token": "x"}, "http://one.test:81/", "one.test:81"},
		{cacheGHA, map[string]string{"url": "https://one.test/", "url_v2": "https://user:x@two.test/y"}, "https://two.test/", "two.test"},
		{cacheGHA, map[string]string{"url": "https://one.test/", "url_v2": "https://two.test/", "version": "1"}, "https://one.test/", "one.test"},
		{cacheGHA, map[string]string{"url": "one test"}, "", ""},
		{cacheGHA, nil, "", ""},
		{cacheS3, map[string]string{"bucket": "b", "endpoint_url": "http://s3.test:9000"}, "http://s3.test:9000/", "s3.test:9000"},
		{cacheS3, map[string]string{"bucket": "b", "region": "r"}, "", ""},
		{cacheAzblob, map[string]string{"account_url": "https://a.blob.test"}, "https://a.blob.test/", "a.blob.test"},
		{cacheLocal, map[string]string{"dest": "/x"}, "", ""},
		{ir.TypeInline, nil, "", ""},
	} {
		e := ir.CacheEntry{Type: tt.kind, Attrs: tt.attrs}
		require.Equal(t, tt.probe, cacheProbe(e), "%v", e)
		require.Equal(t, tt.address, cacheAddress(e), "%v", e)
	}
}
