package runtime

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// fakeTags is a registry that holds what tags stand for.
type fakeTags struct {
	mu      sync.Mutex        // guards the deleted
	tags    map[string]string // digest by name
	err     error
	deleted []string
	refuses error         // every deletion
	hangs   bool          // at every deletion
	waited  time.Duration // in the last of those
}

func (f *fakeTags) Manifest(_ context.Context, ref string) ([]byte, ocispecs.Descriptor, error) {
	d, ok := f.tags[ref]
	if !ok {
		return nil, ocispecs.Descriptor{}, errors.Join(errors.New("not found"), f.err)
	}
	return []byte(d), ocispecs.Descriptor{Digest: digest.Digest(d)}, f.err
}

func (f *fakeTags) Push(_ context.Context, ref string, desc ocispecs.Descriptor, data []byte) error {
	f.tags[ref] = string(data)
	return nil
}

func (f *fakeTags) Delete(ctx context.Context, ref string) error {
	if f.hangs {
		start := time.Now()
		<-ctx.Done()
		f.waited = time.Since(start)
		return context.Cause(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deleted = append(f.deleted, ref)
	return f.refuses
}

func (f *fakeTags) Close() {}

// TestTagOfACutOffNode has a node fall silent, or break off, while it pushes. The tag
// ends up as what the run reports.
func TestTagOfACutOffNode(t *testing.T) {
	const name = "example.com/b:latest"
	right, other := digest.FromString(name).String(), digest.FromString("of the node that was cut off").String()
	for _, tt := range []struct {
		name string
		cut  func(*fakeNode)
		tag  string // before it is looked at
		err  error
		want []string
	}{
		{"overwritten", (*fakeNode).fallSilent, other, nil, []string{"node n2 was cut off while it pushed " + name + ", and wrote the tag later (" + other + "); the tag stands for " + right + " again"}},
		{"right so far", (*fakeNode).fallSilent, right, nil, []string{"node n2 was cut off while it pushed " + name + "; if it still pushes, the tag may change once more"}},
		{"right", (*fakeNode).cut, right, nil, nil},
		{"not known", (*fakeNode).fallSilent, right, errors.New("denied"), []string{"node n2 was cut off while it pushed " + name + "; cannot check whether it wrote the tag later: denied"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 2, names...)
				f := newFleet(t, b)
				f.tags = &fakeTags{err: tt.err, tags: map[string]string{name: tt.tag, "example.com/b@" + right: right}}
				// The shared step ends at 1 s, b's own at 3 s; its push takes 100 ms.
				time.AfterFunc(3050*time.Millisecond, func() { tt.cut(f.nodes[1]) })
				res, _, err := f.run(t.Context(), b)
				require.NoError(t, err)
				require.Equal(t, all(Done, names...), states(res))
				require.Equal(t, tt.want, res.Warnings)
				require.Equal(t, right, f.tags.tags[name])
			})
		})
	}
}
