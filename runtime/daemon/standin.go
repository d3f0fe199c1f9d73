package daemon

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	bkclient "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/cacheentry"
)

// Take is a step of a partition whose result another node has sent.
type Take struct {
	Step digest.Digest
	Name string // of the step
	// Cache holds the result. It is among the imports of the partition.
	Cache ir.CacheEntry
	// Below are the vertices below it. Readers are those of it and them that read directories of
	// the client as another input than their first, as COPY does.
	Below   map[digest.Digest]bool
	Readers []digest.Digest
	// Image makes an image of the result, and returns it as a source. Any goroutine may call it.
	Image func(ctx context.Context) (*pb.SourceOp, error)
}

// standIns are images that stand in, on one node, for steps whose results its build would
// not find in a cache.
//
// A directory of the client has two keys: one of its session and one of its content. No cache
// holds the former. BuildKit looks a step up once in a build, in the caches that the build
// knows by then. It finds what stands on that step in a later cache only if this holds every
// key of every input but the first (solver/cachemanager.go, getIDFromDeps, in v0.34). So
// what is sent to a node after it has looked up a COPY below it would be built again; and so would
// one of two results with the same COPY below them that are sent in two caches. Then
// an image of the result takes the place of the step in all that the node is given. What is
// copied from it is known by its content, so that caches hold the same as without; what runs
// on it is cached behind the image, and whoever joins the caches of nodes links it to the
// step as well (cachestore.Join).
//
// The zero value is ready for use, and safe for concurrent use.
type standIns struct {
	once sync.Once
	turn chan struct{} // holds a token while somebody decides; it guards solved

	// solved are the vertices of definitions that were solved, with the ids of the caches of
	// the first of these solves.
	solved map[string][]string

	mu sync.Mutex
	// sources are the images by the step that they stand in for; nil for a step that has
	// none. Guarded by mu.
	sources map[digest.Digest]*pb.SourceOp
	fetched map[digest.Digest]bool // steps with an image that was asked for; guarded by mu
	// original are the digests of vertices without stand-ins, by those with; guarded by mu.
	original map[digest.Digest]digest.Digest
}

// standInTimeout bounds how long it may take to make an image of a result.
const standInTimeout = 20 * time.Second

