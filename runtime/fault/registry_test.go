package fault

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// Words of BuildKit v0.34.2 about registries.
func TestRegistryAway(t *testing.T) {
	for text, want := range map[string]bool{
		`failed to resolve source metadata for r.test/x:1: unexpected status from HEAD request to https://r.test/v2/x/manifests/1: 500 Internal Server Error`:                        true,
		`unexpected status from GET request to https://auth.docker.io/token?scope=x: 503 Service Unavailable`:                                                                        true,
		`failed to authorize: failed to fetch oauth token: unexpected status from GET request to https://auth.docker.io/token: 504 Gateway Timeout`:                                  true,
		`httpReadSeeker: failed open: unexpected status code https://r.test/v2/x/blobs/sha256:ab: 502 Bad Gateway`:                                                                   true,
		`unexpected status from HEAD request to https://registry-1.docker.io/v2/library/x/manifests/1: 429 Too Many Requests toomanyrequests: You have reached your unauthenticated`: true,
		`failed to do request: Head "https://r.test/v2/x/manifests/1": dial tcp 10.0.0.9:443: connect: connection refused`:                                                           true,
		`failed to do request: Head "https://r.test/v2/x/manifests/1": dial tcp: lookup r.test on 10.0.0.2:53: server misbehaving`:                                                   true,
		`failed to do request: Head "https://r.test/v2/x/manifests/1": dial tcp 10.0.0.9:443: i/o timeout`:                                                                           true,
		`failed to do request: Head "https://r.test/v2/x/manifests/1": net/http: TLS handshake timeout`:                                                                              true,
		`failed to copy: read tcp 10.0.0.1:5->10.0.0.9:443: read: connection reset by peer`:                                                                                          true,
		`failed to do request: Head "http://r.test/v2/x/manifests/1": EOF`:                                                                                                           true,
		`failed to copy: httpReadSeeker: failed open: unexpected EOF`:                                                                                                                true,
		`failed to do request: Head "https://r.test/v2/x/manifests/1": dial tcp: lookup r.test on 10.0.0.2:53: no such host`:                                                         false,
		`failed to do request: Head "https://r.test/v2/x/manifests/1": tls: failed to verify certificate: x509: certificate signed by unknown authority`:                             false,
		`failed to do request: Head "https://r.test/v2/x/manifests/1": http: server gave HTTP response to HTTPS client`:                                                              false,
		`r.test/x:1: not found`: false,
		`pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed`: false,
		`process "/bin/sh -c curl http://x # 503 Service Unavailable" did not complete successfully: exit code: 7`:                             false,
	} {
		require.Equal(t, want, RegistryAway(errors.New(text)), text)
	}
	for text, want := range map[string]bool{
		`node n (tcp://x:1): image r.test/c:dbake: r.test/c:dbake: not found`:                                                                  true,
		`pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed`: true,
		`unexpected status from HEAD request to http://r.test/v2/c/manifests/dbake: 403 Forbidden`:                                             true,
		`failed to do request: Head "https://r.test/v2/c/manifests/dbake": http: server gave HTTP response to HTTPS client`:                    false,
		`failed to do request: Head "https://r.test/v2/c/manifests/dbake": dial tcp: lookup r.test: no such host`:                              false,
	} {
		require.Equal(t, want, AnsweredByRegistry(errors.New(text)), text)
	}
}

// A server that refuses counts only where the failure names it.
func TestRefusedBy(t *testing.T) {
	refused := errors.New(`error writing layer blob: Put "http://Cache.test:9000/b/x": dial tcp 10.0.0.1:9000: connect: connection refused`)
	require.True(t, RefusedBy(refused, "r.test", "cache.test:9000"))
	require.False(t, RefusedBy(refused, "r.test", ""))
	require.False(t, RefusedBy(refused, "cache.test"))
	require.False(t, RefusedBy(refused))
	require.False(t, RefusedBy(errors.New(`Put "http://cache.test:9000/b/x": i/o timeout`), "cache.test:9000"))
}
