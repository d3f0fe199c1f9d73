package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
)

// A cache names the layers of a result, and a node fetches them only when something reads the
// result. Only then does it turn out that a layer is gone, or is not what it was
// (moby/buildkit#2836). So the node is asked which results it cannot read any more, from what
// failed downwards. Those are built again, on the same node, as if they ignored the cache. From
// then on the newest result counts, there and in the caches that the run writes.

// findLimit bounds how long a node looks for what it lost: it fetches what it did not lose.
const findLimit = 10 * time.Minute

// mostRepeats is how often a unit is submitted again after a failure to read what is there again,
// or is being built anew. What a cache has lost is no fault of a node, so these are no failed
// attempts; those that follow are.
const mostRepeats = 3

// lostResults are those that nodes could not read. They belong to the loop.
type lostResults struct {
	work     *work
	exchange *exchange
	reporter *reporter
	workers  *workers
	// gone are the steps whose results a node could not read, each with how many failures there
	// were before it ignored the cache; less than none when it has failed since, and what is known
	// of it was forgotten. Invariant: for each, aliases has the digest under which nodes know it
	// when it ignores the cache.
	gone    map[*nodeRun]map[digest.Digest]int
	aliases map[digest.Digest]digest.Digest
	// repeats counts how often units were submitted again although nothing was found lost.
	repeats map[sched.UnitID]int
}

func newLostResults(w *work, x *exchange, t *reporter, ws *workers) *lostResults {
	return &lostResults{
		work: w, exchange: x, reporter: t, workers: ws,
		gone: map[*nodeRun]map[digest.Digest]int{}, aliases: map[digest.Digest]digest.Digest{},
		repeats: map[sched.UnitID]int{},
	}
}

// lookups decides for steps, by digest, whether they are looked up, whatever the graph says. It
// is true for those that ignore the cache and were executed in this run, since their newest
// result counts. It is false for those whose result the node could not read. Nil is none.
type lookups map[string]bool

// lookups returns the lookups of a node: what it executed, what was sent to it, and all
// below that, since the node finds a result by its inputs.
func (l *lostResults) lookups(n *nodeRun) lookups {
	var known lookups
	for _, v := range l.work.ignoring {
		d := l.work.Graph.Vertices[v].Digest
		if !l.exchange.holds(v) && !n.tracker.status(d).done {
			continue
		}
		if known == nil {
			known = lookups{}
		}
		known[d.String()] = true
	}
	for d := range l.gone[n] {
		if known == nil {
			known = lookups{}
		}
		known[d.String()] = len(n.tracker.status(d).runs) > 0 // it was built again
	}
	return known
}

// present returns the lookups without those of results that could not be read. What is asked for
// with these is read and written, and never built: a node that has lost it says so.
func (l lookups) present() lookups {
	known := maps.Clone(l)
	maps.DeleteFunc(known, func(_ string, look bool) bool { return !look })
	return known
}

// in returns def with the lookups applied; it may change def.
func (l lookups) in(def *pb.Definition) *pb.Definition {
	for d, md := range def.GetMetadata() {
		if look, ok := l[d]; ok && md.GetIgnoreCache() == look {
			md = md.CloneVT()
			md.IgnoreCache = !look
			def.Metadata[d] = md
		}
	}
	return def
}

// lostMessage reports the results of p that a node cannot read.
type lostMessage struct {
	p     *submission
	units []sched.UnitID // that have failed
	then  message        // what is taken when nothing was found
	found []sched.VertexID
	built map[digest.Digest]bool // what had been lost and was built again when the search began
	blob  string
	cache string // that named the blob
	err   error
}

