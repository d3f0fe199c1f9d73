package runtime

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"
)

// pusher is a daemon that pushes for a while, and reports so every now and then.
type pusher struct {
	daemon
	takes, reports time.Duration
}

func (d *pusher) export(ctx context.Context, _ exportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error) {
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

func TestAttentive(t *testing.T) {
	push := exportRequest{entry: &bkclient.ExportEntry{Type: bkclient.ExporterImage, Attrs: map[string]string{"push": "true", "name": "r.test/a,r.test/b:1"}}}
	cache := exportRequest{cacheTo: []bkclient.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "r.test/cache:1"}}}}
	actions := exportRequest{cacheTo: []bkclient.CacheOptionsEntry{{Type: "gha", Attrs: map[string]string{"url": "https://actions.test/secret/?token=x"}}}}
	for _, tc := range []struct {
		name   string
		req    exportRequest
		daemon pusher
		silent func(asked int) bool
		took   time.Duration
		asked  int
		fails  string
	}{
		{"a large layer takes long", push, pusher{takes: time.Hour - time.Second, reports: 2 * time.Hour}, func(int) bool { return false }, time.Hour - time.Second, 121, ""},
		{"it reports", push, pusher{takes: time.Hour, reports: 4 * time.Second}, func(int) bool { return true }, time.Hour, 0, ""},
		{"the registry is away for a while", push, pusher{takes: 69 * time.Second, reports: time.Hour}, func(n int) bool { return n < 3 }, 69 * time.Second, 5, ""},
		{"the registry is gone", push, pusher{takes: time.Hour, reports: 2 * time.Hour}, func(int) bool { return true }, 45 * time.Second, 3, "registry r.test has not answered for 45s"},
		{"the registry of the cache is gone", cache, pusher{takes: time.Hour, reports: 2 * time.Hour}, func(int) bool { return true }, 45 * time.Second, 3, "registry r.test has not answered for 45s"},
		{"the cache of GitHub Actions is gone", actions, pusher{takes: time.Hour, reports: 2 * time.Hour}, func(int) bool { return true }, 45 * time.Second, 3, "the service for caches of type gha has not answered for 45s"},
		{"nothing is pushed", exportRequest{}, pusher{takes: time.Hour, reports: 2 * time.Hour}, func(int) bool { return true }, time.Hour, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked, told := 0, 0
				var left []string
				d := &attentive{daemon: &tc.daemon, waits: func(string) { told++ }, leaveOut: func(where string) { left = append(left, where) }, silent: func(ctx context.Context, probes map[string]string) []string {
					require.Len(t, probes, 1)
					asked++
					if !tc.silent(asked) {
						return nil
					}
					_ = sleep(ctx, reachTimeout)
					return slices.Collect(maps.Keys(probes))
				}}
				start := time.Now()
				_, err := d.export(t.Context(), tc.req, func(*bkclient.SolveStatus) {})
				require.Equal(t, tc.took, time.Since(start))
				require.Equal(t, tc.asked, asked)
				if tc.fails == "" {
					require.NoError(t, err)
					require.Empty(t, left)
					return
				}
				require.Len(t, left, len(tc.req.cacheTo), "no other cache is written there")
				require.EqualError(t, err, tc.fails)
				require.False(t, retryable(err), "it was asked often enough")
				require.Equal(t, maxSilent-1, told)
			})
		})
	}

	// Whoever ends the export hears nothing of the registry.
	synctest.Test(t, func(t *testing.T) {
		d := &attentive{daemon: &pusher{takes: time.Hour, reports: 2 * time.Hour}, waits: func(string) {}, silent: func(ctx context.Context, _ map[string]string) []string {
			_ = sleep(ctx, reachTimeout)
			return []string{"r.test"}
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		start := time.Now()
		_, err := d.export(ctx, push, func(*bkclient.SolveStatus) {})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 15*time.Second, time.Since(start))
	})
}
