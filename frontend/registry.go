package frontend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/util/imageutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/dbake/dbake/internal/memory/imagefacts"
	"github.com/dbake/dbake/runtime/registry"
)

// RegistryOptions say whom to ask about images.
type RegistryOptions struct {
	// Client asks registries; it may be nil with Offline.
	Client *registry.Client
	// Node asks a node; nil when there is none. A node may reach registries that
	// this machine does not, so what it answers counts where this machine got no
	// image.
	Node func(ctx context.Context, req ImageRequest) (*Image, error)
	// CacheDir keeps manifests and configs, and which digest a tag had; empty
	// keeps nothing between runs.
	CacheDir string
	// Warn gets, once, what is wrong with the cache; may be nil.
	Warn func(error)
	// MaxAge lets a digest in the cache answer for its tag if it is at most
	// this old; 0 asks the registry in every run.
	MaxAge time.Duration
	// Offline never asks a registry. What the cache does not know, however old,
	// is assumed.
	Offline bool
	// Recall takes what the cache knows of a tag, however old, when nobody who knows it
	// can be reached.
	Recall bool
	// Others is what others know of images; may be nil. Their blobs count, as digests
	// prove them, and what they say of a tag counts where Recall has no memory of its own.
	Others Recollections
	// Connections is how many requests are under way at once; 0 is 8.
	Connections int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// nodeDelay is how long this machine's own requests may take before a node is asked
// as well. A registry at hand answers in less.
const nodeDelay = 2 * time.Second

// RegistryResolver resolves images by asking registries. It serves one run: what
// it has once answered for a reference it answers until the end.
type RegistryResolver struct {
	opts    RegistryOptions
	cache   *imagefacts.Store
	slots   *semaphore.Weighted
	flights singleflight.Group

	mu     sync.Mutex // guards the fields below
	pins   map[string]pin
	images map[string]*Image
	blobs  map[string][]byte
	nodes  map[string]map[string]digest.Digest // the configs of images that nodes reported, by reference and platform

	recalled bool // a tag is what it was in an earlier run
}

// pin is the meaning of a reference during a run.
type pin struct {
	desc ocispecs.Descriptor // without a digest when that is not known
	node bool                // a node said so
	// recalled is set when it did so in an earlier run; configs are then those of an image
	// that a node reported, by platform.
	recalled bool
	configs  map[string]digest.Digest
}

var _ Resolver = (*RegistryResolver)(nil)

// NewRegistryResolver returns a resolver for one run.
func NewRegistryResolver(o RegistryOptions) *RegistryResolver {
	if o.Connections <= 0 {
		o.Connections = 8
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &RegistryResolver{
		opts:   o,
		cache:  imagefacts.Open(o.CacheDir, o.Warn, o.Now),
		slots:  semaphore.NewWeighted(int64(o.Connections)),
		pins:   map[string]pin{},
		images: map[string]*Image{},
		blobs:  map[string][]byte{},
		nodes:  map[string]map[string]digest.Digest{},
	}
}

// Resolve implements Resolver.
func (r *RegistryResolver) Resolve(ctx context.Context, req ImageRequest) (*Image, error) {
	p := platforms.Normalize(req.Platform)
	key := req.Ref.String() + " " + platforms.FormatAll(p)
	return once(r, r.images, "image "+key, key, func() (*Image, error) {
		pin, err := r.pin(ctx, ImageRequest{Ref: req.Ref, Platform: p})
		if err != nil {
			return nil, err
		}
		if pin.desc.Digest == "" {
			return assumedImage(p), nil
		}
		if pin.node {
			return r.onNode(ctx, req.Ref, pin, p)
		}
		config, err := r.config(ctx, req.Ref, pin.desc, p)
		switch {
		case errors.Is(err, errUnknown):
			img := assumedImage(p)
			img.Digest = pin.desc.Digest
			return img, nil
		case err != nil && r.opts.Node != nil && ctx.Err() == nil:
			img, nodeErr := r.pinnedOnNode(ctx, req.Ref, pin.desc.Digest, p)
			if nodeErr != nil {
				return nil, &unresolvedError{client: err, node: nodeErr}
			}
			return img, nil
		case err != nil:
			return nil, err
		}
		return &Image{Digest: pin.desc.Digest, Config: config}, nil
	})
}

// onNode returns an image that only nodes can reach, and remembers it. Of one that was
// recalled the config is, too.
func (r *RegistryResolver) onNode(ctx context.Context, ref reference.Named, is pin, p ocispecs.Platform) (*Image, error) {
	platform := platforms.FormatAll(p)
	if is.recalled {
		if config, ok := r.recallBlob(is.configs[platform]); ok {
			r.noteConfig(ref, platform, config)
			return &Image{Digest: is.desc.Digest, Config: config}, nil
		}
	}
	img, err := r.pinnedOnNode(ctx, ref, is.desc.Digest, p)
	if err == nil && !is.recalled {
		r.cache.PutOnNode(ref.String(), img.Digest, platform, img.Config)
		r.noteConfig(ref, platform, img.Config)
	}
	return img, err
}

// pinnedOnNode asks a node for the image of a digest.
func (r *RegistryResolver) pinnedOnNode(ctx context.Context, ref reference.Named, dgst digest.Digest, p ocispecs.Platform) (*Image, error) {
	pinned, err := reference.WithDigest(ref, dgst)
	if err != nil {
		return nil, fmt.Errorf("pin %s: %w", ref, err)
	}
	img, err := r.opts.Node(ctx, ImageRequest{Ref: pinned, Platform: p})
	if err != nil {
		return nil, err
	}
	return &Image{Digest: dgst, Config: img.Config}, nil
}

// once returns the value of key in m, and computes it if it is not there. Calls
// that want the same value wait for the one that computes it. Errors are not
// kept: one caller's cancelled context must not fail those that come later.
func once[V any](r *RegistryResolver, m map[string]V, flight, key string, compute func() (V, error)) (V, error) {
	get := func() (V, bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		v, ok := m[key]
		return v, ok
	}
	if v, ok := get(); ok {
		return v, nil
	}
	res, err, _ := r.flights.Do(flight, func() (any, error) {
		if v, ok := get(); ok {
			return v, nil
		}
		v, err := compute()
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		m[key] = v
		return v, nil
	})
	if err != nil {
		var zero V
		return zero, err
	}
	return res.(V), nil
}

// descriptor returns the descriptor of a manifest or index that is remembered.
func (r *RegistryResolver) descriptor(d digest.Digest) (ocispecs.Descriptor, bool) {
	data, ok := r.recallBlob(d)
	if !ok {
		return ocispecs.Descriptor{}, false
	}
	mt, err := imageutil.DetectManifestBlobMediaType(data)
	return ocispecs.Descriptor{MediaType: mt, Digest: d, Size: int64(len(data))}, err == nil
}

// pin finds out what the reference of req stands for, once for all platforms.
func (r *RegistryResolver) pin(ctx context.Context, req ImageRequest) (pin, error) {
	key := req.Ref.String()
	return once(r, r.pins, "pin "+key, key, func() (pin, error) {
		if d, ok := req.Ref.(reference.Digested); ok {
			if desc, ok := r.descriptor(d.Digest()); ok || r.opts.Offline {
				desc.Digest = d.Digest()
				return pin{desc: desc}, nil
			}
		} else if desc, at, ok := r.cache.Tag(key); ok {
			age := r.opts.Now().Sub(at)
			if r.opts.Offline || r.opts.MaxAge > 0 && age >= 0 && age <= r.opts.MaxAge {
				return pin{desc: desc}, nil
			}
		} else if r.opts.Offline {
			return pin{}, nil
		}
		if err := r.slots.Acquire(ctx, 1); err != nil {
			return pin{}, context.Cause(ctx)
		}
		defer r.slots.Release(1)
		found, err := r.ask(ctx, req)
		if err != nil {
			if then, ok := r.recall(ctx, key, err); ok {
				return then, nil
			}
			return pin{}, err
		}
		if !found.node {
			r.cache.PutTag(key, found.desc, r.opts.Now())
		}
		return found, nil
	})
}

// recall returns what a reference stood for in an earlier run, if nobody can be asked now.
func (r *RegistryResolver) recall(ctx context.Context, key string, err error) (then pin, ok bool) {
	if !r.opts.Recall || ctx.Err() != nil || !errors.Is(err, registry.ErrUnreachable) && !errors.Is(err, registry.ErrBusy) && !errors.Is(err, ErrNodesAway) {
		return pin{}, false
	}
	if e, known := r.cache.OnNode(key); known {
		then = pin{desc: ocispecs.Descriptor{Digest: e.Digest}, node: true, recalled: true, configs: e.Configs}
	} else if then.desc, _, ok = r.cache.Tag(key); !ok {
		if r.opts.Others == nil {
			return pin{}, false
		}
		told, known := r.opts.Others.Image(key)
		if !known {
			return pin{}, false
		}
		then = pin{desc: told.Image, node: told.Node, recalled: true, configs: told.Configs}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recalled = true
	return then, true
}

// Recalled reports whether something was answered as in an earlier run because nobody
// could be asked.
func (r *RegistryResolver) Recalled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.recalled
}

// ask asks this machine's own client, and a node when the client has no answer or
// none soon. The first image counts.
func (r *RegistryResolver) ask(ctx context.Context, req ImageRequest) (pin, error) {
	if r.opts.Node == nil {
		desc, err := r.opts.Client.Resolve(ctx, req.Ref.String())
		return pin{desc: desc}, reasonOf(err)
	}
	type answer struct {
		pin
		err error
	}
	var askers sync.WaitGroup
	defer askers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, 2)
	askers.Go(func() {
		desc, err := r.opts.Client.Resolve(ctx, req.Ref.String())
		answers <- answer{pin: pin{desc: desc}, err: reasonOf(err)}
	})
	soon := time.NewTimer(nodeDelay)
	defer soon.Stop()
	var failed unresolvedError
	asked := false
	for {
		ask := false
		select {
		case <-soon.C:
			ask = true
		case a := <-answers:
			switch {
			case a.err == nil:
				return a.pin, nil
			case a.node:
				failed.node = a.err
			default:
				failed.client, ask = a.err, true
			}
		}
		switch {
		case ctx.Err() != nil:
			return pin{}, context.Cause(ctx)
		case ask && !asked:
			asked = true
			askers.Go(func() {
				a := answer{pin: pin{node: true}}
				img, err := r.opts.Node(ctx, req)
				if a.err = err; err == nil {
					a.desc.Digest = img.Digest
				}
				answers <- a
			})
		case failed.client != nil && failed.node != nil:
			return pin{}, failed.err()
		}
	}
}

// ErrNoNode is returned by [RegistryOptions].Node when no node knows more than this
// machine.
var ErrNoNode = errors.New("no node to ask")

// ErrNodesAway is wrapped by the errors of [RegistryOptions].Node when no node could be
// reached.
var ErrNodesAway = errors.New("no node can be reached")

// unresolvedError is why neither this machine nor a node has found an image.
type unresolvedError struct{ client, node error }

// Error gives the word of the node, which counts.
func (e *unresolvedError) Error() string {
	return fmt.Sprintf("%v; asked from here: %v", e.node, e.client)
}

// Unwrap returns both.
func (e *unresolvedError) Unwrap() []error { return []error{e.node, e.client} }

func (e *unresolvedError) err() error {
	if errors.Is(e.node, ErrNoNode) {
		return e.client
	}
	return &unresolvedError{client: e.client, node: e.node}
}

// reasonOf leaves out what the compiler says of an image anyway: its name.
func reasonOf(err error) error {
	if err == nil {
		return nil
	}
	return &reasonError{err}
}

type reasonError struct{ err error }

func (e *reasonError) Error() string { return registry.Reason(e.err) }
func (e *reasonError) Unwrap() error { return e.err }

// config returns the config of the image below desc that fits p best.
func (r *RegistryResolver) config(ctx context.Context, ref reference.Named, desc ocispecs.Descriptor, p ocispecs.Platform) ([]byte, error) {
	blobs := &blobReader{r: r, ref: ref.String()}
	if desc.MediaType == "" {
		// Only the blob of a digest may be in the cache.
		data, err := blobs.read(ctx, desc)
		if err != nil {
			return nil, err
		}
		if desc.MediaType, err = imageutil.DetectManifestBlobMediaType(data); err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
	}
	config, err := images.Config(ctx, blobs, desc, platforms.Only(p))
	if err != nil {
		return nil, fmt.Errorf("%s for %s: %w", ref, platforms.FormatAll(p), err)
	}
	return blobs.read(ctx, config)
}

// errUnknown reports that a blob is not in the cache and nobody may be asked.
var errUnknown = errors.New("not known while offline")

// blobReader reads manifests and configs of one image, through the cache.
type blobReader struct {
	r   *RegistryResolver
	ref string
}

// maxBlob bounds what a registry may make us read: manifests and configs are
// never that large.
const maxBlob = 16 << 20

var _ content.Provider = (*blobReader)(nil)

// ReaderAt implements content.Provider.
func (b *blobReader) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	data, err := b.read(ctx, desc)
	if err != nil {
		return nil, err
	}
	return blobBytes{bytes.NewReader(data)}, nil
}

// blobBytes is a blob in memory.
type blobBytes struct{ *bytes.Reader }

// Close implements content.ReaderAt.
func (blobBytes) Close() error { return nil }

func (b *blobReader) read(ctx context.Context, desc ocispecs.Descriptor) ([]byte, error) {
	key := desc.Digest.String()
	return once(b.r, b.r.blobs, "blob "+b.ref+" "+key, key, func() ([]byte, error) { return b.load(ctx, desc) })
}

func (b *blobReader) load(ctx context.Context, desc ocispecs.Descriptor) ([]byte, error) {
	if data, ok := b.r.recallBlob(desc.Digest); ok {
		return data, nil
	}
	if b.r.opts.Offline {
		return nil, errUnknown
	}
	if err := b.r.slots.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	defer b.r.slots.Release(1)
	data, err := b.r.opts.Client.Blob(ctx, b.ref, desc, maxBlob)
	if err != nil {
		return nil, reasonOf(err)
	}
	b.r.cache.PutBlob(desc.Digest, data)
	return data, nil
}
