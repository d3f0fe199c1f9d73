package daemon

import (
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
	// Below are the steps below it that read directories of the client as another input than
	// their first, as COPY does.
	Below []digest.Digest
	// Image makes an image of the result, and returns it as a source. Any goroutine may call it.
	Image func(ctx context.Context) (*pb.SourceOp, error)
}

// in reports whether a definition has the step.
func (t Take) in(def *pb.Definition) bool {
	_, ok := def.GetMetadata()[t.Step.String()]
	return ok
}

// standIns are images that stand in, on one node, for steps whose results its build would
// not find in a cache.
//
// A directory of the client has two keys: one of its session and one of its content. No cache
// holds the former. BuildKit looks a step up once in a build, in the caches that the build
// knows by then. It finds what stands on that step in a later cache only if this holds every
// key of every input but the first (solver/cachemanager.go, getIDFromDeps, in v0.34). So
// what is sent to a node after it has looked up a COPY below it would be built again. Then
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
// and returns what is to be solved. A step that cannot be replaced is left as it is. The error is
// that of ctx.
func (i *standIns) decide(ctx context.Context, c gateway.Client, takes []Take, defs []*pb.Definition, caches []ir.CacheEntry) ([]*pb.Definition, error) {
	leave, err := i.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()

	for _, t := range takes {
		if i.decided(t.Step) || !slices.ContainsFunc(defs, t.in) {
			continue
		}
		var source *pb.SourceOp
		if i.hidden(t) {
			source = i.fetch(ctx, c, t)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		i.mu.Lock()
		i.sources[t.Step] = source
		i.mu.Unlock()
	}
	known := make([]string, len(caches))
	for k, e := range caches {
		known[k] = cacheentry.ID(e)
	}
	list := make([]*pb.Definition, len(defs))
	for k, def := range defs {
		list[k] = i.replace(def)
		for d := range list[k].GetMetadata() {
			if _, ok := i.solved[d]; !ok {
				i.solved[d] = known
			}
		}
	}
	return list, nil
}

// decided reports whether it is known how the node is given a step.
func (i *standIns) decided(step digest.Digest) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, ok := i.sources[step]
	return ok
}

// hidden reports whether the node would not find a result in the cache that it was sent in.
func (i *standIns) hidden(t Take) bool {
	if _, ok := i.solved[t.Step.String()]; ok {
		return false // too late
	}
	return slices.ContainsFunc(t.Below, func(d digest.Digest) bool {
		first, ok := i.solved[d.String()]
		return ok && !slices.Contains(first, cacheentry.ID(t.Cache))
	})
}

// fetch has the node fetch the image of a result; nil when it cannot.
func (i *standIns) fetch(ctx context.Context, c gateway.Client, t Take) *pb.SourceOp {
	making, cancel := context.WithTimeout(ctx, standInTimeout)
	defer cancel()
	source, err := t.Image(making)
	if err != nil {
		return nil
	}
	def, vertex, err := llbmerge.Fetch(source, t.Name)
	if err != nil {
		return nil
	}
	i.mu.Lock()
	i.original[vertex] = t.Step
	i.fetched[t.Step] = true
	i.mu.Unlock()
	if _, err = c.Solve(ctx, gateway.SolveRequest{Evaluate: true, Definition: def}); err != nil {
		return nil
	}
	return source
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
