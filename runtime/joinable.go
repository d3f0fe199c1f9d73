package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/output"
	"github.com/dbake/dbake/runtime/registry"
)

// joinableTimeout bounds how long a registry may take to say that it is there.
const joinableTimeout = 3 * time.Second

// Joinable reports whether the client can put the images of t together in their registries when
// several nodes have each pushed a part. The client writes the index itself, and a registry may
// be reachable from the nodes only. access is how the client reaches registries, dir the base
// of relative paths.
func Joinable(ctx context.Context, t *ir.Target, dir string, access registry.Options) bool {
	outs, err := output.All(t, dir, io.Discard, nil)
	if err != nil {
		return false // the run will say so
	}
	d := &divided{target: t, jobs: []int{0, 1}}
	if _, err := d.divide(outs); err != nil {
		return false
	}
	access.Notify = nil
	access.Patience = registry.Patience{Silence: joinableTimeout, Busy: -1, Away: -1}
	ctx, cancel := context.WithTimeout(ctx, joinableTimeout)
	defer cancel()
	eg, ctx := errgroup.WithContext(ctx)
	for _, img := range d.images {
		for _, name := range img.names {
			eg.Go(func() error { return answers(ctx, access, name, img.insecure) })
		}
	}
	return eg.Wait() == nil
}

// answers asks the registry of name for it. That it does not exist is an answer, too.
func answers(ctx context.Context, access registry.Options, name string, insecure bool) error {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fmt.Errorf("name %q: %w", name, err)
	}
	if insecure {
		access = access.Insecure(reference.Domain(ref))
	}
	c := registry.New(access)
	defer c.Close()
	_, err = c.Resolve(ctx, reference.TagNameOnly(ref).String())
	if errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	return err
}