// search has the node of p look for results that it cannot read, below what err is about or
// else below units, and report them. It returns false when err is about something else. then is
// the message that was being taken; it is taken when nothing is found.
func (l *lostResults) search(p *submission, err error, units []sched.UnitID, then message) bool {
	blob, ok := fault.LostBlob(err)
	if !ok || p.state != running || p.conn.Broken() || p.conn.Witness == nil {
		return false
	}
	var chains [][]sched.VertexID
	known := l.lookups(p.node).present()
	for _, root := range l.below(err, units) {
		if c := l.work.stepChain(root); len(c) > 0 {
			chains = append(chains, c)
		}
	}
	defs := make([][]*pb.Definition, len(chains))
	for i, c := range chains {
		for _, v := range c {
			def, err := l.work.Graph.SliceAt(llbmerge.Root{Digest: l.work.Graph.Vertices[v].Digest})
			if err != nil {
				return false
			}
			defs[i] = append(defs[i], known.in(def))
		}
	}
	if len(chains) == 0 {
		return false
	}
	m := lostMessage{p: p, units: units, then: then, built: l.remade(p.node), blob: blob, err: err}
	observe := l.workers.observe(p.node, &solveSource{targets: p.targets, search: true})
	l.workers.start(func() {
		ctx, cancel := context.WithTimeout(p.conn.Ended, findLimit) // the solve's own context ends with its failure
		defer cancel()
		for i, c := range chains {
			from := p.conn.Witness.Unreadable(ctx, defs[i], p.slice.Imports, observe)
			m.found = append(m.found, c[from:]...)
		}
		m.cache = l.cacheWith(ctx, p.slice.Imports, blob)
		l.workers.report(m)
	})
	return true
}

// below returns the vertices whose results were read when err came up: what the
// failing step stands on, or the results of the units.
func (l *lostResults) below(err error, units []sched.UnitID) []sched.VertexID {
	var list []sched.VertexID
	var ve *bkerrdefs.VertexError
	if errors.As(err, &ve) {
		d := digest.Digest(ve.Digest)
		if original, ok := l.aliases[d]; ok {
			d = original
		}
		if v, ok := l.work.vertex[d]; ok && l.work.Graph.Vertices[v].Kind.IsStep() {
			for _, in := range l.work.Graph.Vertices[v].Inputs {
				list = append(list, l.work.vertex[in])
			}
			return list
		}
	}
	for _, u := range units {
		if step, ok := l.work.step(u); ok {
			list = append(list, sched.VertexID(l.work.Steps[step].Vertex))
			continue
		}
		for _, unit := range l.work.Jobs[u].Units {
			if root, ok := l.work.Graph.Root(string(unit.ID)); ok {
				list = append(list, l.work.vertex[root.Digest])
			}
		}
	}
	return list
}

func (m lostMessage) take(r *run) []sched.Event {
	p := m.p
	if p.state == ended {
		return nil
	}
	fresh := r.lost.note(p.node, m.found, m.built)
	r.lost.noteStuck(p.node)
	if p.state == unwanted {
		return m.then.take(r)
	}
	// Found for another submission since this one was cut, it is built again for both, or is
	// built already.
	fresh = fresh || p.lost < r.lost.count(p.node)
	if !fresh && !r.lost.mayRepeat(m.units) {
		// It was found before, or what was gone is there again, since another node has
		// written it, and that goes on: a failure that may pass.
		switch then := m.then.(type) {
		case solvedMessage:
			then.passing = true
			return then.take(r)
		case exportedMessage:
			then.passing = true
			return then.take(r)
		}
	}
	if fresh {
		r.lost.warn(p.node, m)
	}
	if export, ok := m.then.(exportedMessage); ok {
		export.again = true
		return export.take(r)
	}
	// Its units are to be submitted once more to its node; that is no failed attempt.
	end := r.end(p, fault.Plain(m.err).Error(), true)
	end.Again = true
	return []sched.Event{end}
}

// note notes that a node cannot read the results of some steps, and reports whether one of these
// was never lost before. Those in built are lost once more, and built once more.
func (l *lostResults) note(n *nodeRun, found []sched.VertexID, built map[digest.Digest]bool) (fresh bool) {
	for _, v := range found {
		d := l.work.Graph.Vertices[v].Digest
		if _, known := l.gone[n][d]; known && !built[d] {
			continue
		} else if !known {
			fresh = true
		}
		n.tracker.forget(d) // it is about to run
		l.ignore(n, d)
	}
	return fresh
}

