package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/registry"
)

// buildCaches are the caches of a build: the input of the decision, and the access of this
// machine to the registries that hold them.
type buildCaches struct {
	cachepolicy.Input
	access registry.Options
	client *registry.Client
	// holds are the units whose results refs are known to hold.
	holds map[string]map[ir.UnitID]bool
}

// caches returns the caches of a build: the repositories that the user named and the
// tags that are there. A registry that cannot be asked is no error here, only a
// reason to guess: the nodes may reach what this machine does not.
func (s *standby) caches(ctx context.Context, stores []cachepolicy.Store, b *plan.Build) buildCaches {
	c := buildCaches{Input: b.Caches(stores...), access: s.registries()}
	for _, store := range stores {
		if store.Insecure {
			c.access = c.access.Insecure(domain(store.Name))
		}
	}
	quick := c.access
	// Facts that do not arrive in time are guessed.
	quick.Patience = registry.Patience{Silence: cachesTimeout, Busy: cachesTimeout, Away: -1}
	c.client = s.client(quick)
	c.Known = map[string][]string{}
	for _, name := range cachepolicy.Repositories(c.Input) {
		tags, err := c.client.Tags(ctx, name)
		if err != nil {
			s.engine.Report.Warn(fmt.Sprintf("cannot list the caches in %s: %v", name, err))
			continue
		}
		c.Known[name] = tags
	}
	return c
}

// domain returns the registry of a repository.
func domain(repo string) string {
	ref, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return repo
	}
	return reference.Domain(ref)
}

// cachesTimeout bounds how long registries may take to say which caches they have.
const cachesTimeout = 3 * time.Second

// joinable returns a function that reports whether the parts of a target can be joined; nil
// when no registry was asked.
func (c *buildCaches) joinable(ctx context.Context, dir string) func(*ir.Target) bool {
	if c.client == nil {
		return nil
	}
	return func(t *ir.Target) bool { return runtime.Joinable(ctx, t, dir, c.access) }
}

// learn finds out which results of a build the caches hold, and returns all results that
// are in any.
func (c *buildCaches) learn(ctx context.Context, m *memory.Memory, b *plan.Build) map[warm.ResultID]bool {
	c.holds = map[string]map[ir.UnitID]bool{}
	all := map[warm.ResultID]bool{}
	for ref, held := range c.results(ctx, m) {
		maps.Copy(all, held)
		c.holds[ref] = b.CachedUnits(held)
	}
	return all
}

// share divides b: every node builds what targets share or, with all, everything. The caches of
// the targets are read, and none is written.
func (c *buildCaches) share(ctx context.Context, b *plan.Build, nodes []plan.Node, all bool, known plan.Memory) (*plan.Build, *plan.Plan, error) {
	policy := cachepolicy.Decide(c.Input)
	b, p, err := b.SharedBuild(ctx, nodes, all, policy.ImportEntries(), known)
	if err != nil {
		return nil, nil, err
	}
	tags := c.Known
	c.Input = b.Caches()
	c.Known = tags
	return b, p, nil
}

// results returns, by ref, which results are known to be in the caches that the nodes will
// read: those that earlier builds wrote and that are there unchanged. Entries of the ledger
// that cannot be read are unknown.
func (c *buildCaches) results(ctx context.Context, m *memory.Memory) map[string]map[warm.ResultID]bool {
	ledger := m.Caches()
	known := map[string]bool{} // refs
	policy := cachepolicy.Decide(c.Input)
	for _, e := range policy.ImportEntries() {
		if ref := e.Attrs["ref"]; e.Type == "registry" && ref != "" && len(ledger.Holds(ref, "").Results) > 0 {
			known[ref] = true
		}
	}
	results := map[string]map[warm.ResultID]bool{}
	for ref, manifest := range c.manifests(ctx, ir.SortedKeys(known)) {
		results[ref] = ledger.Holds(ref, manifest.String()).Results
	}
	return results
}

// manifests asks registries for the digests of the manifests that refs stand for. Manifests
// that do not exist, or are not reported in time, are left out.
func (c *buildCaches) manifests(ctx context.Context, refs []string) map[string]digest.Digest {
	ctx, cancel := context.WithTimeout(ctx, cachesTimeout)
	defer cancel()
	var mu sync.Mutex // guards found
	found := map[string]digest.Digest{}
	var eg errgroup.Group
	eg.SetLimit(8)
	for _, ref := range refs {
		eg.Go(func() error {
			desc, err := c.client.Resolve(ctx, ref)
			if err != nil {
				return nil // unknown is no failure
			}
			mu.Lock()
			defer mu.Unlock()
			found[ref] = desc.Digest
			return nil
		})
	}
	_ = eg.Wait()
	return found
}

// remember notes the contents of the caches that a run has written.
func (c *buildCaches) remember(ctx context.Context, m *memory.Memory, b *plan.Build, written []runtime.WrittenCache, now time.Time) error {
	var refs []string
	for _, w := range written {
		if w.Manifest == "" {
			refs = append(refs, w.Ref)
		}
	}
	found := c.manifests(ctx, refs)
	var errs []error
	for _, w := range written {
		manifest := w.Manifest
		if manifest == "" {
			manifest = found[w.Ref]
		}
		if w.Base != "" && manifest != "" {
			errs = append(errs, m.Caches().Succeed(w.Ref, w.Base.String(), manifest.String()))
		}
		if manifest != "" {
			errs = append(errs, m.Caches().Add(w.Ref, manifest.String(), warm.Gain{Steps: b.Names.Of(w.Steps)}, nil, now))
		}
	}
	return errors.Join(errs...)
}
