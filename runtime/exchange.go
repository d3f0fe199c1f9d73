package runtime

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
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

// exchange hands results of steps from node to node. Each is written as a cache of
// its own, to the cache registry or, without one, into a directory of the client;
// from then on every solve of the run imports it, by its digest.
type exchange struct {
	steps []plan.Intermediate
	store cachepolicy.Store
	dir   string // of the caches at the client; "" when there are none

	sent []ir.CacheEntry // imports of what was written; owned by the loop
}

func newExchange(steps []plan.Intermediate, in cachepolicy.Input) (*exchange, error) {
	x := &exchange{steps: steps, store: in.Store}
	if !x.sends() || !x.store.IsZero() {
		return x, nil
	}
	var err error
	if x.dir, err = os.MkdirTemp("", "dbake-exchange-"); err != nil {
		return nil, fmt.Errorf("make room for what nodes hand over: %w", err)
	}
	return x, nil
}

// sends reports whether anything is handed over.
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

// place is the directory of a step's cache.
func (x *exchange) place(step int) string { return filepath.Join(x.dir, strconv.Itoa(step)) }

// stores are those that nodes read the caches at the client from.
func (x *exchange) stores() map[string]content.Store {
	stores := map[string]content.Store{}
	for i, s := range x.steps {
		if x.dir != "" && len(s.Sent) > 0 {
			stores[storeOf(x.place(i))] = layoutStore(x.place(i))
		}
	}
	return stores
}

// export is where the cache of a step is written.
func (x *exchange) export(step int, v *llbmerge.Vertex) ir.CacheEntry {
	e := ir.CacheEntry{Type: cacheLocal, Attrs: map[string]string{}}
	if x.dir == "" {
		e = x.store.Entry(x.store.Name + ":" + x.store.StepTag(v.Digest.Encoded()[:16]))
		maps.Copy(e.Attrs, x.store.Attrs)
	} else {
		e.Attrs["dest"] = x.place(step)
	}
	// The result itself, not those of the steps below it.
	e.Attrs["mode"] = "min"
	e.Attrs["image-manifest"] = "true"
	e.Attrs["oci-mediatypes"] = "true"
	return e
}

// imported is the import of what was written as the response of the node says.
func (x *exchange) imported(step int, resp map[string]string) (ir.CacheEntry, error) {
	var m ocispecs.Descriptor
	if err := json.Unmarshal([]byte(resp[cacheManifest]), &m); err != nil {
		return ir.CacheEntry{}, fmt.Errorf("the node did not describe the cache: %w", err)
	}
	e := ir.CacheEntry{Type: cacheLocal, Attrs: map[string]string{}}
	if x.dir == "" {
		e = x.store.Entry(x.store.Name + "@" + m.Digest.String())
	} else {
		e.Attrs["src"], e.Attrs["digest"] = x.place(step), m.Digest.String()
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

// send writes the result of a step for the other nodes.
func (r *run) send(p *partitionRun, u sched.UnitID) {
	p.exports++
	r.busy.exports++
	r.workers.Go(func() error {
		m := exportedMessage{p: p, unit: u}
		m.sent, m.err = r.writeStep(p, int(u)-len(r.Jobs))
		m.cancelled = p.ctx.Err() != nil
		r.messages <- m
		return nil
	})
}

// writeStep returns the import of what it wrote, nil when the step is not for
// others.
func (r *run) writeStep(p *partitionRun, step int) (*ir.CacheEntry, error) {
	if len(r.Steps[step].Sent) == 0 {
		return nil, nil
	}
	v, root := r.stepVertex(step)
	def, err := r.Graph.SliceAt(root)
	if err != nil {
		return nil, err
	}
	img := image{definition: def}
	if v.Platform != nil {
		img.platform = *v.Platform
	}
	req := exportRequest{images: []image{img}}
	req.cacheTo = append(req.cacheTo, cacheEntry(r.exchange.export(step, v)))
	resp, err := p.conn.exportCache(p.ctx, req, r.observeSolve(p.node, &solveSource{targets: r.targetsOf([]sched.UnitID{sched.UnitID(len(r.Jobs) + step)}), export: true, id: v.Digest.String()}))
	if err != nil {
		return nil, err
	}
	e, err := r.exchange.imported(step, resp)
	return &e, err
}

// noteSent makes what was sent known to the solves that follow. That something could
// not be sent is no failure: who wanted it builds it.
func (r *run) noteSent(m exportedMessage) []sched.Event {
	step, _ := r.step(m.unit)
	v, _ := r.stepVertex(step)
	var events []sched.Event
	switch {
	case m.cancelled:
		return nil // the end of the solve tells why
	case m.err != nil:
		r.observe(r.sendEvent(m.p, step, plain(m.err)))
		r.caches.warn(fmt.Sprintf("node %s: %s could not be handed over: %v", m.p.node.info.Name, v.Step, plain(m.err)))
	case m.sent != nil:
		r.observe(r.sendEvent(m.p, step, nil))
		r.exchange.sent = append(r.exchange.sent, *m.sent)
		for _, v := range r.Steps[step].Sent {
			events = append(events, sched.VertexCached{At: r.since(), Vertex: sched.VertexID(v)})
		}
	}
	return append(events, sched.UnitExported{At: r.since(), Partition: m.p.id, Unit: m.unit})
}
