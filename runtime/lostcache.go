package runtime

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
)

// A cache tells a node which layers a result consists of, and the node fetches them when
// something reads the result: only then it turns out that a layer is gone, or is not what
// it was (moby/buildkit#2836). So the node is asked which results it cannot read any more,
// from what failed downwards. Those are built again, on the same node, as if they ignored
// the cache; the newest result is the one that counts from then on, there and in the caches
// that the run writes.

// findLimit bounds how long a node looks for what it lost: it fetches what it did not.
const findLimit = 10 * time.Minute

// lostBlob finds the blob that a node could not fetch, or that was not what it should be.
var lostBlob = regexp.MustCompile(`could not fetch content descriptor (sha256:[0-9a-f]{64})|unexpected commit digest sha256:[0-9a-f]{64}, expected (sha256:[0-9a-f]{64})|failed commit on ref "[^"]*(sha256:[0-9a-f]{64})"`)

// lost returns the blob that err says is gone; ok is false when it says something else.
func lost(err error) (blob string, ok bool) {
	if err == nil {
		return "", false
	}
	for _, found := range lostBlob.FindStringSubmatch(err.Error()) {
		if strings.HasPrefix(found, "sha256:") && len(found) == len("sha256:")+64 {
			return found, true
		}
	}
	return "", false
}

// ignoring is under which digest a node knows a vertex that ignores the cache while the
// same one is known that does not (solver/jobs.go, loadUnlocked).
func ignoring(d digest.Digest) digest.Digest {
	return digest.FromString(d.String() + "-ignorecache")
}

// lostMessage says which results of p a node cannot read.
type lostMessage struct {
	p     *partitionRun
	then  message // what is taken when nothing was found
	found []sched.VertexID
	blob  string
	cache string // that named the blob
	err   error
}

// findLost has the node of p look for what it cannot read, below what err is about or
// below units, and reports it. It returns false when err is about something else; then is
// what was to be taken, and is when nothing is found.
func (r *run) findLost(p *partitionRun, err error, units []sched.UnitID, then message) bool {
	blob, ok := lost(err)
	if !ok || p.ended || p.unwanted || p.conn.broken() || p.conn.unreadable == nil {
		return false
	}
	var chains [][]sched.VertexID
	known := r.lookups(p.node)
	for _, root := range r.lostBelow(err, units) {
		if c := r.stepChain(root); len(c) > 0 {
			chains = append(chains, c)
		}
	}
	defs := make([][]*pb.Definition, len(chains))
	for i, c := range chains {
		for _, v := range c {
			def, err := r.Graph.SliceAt(llbmerge.Root{Digest: r.Graph.Vertices[v].Digest})
			if err != nil {
				return false
			}
			defs[i] = append(defs[i], known.in(def))
		}
	}
	if len(chains) == 0 {
		return false
	}
	m := lostMessage{p: p, then: then, blob: blob, err: err}
	imports := p.slice.imports
	r.workers.Go(func() error {
		ctx, cancel := context.WithTimeout(p.ctx, findLimit)
		defer cancel()
		for i, c := range chains {
			from := p.conn.unreadable(ctx, defs[i], imports)
			m.found = append(m.found, c[from:]...)
		}
		m.cache = r.cacheWith(ctx, imports, blob)
		r.messages <- m
		return nil
	})
	return true
}

// lostBelow returns the vertices whose results were read when err came up: what the
// failing step stands on, or the results of the units.
func (r *run) lostBelow(err error, units []sched.UnitID) []sched.VertexID {
	var list []sched.VertexID
	var ve *bkerrdefs.VertexError
	if errors.As(err, &ve) {
		d := digest.Digest(ve.Digest)
		if original, ok := r.aliases[d]; ok {
			d = original
		}
		if v, ok := r.vertex[d]; ok && r.Graph.Vertices[v].Kind.IsStep() {
			for _, in := range r.Graph.Vertices[v].Inputs {
				list = append(list, r.vertex[in])
			}
			return list
		}
	}
	for _, u := range units {
		if step, ok := r.step(u); ok {
			list = append(list, sched.VertexID(r.Steps[step].Vertex))
			continue
		}
		for _, unit := range r.Jobs[u].Units {
			if root, ok := r.Graph.Root(string(unit.ID)); ok {
				list = append(list, r.vertex[root.Digest])
			}
		}
	}
	return list
}

