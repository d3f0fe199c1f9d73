package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	bkclient "github.com/moby/buildkit/client"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/layout"
	"github.com/dbake/dbake/runtime/sched"
)

// sendLimit bounds how long a result may take to the cache registry; then it goes
// through the client.
const sendLimit = 5 * time.Minute

// exchange transfers results of steps between nodes. Each is written as a cache of its own,
// to the cache registry or, where there is none or it fails, into a directory of the
// client; from then on every solve of the run imports it, by its digest.
//
// It belongs to the loop. Its workers use the fields that are set at the start.
type exchange struct {
	work     *work
	reporter *reporter
	store    cachepolicy.Store
	dir      string // of the caches at the client; "" when nothing is sent

	// sent is what was written, by step, and by the nodes that wrote it.
	// Invariant: a step in sent is in by.
	sent map[int]daemon.Take
	by   map[int]*nodeRun
	// given are the steps that nodes read in caches of their own. A node goes on reading what
	// it has read before.
	given map[*nodeRun]map[int]bool
	// whole are the steps that are sent with each, itself included: see parts.
	whole map[int][]sched.VertexID
	// mark ends the tags of this run, to keep other runs from reading, replacing or deleting
	// them. tags are those that nodes were asked to write; see untag.
	mark string
	tags map[string]bool
	// direct is set when the registry failed some node, or there is none: later transfers
	// go through the client. Invariant: it is never unset.
	direct bool
	// found are the steps that were sent, and all below them. Invariant: it holds, with a step,
	// all that the step stands on.
	found map[sched.VertexID]bool
	// images are those that workers made of results.
	images stepImages
	once   map[sched.VertexID]*nodeRun // the node that executed a step with one result
	done   []Transfer
}

func newExchange(w *work, t *reporter) (*exchange, error) {
	in := w.Cache
	x := &exchange{
		work: w, reporter: t, store: in.Store, direct: in.Store.IsZero(),
		sent: map[int]daemon.Take{}, by: map[int]*nodeRun{}, given: map[*nodeRun]map[int]bool{}, whole: map[int][]sched.VertexID{}, found: map[sched.VertexID]bool{}, once: map[sched.VertexID]*nodeRun{},
		mark: newMark(), tags: map[string]bool{},
	}
	if !x.sends() {
		return x, nil
	}
	var err error
	if x.dir, err = os.MkdirTemp("", "dbake-exchange-"); err != nil {
		return nil, fmt.Errorf("create a directory for results that nodes send each other: %w", err)
	}
	return x, nil
}

// sends reports whether anything may be sent.
func (x *exchange) sends() bool {
	for _, s := range x.work.Steps {
		if len(s.Sent) > 0 {
			return true
		}
	}
	return false
}

// close removes the directory at the client.
func (x *exchange) close() error {
	if x.dir == "" {
		return nil
	}
	return os.RemoveAll(x.dir)
}

// registry returns an entry in the registry that results are sent through; zero for none.
func (x *exchange) registry() ir.CacheEntry {
	if x.store.IsZero() {
		return ir.CacheEntry{}
	}
	return x.store.Entry(x.store.Name)
}

// place returns the directory of a step's cache.
func (x *exchange) place(step int) string { return filepath.Join(x.dir, strconv.Itoa(step)) }

// stores returns the stores from which nodes read the caches at the client.
func (x *exchange) stores() map[string]content.Store {
	stores := map[string]content.Store{}
	for i, s := range x.work.Steps {
		if len(s.Sent) > 0 {
			stores[cacheentry.StoreID(x.place(i))] = layout.Store(x.place(i))
			stores["oci:"+imageStore(i)] = layout.Store(x.place(i))
		}
	}
	return stores
}

// tag returns the reference under which the cache of a step is written to the registry.
func (x *exchange) tag(v *llbmerge.Vertex) string {
	return x.store.Name + ":" + x.store.StepTag(v.Digest.Encoded()[:16]+x.mark)
}

// export returns where the cache of a step is written: at the client if direct.
func (x *exchange) export(step int, v *llbmerge.Vertex, direct bool) ir.CacheEntry {
	e := ir.CacheEntry{Type: ir.TypeLocal, Attrs: map[string]string{}}
	if direct {
		e.Attrs["dest"] = x.place(step)
	} else {
		e = x.store.Entry(x.tag(v))
		maps.Copy(e.Attrs, x.store.Attrs)
	}
	// The result itself, not those of the steps below it.
	e.Attrs["mode"] = "min"
	e.Attrs["image-manifest"] = "true"
	e.Attrs["oci-mediatypes"] = "true"
	return e
}

