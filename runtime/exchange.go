package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/sched"
)

// cacheManifest is where the response of a cache's export describes its manifest
// (cache/remotecache/export.go).
const cacheManifest = "cache.manifest"

// sendLimit bounds how long a result may take to the cache registry; then it goes
// through the client.
const sendLimit = 5 * time.Minute

// exchange hands results of steps from node to node. Each is written as a cache of
// its own, to the cache registry or, where there is none or it fails, into a directory
// of the client; from then on every solve of the run imports it, by its digest.
//
// All but the fields that are set at the start is owned by the loop.
type exchange struct {
	steps []plan.Intermediate
	store cachepolicy.Store
	dir   string // of the caches at the client; "" when nothing is sent

	sent map[int]ir.CacheEntry // imports of what was written, by step
	by   map[int]*nodeRun      // the nodes that wrote it
	// mark ends the tags of this run, so that no other run reads, replaces or deletes
	// them. tags are those that nodes were told to write; see untag.
	mark string
	tags map[string]bool
	// direct says that the registry failed some node: what follows goes through the
	// client.
	direct bool
	found  map[sched.VertexID]bool // what was sent, and all below it
	once   map[sched.VertexID]*nodeRun
}

func newExchange(steps []plan.Intermediate, in cachepolicy.Input) (*exchange, error) {
	x := &exchange{
		steps: steps, store: in.Store, direct: in.Store.IsZero(),
		sent: map[int]ir.CacheEntry{}, by: map[int]*nodeRun{}, found: map[sched.VertexID]bool{}, once: map[sched.VertexID]*nodeRun{},
		mark: newMark(), tags: map[string]bool{},
	}
	if !x.sends() {
		return x, nil
	}
	var err error
	if x.dir, err = os.MkdirTemp("", "dbake-exchange-"); err != nil {
		return nil, fmt.Errorf("make room for what nodes hand over: %w", err)
	}
	return x, nil
}

// sends reports whether anything may be handed over.
func (x *exchange) sends() bool {
	for _, s := range x.steps {
		if len(s.Sent) > 0 {
			return true
		}
	}
	return false
}

// close removes what is left at the client.
func (x *exchange) close() error {
	if x.dir == "" {
		return nil
	}
	return os.RemoveAll(x.dir)
}

// imports are those of what was sent, in the order of the steps.
func (x *exchange) imports() []ir.CacheEntry {
	var list []ir.CacheEntry
	for _, step := range slices.Sorted(maps.Keys(x.sent)) {
		list = append(list, x.sent[step])
	}
	return list
}

// registry is an entry in the registry that results are sent through; zero for none.
func (x *exchange) registry() ir.CacheEntry {
	if x.store.IsZero() {
		return ir.CacheEntry{}
	}
	return x.store.Entry(x.store.Name)
}

// place is the directory of a step's cache.
func (x *exchange) place(step int) string { return filepath.Join(x.dir, strconv.Itoa(step)) }

// stores are those that nodes read the caches at the client from.
func (x *exchange) stores() map[string]content.Store {
	stores := map[string]content.Store{}
	for i, s := range x.steps {
		if len(s.Sent) > 0 {
			stores[storeOf(x.place(i))] = layoutStore(x.place(i))
		}
	}
	return stores
}

// tag is the reference under which the cache of a step is written to the registry.
func (x *exchange) tag(v *llbmerge.Vertex) string {
	return x.store.Name + ":" + x.store.StepTag(v.Digest.Encoded()[:16]+x.mark)
}