// stepChain returns the steps on whose layers those of v stand, the lowest first, and v.
func (r *run) stepChain(v sched.VertexID) []sched.VertexID {
	var list []sched.VertexID
	for {
		x := r.Graph.Vertices[v]
		if !x.Kind.IsStep() {
			break
		}
		list = append(list, v)
		k := plan.LayerParent(x)
		if k < 0 || k >= len(x.Inputs) {
			break
		}
		v = r.vertex[x.Inputs[k]]
	}
	slices.Reverse(list)
	return list
}

func (m lostMessage) take(r *run) []sched.Event {
	p := m.p
	if p.ended {
		return nil
	}
	n := p.node
	fresh := 0
	for _, v := range m.found {
		d := r.Graph.Vertices[v].Digest
		if n.gone[d] {
			continue
		}
		fresh++
		if n.gone == nil {
			n.gone = map[digest.Digest]bool{}
		}
		n.gone[d] = true
		if r.aliases == nil {
			r.aliases = map[digest.Digest]digest.Digest{}
		}
		r.aliases[ignoring(d)] = d
		delete(n.tracker.vertices, d) // it is about to run
	}
	if fresh == 0 || p.unwanted {
		return m.then.take(r)
	}
	r.warnLost(n, m)
	text := plain(m.err).Error()
	if export, ok := m.then.(exportedMessage); ok {
		export.again = true
		return export.take(r)
	}
	return []sched.Event{r.again(p, text)}
}

// again ends p, whose units are to be submitted once more to its node; that is no failed
// attempt.
func (r *run) again(p *partitionRun, why string) sched.Event {
	p.end(r, why, true) // but for what it tells the scheduler
	return sched.PartitionEnded{At: r.since(), Partition: p.id, Err: why, Retryable: true, Again: true}
}

// warnLost names the cache that has lost something, once.
func (r *run) warnLost(n *nodeRun, m lostMessage) {
	what := "node " + n.info.Name + " kept only a reference to a layer that is gone"
	if m.cache != "" {
		what = "cache " + m.cache + " names a layer that is gone or damaged"
	}
	if slices.ContainsFunc(r.caches.warnings, func(w string) bool { return strings.HasPrefix(w, what) }) {
		return
	}
	r.caches.warn(fmt.Sprintf("%s (%s): the steps that stand on such layers are built again", what, m.blob[:19]))
}

// cacheWith names the import whose manifest names a blob, as far as this machine can read
// it; "" when none does.
func (r *run) cacheWith(ctx context.Context, imports []ir.CacheEntry, blob string) string {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	c := registry.New(r.Registries)
	defer c.Close()
	var refs []string
	for _, e := range imports {
		if e.Type != cacheRegistry {
			continue
		}
		refs = append(refs, e.Attrs["ref"])
		if dt, _, err := c.Manifest(ctx, e.Attrs["ref"]); err == nil && strings.Contains(string(dt), blob) {
			return e.Attrs["ref"]
		}
	}
	if len(refs) == 1 {
		return refs[0]
	}
	return ""
}

// unalias returns st with the digests that the graph has for vertices that were made to
// ignore the cache.
func (r *run) unalias(st *bkclient.SolveStatus) {
	if len(r.aliases) == 0 {
		return
	}
	of := func(d *digest.Digest) {
		if original, ok := r.aliases[*d]; ok {
			*d = original
		}
	}
	for _, v := range st.Vertexes {
		of(&v.Digest)
	}
	for _, s := range st.Statuses {
		of(&s.Vertex)
	}
	for _, l := range st.Logs {
		of(&l.Vertex)
	}
	for _, w := range st.Warnings {
		of(&w.Vertex)
	}
}

// unreadable returns the first of a chain of results, each of which contains the one
// before, that the node cannot read; their number when it can read all of them.
func (s *solver) unreadable(ctx context.Context, attach []session.Attachable, chain []*pb.Definition, imports []ir.CacheEntry) int {
	first := len(chain)
	_ = s.link.gateway(ctx, attach, func(ctx context.Context, c gateway.Client) error {
		first = searchLost(len(chain), func(i int) bool {
			res, err := c.Solve(ctx, gateway.SolveRequest{Definition: chain[i], Evaluate: true, CacheImports: gatewayImports(s.heard(imports))})
			if err == nil {
				var ref gateway.Reference
				if ref, err = res.SingleRef(); err == nil && ref != nil {
					_, err = ref.ReadDir(ctx, gateway.ReadDirRequest{Path: "/"})
				}
			}
			_, gone := lost(err)
			return gone
		})
		return nil
	}) // what it cannot say is not lost
	return first
}

// searchLost returns the first of n results that is gone, when all after it are, too.
func searchLost(n int, gone func(int) bool) int {
	low, high := 0, n
	for low < high {
		if mid := (low + high) / 2; gone(mid) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}
