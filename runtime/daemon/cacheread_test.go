package daemon

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/cacheentry"
)

func registryCache(ref string) ir.CacheEntry {
	return ir.CacheEntry{Type: ir.TypeRegistry, Attrs: map[string]string{"ref": ref}}
}

// readStatus is what a daemon reports when it has read caches of these names.
func readStatus(names ...string) *bkclient.SolveStatus {
	st := &bkclient.SolveStatus{}
	now := time.Now()
	for _, n := range names {
		st.Vertexes = append(st.Vertexes, &bkclient.Vertex{Name: cacheentry.ReadVertex + n, Digest: digest.FromString(n), Started: &now, Completed: &now})
	}
	return st
}

// TestReadCaches has caches be read before they are imported, and those that are not read
// in time be left out.
func TestReadCaches(t *testing.T) {
	one, other := registryCache("one.test/cache"), registryCache("other.test/cache:2")
	gha, gha2 := ir.CacheEntry{Type: "gha", Attrs: map[string]string{"scope": "a"}}, ir.CacheEntry{Type: "gha", Attrs: map[string]string{"scope": "b"}}
	for name, tt := range map[string]struct {
		entries []ir.CacheEntry
		read    map[time.Duration][]string // by when
		mute    string                     // the registry that does not answer when it is asked
		took    time.Duration
		want    []ir.CacheEntry
		unheard []string
	}{
		"at once": {
			entries: []ir.CacheEntry{one, gha},
			read:    map[time.Duration][]string{time.Second: {"one.test/cache", "gha:17"}},
			took:    time.Second, want: []ir.CacheEntry{one, gha},
		},
		"slow": {
			entries: []ir.CacheEntry{one, other},
			read:    map[time.Duration][]string{time.Second: {"one.test/cache"}, 25 * time.Second: {"other.test/cache:2"}},
			took:    25 * time.Second, want: []ir.CacheEntry{one, other},
		},
		"slow for good": {
			entries: []ir.CacheEntry{one}, took: time.Minute, unheard: []string{"one.test"},
		},
		"mute": {
			entries: []ir.CacheEntry{one, other}, mute: "one.test",
			read: map[time.Duration][]string{time.Second: {"other.test/cache:2"}},
			took: readTimeout, want: []ir.CacheEntry{other}, unheard: []string{"one.test"},
		},
		"one of two services": {
			entries: []ir.CacheEntry{gha, one, gha2},
			read:    map[time.Duration][]string{time.Second: {"one.test/cache", "gha:17"}},
			took:    readTimeout, want: []ir.CacheEntry{one}, unheard: []string{"for caches of type gha"},
		},
		"two services": {
			entries: []ir.CacheEntry{gha, gha2},
			read:    map[time.Duration][]string{time.Second: {"gha:17"}, 2 * time.Second: {"gha:18"}},
			took:    2 * time.Second, want: []ir.CacheEntry{gha, gha2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var unheard []string
				s := &solver{
					asks: func(_ context.Context, refs map[string]string) []string {
						if _, ok := refs[tt.mute]; ok {
							return []string{tt.mute}
						}
						return nil
					},
					unheard: func(where string) { unheard = append(unheard, where) },
				}
				g := &fakeGateway{}
				ev := &evaluation{client: g}
				for at, names := range tt.read {
					time.AfterFunc(at, func() { ev.readings.observe(readStatus(names...)) })
				}
				start := time.Now()
				got, err := s.read(t.Context(), ev, tt.entries)
				require.NoError(t, err)
				require.Equal(t, tt.took, time.Since(start))
				require.ElementsMatch(t, tt.want, got)
				require.Equal(t, tt.unheard, unheard)
				require.Len(t, g.solves, 1, "each is read once")

				// What was read is not read again, and what was left out stays so.
				start = time.Now()
				got, err = s.read(t.Context(), ev, tt.entries)
				require.NoError(t, err)
				require.Zero(t, time.Since(start))
				require.ElementsMatch(t, tt.want, got)
				require.Len(t, g.solves, 1)
			})
		})
	}
}

// TestReadCachesOfSilentRegistry ends as soon as a trial beside it finds the registry silent.
func TestReadCachesOfSilentRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &solver{}
		ev := &evaluation{client: &fakeGateway{}}
		one, other := registryCache("one.test/cache"), registryCache("other.test/cache")
		time.AfterFunc(time.Second, func() { ev.readings.observe(readStatus("other.test/cache")) })
		time.AfterFunc(2*time.Second, func() { require.True(t, s.LeaveOut("third.test")) })
		time.AfterFunc(3*time.Second, func() { require.True(t, s.LeaveOut("one.test")) })
		start := time.Now()
		got, err := s.read(t.Context(), ev, []ir.CacheEntry{one, other})
		require.NoError(t, err)
		require.Equal(t, []ir.CacheEntry{other}, got)
		require.Equal(t, 3*time.Second, time.Since(start))
		require.False(t, s.LeaveOut("one.test"))
	})
}

// TestReadCachesInterrupted ends at once, also for others that wait for the same cache.
func TestReadCachesInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &solver{}
		ev := &evaluation{client: &fakeGateway{}}
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := errors.New("stopped")
		time.AfterFunc(time.Second, func() { cancel(stopped) })
		start := time.Now()
		_, err := s.read(ctx, ev, []ir.CacheEntry{registryCache("one.test/cache")})
		require.ErrorIs(t, err, stopped)
		require.Equal(t, time.Second, time.Since(start))
	})
}
