package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/registry"
)

// caches returns what the cache policy decides from: the repository that the user
// named and the tags that are there. A registry that cannot be asked is no error
// here, only a reason to guess: the nodes may reach what this machine does not.
func (a *app) caches(ctx context.Context, ref string, b *plan.Build) (cachepolicy.Input, error) {
	var repo cachepolicy.Repo
	if ref != "" {
		var err error
		if repo, err = cachepolicy.ParseRepo(ref); err != nil {
			return cachepolicy.Input{}, usageError{err}
		}
	}
	in := b.Caches(repo)
	repos := cachepolicy.Repositories(in)
	if len(repos) == 0 {
		return in, nil
	}
	creds, err := registry.DockerCredentials(a.env["DOCKER_CONFIG"])
	if err != nil {
		return cachepolicy.Input{}, err
	}
	client := registry.New(registry.Options{Credentials: creds})
	defer client.Close()
	in.Known = map[string][]string{}
	for _, name := range repos {
		tags, err := client.Tags(ctx, name)
		if err != nil {
			a.progress.Warn(fmt.Sprintf("cannot list the caches in %s: %v", name, err))
			continue
		}
		in.Known[name] = tags
	}
	return in, nil
}

// cachesTimeout bounds how long registries may take to say which caches they have.
const cachesTimeout = 3 * time.Second

// cached returns under which names results are known to be in the caches that the
// nodes will read: those that earlier builds wrote and that are there unchanged.
func (a *app) cached(ctx context.Context, in cachepolicy.Input) (map[digest.Digest]bool, error) {
	known := map[string]bool{} // refs
	policy := cachepolicy.Decide(in)
	for _, e := range policy.ImportEntries() {
		ref := e.Attrs["ref"]
		if e.Type != "registry" || ref == "" {
			continue
		}
		if len(a.cacheLedger().Holds(ref, "")) > 0 {
			known[ref] = true
		}
	}
	found, err := a.manifests(ctx, ir.SortedKeys(known))
	if err != nil {
		return nil, err
	}
	results := map[digest.Digest]bool{}
	for ref, manifest := range found {
		maps.Copy(results, a.cacheLedger().Holds(ref, manifest.String()))
	}
	return results, nil
}

// manifests asks registries for the digests of the manifests that refs stand for.
// Those that are not there, or not told in time, are left out.
func (a *app) manifests(ctx context.Context, refs []string) (map[string]digest.Digest, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	creds, err := registry.DockerCredentials(a.env["DOCKER_CONFIG"])
	if err != nil {
		return nil, err
	}
	client := registry.New(registry.Options{Credentials: creds})
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, cachesTimeout)
	defer cancel()
	var mu sync.Mutex // guards found
	found := map[string]digest.Digest{}
	var eg errgroup.Group
	eg.SetLimit(8)
	for _, ref := range refs {
		eg.Go(func() error {
			desc, err := client.Resolve(ctx, ref)
			if err != nil {
				return nil // not to know is no failure
			}
			mu.Lock()
			defer mu.Unlock()
			found[ref] = desc.Digest
			return nil
		})
	}
	_ = eg.Wait()
	return found, nil
}

// rememberCaches notes what the caches hold that a run has written.
func (a *app) rememberCaches(ctx context.Context, b *plan.Build, written []runtime.WrittenCache, now time.Time) error {
	var refs []string
	for _, w := range written {
		refs = append(refs, w.Ref)
	}
	found, err := a.manifests(ctx, refs)
	errs := []error{err}
	for _, w := range written {
		if manifest, ok := found[w.Ref]; ok {
			errs = append(errs, a.cacheLedger().Add(w.Ref, manifest.String(), b.Held(w.Steps), nil, nil, now))
		}
	}
	return errors.Join(errs...)
}
