package main

import (
	"context"
	"fmt"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/internal/plan"
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
	in.Known = map[string][]string{}
	for _, name := range repos {
		tags, err := client.Tags(ctx, name)
		if err != nil {
			fmt.Fprintf(a.stderr, "WARNING: cannot list the caches in %s: %v\n", name, err)
			continue
		}
		in.Known[name] = tags
	}
	return in, nil
}
