package runtime

import (
	"context"
	"fmt"
	"maps"
	"slices"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/internal/cachestore"
	"github.com/dbake/dbake/runtime/registry"
)

// mostJoins is how many caches are joined at once.
const mostJoins = 8

// join joins the parts of clusters. If this machine cannot join them, the parts remain and
// are read side by side. It returns the joins whose base has become too large to be joined
// to. images stood in for results that were sent.
func (w *waves) join(ctx context.Context, joins []cachepolicy.Join, images []*cachestore.Image) (outgrown []cachepolicy.Join) {
	if len(joins) == 0 {
		return nil
	}
	w.activity.cache(1)
	defer w.activity.cache(-1)
	c := registry.New(w.work.Registries)
	defer c.Close()
	made, errs := make([]ocispecs.Descriptor, len(joins)), make([]error, len(joins))
	bases := make([]ocispecs.Descriptor, len(joins))
	manifests := maps.Clone(w.manifests)
	var eg errgroup.Group
	eg.SetLimit(mostJoins)
	var starter errgroup.Group // Go waits for the limit, and the loop must not
	starter.Go(func() error {
		for i, j := range joins {
			eg.Go(func() error {
				most := 0
				if j.Base != "" {
					most = w.work.mostRecords(j.Units)
				}
				if j.Base != "" {
					// Remember the base as it is read now, not what its ref stands for later.
					if bases[i], errs[i] = c.Resolve(ctx, j.Base); errs[i] != nil {
						return nil
					}
				}
				var parts []cachestore.Part
				for _, ref := range j.Parts {
					part := cachestore.Part{Ref: ref, Manifest: manifests[ref]}
					if ref == j.Base {
						part.Manifest = bases[i]
					}
					parts = append(parts, part)
				}
				made[i], errs[i] = cachestore.Join(ctx, c, j.Ref, parts, images, most)
				return nil
			})
		}
		return eg.Wait()
	})
	w.wait(&starter)
	for i, j := range joins {
		switch {
		case errs[i] != nil:
			w.failures = append(w.failures, cacheFailure{ref: j.Ref, err: fmt.Errorf("join the caches of %s: %w", j.Ref, errs[i]), required: j.Required})
		case made[i].Digest == "" && j.Base != "":
			outgrown = append(outgrown, j)
		case made[i].Digest != "":
			w.written = append(w.written, WrittenCache{Ref: j.Ref, Manifest: made[i].Digest, Steps: w.stepsOf(j), Base: bases[i].Digest})
		}
	}
	return outgrown
}

// stepsOf returns the steps whose results a join holds beyond those of its base.
func (w *waves) stepsOf(j cachepolicy.Join) []digest.Digest {
	held := map[digest.Digest]bool{}
	for _, w := range w.written {
		if slices.Contains(j.Parts, w.Ref) {
			for _, d := range w.Steps {
				held[d] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(held))
}
