package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/sched"
)

// The caches of clusters are written while nodes build, in waves, see
// [cachepolicy.Writer]. A wave is a solve of its own on the results that its node
// still holds.

// mostWaves is how many waves a node may write at once while it builds: what the
// registry takes is shared with the outputs.
const mostWaves = 4

// cached reports whether the cache of a ref is known to hold the results of all steps
// of a unit.
func (b *Build) cached(ref string, u ir.UnitID) bool { return b.CacheHolds[ref][u] }

// ran reports whether a node ran a step of a unit.
func (r *run) ran(n *nodeRun, u ir.UnitID) bool {
	return slices.ContainsFunc(r.steps[u], func(d digest.Digest) bool {
		s := n.tracker.vertices[d]
		return s != nil && len(s.runs) > 0
	})
}

// noteBuilt lets the writer of the caches know of a job that is built.
func (r *run) noteBuilt(u sched.UnitID, n *nodeRun) {
	if !r.caches.shared {
		return
	}
	for _, unit := range r.Jobs[u].Units {
		r.caches.writer.Built(unit.ID, int(n.id), r.ran(n, unit.ID))
	}
}

// writeWaves begins the waves that it is time for.
func (r *run) writeWaves(ctx context.Context) {
	if !r.caches.shared || ctx.Err() != nil {
		return
	}
	ready := func(node int) bool { return r.nodes[node].conn != nil && r.nodes[node].waves < mostWaves }
	for _, x := range r.caches.writer.Begin(ready) {
		r.writeCache(ctx, x, true)
	}
}

// writeCache writes a part of a cluster's cache, early or as the last thing of a run.
func (r *run) writeCache(ctx context.Context, x cachepolicy.Export, early bool) {
	n := r.nodes[x.Node]
	m := waveMessage{node: n, export: x, early: early}
	req, targets, err := r.cacheRequest(x)
	c := n.conn
	n.waves++
	r.busy.caches++
	if c == nil && err == nil {
		err = errNodeLost
	}
	observe := r.observeSolve(n, &solveSource{targets: targets, export: true, id: x.Entry.Attrs["ref"]})
	r.waves.Go(func() error {
		if err == nil && len(req.images) > 0 {
			both, cancel := endWith(c.ended, ctx)
			defer cancel()
			var resp map[string]string
			resp, err = c.exportCache(both, req, observe)
			m.manifest = manifestOf(resp)
		}
		if err != nil {
			m.err = fmt.Errorf("node %s: write cache %s: %w", n.info.Name, x.Entry.Attrs["ref"], plain(err))
		}
		r.messages <- m
		return nil
	})
}

// manifestOf is the manifest of a cache as the response of its export says; zero when
// there was nothing to write.
func manifestOf(resp map[string]string) ocispecs.Descriptor {
	var d ocispecs.Descriptor
	if json.Unmarshal([]byte(resp[cacheManifest]), &d) != nil {
		return ocispecs.Descriptor{}
	}
	return d
}

// cacheRequest returns what writes x, and the targets that it is of.
func (r *run) cacheRequest(x cachepolicy.Export) (req exportRequest, targets []string, err error) {
	known := r.lookups(r.nodes[x.Node])
	req.cacheTo = []bkclient.CacheOptionsEntry{cacheEntry(x.Entry)}
	for _, id := range x.Units {
		unit := r.units[id]
		if unit == nil || len(unit.Definition.GetDef()) == 0 {
			continue
		}
		img, err := r.image(unit, known)
		if err != nil {
			return req, nil, err
		}
		req.images = append(req.images, img)
		targets = appendNew(targets, unit.Target.Name)
	}
	return req, targets, nil
}

// waveMessage says how the writing of a cache went.
type waveMessage struct {
	node     *nodeRun
	export   cachepolicy.Export
	early    bool
	manifest ocispecs.Descriptor // zero when there was nothing to write
	err      error
}

func (m waveMessage) take(r *run) []sched.Event {
	m.node.waves--
	r.busy.caches--
	outcome := cachepolicy.Wrote
	ref := m.export.Entry.Attrs["ref"]
	switch {
	case m.err != nil:
		outcome = cachepolicy.Failed
		if !m.early {
			r.caches.failures = append(r.caches.failures, cacheFailure{ref: ref, err: m.err, required: m.export.Required})
		}
	case m.manifest.Digest == "":
		outcome = cachepolicy.Empty
	default:
		if r.caches.manifests == nil {
			r.caches.manifests = map[string]ocispecs.Descriptor{}
		}
		r.caches.manifests[ref] = m.manifest
		if m.export.Entry.Attrs["mode"] != "max" {
			break // it holds the last results only
		}
		r.caches.written = append(r.caches.written, WrittenCache{Ref: ref, Manifest: m.manifest.Digest, Steps: r.heldBy(m.node, m.export.Units)})
	}
	r.caches.writer.Ended(m.export, outcome)
	return nil
}

// builtOn says where the units were built.
func (r *run) builtOn(finish sched.Finish) map[ir.UnitID]int {
	nodes := map[ir.UnitID]int{}
	for u, o := range finish.Outcomes[:len(r.Jobs)] {
		if o.State != sched.Built {
			continue
		}
		for _, unit := range r.Jobs[u].Units {
			nodes[unit.ID] = int(o.Node)
		}
	}
	return nodes
}

// finishCaches writes what is left of the shared caches, all at once, and joins the
// parts. One that cannot be written is a warning, since what was asked for is built, or
// an error if the user wants it.
func (r *run) finishCaches(ctx context.Context, finish sched.Finish) error {
	r.pump(&r.waves)
	if finish.Reason != "" || !r.caches.shared {
		return nil
	}
	nodes := r.builtOn(finish)
	for u, n := range nodes {
		if r.ran(r.nodes[n], u) {
			r.caches.writer.Built(u, n, true) // status may have come after the end
		}
	}
	r.writeAll(ctx, r.caches.writer.Finish(nodes))
	rest := cachepolicy.Decide(r.caches.writer.Rest(nodes))
	exports, joins := r.caches.input.Elsewhere(nodes)
	r.writeAll(ctx, slices.Concat(rest.Exports, exports))
	// A cluster of which a part is missing is not to be joined.
	joins = slices.DeleteFunc(slices.Concat(rest.Joins, joins), func(j cachepolicy.Join) bool {
		return slices.ContainsFunc(r.caches.failures, func(f cacheFailure) bool { return slices.Contains(j.Parts, f.ref) })
	})
	joins = append(r.caches.writer.Joins(), joins...)
	var again []cachepolicy.Join
	for _, j := range r.joinCaches(ctx, joins) {
		if x := r.caches.writer.Again(j, nodes); x != nil {
			r.writeAll(ctx, x)
			again = append(again, j)
		}
	}
	if len(again) > 0 {
		r.joinCaches(ctx, slices.DeleteFunc(r.caches.writer.Joins(), func(j cachepolicy.Join) bool {
			return !slices.ContainsFunc(again, func(a cachepolicy.Join) bool { return a.Cluster == j.Cluster })
		}))
	}
	var errs []error
	for _, f := range r.caches.failures {
		if f.required {
			errs = append(errs, f.err)
		} else {
			r.caches.warn(f.err.Error())
		}
	}
	return errors.Join(errs...)
}

// cacheFailure is a cache that could not be written.
type cacheFailure struct {
	ref      string
	err      error
	required bool // to be written, so that the build fails
}

// writeAll writes parts of caches and waits for them.
func (r *run) writeAll(ctx context.Context, list []cachepolicy.Export) {
	for _, x := range list {
		r.writeCache(ctx, x, false)
	}
	r.pump(&r.waves)
}
