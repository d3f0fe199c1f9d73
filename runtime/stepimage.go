package runtime

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

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
	s.made = append(s.made, img)
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
	if entry.Type == ir.TypeLocal {
		dir := layout.Store(x.place(step))
		manifest, err := content.ReadBlob(ctx, dir, ocispecs.Descriptor{Digest: digest.Digest(entry.Attrs["digest"])})
		if err != nil {
			return nil, err
		}
		img, err := cachestore.ImageOf(manifest, func(desc ocispecs.Descriptor, _ int64) ([]byte, error) {
			return content.ReadBlob(ctx, dir, desc)
		}, p)
		if err != nil {
			return nil, err
		}
		x.images.add(img)
		for _, b := range []struct {
			desc ocispecs.Descriptor
			data []byte
		}{{img.Config, img.ConfigData}, {img.Manifest, img.ManifestData}} {
			name, err := dir.Path(b.desc.Digest)
			if err == nil {
				err = localfile.Replace(name, b.data, 0o600)
			}
			if err != nil {
				return nil, fmt.Errorf("write an image of %s: %w", v.Step, err)
			}
		}
		return &pb.SourceOp{
			Identifier: "oci-layout://dbake/step@" + img.Manifest.Digest.String(),
			Attrs:      map[string]string{pb.AttrOCILayoutStoreID: imageStore(step)},
		}, nil
	}
	c := registry.New(x.work.Registries)
	defer c.Close()
	ref := entry.Attrs["ref"]
	manifest, _, err := c.Manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	img, err := cachestore.ImageOf(manifest, func(desc ocispecs.Descriptor, limit int64) ([]byte, error) {
		return c.Blob(ctx, ref, desc, limit)
	}, p)
	if err != nil {
		return nil, err
	}
	x.images.add(img)
	name := x.store.Name + "@" + img.Manifest.Digest.String()
	if err := c.Push(ctx, name, img.Config, img.ConfigData); err != nil {
		return nil, err
	}
	if err := c.Push(ctx, name, img.Manifest, img.ManifestData); err != nil {
		return nil, err
	}
	return &pb.SourceOp{Identifier: "docker-image://" + name}, nil
}
