package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	imagetypes "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
)

// Base images can be read once from where they are, however many nodes need them: the
// client copies them to the cache registry, and a node pulls the copy before it builds
// on the image. A node knows layers and manifests by their digests, whatever the name
// that they came under, so the step that names the original then finds all it needs;
// neither the step nor its part of a provenance changes.

// basesTimeout bounds how long a node may wait for the copy of an image. Then, and when
// there can be no copy, it pulls the original.
const basesTimeout = 5 * time.Minute

// bases are the base images of a run that are passed on. Workers use them together.
type bases struct {
	work   *work
	repo   string // for the copies; "" passes nothing on
	access registry.Options
	mu     sync.Mutex
	copies map[digest.Digest]*baseCopy // by vertex
	pulled map[pulledBase]bool         // by nodes, or tried
}

type pulledBase struct {
	node   string
	vertex digest.Digest
}

// baseCopy is an image on its way to the cache registry.
type baseCopy struct {
	once sync.Once
	ref  string // of the copy, by digest
	err  error
}

func newBases(w *work) *bases {
	return &bases{work: w, repo: w.Bases, access: w.Registries, copies: map[digest.Digest]*baseCopy{}, pulled: map[pulledBase]bool{}}
}

// copyOf returns the copy of the image that v names. The first caller makes it.
func (b *bases) copyOf(ctx context.Context, v *llbmerge.Vertex) (string, error) {
	b.mu.Lock()
	c := b.copies[v.Digest]
	if c == nil {
		c = &baseCopy{}
		b.copies[v.Digest] = c
	}
	b.mu.Unlock()
	c.once.Do(func() { c.ref, c.err = b.copy(ctx, v) })
	return c.ref, c.err
}

// first reports whether nobody has tried to pull the copy to the node before.
func (b *bases) first(node string, v digest.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := pulledBase{node, v}
	had := b.pulled[key]
	b.pulled[key] = true
	return !had
}

// copy copies the image for the platform of v.
func (b *bases) copy(ctx context.Context, v *llbmerge.Vertex) (string, error) {
	ref, ok := pinnedRef(v)
	if !ok {
		return "", nil
	}
	platform := platforms.DefaultSpec()
	if v.Platform != nil {
		platform = platforms.Normalize(*v.Platform)
	}
	c := registry.New(b.access)
	defer c.Close()
	desc, err := manifestFor(ctx, c, ref, platform)
	if err != nil {
		return "", err
	}
	if err := c.Copy(ctx, ref, b.repo, desc); err != nil {
		return "", err
	}
	return b.repo + "@" + desc.Digest.String(), nil
}

// pinnedRef returns the image that a vertex names by digest; ok is false when it is no image
// or has no digest.
func pinnedRef(v *llbmerge.Vertex) (ref string, ok bool) {
	name, ok := strings.CutPrefix(v.Op.GetSource().GetIdentifier(), "docker-image://")
	if v.Kind != llbmerge.KindImage || !ok {
		return "", false
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", false
	}
	d, ok := named.(reference.Digested)
	if !ok {
		return "", false
	}
	return reference.TrimNamed(named).String() + "@" + d.Digest().String(), true
}

// manifestFor returns the manifest of an image for a platform.
func manifestFor(ctx context.Context, c *registry.Client, ref string, platform ocispecs.Platform) (ocispecs.Descriptor, error) {
	data, desc, err := c.Manifest(ctx, ref)
	if err != nil || !imagetypes.IsIndexType(desc.MediaType) {
		return desc, err
	}
	var index ocispecs.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return desc, fmt.Errorf("decode index %s: %w", ref, err)
	}
	best := platforms.Only(platform)
	found := -1
	for i, m := range index.Manifests {
		if m.Platform != nil && best.Match(*m.Platform) && (found < 0 || best.Less(*m.Platform, *index.Manifests[found].Platform)) {
			found = i
		}
	}
	if found < 0 {
		return desc, fmt.Errorf("%s has no manifest for %s", ref, platforms.FormatAll(platform))
	}
	return index.Manifests[found], nil
}

// seed makes a node pull the copies of base images through c. Images that fail are
// reported, and left to the steps themselves.
func (b *bases) seed(ctx context.Context, c *daemon.Connection, node string, list []*llbmerge.Vertex, report func(text string)) {
	within, cancel := context.WithTimeout(ctx, basesTimeout)
	defer cancel()
	for _, v := range list {
		if !b.first(node, v.Digest) {
			continue
		}
		ref, err := b.copyOf(within, v)
		if err == nil && ref != "" {
			err = c.Pull(within, ref, v.Platform)
		}
		if err != nil && ctx.Err() == nil {
			report(fmt.Sprintf("base image of %s: it is pulled from its registry: %v", v.Step, fault.Plain(err)))
		}
	}
}

// of returns the images that a solve of units on a node may pull; none when base images are not
// passed on.
func (b *bases) of(n sched.NodeID, units []sched.UnitID) []*llbmerge.Vertex {
	if b.repo == "" {
		return nil
	}
	var list []*llbmerge.Vertex
	seen := map[digest.Digest]bool{}
	for _, j := range b.work.jobsOf(units) {
		for _, u := range j.Units {
			for _, v := range b.work.images[u.ID] {
				if !seen[v.Digest] && !b.work.plannedWarm(n, v) {
					seen[v.Digest] = true
					list = append(list, v)
				}
			}
		}
	}
	return list
}