// importEntry returns the import of the cache that the node's response describes.
func (x *exchange) importEntry(step int, resp map[string]string, direct bool) (ir.CacheEntry, error) {
	var m ocispecs.Descriptor
	if err := json.Unmarshal([]byte(resp[cacheentry.ManifestKey]), &m); err != nil {
		return ir.CacheEntry{}, fmt.Errorf("the node did not describe the cache: %w", err)
	}
	e := ir.CacheEntry{Type: ir.TypeLocal, Attrs: map[string]string{}}
	if direct {
		e.Attrs["src"], e.Attrs["digest"] = x.place(step), m.Digest.String()
	} else {
		e = x.store.Entry(x.store.Name + "@" + m.Digest.String())
	}
	return e, nil
}

// find notes that v, and so all below it, is among what was sent.
func (x *exchange) find(vertices []sched.Vertex, v sched.VertexID) {
	if x.found[v] {
		return
	}
	x.found[v] = true
	for _, in := range vertices[v].Inputs {
		x.find(vertices, in)
	}
}

// importsFor returns the imports of a solve of jobs on a node: caches, which are those of the
// jobs' clusters, and what was sent that the node needs, now or before. It also returns that. If
// the jobs take something, they import only what was sent. Where two caches hold a step, BuildKit
// looks the steps behind it up in only one of them, whichever that happens to be, and may miss the
// result (package cachepolicy, facts about BuildKit). So a result that was sent with another, too,
// is read there.
func (x *exchange) importsFor(n *nodeRun, jobs []plan.Job, caches []ir.CacheEntry) (imports []ir.CacheEntry, takes []daemon.Take) {
	needed := slices.DeleteFunc(slices.Sorted(maps.Keys(x.sent)), func(step int) bool {
		return x.by[step] == n || !slices.ContainsFunc(x.whole[step], func(v sched.VertexID) bool {
			return slices.ContainsFunc(jobs, func(j plan.Job) bool { return needs(j, x.work.Graph.Vertices[v]) })
		})
	})
	if x.given[n] == nil {
		x.given[n] = map[int]bool{}
	}
	given := x.given[n]
	holder := func(step int, among []int) int {
		return slices.IndexFunc(among, func(other int) bool {
			return other != step && slices.Contains(x.whole[other], sched.VertexID(x.work.Steps[step].Vertex))
		})
	}
	for _, step := range needed {
		if holder(step, needed) < 0 {
			given[step] = true
		}
	}
	in := map[int]int{} // steps by those with which they were sent
	for _, step := range needed {
		list := slices.Sorted(maps.Keys(given))
		if k := holder(step, list); !given[step] && k >= 0 {
			in[step] = list[k]
		} else {
			given[step] = true
		}
	}
	for _, step := range slices.Sorted(maps.Keys(x.sent)) {
		take := x.sent[step]
		if with, ok := in[step]; ok {
			take.Cache = x.sent[with].Cache
		} else if given[step] {
			imports = append(imports, take.Cache)
		} else {
			continue
		}
		takes = append(takes, take)
	}
	if len(needed) > 0 {
		return imports, takes
	}
	return slices.Concat(caches, imports), takes
}

// take describes a step that was sent, in a cache, to nodes that need it.
func (x *exchange) take(step int, entry ir.CacheEntry) daemon.Take {
	v, _ := x.work.stepVertex(step)
	below, readers := x.work.below(v)
	return daemon.Take{
		Step: v.Digest, Name: v.Step, Cache: entry, Below: below, Readers: readers,
		Image: func(ctx context.Context) (*pb.SourceOp, error) { return x.image(ctx, step, v, entry) },
	}
}

// parts returns the steps whose results n sends with a step. Where it found the step itself, it may
// have nothing of what is below: what has one result, and belongs to another node then, is left
// out, since n would execute it.
func (x *exchange) parts(n *nodeRun, step int) []sched.VertexID {
	var list []sched.VertexID
	for _, i := range x.work.Steps[step].Sent {
		v := sched.VertexID(i)
		if i == x.work.Steps[step].Vertex || !x.work.Sched.Vertices[v].Once || n.tracker.status(x.work.Graph.Vertices[v].Digest).done {
			list = append(list, v)
		}
	}
	return list
}

