package daemon

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/pause"
)

// TestResolveImage asks nodes; some fail, or say nothing.
func TestResolveImage(t *testing.T) {
	known := &frontend.Image{Digest: "d"}
	says := func(name string, after time.Duration, answers ...error) imageAsker {
		n := 0
		return imageAsker{name: name, ask: func(ctx context.Context) (*frontend.Image, error) {
			err := answers[min(n, len(answers)-1)]
			n++
			if err := pause.For(ctx, after); err != nil {
				return nil, err
			}
			if err != nil {
				return nil, err
			}
			return known, nil
		}}
	}
	const never = time.Hour
	missing, busy := errors.New("r.test/x:1: not found"), errors.New("unexpected status from HEAD request to https://r.test/v2/x/manifests/1: 503 Service Unavailable")
	for _, tc := range []struct {
		name string
		ask  []imageAsker
		want string // the error
		took time.Duration
	}{
		{"no node", nil, frontend.ErrNoNode.Error(), 0},
		{"the first", []imageAsker{says("a", time.Second, nil), says("b", 0, missing)}, "", time.Second},
		{"the second, when the first fails", []imageAsker{says("a", time.Second, missing), says("b", time.Second, nil)}, "", 2 * time.Second},
		{"the second, when the first is silent", []imageAsker{says("a", never, nil), says("b", time.Second, nil)}, "", imageNext + time.Second},
		{"the first after all", []imageAsker{says("a", imageNext+time.Second, nil), says("b", never, nil)}, "", imageNext + time.Second},
		{"none has it", []imageAsker{says("a", 0, missing), says("b", 0, errors.New("other"))}, missing.Error(), 0},
		{"all silent", []imageAsker{says("a", never, nil), says("b", never, nil)}, "node a did not answer within 45s", imageNext + imageTimeout},
		{"later", []imageAsker{says("a", 0, busy, busy, nil)}, "", 3 * time.Second},
		{"never", []imageAsker{says("a", 0, busy)}, busy.Error(), 15 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				img, err := resolveImage(t.Context(), tc.ask, nil)
				require.Equal(t, tc.took, time.Since(start))
				if tc.want != "" {
					require.EqualError(t, err, tc.want)
					return
				}
				require.NoError(t, err)
				require.Same(t, known, img)
			})
		})
	}
}

// Whoever gives up is answered at once.
func TestResolveImageCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("the user gave up")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		start := time.Now()
		_, err := resolveImage(ctx, []imageAsker{{name: "a", ask: func(ctx context.Context) (*frontend.Image, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}}, nil)
		require.ErrorIs(t, err, cause)
		require.Equal(t, time.Second, time.Since(start))
	})
}