// remade returns the results that a node could not read and has built again.
func (l *lostResults) remade(n *nodeRun) map[digest.Digest]bool {
	list := map[digest.Digest]bool{}
	for d := range l.gone[n] {
		if n.tracker.status(d).done {
			list[d] = true
		}
	}
	return list
}

// ignore has n build a step as if it ignored the cache.
func (l *lostResults) ignore(n *nodeRun, d digest.Digest) {
	if l.gone[n] == nil {
		l.gone[n] = map[digest.Digest]int{}
	}
	l.gone[n][d] = n.tracker.failures(d)
	l.aliases[daemon.Ignoring(d)] = d
}

// mayRepeat notes that units are to be submitted again although nothing was found lost. It
// reports false when that has been too often.
func (l *lostResults) mayRepeat(units []sched.UnitID) bool {
	yes := true
	for _, u := range units {
		l.repeats[u]++
		yes = yes && l.repeats[u] <= mostRepeats
	}
	return yes
}

// count is how many results n could not read.
func (l *lostResults) count(n *nodeRun) int { return len(l.gone[n]) }

// noteStuck has the steps that could not read what is lost ignore the cache, too. None of them
// has a result. A node does not try a failed step again as long as any build there uses it, and
// other work of the build in which it failed may take long; a step that ignores the cache is
// another one to the node.
func (l *lostResults) noteStuck(n *nodeRun) {
	for _, v := range l.work.Graph.Vertices {
		s := n.tracker.status(v.Digest)
		_, known := l.gone[n][v.Digest]
		if !v.Kind.IsStep() || !s.unread() || known && !s.done {
			continue
		}
		if s.done {
			n.tracker.forget(v.Digest)
		}
		l.ignore(n, v.Digest)
		if known {
			l.gone[n][v.Digest] = -1
		}
	}
}

// failures are the steps that ignore the cache on n and could not read what is lost all the same:
// there is no other step that they could be made. They are tried again once the builds have
// ended in which they failed.
func (l *lostResults) failures(n *nodeRun) []sched.VertexID {
	var list []sched.VertexID
	for d, before := range l.gone[n] {
		s := n.tracker.status(d)
		if before < 0 && !s.done || len(s.failures) > before && s.unread() {
			list = append(list, l.work.vertex[d])
		}
	}
	return list
}

// warn names the cache that has lost something, once.
func (l *lostResults) warn(n *nodeRun, m lostMessage) {
	what := "node " + n.info.Name + " kept only a reference to a layer that is gone"
	if m.cache != "" {
		what = "cache " + m.cache + " names a layer that is gone or damaged"
	}
	l.reporter.warnOf(what, fmt.Sprintf(" (%s): the steps that stand on such layers are built again", m.blob[:19]))
}

// cacheWith names the import whose manifest names a blob, as far as this machine can read
// it; "" when none does.
func (l *lostResults) cacheWith(ctx context.Context, imports []ir.CacheEntry, blob string) string {
	ctx, cancel := context.WithTimeout(ctx, daemon.ReachTimeout)
	defer cancel()
	c := registry.New(l.work.Registries)
	defer c.Close()
	var refs []string
	for _, e := range imports {
		if e.Type != ir.TypeRegistry {
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

// unalias returns st with the digests that the graph has for vertices which were made to ignore
// the cache. The daemon reads st as well, so it stays as it is.
func (l *lostResults) unalias(st *bkclient.SolveStatus) *bkclient.SolveStatus {
	if len(l.aliases) == 0 {
		return st
	}
	return daemon.RenameVertices(st, func(d digest.Digest) digest.Digest {
		if original, ok := l.aliases[d]; ok {
			return original
		}
		return d
	})
}