// write makes a node write a step and its parts through c, as long as within lasts. It returns
// the import of the result, nil when the step is not for others.
func (x *exchange) write(within context.Context, c *daemon.Connection, step int, parts []sched.VertexID, direct bool, known lookups, observe func(*bkclient.SolveStatus)) (*ir.CacheEntry, error) {
	if len(parts) == 0 {
		return nil, nil
	}
	ctx := within
	if !direct {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, sendLimit, fmt.Errorf("the cache registry did not take it within %s", sendLimit))
		defer cancel()
	}
	var req daemon.ExportRequest
	for _, i := range parts {
		// A step below the last has no result in its cache unless its layers are blobs,
		// so those that others may want by themselves are sent as well.
		if int(i) != x.work.Steps[step].Vertex && !x.work.Sched.Vertices[i].Once {
			continue
		}
		v := x.work.Graph.Vertices[i]
		def, err := x.work.Graph.SliceAt(llbmerge.Root{Digest: v.Digest})
		if err != nil {
			return nil, err
		}
		img := daemon.Content{Definition: known.in(def)}
		if v.Platform != nil {
			img.Platform = *v.Platform
		}
		req.Contents = append(req.Contents, img)
	}
	v, _ := x.work.stepVertex(step)
	req.CacheTo = append(req.CacheTo, cacheentry.ForClient(x.export(step, v, direct)))
	resp, err := c.ExportCache(ctx, req, observe)
	if err != nil {
		if within.Err() == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	e, err := x.importEntry(step, resp, direct)
	if err != nil {
		return nil, err
	}
	// If this fails, others may not find a step that stands on an image, and execute it again.
	// They warn of that.
	e, _ = x.link(ctx, step, e)
	return &e, nil
}

// noteMissed returns what follows when a node fails to read one of the imports for which which
// is true. From then on results are sent through the client.
func (x *exchange) noteMissed(n sched.NodeID, which func(ir.CacheEntry) bool) []sched.Event {
	var events []sched.Event
	for _, step := range slices.Sorted(maps.Keys(x.sent)) {
		if !which(x.sent[step].Cache) {
			continue
		}
		x.direct = true
		delete(x.sent, step)
		for _, v := range x.whole[step] {
			events = append(events, sched.VertexMissed{At: x.reporter.since(), Node: n, Vertex: v})
		}
	}
	return events
}

// noteExecution notes which node executed a step with one result, and warns of a second
// execution: the nodes did not use the same one.
func (x *exchange) noteExecution(n *nodeRun, v sched.VertexID) {
	if !x.work.Sched.Vertices[v].Once {
		return
	}
	first := x.once[v]
	if first == nil || first.err != nil {
		x.once[v] = n
		return
	}
	if first == n { // what it had is lost, there or in a cache
		x.noteRepetition(n, v)
		return
	}
	x.reporter.warn(fmt.Sprintf("%s was built by %s and again by %s: images that stand on it differ", x.work.Graph.Vertices[v].Step, first.info.Name, n.info.Name))
}

// noteRepetition warns that a node has executed a step with one result although it had that.
func (x *exchange) noteRepetition(n *nodeRun, v sched.VertexID) {
	if x.work.Sched.Vertices[v].Once {
		x.reporter.warn(fmt.Sprintf("%s was built by %s, and again after its result was lost: images that stand on it may differ", x.work.Graph.Vertices[v].Step, n.info.Name))
	}
}

// warnRelics warns that a node which came back may build on results of its own.
func (x *exchange) warnRelics(n *nodeRun, steps []sched.VertexID) {
	for _, v := range steps {
		x.reporter.warn(fmt.Sprintf("node %s may have built %s before it was lost, and no other node is left to build on the result of this run: images that stand on it may differ", n.info.Name, x.work.Graph.Vertices[v].Step))
	}
}

// noteSent makes the result of a step known to the solves that follow, and notes how long it took;
// sent is nil when no node needs it.
func (x *exchange) noteSent(n *nodeRun, step int, sent *ir.CacheEntry, t timing) []sched.Event {
	if sent == nil {
		return nil
	}
	x.reporter.send(n, step, nil)
	x.done = append(x.done, Transfer{
		Node: n.info.Name, Steps: x.work.Steps[step].Sent, Registry: cacheentry.Registry(*sent), Start: t.start, Took: t.took,
	})
	x.sent[step], x.by[step] = x.take(step, *sent), n
	x.find(x.work.Sched.Vertices, sched.VertexID(x.work.Steps[step].Vertex))
	var events []sched.Event
	for _, v := range x.whole[step] {
		events = append(events, sched.VertexCached{At: x.reporter.since(), Vertex: v})
	}
	return events
}

