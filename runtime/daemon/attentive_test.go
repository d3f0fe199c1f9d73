package daemon

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/runtime/fault"
)

// pusher is a daemon that pushes for a while, and reports so every now and then.
type pusher struct {
	Daemon
	takes, reports time.Duration
}

func (d *pusher) Export(ctx context.Context, _ ExportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error) {
	every := time.NewTicker(d.reports)
	defer every.Stop()
	done := time.NewTimer(d.takes)
	defer done.Stop()
	for {
		select {
		case <-every.C:
			observe(&bkclient.SolveStatus{})
		case <-done.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// asker is a witness whose answers the test gives.
type asker struct {
	Witness
	silent   func(ctx context.Context, probes map[string]string) []string
	leaveOut func(server string)
}

func (w *asker) Silent(ctx context.Context, probes map[string]string) []string {
	return w.silent(ctx, probes)
}
func (w *asker) LeaveOut(server string) bool {
	w.leaveOut(server)
	return true
}

func TestAttentive(t *testing.T) {
	push := ExportRequest{Entry: &bkclient.ExportEntry{Type: bkclient.ExporterImage, Attrs: map[string]string{"push": "true", "name": "r.test/a,r.test/b:1"}}}
	cache := ExportRequest{CacheTo: []bkclient.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "r.test/cache:1"}}}}
	actions := ExportRequest{CacheTo: []bkclient.CacheOptionsEntry{{Type: "gha", Attrs: map[string]string{"url": "https://actions.test/secret/?token=x"}}}}
	azure := ExportRequest{CacheTo: []bkclient.CacheOptionsEntry{{Type: "azblob", Attrs: map[string]string{}}}}
	for _, tc := range []struct {
		name   string
		req    ExportRequest
		daemon pusher
		silent func(asked int) bool
		took   time.Duration
		asked  int
		told   int
		fails  string
	}{
		{"a large layer takes long", push, pusher{takes: time.Hour - time.Second, reports: 2 * time.Hour}, func(int) bool { return false }, time.Hour - time.Second, 121, 6, ""},
		{"it reports", push, pusher{takes: time.Hour, reports: 4 * time.Second}, func(int) bool { return true }, time.Hour, 0, 0, ""},
		{"the registry is away for a while", push, pusher{takes: 69 * time.Second, reports: time.Hour}, func(n int) bool { return n < 3 }, 69 * time.Second, 5, 3, ""},
		{"the registry is gone", push, pusher{takes: time.Hour, reports: 2 * time.Hour}, func(int) bool { return true }, 45 * time.Second, 3, 2, "registry r.test has not answered for 45s"},
		{"the registry of the cache is gone", cache, pusher{takes: time.Hour, reports: 2 * time.Hour}, func(int) bool { return true }, 45 * time.Second, 3, 2, "registry r.test has not answered for 45s"},
		{"the cache of GitHub Actions is gone", actions, pusher{takes: time.Hour, reports: 2 * time.Hour}, func(int) bool { return true }, 45 * time.Second, 3, 2, "the service for caches of type gha at actions.test has not answered for 45s"},
		{"the upload never ends", push, pusher{takes: 9 * time.Hour, reports: 10 * time.Hour}, func(int) bool { return false }, longestQuiet + 5*time.Second, 242, 7, "sending to registry r.test showed no progress for 2h0m5s"},
		{"that of a cache never ends", cache, pusher{takes: 9 * time.Hour, reports: 10 * time.Hour}, func(int) bool { return false }, longestQuietCache + 5*time.Second, 62, 5, "sending to registry r.test showed no progress for 30m5s"},
		{"nobody knows where the cache is", azure, pusher{takes: 9 * time.Hour, reports: 10 * time.Hour}, func(int) bool { return false }, longestQuietCache + 5*time.Second, 62, 5, "sending to the service for caches of type azblob showed no progress for 30m5s"},
		{"an upload goes on", push, pusher{takes: 9 * time.Hour, reports: time.Hour}, func(int) bool { return false }, 9 * time.Hour, 1089, 54, ""},
		{"nothing is pushed", ExportRequest{}, pusher{takes: time.Hour, reports: 2 * time.Hour}, func(int) bool { return true }, time.Hour, 0, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked, told := 0, 0
				var left []string
				w := &asker{leaveOut: func(server string) { left = append(left, server) }, silent: func(ctx context.Context, probes map[string]string) []string {
					require.Len(t, probes, len(tc.req.probes()))
					asked++
					if !tc.silent(asked) {
						return nil
					}
					_ = pause.For(ctx, ReachTimeout)
					return slices.Collect(maps.Keys(probes))
				}}
				d := &attentive{Daemon: &tc.daemon, witness: w, waits: func(string) { told++ }}
				start := time.Now()
				_, err := d.Export(t.Context(), tc.req, func(*bkclient.SolveStatus) {})
				require.Equal(t, tc.took, time.Since(start))
				require.Equal(t, tc.asked, asked)
				require.Equal(t, tc.told, told)
				if tc.fails == "" {
					require.NoError(t, err)
					require.Empty(t, left)
					return
				}
				require.Len(t, left, len(tc.req.CacheTo), "no other cache is written there")
				require.EqualError(t, err, tc.fails)
				require.False(t, fault.Retryable(err), "it was asked often enough")
			})
		})
	}

	// Whoever ends the export hears nothing of the registry.
	synctest.Test(t, func(t *testing.T) {
		w := &asker{silent: func(ctx context.Context, _ map[string]string) []string {
			_ = pause.For(ctx, ReachTimeout)
			return []string{"r.test"}
		}}
		d := &attentive{Daemon: &pusher{takes: time.Hour, reports: 2 * time.Hour}, witness: w, waits: func(string) {}}
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		start := time.Now()
		_, err := d.Export(ctx, push, func(*bkclient.SolveStatus) {})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 15*time.Second, time.Since(start))
	})
}
