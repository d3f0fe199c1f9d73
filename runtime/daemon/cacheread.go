package daemon

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	bkclient "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/fault"
)

// A cache is read before the first solve that imports it: a registry that falls silent in the
// middle must stop nobody. The daemon reads the caches of a solve in the background, once for
// each build, and only what looks a step up in them waits for them. So a solve that imports
// them and has no step to look up comes first. A cache that is not read in time is left out
// from then on.

const (
	// readTimeout is how long reading a cache may take before its registry is asked whether it is
	// there, and how long until the next question. It gives the trial of all registries that
	// begins with the run the time to end.
	readTimeout = 12 * time.Second
	// longestRead is how long a cache may be read in all.
	longestRead = time.Minute
)

// reading is a cache that a build of a node reads.
type reading struct {
	entry ir.CacheEntry
	done  chan struct{} // closed when it has been read, or could not be
}

// readings are the caches that one build reads.
type readings struct {
	mu   sync.Mutex
	list map[string]*reading // by cacheentry.ID; guarded by mu
	// ended are the vertices that read caches and have ended, by their type of cache;
	// guarded by mu.
	ended map[string]map[digest.Digest]bool
}

// enter returns the readings of entries, and as fresh the entries that nobody reads yet.
func (r *readings) enter(entries []ir.CacheEntry) (all []*reading, fresh []ir.CacheEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		r.list, r.ended = map[string]*reading{}, map[string]map[digest.Digest]bool{}
	}
	for _, e := range entries {
		id := cacheentry.ID(e)
		if r.list[id] == nil {
			r.list[id] = &reading{entry: e, done: make(chan struct{})}
			fresh = append(fresh, e)
		}
		all = append(all, r.list[id])
	}
	return all, fresh
}

// forget takes back entries whose reading did not begin, and lets those that wait for them go
// on.
func (r *readings) forget(entries []ir.CacheEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		id := cacheentry.ID(e)
		r.list[id].end()
		delete(r.list, id)
	}
}

// end marks the cache as read. It is called with the lock held.
func (r *reading) end() {
	select {
	case <-r.done:
	default:
		close(r.done)
	}
}

// observe notes the caches that have been read. A cache in a registry is recognised by its ref.
// The others are known only by their type and a number of the daemon's: those of a type are
// done when all are.
func (r *readings) observe(st *bkclient.SolveStatus) {
	for _, v := range st.Vertexes {
		name, ok := strings.CutPrefix(v.Name, cacheentry.ReadVertex)
		if !ok || v.Completed == nil {
			continue
		}
		r.note(name, v.Digest)
	}
}

func (r *readings) note(name string, vertex digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := false
	for _, x := range r.list {
		if x.entry.Type == ir.TypeRegistry && x.entry.Attrs["ref"] == name {
			x.end()
			found = true
		}
	}
	if found {
		return
	}
	kind, _, _ := strings.Cut(name, ":") // of "gha:1234"
	var of []*reading
	for _, x := range r.list {
		if x.entry.Type == kind {
			of = append(of, x)
		}
	}
	if r.ended[kind] == nil {
		r.ended[kind] = map[digest.Digest]bool{}
	}
	r.ended[kind][vertex] = true
	if len(r.ended[kind]) >= len(of) {
		for _, x := range of {
			x.end()
		}
	}
}

// nothing is a definition that no daemon loads: its only op needs another that is missing.
// Solving it only makes the daemon read caches (solver/llbsolver/bridge.go, loadResult).
func nothing() (*pb.Definition, error) {
	op := &pb.Op{Inputs: []*pb.Input{{Digest: digest.FromString("").String()}}}
	dt, err := op.Marshal()
	if err != nil {
		return nil, err
	}
	return &pb.Definition{Def: [][]byte{dt}}, nil
}

// read makes the build ev read the caches of a solve, and returns those to import: they
// have been read, or could not be.
func (s *solver) read(ctx context.Context, ev *evaluation, entries []ir.CacheEntry) ([]ir.CacheEntry, error) {
	entries = s.heard(entries)
	all, fresh := ev.readings.enter(entries)
	if len(fresh) > 0 {
		def, err := nothing()
		if err != nil {
			return nil, err
		}
		_, err = ev.client.Solve(ctx, gateway.SolveRequest{Evaluate: true, Definition: def, CacheImports: cacheentry.ForGateway(fresh)})
		if ctx.Err() != nil || err != nil && fault.Retryable(err) {
			ev.readings.forget(fresh)
			return nil, cmp.Or(context.Cause(ctx), err)
		}
		// Any other error is what was to be expected.
	}
	for _, x := range all {
		if err := s.awaitRead(ctx, x); err != nil {
			return nil, err
		}
	}
	return s.heard(entries), nil
}

// awaitRead waits until a cache has been read, or is given up.
func (s *solver) awaitRead(ctx context.Context, x *reading) error {
	giveUp := time.Now().Add(longestRead)
	for {
		grows := s.silent.grows()
		if len(s.heard([]ir.CacheEntry{x.entry})) == 0 {
			return nil
		}
		t := time.NewTimer(readTimeout)
		select {
		case <-x.done:
			t.Stop()
			return nil
		case <-grows:
			t.Stop()
			continue
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
		where := cacheentry.Server(x.entry)
		if host := cacheentry.Registry(x.entry); host != "" && time.Now().Before(giveUp) {
			if asked := s.asks(ctx, map[string]string{host: cacheentry.Probe(x.entry)}); len(asked) == 0 {
				continue // it is slow
			}
		}
		s.leaveOut(where)
	}
}
