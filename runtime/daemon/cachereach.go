package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/fault"
)

// A daemon reads the caches that a solve imports without a deadline, and looks a step up in
// them in the one goroutine that schedules all its builds. A registry that accepts connections
// and says nothing would stop the node, also for others, until its connections end
// (solver/llbsolver/bridge.go, newLazyCacheManager). So each cache is read before it is imported,
// see [solver.read], and each node tries each registry, and each other service that holds caches,
// soon after it is connected, and leaves the silent ones out.

// ReachTimeout bounds how long a registry may take to answer a node.
const ReachTimeout = 10 * time.Second

// silentCaches are the servers of caches that do not answer the node.
type silentCaches struct {
	mu      sync.Mutex
	list    []string      // as cacheentry.Server names it; guarded by mu
	changed chan struct{} // closed when list grows, nil when nobody waits; guarded by mu
}

// grows returns a channel that is closed when another server is found to be silent.
func (c *silentCaches) grows() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}

// has reports whether where does not answer.
func (c *silentCaches) has(where string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.list, where)
}

// add notes that where does not answer. It reports whether that is new.
func (c *silentCaches) add(where string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.list, where) {
		return false
	}
	c.list = append(c.list, where)
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
	return true
}

// await waits until the server of a spare cache is known to be silent, and reports whether one
// is. grows is that of the servers known before.
func (c *silentCaches) await(ctx context.Context, caches []bkclient.CacheOptionsEntry, spare func(ir.CacheEntry) bool, grows <-chan struct{}) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-grows:
		}
		grows = c.grows()
		for _, e := range caches {
			entry := ir.CacheEntry{Type: e.Type, Attrs: e.Attrs}
			if spare(entry) && c.has(cacheentry.Server(entry)) {
				return true
			}
		}
	}
}

// leaveOut keeps the solves and exports of the node away from a silent server.
func (s *solver) leaveOut(where string) {
	if s.silent.add(where) {
		s.unheard(where)
	}
}

// heard returns the caches whose servers answer, as far as is known.
func (s *solver) heard(entries []ir.CacheEntry) []ir.CacheEntry {
	return slices.DeleteFunc(slices.Clone(entries), func(e ir.CacheEntry) bool { return s.silent.has(cacheentry.Server(e)) })
}

// writable returns the caches that can be written. It leaves out those for a silent registry
// whose errors do not count; for others it returns an error.
func (s *solver) writable(entries []bkclient.CacheOptionsEntry) ([]bkclient.CacheOptionsEntry, error) {
	if s.link != nil && s.link.info.OwnStore {
		var err error
		if entries, err = withoutCaches(entries); err != nil {
			return nil, err
		}
	}
	var kept []bkclient.CacheOptionsEntry
	for _, e := range entries {
		entry := ir.CacheEntry{Type: e.Type, Attrs: e.Attrs}
		host := cacheentry.Server(entry)
		if !s.silent.has(host) {
			kept = append(kept, e)
			continue
		}
		if !entry.MayFail() {
			return nil, &fault.Rejected{Err: fmt.Errorf("%s did not answer within %s", cacheentry.Title(host), ReachTimeout)}
		}
	}
	return kept, nil
}

// errUnheard ends an export to a cache whose server turns out to be silent.
var errUnheard = errors.New("a server of caches is silent")

// withHeard calls export with those of the caches that can be written. When the server of one that
// is spare is found to be silent meanwhile, the export is ended, and called again without that
// cache if its errors do not count. One that is required may only be slow: it gets more time, see
// [attentive].
func (s *solver) withHeard(ctx context.Context, entries []bkclient.CacheOptionsEntry, spare func(ir.CacheEntry) bool, export func(context.Context, []bkclient.CacheOptionsEntry) (map[string]string, error)) (map[string]string, error) {
	for {
		grows := s.silent.grows()
		caches, err := s.writable(entries)
		if err != nil {
			return nil, err
		}
		exporting, end := context.WithCancelCause(ctx)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			if s.silent.await(exporting, caches, spare, grows) {
				end(errUnheard)
			}
		}()
		resp, err := export(exporting, caches)
		end(nil)
		<-watched
		if err == nil || ctx.Err() != nil || !errors.Is(context.Cause(exporting), errUnheard) {
			return resp, err
		}
	}
}

// silent returns the registries and services, as cacheentry.Server names them, that do not answer
// their probes in time. Any answer will do, also that there is no such image.
func (l *link) silent(ctx context.Context, attach []session.Attachable, probes map[string]string) []string {
	if len(probes) == 0 {
		return nil
	}
	var mu sync.Mutex // guards silent
	var silent []string
	_ = l.gateway(ctx, attach, func(ctx context.Context, c gateway.Client) error {
		ctx, cancel := context.WithTimeout(ctx, ReachTimeout)
		defer cancel()
		var eg errgroup.Group
		for host, probe := range probes {
			eg.Go(func() error {
				_, err := c.ResolveSourceMetadata(ctx, &pb.SourceOp{Identifier: probe}, sourceresolver.Opt{
					LogName: "[internal] ask for " + strings.TrimPrefix(probe, cacheentry.ImageScheme), ImageOpt: &sourceresolver.ResolveImageOpt{},
				})
				// The node knows the deadline and may report it before it is seen here.
				late := ctx.Err() != nil || grpcerrors.Code(err) == codes.DeadlineExceeded
				if err != nil && (late || fault.SilentServer(err)) {
					mu.Lock()
					defer mu.Unlock()
					silent = append(silent, host)
				}
				return nil
			})
		}
		return eg.Wait()
	}) // where the node itself is silent, its link says so
	if ctx.Err() != nil {
		return nil
	}
	slices.Sort(silent)
	return silent
}
