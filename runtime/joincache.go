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
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/cachestore"
	"github.com/dbake/dbake/runtime/registry"
)

// joinCaches joins the parts of clusters. Where this machine cannot do it the parts
// remain, and are read side by side. It returns the joins whose base has become too
// large to be joined to.
func (r *run) joinCaches(ctx context.Context, joins []cachepolicy.Join) (outgrown []cachepolicy.Join) {
	if len(joins) == 0 {
		return nil
	}
	r.busy.caches++
	defer func() { r.busy.caches-- }()
	c := registry.New(r.Registries)
	defer c.Close()
	made, errs := make([]ocispecs.Descriptor, len(joins)), make([]error, len(joins))
	bases := make([]ocispecs.Descriptor, len(joins))
	manifests := maps.Clone(r.caches.manifests)
	var eg errgroup.Group
	eg.SetLimit(mostJoins)
	var starter errgroup.Group // since Go waits for the limit, and the loop is not to
	starter.Go(func() error {
		for i, j := range joins {
			eg.Go(func() error {
				most := 0
				if j.Base != "" {
					most = r.mostRecords(j.Units)
				}
				if j.Base != "" {
					// What is read now is what is remembered to be in it.
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
				made[i], errs[i] = cachestore.Join(ctx, c, j.Ref, parts, most)
				return nil
			})
		}
		return eg.Wait()
	})
	r.pump(&starter)
	for i, j := range joins {
		switch {
		case errs[i] != nil:
			r.caches.failures = append(r.caches.failures, cacheFailure{ref: j.Ref, err: fmt.Errorf("join the caches of %s: %w", j.Ref, errs[i]), required: j.Required})
		case made[i].Digest == "" && j.Base != "":
			outgrown = append(outgrown, j)
		case made[i].Digest != "":
			r.caches.written = append(r.caches.written, WrittenCache{Ref: j.Ref, Manifest: made[i].Digest, Steps: r.joined(j), Base: bases[i].Digest})
		}
	}
	return outgrown
}

// mostJoins is how many caches are joined at once.
const mostJoins = 8

// mostRecords is how many records a cache of these units may have before what it has
// kept of earlier builds is dropped: a step has one or two.
func (r *run) mostRecords(units []ir.UnitID) int {
	seen := map[int]bool{}
	for _, u := range units {
		for _, i := range r.Cache.Records[u] {
			seen[i] = true
		}
	}
	return 4*len(seen) + 100
}

// joined returns the steps whose results a join holds beyond those of its base.
func (r *run) joined(j cachepolicy.Join) []digest.Digest {
	held := map[digest.Digest]bool{}
	for _, w := range r.caches.written {
		if slices.Contains(j.Parts, w.Ref) {
			for _, d := range w.Steps {
				held[d] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(held))
}
