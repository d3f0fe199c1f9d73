package runtime

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/cachestore"
	"github.com/dbake/dbake/internal/localfile"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/layout"
	"github.com/dbake/dbake/runtime/registry"
)

// linkLimit bounds how long it may take to link a result. Others wait for it meanwhile.
const linkLimit = 20 * time.Second

// imageStore is the id of the layout that holds the image of a step's result.
func imageStore(step int) string { return "dbake.step." + strconv.Itoa(step) }

// stepImages collects images of steps' results. The zero value is ready for use, and safe for
// concurrent use.
type stepImages struct {
	mu   sync.Mutex
	made []*cachestore.Image // guarded by mu
}

func (s *stepImages) add(img *cachestore.Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.made, func(i *cachestore.Image) bool { return i.Manifest.Digest == img.Manifest.Digest }) {
		s.made = append(s.made, img)
	}
}

func (s *stepImages) list() []*cachestore.Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.made)
}

// image makes an image of a step's result beside the cache in which it was sent, of the same
// layers. A worker calls it.
func (x *exchange) image(ctx context.Context, step int, v *llbmerge.Vertex, entry ir.CacheEntry) (*pb.SourceOp, error) {
	p := platforms.DefaultSpec()
	if v.Platform != nil {
		p = platforms.Normalize(*v.Platform)
	}
	place := x.placeOf(step, entry)
	defer place.close()
	manifest, read, err := place.open(ctx)
	if err != nil {
		return nil, err
	}
	img, err := cachestore.ImageOf(manifest, read, p)
	if err != nil {
		return nil, err
	}
	ref, err := place.put(ctx, img.Documents)
	if err != nil {
		return nil, fmt.Errorf("write an image of %s: %w", v.Step, err)
	}
	img.Repo = place.repo
	x.images.add(img)
	if entry.Type != ir.TypeLocal {
		return &pb.SourceOp{Identifier: "docker-image://" + ref}, nil
	}
	return &pb.SourceOp{
		Identifier: "oci-layout://dbake/step@" + img.Manifest.Digest.String(),
		Attrs:      map[string]string{pb.AttrOCILayoutStoreID: imageStore(step)},
	}, nil
}

// link has what was written in entry be found behind steps that images stand in for, and
// returns the cache in which it is. A worker calls it.
func (x *exchange) link(ctx context.Context, step int, entry ir.CacheEntry) (ir.CacheEntry, error) {
	images := x.images.list()
	if len(images) == 0 {
		return entry, nil
	}
	ctx, cancel := context.WithTimeout(ctx, linkLimit)
	defer cancel()
	place := x.placeOf(step, entry)
	defer place.close()
	manifest, read, err := place.open(ctx)
	if err != nil {
		return entry, err
	}
	d, err := cachestore.Link(ctx, manifest, read, place.repo, images)
	if err != nil || d == nil {
		return entry, err
	}
	ref, err := place.put(ctx, *d)
	if err != nil {
		return entry, err
	}
	entry.Attrs = maps.Clone(entry.Attrs)
	if entry.Type == ir.TypeLocal {
		entry.Attrs["digest"] = d.Manifest.Digest.String()
	} else {
		entry.Attrs["ref"] = ref
	}
	return entry, nil
}

// exchangePlace is where a result was written: a directory of the client, or a repository.
type exchangePlace struct {
	entry ir.CacheEntry
	dir   layout.Store
	reg   *registry.Client
	repo  string
}

func (x *exchange) placeOf(step int, entry ir.CacheEntry) *exchangePlace {
	if entry.Type == ir.TypeLocal {
		return &exchangePlace{entry: entry, dir: layout.Store(x.place(step))}
	}
	return &exchangePlace{entry: entry, reg: registry.New(x.work.Registries), repo: x.store.Name}
}

func (p *exchangePlace) close() {
	if p.reg != nil {
		p.reg.Close()
	}
}

// open returns the manifest of the cache, and a function that reads what it names.
func (p *exchangePlace) open(ctx context.Context) (manifest []byte, read cachestore.ReadFunc, err error) {
	if p.reg == nil {
		read = func(desc ocispecs.Descriptor, _ int64) ([]byte, error) { return content.ReadBlob(ctx, p.dir, desc) }
		manifest, err = read(ocispecs.Descriptor{Digest: digest.Digest(p.entry.Attrs["digest"])}, 0)
		return manifest, read, err
	}
	ref := p.entry.Attrs["ref"]
	manifest, _, err = p.reg.Manifest(ctx, ref)
	return manifest, func(desc ocispecs.Descriptor, limit int64) ([]byte, error) {
		return p.reg.Blob(ctx, ref, desc, limit)
	}, err
}

// put writes documents beside the cache. In a repository it returns their reference.
func (p *exchangePlace) put(ctx context.Context, d cachestore.Documents) (ref string, err error) {
	if p.reg != nil {
		ref = p.repo + "@" + d.Manifest.Digest.String()
		return ref, d.Push(ctx, p.reg, ref)
	}
	for _, b := range []struct {
		desc ocispecs.Descriptor
		data []byte
	}{{d.Config, d.ConfigData}, {d.Manifest, d.ManifestData}} {
		name, err := p.dir.Path(b.desc.Digest)
		if err != nil {
			return "", err
		}
		if err := localfile.Replace(name, b.data, 0o600); err != nil {
			return "", err
		}
	}
	return "", nil
}