// export is where the cache of a step is written: at the client if direct.
func (x *exchange) export(step int, v *llbmerge.Vertex, direct bool) ir.CacheEntry {
	e := ir.CacheEntry{Type: cacheLocal, Attrs: map[string]string{}}
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

// imported is the import of what was written as the response of the node says.
func (x *exchange) imported(step int, resp map[string]string, direct bool) (ir.CacheEntry, error) {
	var m ocispecs.Descriptor
	if err := json.Unmarshal([]byte(resp[cacheManifest]), &m); err != nil {
		return ir.CacheEntry{}, fmt.Errorf("the node did not describe the cache: %w", err)
	}
	e := ir.CacheEntry{Type: cacheLocal, Attrs: map[string]string{}}
	if direct {
		e.Attrs["src"], e.Attrs["digest"] = x.place(step), m.Digest.String()
	} else {
		e = x.store.Entry(x.store.Name + "@" + m.Digest.String())
	}
	return e, nil
}

// step returns the number of the step that a unit stands for; ok is false when it
// stands for a job.
func (r *run) step(u sched.UnitID) (step int, ok bool) {
	return int(u) - len(r.Jobs), int(u) >= len(r.Jobs)
}

// stepVertex returns the vertex of a step, and its definition's root.
func (r *run) stepVertex(step int) (*llbmerge.Vertex, llbmerge.Root) {
	v := r.Graph.Vertices[r.Steps[step].Vertex]
	return v, llbmerge.Root{Digest: v.Digest}
}

// onDemand reports whether a unit only sends a result that a node turned out to need.
func (r *run) onDemand(u sched.UnitID) bool {
	step, ok := r.step(u)
	return ok && r.Steps[step].Node < 0
}

// importsFor returns what a solve of jobs on a node reads: the caches of their clusters
// and what was sent. Jobs that take a result from another node read only what was sent:
// where both hold a step, BuildKit looks the steps behind it up in one of them alone,
// whichever that happens to be, and then the result would not be found (package
// cachepolicy, facts about BuildKit).
func (r *run) importsFor(n *nodeRun, jobs []plan.Job) []ir.CacheEntry {
	sent := r.exchange.imports()
	for step := range r.exchange.sent {
		if r.exchange.by[step] == n {
			continue // it has the result already
		}
		v, _ := r.stepVertex(step)
		if slices.ContainsFunc(jobs, func(j plan.Job) bool { return needs(j, v) }) {
			return sent
		}
	}
	return slices.Concat(r.caches.importsOf(jobs), sent)
}

// send writes the result of a step for the other nodes.
func (r *run) send(p *partitionRun, u sched.UnitID) {
	p.exports++
	r.busy.exports++
	direct, known := r.exchange.direct, r.lookups(p.node)
	if step, _ := r.step(u); !direct && len(r.Steps[step].Sent) > 0 {
		v, _ := r.stepVertex(step)
		r.exchange.tags[r.exchange.tag(v)] = true
	}
	r.workers.Go(func() error {
		m := exportedMessage{p: p, unit: u}
		step := int(u) - len(r.Jobs)
		m.sent, m.err = r.writeStep(p, step, direct, known)
		if m.err != nil && !direct && p.ctx.Err() == nil {
			m.detour = m.err
			m.sent, m.err = r.writeStep(p, step, true, known)
		}
		m.cancelled = p.ctx.Err() != nil
		r.messages <- m
		return nil
	})
}

// writeStep returns the import of what it wrote, nil when the step is not for
// others.
func (r *run) writeStep(p *partitionRun, step int, direct bool, known lookups) (*ir.CacheEntry, error) {
	if len(r.Steps[step].Sent) == 0 {
		return nil, nil
	}
	ctx := p.ctx
	if !direct {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, sendLimit, fmt.Errorf("the cache registry did not take it within %s", sendLimit))
		defer cancel()
	}
	var req exportRequest
	for _, i := range r.Steps[step].Sent {
		// Steps below the last have no result in its cache, although their layers are
		// there, so those that others may want by themselves are sent as well.
		if i != r.Steps[step].Vertex && !r.Sched.Vertices[i].Once {
			continue
		}
		v := r.Graph.Vertices[i]
		def, err := r.Graph.SliceAt(llbmerge.Root{Digest: v.Digest})
		if err != nil {
			return nil, err
		}
		img := image{definition: known.in(def)}
		if v.Platform != nil {
			img.platform = *v.Platform
		}
		req.images = append(req.images, img)
	}
	v, _ := r.stepVertex(step)
	req.cacheTo = append(req.cacheTo, cacheEntry(r.exchange.export(step, v, direct)))
	resp, err := p.conn.exportCache(ctx, req, r.observeSolve(p.node, &solveSource{targets: r.targetsOf([]sched.UnitID{sched.UnitID(len(r.Jobs) + step)}), export: true, id: v.Digest.String()}))
	if err != nil {
		if p.ctx.Err() == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	e, err := r.exchange.imported(step, resp, direct)
	return &e, err
}

// noteSent makes what was sent known to the solves that follow. That something could
// not be sent is no failure: who wanted it builds it.
func (r *run) noteSent(m exportedMessage) []sched.Event {
	step, _ := r.step(m.unit)
	v, _ := r.stepVertex(step)
	var events []sched.Event
	if m.detour != nil && !m.cancelled && !r.exchange.direct {
		r.exchange.direct = true
		r.caches.warn(fmt.Sprintf("node %s: %s could not be handed over through the cache registry; results go through this machine instead: %v", m.p.node.info.Name, v.Step, plain(m.detour)))
	}
	switch {
	case m.cancelled:
		return nil // the end of the solve tells why
	case m.err != nil:
		r.observe(r.sendEvent(m.p, step, plain(m.err)))
		r.caches.warn(fmt.Sprintf("node %s: %s could not be handed over: %v; nodes that need it build it again, and images that stand on it may differ", m.p.node.info.Name, v.Step, plain(m.err)))
		for _, v := range r.Steps[step].Sent {
			events = append(events, sched.VertexUnsent{At: r.since(), Vertex: sched.VertexID(v)})
		}
	case m.sent != nil:
		r.observe(r.sendEvent(m.p, step, nil))
		r.exchange.sent[step], r.exchange.by[step] = *m.sent, m.p.node
		r.exchange.find(r.Sched.Vertices, sched.VertexID(r.Steps[step].Vertex))
		for _, v := range r.Steps[step].Sent {
			events = append(events, sched.VertexCached{At: r.since(), Vertex: sched.VertexID(v)})
		}
	}
	return append(events, sched.UnitExported{At: r.since(), Partition: m.p.id, Unit: m.unit})
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

// missed returns what follows from the failure of a node to read one of the imports for
// which is true, and has what is sent from now on go through the client.
func (r *run) missed(n *nodeRun, which func(ir.CacheEntry) bool) []sched.Event {
	var events []sched.Event
	for _, step := range slices.Sorted(maps.Keys(r.exchange.sent)) {
		if !which(r.exchange.sent[step]) {
			continue
		}
		r.exchange.direct = true
		delete(r.exchange.sent, step)
		for _, v := range r.Steps[step].Sent {
			events = append(events, sched.VertexMissed{At: r.since(), Node: n.id, Vertex: sched.VertexID(v)})
		}
	}
	return events
}

// noteExecution notes which node executed a step with one result, and warns of a second
// execution: the nodes did not use the same one.
func (r *run) noteExecution(n *nodeRun, v sched.VertexID) {
	if !r.Sched.Vertices[v].Once {
		return
	}
	first := r.exchange.once[v]
	if first == nil || first.lost != nil {
		r.exchange.once[v] = n
		return
	}
	if first != n {
		r.caches.warn(fmt.Sprintf("%s was built by %s and again by %s: images that stand on it differ", r.Graph.Vertices[v].Step, first.info.Name, n.info.Name))
	}
}

// reopen forgets what jobs have written that are to be built again, because they rest
// on results that were lost.
func (r *run) reopen(cmd sched.Reopen) {
	node := r.nodes[cmd.Node]
	var steps, again, keep []string
	rests := map[int]bool{}
	for _, v := range cmd.Lost {
		if int(v) >= len(r.Graph.Vertices) {
			continue
		}
		steps = append(steps, r.Graph.Vertices[v].Step)
		for _, j := range r.jobsWith(r.Graph.Vertices[v]) {
			rests[j] = r.results[j].State == Done
		}
	}
	for _, u := range cmd.Units {
		if _, step := r.step(u); step {
			continue
		}
		j := &r.results[u]
		again = append(again, written(*j))
		node.jobs = slices.DeleteFunc(node.jobs, func(name string) bool { return name == j.Job })
		*j = JobResult{Job: j.Job, Target: j.Target, State: NotStarted}
		delete(rests, int(u))
	}
	for _, j := range slices.Sorted(maps.Keys(rests)) {
		if rests[j] {
			keep = append(keep, written(r.results[j]))
		}
	}
	if len(again)+len(keep) == 0 {
		return // nobody has seen anything of it
	}
	text := fmt.Sprintf("node %s was lost with the only result of %s, which is built again", node.info.Name, strings.Join(steps, ", "))
	if len(again) > 0 {
		text += fmt.Sprintf("; so is what was made with it: %s", strings.Join(again, ", "))
	}
	if len(keep) > 0 {
		text += fmt.Sprintf("; still made with the lost one: %s", strings.Join(keep, ", "))
	}
	r.caches.warn(text)
}

// written names a job and the images that it pushed.
func written(j JobResult) string {
	var images []string
	for _, i := range j.Images {
		images = append(images, i.Name)
	}
	if len(images) == 0 {
		return j.Job
	}
	return j.Job + " (" + strings.Join(images, ", ") + ")"
}

// lookups says of steps, by digest, whether they are to be looked up, whatever the graph
// says: true for those that ignore the cache and were executed in this run, since the
// newest result that there is of them is the one that counts; false for those whose result
// the node could not read. Nil is none.
type lookups map[string]bool

// lookups returns those of a node: what it executed, and what was sent to it with all
// below it, by which it is found.
func (r *run) lookups(n *nodeRun) lookups {
	var l lookups
	for _, v := range r.ignoring {
		d := r.Graph.Vertices[v].Digest
		if s := n.tracker.vertices[d]; !r.exchange.found[v] && (s == nil || !s.done) {
			continue
		}
		if l == nil {
			l = lookups{}
		}
		l[d.String()] = true
	}
	for d := range n.gone {
		if l == nil {
			l = lookups{}
		}
		s := n.tracker.vertices[d]
		l[d.String()] = s != nil && len(s.runs) > 0 // it was built again
	}
	return l
}

// in returns def, which it may change, with them.
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