// noteUnsent notes that a step could not be sent. That is not a failure of the run: a node
// that needs it builds it.
func (x *exchange) noteUnsent(n *nodeRun, step int, err error) []sched.Event {
	v, _ := x.work.stepVertex(step)
	x.reporter.send(n, step, fault.Plain(err))
	x.reporter.warn(fmt.Sprintf("node %s: %s could not be transferred: %v; nodes that need it build it again, and images that stand on it may differ", n.info.Name, v.Step, fault.Plain(err)))
	var events []sched.Event
	for _, v := range x.whole[step] {
		events = append(events, sched.VertexUnsent{At: x.reporter.since(), Vertex: v})
	}
	return events
}

// detour sends all later results through the client, since one could not go through the
// registry.
func (x *exchange) detour(n *nodeRun, step int, err error) {
	if x.direct {
		return
	}
	x.direct = true
	v, _ := x.work.stepVertex(step)
	x.reporter.warn(fmt.Sprintf("node %s: %s could not be transferred through the cache registry; results go through this machine instead: %v", n.info.Name, v.Step, fault.Plain(err)))
}

// noteSilent notes that a registry does not answer a node. It returns the results that the
// node misses.
func (x *exchange) noteSilent(n sched.NodeID, host string) []sched.Event {
	if cacheentry.Registry(x.registry()) == host {
		x.direct = true
	}
	return x.noteMissed(n, func(e ir.CacheEntry) bool { return cacheentry.Registry(e) == host })
}

// send returns a function by which the node of p writes a step for the others: through the
// registry, or through the client when the registry failed before or does not take it. detour
// is why it does not, and t that of the way on which it went. What the node itself cannot read does
// not go through the client either. A worker calls the function.
func (x *exchange) send(p *submission, step int, known lookups, ws *workers) func() (sent *ir.CacheEntry, t timing, detour, err error) {
	v, _ := x.work.stepVertex(step)
	targets := x.work.targetsOf([]sched.UnitID{sched.UnitID(len(x.work.Jobs) + step)})
	parts := x.parts(p.node, step)
	x.whole[step] = parts
	write := func(direct bool) (*ir.CacheEntry, timing, error) {
		observe := ws.observe(p.node, &solveSource{targets: targets, export: true, id: v.Digest.String()})
		start := time.Now()
		sent, err := x.write(p.ctx, p.conn, step, parts, direct, known, observe)
		return sent, timing{start, time.Since(start)}, err
	}
	direct := x.direct
	if !direct && len(x.work.Steps[step].Sent) > 0 {
		x.tags[x.tag(v)] = true
	}
	return func() (sent *ir.CacheEntry, t timing, detour, err error) {
		sent, t, err = write(direct)
		if _, lost := fault.LostBlob(err); err != nil && !lost && !direct && p.ctx.Err() == nil {
			detour = err
			sent, t, err = write(true)
		}
		return sent, t, detour, err
	}
}

// timing is when something began, and how long it took.
type timing struct {
	start time.Time
	took  time.Duration
}

// holds reports whether a vertex is among what was sent, or below it.
func (x *exchange) holds(v sched.VertexID) bool { return x.found[v] }

// warnUnsent warns that a result which was asked for could not be sent. If the step itself
// failed, its targets report that.
func (x *exchange) warnUnsent(n *nodeRun, u sched.UnitID, err error) {
	if ve := (*bkerrdefs.VertexError)(nil); errors.As(err, &ve) {
		return
	}
	step, _ := x.work.step(u)
	v, _ := x.work.stepVertex(step)
	x.reporter.warn(fmt.Sprintf("node %s: %s could not be transferred: %v", n.info.Name, v.Step, fault.Plain(err)))
}

// noteImports warns of caches that a node cannot read. A cache that does not exist is no fault:
// the first build has yet to write it. Results that nodes have sent each other are sent again
// in another way.
func (x *exchange) noteImports(n *nodeRun, st *bkclient.SolveStatus) []sched.Event {
	var events []sched.Event
	for _, v := range st.Vertexes {
		ref, ok := strings.CutPrefix(v.Name, cacheentry.ReadVertex)
		if !ok || v.Error == "" || strings.Contains(v.Error, "context canceled") {
			continue
		}
		if missed := x.noteMissed(n.id, func(e ir.CacheEntry) bool { return e.Attrs["ref"] == ref }); len(missed) > 0 {
			x.reporter.warn(fmt.Sprintf("node %s cannot read what other nodes wrote to the cache registry; results go through this machine instead: %s", n.info.Name, v.Error))
			events = append(events, missed...)
			continue
		}
		if !strings.Contains(v.Error, ": not found") {
			x.reporter.warn(fmt.Sprintf("cache %s cannot be read: %s", ref, v.Error))
		}
	}
	return events
}