// enter waits until nobody else decides; leave ends that. The error is that of ctx.
func (i *standIns) enter(ctx context.Context) (leave func(), err error) {
	i.once.Do(func() {
		i.mu.Lock() // the status of a build may come before anybody decides
		defer i.mu.Unlock()
		i.turn = make(chan struct{}, 1)
		i.solved, i.sources = map[string][]string{}, map[digest.Digest]*pb.SourceOp{}
		i.fetched, i.original = map[digest.Digest]bool{}, map[digest.Digest]digest.Digest{}
	})
	select {
	case i.turn <- struct{}{}:
		return func() { <-i.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// decide decides which steps of defs, which are about to be solved with caches, are replaced,
// and returns what is to be solved, and with which caches. A step that cannot be replaced is left as
// it is. The error is that of ctx.
func (i *standIns) decide(ctx context.Context, c gateway.Client, takes []Take, defs []*pb.Definition, caches []ir.CacheEntry) ([]*pb.Definition, []ir.CacheEntry, error) {
	leave, err := i.enter(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer leave()

	list := i.replaceAll(defs)
	for _, t := range fromTop(takes) {
		if i.decided(t.Step) || !slices.ContainsFunc(list, func(def *pb.Definition) bool { return i.needs(def, t.Step) }) {
			continue
		}
		if i.misses(t, takes) && i.fetch(ctx, c, t) {
			list = i.replaceAll(defs)
			continue
		}
		i.mu.Lock()
		if i.sources[t.Step] = nil; ctx.Err() != nil {
			delete(i.sources, t.Step) // it is tried again
		}
		i.mu.Unlock()
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
	}
	caches = i.useful(takes, caches)
	known := make([]string, len(caches))
	for k, e := range caches {
		known[k] = cacheentry.ID(e)
	}
	for _, def := range list {
		for d := range def.GetMetadata() {
			for _, d := range []string{d, i.before(digest.Digest(d)).String()} {
				if _, ok := i.solved[d]; !ok {
					i.solved[d] = known
				}
			}
		}
	}
	return list, caches, nil
}

// needs reports whether a definition with stand-ins has the step, on whatever it stands.
func (i *standIns) needs(def *pb.Definition, step digest.Digest) bool {
	for d := range def.GetMetadata() {
		if i.before(digest.Digest(d)) == step {
			return true
		}
	}
	return false
}

// before returns the digest that a vertex has without stand-ins.
func (i *standIns) before(d digest.Digest) digest.Digest {
	i.mu.Lock()
	defer i.mu.Unlock()
	if was, ok := i.original[d]; ok {
		return was
	}
	return d
}

// fromTop returns takes in an order in which none is below one that follows.
func fromTop(takes []Take) []Take {
	list := slices.Clone(takes)
	slices.SortStableFunc(list, func(a, b Take) int { return cmp.Compare(len(b.Below), len(a.Below)) })
	return list
}

// replaceAll returns defs with stand-ins.
func (i *standIns) replaceAll(defs []*pb.Definition) []*pb.Definition {
	list := make([]*pb.Definition, len(defs))
	for k, def := range defs {
		list[k] = i.replace(def)
	}
	return list
}

// misses reports whether the node might not find a result in the cache that it was sent in.
func (i *standIns) misses(t Take, takes []Take) bool {
	if _, ok := i.solved[t.Step.String()]; ok {
		return false // too late
	}
	shared := func(d digest.Digest) bool { return slices.Contains(t.Readers, d) }
	return i.hidden(t) || slices.ContainsFunc(takes, func(o Take) bool {
		switch {
		case o.Step == t.Step:
			return false
		case i.standsFor(o.Step) || i.hidden(o):
			return t.Below[o.Step] // which has another key then
		default:
			// The node would look what is behind a shared COPY up in one of the two caches.
			return cacheentry.ID(o.Cache) != cacheentry.ID(t.Cache) && slices.ContainsFunc(o.Readers, shared)
		}
	})
}

// useful returns caches without those of results that images stand in for.
func (i *standIns) useful(takes []Take, caches []ir.CacheEntry) []ir.CacheEntry {
	drop, keep := map[string]bool{}, map[string]bool{}
	for _, t := range takes {
		if i.standsFor(t.Step) {
			drop[cacheentry.ID(t.Cache)] = true
		} else {
			keep[cacheentry.ID(t.Cache)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(caches), func(e ir.CacheEntry) bool {
		id := cacheentry.ID(e)
		return drop[id] && !keep[id]
	})
}

// standsFor reports whether an image stands in for a step.
func (i *standIns) standsFor(step digest.Digest) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.sources[step] != nil
}

// decided reports whether it is known how the node is given a step.
func (i *standIns) decided(step digest.Digest) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, ok := i.sources[step]
	return ok
}

// hidden reports whether the node has looked a COPY below t up before it knew the cache.
func (i *standIns) hidden(t Take) bool {
	if _, ok := i.solved[t.Step.String()]; ok {
		return false
	}
	return slices.ContainsFunc(t.Readers, func(d digest.Digest) bool {
		first, ok := i.solved[d.String()]
		return ok && !slices.Contains(first, cacheentry.ID(t.Cache))
	})
}

// fetch has the node fetch the image of a result, which then stands in for the step. It returns
// false when the node cannot.
func (i *standIns) fetch(ctx context.Context, c gateway.Client, t Take) bool {
	making, cancel := context.WithTimeout(ctx, standInTimeout)
	defer cancel()
	source, err := t.Image(making)
	if err != nil {
		return false
	}
	def, vertex, err := llbmerge.Fetch(source, t.Name)
	if err != nil {
		return false
	}
	i.mu.Lock()
	i.original[vertex] = t.Step
	i.fetched[t.Step] = true
	// When the node reports the image as fetched, the step counts as built, and its target is
	// exported at once, before Solve returns.
	i.sources[t.Step] = source
	i.mu.Unlock()
	_, err = c.Solve(ctx, gateway.SolveRequest{Evaluate: true, Definition: def})
	return err == nil
}

// replace returns def with stand-ins.
func (i *standIns) replace(def *pb.Definition) *pb.Definition {
	i.mu.Lock()
	defer i.mu.Unlock()
	sources := make(map[digest.Digest]*pb.SourceOp, len(i.sources))
	for d, s := range i.sources {
		if s != nil {
			sources[d] = s
		}
	}
	if len(sources) == 0 {
		return def
	}
	made, err := llbmerge.Replace(def, sources)
	if err != nil || made == nil {
		return def
	}
	for now, before := range made.Original {
		i.original[now] = before
	}
	return made.Definition
}

// restore returns st with the digests that vertices have without stand-ins. A stand-in is shown as
// what it is: a step whose result was there.
func (i *standIns) restore(st *bkclient.SolveStatus) *bkclient.SolveStatus {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.original) == 0 {
		return st
	}
	was := func(d digest.Digest) digest.Digest {
		if before, ok := i.original[d]; ok {
			return before
		}
		return d
	}
	out := RenameVertices(st, was)
	for k, v := range out.Vertexes {
		if i.fetched[v.Digest] && v.Digest != st.Vertexes[k].Digest && v.Completed != nil && v.Error == "" {
			v.Cached = true
		}
	}
	return out
}

// blame has err name the step that it is about as restore does.
func (i *standIns) blame(err error) error {
	var ve *bkerrdefs.VertexError
	if errors.As(err, &ve) {
		i.mu.Lock()
		defer i.mu.Unlock()
		if before, ok := i.original[digest.Digest(ve.Digest)]; ok {
			ve.Digest = before.String()
		}
	}
	return err
}
