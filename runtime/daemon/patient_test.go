package daemon

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

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/fault"
)

// ill is a daemon whose calls fail with one error after the other.
type ill struct {
	Daemon
	errs  []error
	calls int
}

func (d *ill) Export(context.Context, ExportRequest, func(*bkclient.SolveStatus)) (map[string]string, error) {
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

func (d *ill) Evaluate(_ context.Context, _ Partition, _ func(*bkclient.SolveStatus), evaluated func(), _ <-chan struct{}) error {
	_, err := d.Export(context.Background(), ExportRequest{}, nil)
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
					d := &patient{Daemon: below, waits: func(string) { told++ }}
					start := time.Now()
					var err error
					evaluated := 0
					if what == "export" {
						_, err = d.Export(t.Context(), ExportRequest{Entry: &bkclient.ExportEntry{Type: bkclient.ExporterImage}}, nil)
					} else {
						err = d.Evaluate(t.Context(), Partition{}, nil, func() { evaluated++ }, nil)
					}
					require.Equal(t, tc.took, time.Since(start))
					require.Equal(t, tc.calls, below.calls)
					require.Equal(t, tc.calls-1, told)
					if !tc.fails {
						require.NoError(t, err)
						return
					}
					require.Error(t, err)
					require.False(t, fault.Retryable(err), "it has been tried often enough")
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
		return []bkclient.CacheOptionsEntry{{Type: ir.TypeRegistry, Attrs: map[string]string{"ref": host + "/cache:1"}}}
	}
	actions := []bkclient.CacheOptionsEntry{{Type: ir.TypeGHA, Attrs: map[string]string{"url": "http://actions.test:81/"}}}
	for name, tt := range map[string]struct {
		req   ExportRequest
		err   error
		took  time.Duration
		calls int
	}{
		"cache only":          {ExportRequest{CacheTo: cache("c.test:5000")}, refused("c.test:5000"), 12 * time.Second, 5},
		"beside an image":     {ExportRequest{Entry: image, CacheTo: cache("c.test:5000")}, refused("c.test:5000"), 12 * time.Second, 5},
		"the image":           {ExportRequest{Entry: image, CacheTo: cache("c.test:5000")}, refused("r.test:5000"), time.Minute, 11},
		"of the same machine": {ExportRequest{Entry: image, CacheTo: cache("r.test:5000")}, refused("r.test:5000"), time.Minute, 11},
		"a service":           {ExportRequest{Entry: image, CacheTo: actions}, refused("actions.test:81"), 12 * time.Second, 5},
		"busy":                {ExportRequest{CacheTo: cache("c.test:5000")}, errors.New("http://c.test:5000/v2/: 503 Service Unavailable"), time.Minute, 11},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				below := &ill{errs: []error{tt.err}}
				d := &patient{Daemon: below, waits: func(string) {}}
				start := time.Now()
				_, err := d.Export(t.Context(), tt.req, nil)
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
		d := &patient{Daemon: below, waits: func(string) {}}
		_, err := d.Export(t.Context(), ExportRequest{Entry: &bkclient.ExportEntry{Output: func(map[string]string) (io.WriteCloser, error) { return nil, nil }}}, nil)
		require.ErrorIs(t, err, busy)
		require.Equal(t, 1, below.calls)

		cause := errors.New("the user gave up")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 2500*time.Millisecond, cause)
		defer cancel()
		start := time.Now()
		_, err = d.Export(ctx, ExportRequest{}, nil)
		require.ErrorIs(t, err, cause)
		require.Equal(t, 2500*time.Millisecond, time.Since(start))
	})
}
