package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/runtime/registry"
)

// Answer answers the questions of the targets that are not to be built, in the order of
// their names. The stage [Facts] must have been done.
func (s *Session) Answer(ctx context.Context) ([]*frontend.Called, error) {
	opts := s.prepared.options(ctx, s.standby, s.facts)
	offline := frontend.NewRegistryResolver(frontend.RegistryOptions{CacheDir: s.engine.memory.Dir("images"), Offline: true})
	opts.Resolver = &unreachable{Resolver: opts.Resolver, offline: offline, noted: map[string]bool{}, note: func(image string, err error) {
		s.engine.Report.Warn(fmt.Sprintf("cannot inspect %s (%v); assuming defaults", image, err))
	}}
	answers, err := frontend.Call(ctx, withAgents(s.scope.whole), opts)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(answers, func(x, y *frontend.Called) int { return cmp.Compare(x.Target.Name, y.Target.Name) })
	return answers, nil
}

// unreachable answers from memory, or with a guess, where the network does not: a check of
// a Dockerfile is useful without its base image.
type unreachable struct {
	frontend.Resolver
	offline frontend.Resolver
	note    func(image string, err error)

	mu    sync.Mutex
	noted map[string]bool // guarded by mu
}

// Resolve implements frontend.Resolver.
func (u *unreachable) Resolve(ctx context.Context, req frontend.ImageRequest) (*frontend.Image, error) {
	img, err := u.Resolver.Resolve(ctx, req)
	if err == nil || ctx.Err() != nil || !errors.Is(err, registry.ErrUnreachable) && !errors.Is(err, registry.ErrBusy) {
		return img, err
	}
	img, offlineErr := u.offline.Resolve(ctx, req)
	if offlineErr != nil {
		return nil, errors.Join(err, offlineErr)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if name := req.Ref.String(); img.Assumed && !u.noted[name] {
		u.noted[name] = true
		u.note(name, err)
	}
	return img, nil
}
