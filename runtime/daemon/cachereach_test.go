package daemon

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/pause"
)

// TestExportsToSilentServers has a server of caches found to be silent while caches are written
// there: what need not be written is given up at once, what is required is not.
func TestExportsToSilentServers(t *testing.T) {
	entry := func(host, ignore string) bkclient.CacheOptionsEntry {
		return bkclient.CacheOptionsEntry{Type: ir.TypeRegistry, Attrs: map[string]string{"ref": host + "/cache:1", "ignore-error": ignore}}
	}
	const found, whole = 10 * time.Second, time.Minute
	spare, required, other := entry("mute.test", "true"), entry("mute.test", "false"), entry("other.test", "true")
	everything := func(ir.CacheEntry) bool { return true }
	for name, tt := range map[string]struct {
		caches []bkclient.CacheOptionsEntry
		spare  func(ir.CacheEntry) bool
		tries  [][]bkclient.CacheOptionsEntry
		took   time.Duration
		fails  string
	}{
		"spare":                {caches: []bkclient.CacheOptionsEntry{spare}, spare: ir.CacheEntry.MayFail, tries: [][]bkclient.CacheOptionsEntry{{spare}, nil}, took: found},
		"one of two":           {caches: []bkclient.CacheOptionsEntry{spare, other}, spare: ir.CacheEntry.MayFail, tries: [][]bkclient.CacheOptionsEntry{{spare, other}, {other}}, took: found + whole},
		"required":             {caches: []bkclient.CacheOptionsEntry{required}, spare: ir.CacheEntry.MayFail, tries: [][]bkclient.CacheOptionsEntry{{required}}, took: whole},
		"elsewhere":            {caches: []bkclient.CacheOptionsEntry{other}, spare: everything, tries: [][]bkclient.CacheOptionsEntry{{other}}, took: whole},
		"of the run":           {caches: []bkclient.CacheOptionsEntry{required}, spare: everything, tries: [][]bkclient.CacheOptionsEntry{{required}}, took: found, fails: "registry mute.test did not answer within 10s"},
		"none, nothing to end": {spare: everything, tries: [][]bkclient.CacheOptionsEntry{nil}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &solver{unheard: func(string) {}}
				var finder sync.WaitGroup
				defer finder.Wait()
				finder.Go(func() {
					time.Sleep(found / 2)
					s.leaveOut("elsewhere.test")
					time.Sleep(found / 2)
					s.leaveOut("mute.test")
				})
				start := time.Now()
				var tries [][]bkclient.CacheOptionsEntry
				_, err := s.withHeard(t.Context(), tt.caches, tt.spare, func(ctx context.Context, caches []bkclient.CacheOptionsEntry) (map[string]string, error) {
					tries = append(tries, caches)
					if len(caches) == 0 {
						return nil, nil
					}
					return nil, pause.For(ctx, whole)
				})
				require.Equal(t, tt.tries, tries)
				require.Equal(t, tt.took, time.Since(start))
				if tt.fails != "" {
					require.EqualError(t, err, tt.fails)
				} else {
					require.NoError(t, err)
				}
			})
		})
	}

	// Whoever ends the export hears nothing of it.
	synctest.Test(t, func(t *testing.T) {
		s := &solver{unheard: func(string) {}}
		ctx, cancel := context.WithTimeout(t.Context(), found/2)
		defer cancel()
		_, err := s.withHeard(ctx, []bkclient.CacheOptionsEntry{spare}, everything, func(ctx context.Context, _ []bkclient.CacheOptionsEntry) (map[string]string, error) {
			return nil, pause.For(ctx, whole)
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}
