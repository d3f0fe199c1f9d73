package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"
)

// ill is a daemon whose calls fail with one error after the other.
type ill struct {
	daemon
	errs  []error
	calls int
}

func (d *ill) export(context.Context, exportRequest, func(*bkclient.SolveStatus)) (map[string]string, error) {
	d.calls++
	if len(d.errs) == 0 {
		return map[string]string{"well": "yes"}, nil
	}
	err := d.errs[0]
	if len(d.errs) > 1 || errors.Is(err, errOnce) {
		d.errs = d.errs[1:]
	}
	return nil, err
}

func (d *ill) evaluate(_ context.Context, _ partition, _ func(*bkclient.SolveStatus), evaluated func(), _ <-chan struct{}) error {
	_, err := d.export(context.Background(), exportRequest{}, nil)
	if err == nil {
		evaluated()
	}
	return err
}

// errOnce marks an error after which the daemon is well.
var errOnce = errors.New("once")

func TestPatient(t *testing.T) {
	refused := errors.New(`failed to push r.test/app: failed to do request: Head "https://r.test/v2/app/blobs/x": dial tcp 10.0.0.9:443: connect: connection refused`)
	for _, tc := range []struct {
		name  string
		errs  []error
		took  time.Duration
		calls int
		fails bool
	}{
		{name: "well", calls: 1},
		{name: "503 once", errs: []error{errors.Join(errors.New("unexpected status from HEAD request to https://r.test/v2/: 503 Service Unavailable"), errOnce)}, took: time.Second, calls: 2},
		{name: "away for a while", errs: []error{refused, refused, refused, errors.Join(refused, errOnce)}, took: 15 * time.Second, calls: 5},
		{name: "away for good", errs: []error{refused}, took: time.Minute, calls: 11, fails: true},
		{name: "denied", errs: []error{errors.New("push access denied, repository does not exist")}, calls: 1, fails: true},
	} {
		for _, what := range []string{"export", "evaluate"} {
			t.Run(tc.name+"/"+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					below := &ill{errs: tc.errs}
					var told int
					d := &patient{daemon: below, waits: func(string) { told++ }}
					start := time.Now()
					var err error
					evaluated := 0
					if what == "export" {
						_, err = d.export(t.Context(), exportRequest{entry: &bkclient.ExportEntry{Type: bkclient.ExporterImage}}, nil)
					} else {
						err = d.evaluate(t.Context(), partition{}, nil, func() { evaluated++ }, nil)
					}
					require.Equal(t, tc.took, time.Since(start))
					require.Equal(t, tc.calls, below.calls)
					require.Equal(t, tc.calls-1, told)
					if !tc.fails {
						require.NoError(t, err)
						return
					}
					require.Error(t, err)
					require.False(t, retryable(err), "it has been tried often enough")
					require.Zero(t, evaluated)
				})
			})
		}
	}
}

// A cache whose registry or service refuses connections is given up soon, unless images go there as
// well.
func TestPatienceWithCaches(t *testing.T) {
	refused := func(host string) error {
		return fmt.Errorf(`error writing layer blob: failed to do request: Head "http://%s/v2/x/blobs/y": dial tcp 10.0.0.9:5000: connect: connection refused`, host)
	}
	image := &bkclient.ExportEntry{Type: bkclient.ExporterImage, Attrs: map[string]string{"push": "true", "name": "r.test:5000/app:1"}}
	cache := func(host string) []bkclient.CacheOptionsEntry {
		return []bkclient.CacheOptionsEntry{{Type: cacheRegistry, Attrs: map[string]string{"ref": host + "/cache:1"}}}
	}
	actions := []bkclient.CacheOptionsEntry{{Type: cacheGHA, Attrs: map[string]string{"url": "http://actions.test:81/"}}}
	for name, tt := range map[string]struct {
		req   exportRequest
		err   error
		took  time.Duration
		calls int
	}{
		"cache only":          {exportRequest{cacheTo: cache("c.test:5000")}, refused("c.test:5000"), 12 * time.Second, 5},
		"beside an image":     {exportRequest{entry: image, cacheTo: cache("c.test:5000")}, refused("c.test:5000"), 12 * time.Second, 5},
		"the image":           {exportRequest{entry: image, cacheTo: cache("c.test:5000")}, refused("r.test:5000"), time.Minute, 11},
		"of the same machine": {exportRequest{entry: image, cacheTo: cache("r.test:5000")}, refused("r.test:5000"), time.Minute, 11},
		"a service":           {exportRequest{entry: image, cacheTo: actions}, refused("actions.test:81"), 12 * time.Second, 5},
		"busy":                {exportRequest{cacheTo: cache("c.test:5000")}, errors.New("http://c.test:5000/v2/: 503 Service Unavailable"), time.Minute, 11},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				below := &ill{errs: []error{tt.err}}
				d := &patient{daemon: below, waits: func(string) {}}
				start := time.Now()
				_, err := d.export(t.Context(), tt.req, nil)
				require.ErrorIs(t, err, tt.err)
				require.Equal(t, tt.took, time.Since(start))
				require.Equal(t, tt.calls, below.calls)
			})
		})
	}
}

// What comes to this machine is not written twice, and whoever gives up while a
// registry is waited for is answered at once.
func TestPatientIsNotAlways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := errors.New("429 Too Many Requests")
		below := &ill{errs: []error{busy}}
		d := &patient{daemon: below, waits: func(string) {}}
		_, err := d.export(t.Context(), exportRequest{entry: &bkclient.ExportEntry{Output: func(map[string]string) (io.WriteCloser, error) { return nil, nil }}}, nil)
		require.ErrorIs(t, err, busy)
		require.Equal(t, 1, below.calls)

		cause := errors.New("the user gave up")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 2500*time.Millisecond, cause)
		defer cancel()
		start := time.Now()
		_, err = d.export(ctx, exportRequest{}, nil)
		require.ErrorIs(t, err, cause)
		require.Equal(t, 2500*time.Millisecond, time.Since(start))
	})
}

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
		require.Equal(t, want, registryAway(errors.New(text)), text)
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
