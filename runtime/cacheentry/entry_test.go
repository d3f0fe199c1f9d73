package cacheentry

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// What serves a cache is asked whether it answers, at its place and for nothing that may
// be a secret.
func TestProbe(t *testing.T) {
	for _, tt := range []struct {
		kind           string
		attrs          map[string]string
		probe, address string
	}{
		{ir.TypeRegistry, map[string]string{"ref": "r.test:5000/cache:1"}, "docker-image://r.test:5000/cache:1", "r.test:5000"},
		{ir.TypeRegistry, map[string]string{"ref": "r.test:5000/cache"}, "docker-image://r.test:5000/cache:latest", "r.test:5000"},
		{ir.TypeRegistry, map[string]string{"ref": "user/cache"}, "docker-image://docker.io/user/cache:latest", "docker.io"},
		{ir.TypeRegistry, map[string]string{"ref": "r.test/c@sha256:" + strings.Repeat("0", 64)}, "docker-image://r.test/c@sha256:" + strings.Repeat("0", 64), "r.test"},
		{ir.TypeGHA, map[string]string{"url": "http://one.test:81/a/b?token=x", "token": "x"}, "http://one.test:81/", "one.test:81"},
		{ir.TypeGHA, map[string]string{"url": "https://one.test/", "url_v2": "https://user:x@two.test/y"}, "https://two.test/", "two.test"},
		{ir.TypeGHA, map[string]string{"url": "https://one.test/", "url_v2": "https://two.test/", "version": "1"}, "https://one.test/", "one.test"},
		{ir.TypeGHA, map[string]string{"url": "one test"}, "", ""},
		{ir.TypeGHA, nil, "", ""},
		{ir.TypeS3, map[string]string{"bucket": "b", "endpoint_url": "http://s3.test:9000"}, "http://s3.test:9000/", "s3.test:9000"},
		{ir.TypeS3, map[string]string{"bucket": "b", "region": "r"}, "", ""},
		{ir.TypeS3, map[string]string{"bucket": "caches"}, "", ""},
		{ir.TypeS3, map[string]string{"bucket": "caches", "region": "eu-west-1"}, "https://caches.s3.eu-west-1.amazonaws.com/", "caches.s3.eu-west-1.amazonaws.com"},
		{ir.TypeS3, map[string]string{"bucket": "caches", "region": "cn-north-1", "use_path_style": "true"}, "https://caches.s3.cn-north-1.amazonaws.com.cn/", "caches.s3.cn-north-1.amazonaws.com.cn"},
		{ir.TypeS3, map[string]string{"bucket": "caches", "region": "us-gov-west-1"}, "https://caches.s3.us-gov-west-1.amazonaws.com/", "caches.s3.us-gov-west-1.amazonaws.com"},
		{ir.TypeS3, map[string]string{"bucket": "of.example.com", "region": "us-east-1"}, "https://s3.us-east-1.amazonaws.com/", "s3.us-east-1.amazonaws.com"},
		{ir.TypeS3, map[string]string{"region": "us-east-1"}, "https://s3.us-east-1.amazonaws.com/", "s3.us-east-1.amazonaws.com"},
		{ir.TypeS3, map[string]string{"bucket": "x", "region": "us-east-1.evil.test/"}, "", ""},
		{ir.TypeS3, map[string]string{"bucket": "arn:aws:s3:us-east-1:1:accesspoint/x", "region": "us-east-1"}, "", ""},
		{ir.TypeS3, map[string]string{"bucket": "x--use1-az4--x-s3", "region": "us-east-1"}, "", ""},
		{ir.TypeAzblob, map[string]string{"account_url": "https://a.blob.test"}, "https://a.blob.test/", "a.blob.test"},
		{ir.TypeAzblob, map[string]string{"account_name": "a", "name": "x"}, "", ""}, // the node's environment says
		{ir.TypeLocal, map[string]string{"dest": "/x"}, "", ""},
		{ir.TypeInline, nil, "", ""},
	} {
		e := ir.CacheEntry{Type: tt.kind, Attrs: tt.attrs}
		require.Equal(t, tt.probe, Probe(e), "%v", e)
		require.Equal(t, tt.address, Address(e), "%v", e)
	}
}

// Two services of one type have different names, or the caches of one that answers would
// be left out with those of another that does not.
func TestServer(t *testing.T) {
	for want, e := range map[string]ir.CacheEntry{
		"r.test:5000":                                                {Type: ir.TypeRegistry, Attrs: map[string]string{"ref": "r.test:5000/cache:1"}},
		"for caches of type gha at one.test":                         {Type: ir.TypeGHA, Attrs: map[string]string{"url": "https://user:pa55@one.test/?token=pa55"}},
		"for caches of type s3 at minio.test:9000":                   {Type: ir.TypeS3, Attrs: map[string]string{"endpoint_url": "http://minio.test:9000/x"}},
		"for caches of type s3 at caches.s3.eu-west-1.amazonaws.com": {Type: ir.TypeS3, Attrs: map[string]string{"bucket": "caches", "region": "eu-west-1"}},
		"for caches of type azblob":                                  {Type: ir.TypeAzblob},
	} {
		require.Equal(t, want, Server(e))
	}
}
