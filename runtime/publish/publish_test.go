package publish

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/registry"
)

// store is a registry in memory that fails as the test says.
type store struct {
	mu    sync.Mutex
	blobs map[string]string // by repository and digest
	tags  map[string]string // the content that a tag stands for
	// before is called with what is asked for, as "push reg.test/a:1"; an error refuses it. after
	// is called when it is done, and may make it an error then.
	before, after func(what string) error
	sets          int
}

func newStore() *store { return &store{blobs: map[string]string{}, tags: map[string]string{}} }

func descOf(content string) ocispecs.Descriptor {
	return ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString(content), Size: int64(len(content))}
}

// has puts an image into a repository by its digest.
func (s *store) has(repo, content string) digest.Digest {
	d := digest.FromString(content)
	s.blobs[repo+"@"+d.String()] = content
	return d
}

func (s *store) do(what string, f func() error) error {
	for _, hook := range []func(string) error{s.before, func(string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return f()
	}, s.after} {
		if hook == nil {
			continue
		}
		if err := hook(what); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) Manifest(_ context.Context, ref string) (data []byte, desc ocispecs.Descriptor, err error) {
	err = s.do("read "+ref, func() error {
		content, ok := s.tags[ref]
		if !ok {
			content, ok = s.blobs[ref]
		}
		if !ok {
			return registry.ErrNotFound
		}
		data, desc = []byte(content), descOf(content)
		return nil
	})
	return data, desc, err
}

func (s *store) Resolve(ctx context.Context, ref string) (ocispecs.Descriptor, error) {
	_, desc, err := s.Manifest(ctx, ref)
	return desc, err
}

func (s *store) Copy(_ context.Context, from, to string, desc ocispecs.Descriptor) error {
	return s.do("copy "+to, func() error {
		s.blobs[to+"@"+desc.Digest.String()] = s.blobs[from+"@"+desc.Digest.String()]
		return nil
	})
}

func (s *store) Push(ctx context.Context, ref string, _ ocispecs.Descriptor, data []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.do("push "+ref, func() error {
		s.sets++
		s.tags[ref] = string(data)
		return nil
	})
}

func (s *store) Delete(_ context.Context, ref string) error {
	return s.do("delete "+ref, func() error {
		delete(s.tags, ref)
		return nil
	})
}

func (*store) Close() {}

// fails returns a hook that fails for one request.
func fails(what string) func(string) error {
	return func(is string) error {
		if is == what {
			return errors.New("out of order")
		}
		return nil
	}
}

// output is something on this machine.
type output struct {
	place string
	err   error
	state string
}

func (o *output) Place() string { return o.place }

func (o *output) Publish(context.Context) error {
	if o.err == nil {
		o.state = "published"
	}
	return o.err
}

func (o *output) Discard() error {
	if o.state == "" {
		o.state = "discarded"
	}
	return nil
}

// build is a store in which two images were pushed, one of which has a name that stands for
// an older one.
func build() (*store, *Batch) {
	s := newStore()
	s.tags["reg.test/a:1"] = "old a"
	b := &Batch{Tags: []Tag{
		{Target: "a", Name: "reg.test/a:1", Image: s.has("reg.test/a", "new a")},
		{Target: "b", Name: "reg.test/b:1", Image: s.has("reg.test/b", "new b")},
		{Target: "b", Name: "reg.test/c:1", From: "reg.test/b", Image: digest.FromString("new b")},
	}}
	return s, b
}

func (b *Batch) run(ctx context.Context, s *store) error {
	return b.Publish(ctx, func([]string) Registry { return s })
}

func TestAllTagsAreSet(t *testing.T) {
	s, b := build()
	o := &output{place: "out"}
	b.Held = []Held{o}
	b.Tags = append(b.Tags, Tag{Target: "d", Name: "reg.test/d", From: "reg.test/b", Image: digest.FromString("new b")})
	require.NoError(t, b.run(t.Context(), s))
	require.Equal(t, map[string]string{"reg.test/a:1": "new a", "reg.test/b:1": "new b", "reg.test/c:1": "new b"}, s.tags)
	require.Contains(t, s.blobs, "reg.test/c@"+digest.FromString("new b").String())
	require.Contains(t, s.blobs, "reg.test/d@"+digest.FromString("new b").String(), "a name without a tag is a place")
	require.Equal(t, "published", o.state)

	sets := s.sets
	_, again := build()
	require.NoError(t, again.run(t.Context(), s))
	require.Equal(t, sets, s.sets, "what is right is not written again")
}

func TestWhatFailsIsTakenBack(t *testing.T) {
	before := map[string]string{"reg.test/a:1": "old a"}
	for name, c := range map[string]struct {
		prepare func(s *store, b *Batch)
		tags    map[string]string // what the tags stand for after it; nil is before
		said    []string
	}{
		"an image is gone": {
			prepare: func(s *store, b *Batch) { delete(s.blobs, "reg.test/b@"+b.Tags[1].Image.String()) },
			said:    []string{"nothing is published: target b", "reg.test/a:1 was not set", "reg.test/c:1 was not set"},
		},
		"a registry is mute": {
			prepare: func(s *store, _ *Batch) { s.before = fails("read reg.test/a:1") },
			said:    []string{"nothing is published: target a: out of order"},
		},
		"a tag is refused": {
			prepare: func(s *store, _ *Batch) { s.before = fails("push reg.test/c:1") },
			said:    []string{"nothing is published: target b: set reg.test/c:1: out of order", "reg.test/c:1 was not set"},
		},
		"a tag is set, and the answer lost": {
			prepare: func(s *store, _ *Batch) { s.after = fails("push reg.test/c:1") },
			said:    []string{"nothing is published", "reg.test/c:1 was set, and is as it was before"},
		},
		"a new tag cannot be deleted": {
			prepare: func(s *store, _ *Batch) {
				s.after = fails("push reg.test/b:1")
				s.before = fails("delete reg.test/b:1")
			},
			tags: map[string]string{"reg.test/a:1": "old a", "reg.test/b:1": "new b"},
			said: []string{"not everything is published: target b: set reg.test/b:1", "reg.test/b:1 could not be put back: out of order"},
		},
		"somebody else moves a tag": {
			prepare: func(s *store, _ *Batch) {
				s.after = func(what string) error {
					if what == "push reg.test/a:1" {
						s.mu.Lock()
						defer s.mu.Unlock()
						s.tags["reg.test/a:1"] = "theirs"
						return errors.New("out of order")
					}
					return nil
				}
			},
			tags: map[string]string{"reg.test/a:1": "theirs"},
		},
		"a file cannot be put in its place": {
			prepare: func(_ *store, b *Batch) {
				b.Held = []Held{&output{place: "first"}, &output{place: "second", err: errors.New("disk full")}, &output{place: "third"}}
			},
			said: []string{"not everything is published: disk full", "first is published, and cannot be taken back",
				"reg.test/a:1 was set, and is as it was before", "reg.test/b:1 was set, and is as it was before"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, b := build()
			c.prepare(s, b)
			held := b.Held
			err := b.run(t.Context(), s)
			var why *Error
			require.ErrorAs(t, err, &why)
			for _, text := range c.said {
				require.Contains(t, err.Error(), text)
			}
			if c.tags == nil {
				c.tags = before
			}
			require.Equal(t, c.tags, s.tags)
			if len(held) == 3 {
				var states []string
				for _, h := range held {
					states = append(states, h.(*output).state)
				}
				require.Equal(t, []string{"published", "discarded", "discarded"}, states)
			}
		})
	}
}

// However many tags are set when it is interrupted, all are as they were.
// slow is a store that obeys a request for a tag a second after it was sent, also when
// nobody waits any more.
type slow struct {
	*store
	tag string
}

func (s *slow) Push(ctx context.Context, ref string, desc ocispecs.Descriptor, data []byte) error {
	if ref != s.tag || string(data) == "old a" {
		return s.store.Push(ctx, ref, desc, data)
	}
	ended := make(chan error, 1)
	go func() {
		time.Sleep(time.Second)
		ended <- s.store.Push(context.WithoutCancel(ctx), ref, desc, data)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A tag that a registry was asked to set is not called unset because another failed before
// the answer.
func TestRequestUnderWayIsTakenBack(t *testing.T) {
	for tag, said := range map[string]string{
		"reg.test/a:1": "reg.test/a:1 was set, and is as it was before",
		"reg.test/c:1": "reg.test/c:1 was set, and is as it was before",
	} {
		t.Run(tag, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, b := build()
				s.before = func(what string) error {
					if what != "push reg.test/b:1" {
						return nil
					}
					time.Sleep(time.Second / 2) // the others are sent
					return errors.New("out of order")
				}
				err := b.Publish(t.Context(), func([]string) Registry { return &slow{s, tag} })
				require.ErrorContains(t, err, said)
				time.Sleep(time.Minute)
				require.Equal(t, map[string]string{"reg.test/a:1": "old a"}, s.tags)
			})
		})
	}
}

func TestInterruptedSweep(t *testing.T) {
	interrupted := errors.New("interrupted")
	for n := 1; n <= 20; n++ {
		s, b := newStore(), &Batch{}
		before := map[string]string{}
		for i := range 20 {
			name := "reg.test/" + strings.Repeat("x", i+1)
			if i%2 == 0 {
				s.tags[name+":1"], before[name+":1"] = "old", "old"
			}
			b.Tags = append(b.Tags, Tag{Target: name, Name: name + ":1", Image: s.has(name, "new")})
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		var mu sync.Mutex
		left := n
		s.after = func(what string) error {
			mu.Lock()
			defer mu.Unlock()
			if strings.HasPrefix(what, "push") {
				if left--; left == 0 {
					cancel(interrupted)
				}
			}
			return nil
		}
		err := b.run(ctx, s)
		require.ErrorIs(t, err, interrupted)
		require.Equal(t, before, s.tags, n)
	}
}
