package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/imagekey"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/registry"
)

// pushed is what is known of images that were pushed: records, and what registries say
// of them. Each record and each tag is read once.
type pushed struct {
	standby *standby
	store   cachepolicy.Store

	local, remote imagekey.Records
	loaded, asked bool
	foreign       bool // something else stands where the records are kept
	plain         bool // they were not read, as no node could say whether plain HTTP is allowed

	mu      sync.Mutex                  // guards what follows
	clients map[string]*registry.Client // by the registry that need not be secure; "" is none
	warned  map[string]bool             // registries that do not say, once that was reported
	mute    map[string]error            // registries that do not answer, and why
	stands  map[string]digest.Digest    // by reference; "" does not exist
}

// images is where it is remembered which images were pushed.
func (e *Engine) images() imagekey.Ledger { return imagekey.Ledger{Dir: e.memory.Dir("pushed")} }

// reusePatience is how long a registry may take to say what it has: building is always
// possible.
const reusePatience = 3 * time.Second

// client returns the access to a registry.
func (p *pushed) client(insecure string) *registry.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.clients[insecure]; c != nil {
		return c
	}
	o := p.standby.registries()
	o.Patience = registry.Patience{Silence: reusePatience, Busy: reusePatience, Away: -1}
	o.Plain = func(ctx context.Context, repo string) bool {
		return p.awake() && p.standby.trustsPlainHTTP(ctx, repo) // no node is started for what may be unchanged
	}
	if insecure != "" {
		o = o.Insecure(insecure)
	}
	if p.clients == nil {
		p.clients = map[string]*registry.Client{}
	}
	p.clients[insecure] = p.standby.client(o)
	return p.clients[insecure]
}

// awake reports whether a node can be asked without starting any.
func (p *pushed) awake() bool {
	s := p.standby
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pool != nil || s.resting
}

// own returns the records of this machine.
func (p *pushed) own() *imagekey.Records {
	if !p.loaded {
		p.loaded = true
		var err error
		if p.local, err = p.standby.engine.images().Load(); err != nil {
			p.standby.engine.memory.Forgets(err)
		}
	}
	return &p.local
}

// ref is where the records are in the cache repository, "" without one.
func (p *pushed) ref() string {
	if p.store.IsZero() {
		return ""
	}
	return imagekey.Ref(p.store.Name, p.store.Prefix)
}

// cacheClient returns the access to the cache repository.
func (p *pushed) cacheClient() *registry.Client {
	if p.store.Insecure {
		return p.client(domain(p.store.Name))
	}
	return p.client("")
}

// others returns the records of the cache repository.
func (p *pushed) others(ctx context.Context) *imagekey.Records {
	ref := p.ref()
	again := p.plain && p.awake()
	if p.asked && !again || ref == "" {
		return &p.remote
	}
	p.asked, p.plain = true, false
	var err error
	p.remote, err = imagekey.Pull(ctx, p.cacheClient(), ref)
	switch {
	case err == nil, ctx.Err() != nil:
	case registry.SpeaksPlainHTTP(err): // nodes may be configured for that
		p.plain = !p.awake()
	case errors.Is(err, imagekey.ErrForeign):
		p.foreign = true
		p.standby.engine.Report.Warn(fmt.Sprintf("cannot find out which images were pushed: %v", err))
	default:
		p.silent(p.store.Name, err)
	}
	return &p.remote
}

// learn asks others for their records if that has not been done, and reports whether they
// have any.
func (p *pushed) learn(ctx context.Context) bool { return !p.asked && p.others(ctx).Len() > 0 }

// recollections are what others know of base images, as far as they have been asked.
func (p *pushed) recollections() frontend.Recollections { return &p.remote.Bases }

// silent warns of a registry that does not say what it has, once.
func (p *pushed) silent(name string, err error) {
	host := domain(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.warned == nil {
		p.warned = map[string]bool{}
	}
	if p.warned[host] {
		return
	}
	p.warned[host] = true
	p.standby.engine.Report.Warn(fmt.Sprintf("cannot find out whether images in %s have changed, so they are built: %s", host, registry.Reason(err)))
}

// find returns the record of a key.
func (p *pushed) find(ctx context.Context, k imagekey.Key, loose bool) (imagekey.Record, bool) {
	if r, ok := p.own().Find(k, loose); ok {
		return r, true
	}
	return p.others(ctx).Find(k, loose)
}

// any reports whether a pushed image may be asked for again.
func (p *pushed) any(ctx context.Context) bool { return p.own().Len() > 0 || p.others(ctx).Len() > 0 }

// digest returns what a reference stands for, "" when it does not exist.
func (p *pushed) digest(ctx context.Context, ref string, insecure bool) (digest.Digest, error) {
	host := domain(ref)
	p.mu.Lock()
	d, ok := p.stands[ref]
	mute := p.mute[host]
	p.mu.Unlock()
	if ok || mute != nil {
		return d, mute
	}
	desc, err := p.reach(ref, insecure).Resolve(ctx, ref)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		if errors.Is(err, registry.ErrUnreachable) || errors.Is(err, registry.ErrBusy) {
			if p.mute == nil {
				p.mute = map[string]error{}
			}
			p.mute[host] = err // it is not waited for once more for each image
		}
		return "", err
	}
	if p.stands == nil {
		p.stands = map[string]digest.Digest{}
	}
	p.stands[ref] = desc.Digest
	return desc.Digest, nil
}

// origin finds out what the metadata of an unchanged target says about the build that made its
// image: what its record says, else what the image attests. It reports false when that does not
// cover the provenance of mode, unless anyway is set.
func (p *pushed) origin(ctx context.Context, k *kept, units []*frontend.Unit, mode string, anyway bool) bool {
	o := daemon.Origin(k.record.Origin)
	if !o.Covers(mode) {
		ref := repoOf(k.export.Names[0]) + "@" + k.record.Image.Digest.String()
		for _, set := range k.set {
			ref = set.from + "@" + k.record.Image.Digest.String()
		}
		attested, err := daemon.AttestedOrigin(ctx, p.reach(ref, k.export.Insecure), ref, mode, units)
		if (err != nil || len(attested) == 0) && !anyway {
			return false
		}
		o = attested.With(o)
	}
	k.origin = o.Metadata(mode, units)
	return true
}

// reach returns the access to the registry of a reference.
func (p *pushed) reach(ref string, insecure bool) *registry.Client {
	if !insecure {
		return p.client("")
	}
	return p.client(domain(ref))
}

// write gives an image in the repository from a name; both are in one registry. A name
// with a digest makes the image available under that.
func (p *pushed) write(ctx context.Context, name, from string, image digest.Digest, insecure bool) error {
	o := p.standby.registries() // with the patience of a push
	if insecure {
		o = o.Insecure(domain(name))
	}
	c := p.standby.client(o)
	data, desc, err := c.Manifest(ctx, from+"@"+image.String())
	if err != nil {
		return err
	}
	if err := c.Copy(ctx, from, name, desc); err != nil {
		return err
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fmt.Errorf("name %q: %w", name, err)
	}
	if _, tagged := named.(reference.Tagged); !tagged {
		return nil
	}
	return c.Push(ctx, name, desc, data)
}

// record remembers images that were pushed.
func (p *pushed) record(ctx context.Context, more imagekey.Records) error {
	err := p.standby.engine.images().Add(more)
	ref := p.ref()
	if ref == "" || p.foreign || more.Len() == 0 {
		return err
	}
	return errors.Join(err, imagekey.Push(ctx, p.cacheClient(), ref, more))
}
