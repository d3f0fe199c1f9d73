package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"

	bkclient "github.com/moby/buildkit/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/cachestore"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/sched"
)

// The caches of clusters are written while nodes build, in waves, see
// [cachepolicy.Writer]. A wave is a solve of its own on the results that its node
// still holds.

// mostWaves is how many waves a node may write at once while it builds: they share the
// registry's bandwidth with the outputs.
const mostWaves = 4

// waves write the caches of clusters. They belong to the loop.
type waves struct {
	work     *work
	caches   *caches
	nodes    nodeRuns
	lost     *lostResults
	reporter *reporter
	workers  *workers
	activity *activity
	drains   *drains
	// wait takes messages in until every goroutine of a group has ended.
	wait func(*errgroup.Group)

	writer   *cachepolicy.Writer
	underway map[*nodeRun]int // caches being written
	// written are the caches that were written whole. manifests are those of all that were
	// written, by ref. failures are the caches that could not be written.
	written   []WrittenCache
	manifests map[string]ocispecs.Descriptor
	failures  []cacheFailure
}

// cached reports whether the cache at ref is known to hold the results of all steps of a unit.
func (b *Build) cached(ref string, u ir.UnitID) bool { return b.CacheHolds[ref][u] }

// waveMessage reports how writing a cache ended.
type waveMessage struct {
	node     *nodeRun
	export   cachepolicy.Export
	early    bool
	manifest ocispecs.Descriptor // zero when there was nothing to write
	err      error
}

func (m waveMessage) take(r *run) []sched.Event {
	r.waves.note(m)
	return nil
}

// cacheFailure is a cache that could not be written.
type cacheFailure struct {
	ref      string
	err      error
	required bool // to be written, so that the build fails
}

func newWaves(w *work, c *caches, nodes nodeRuns, l *lostResults, t *reporter, ws *workers, a *activity, d *drains, wait func(*errgroup.Group)) *waves {
	return &waves{
		work: w, caches: c, nodes: nodes, lost: l, reporter: t, workers: ws, activity: a, drains: d, wait: wait,
		writer:   cachepolicy.NewWriter(c.input, w.cached),
		underway: map[*nodeRun]int{}, manifests: map[string]ocispecs.Descriptor{},
	}
}

// noteBuilt notes that a job is built on a node.
func (w *waves) noteBuilt(u sched.UnitID, n *nodeRun) {
	if !w.caches.shared {
		return
	}
	for _, unit := range w.work.Jobs[u].Units {
		w.writer.NoteBuilt(unit.ID, int(n.id), n.tracker.hasRun(w.work.steps[unit.ID]))
	}
}

// note notes how the writing of a cache went.
func (w *waves) note(m waveMessage) {
	w.underway[m.node]--
	w.activity.cache(-1)
	outcome := cachepolicy.Wrote
	ref := m.export.Entry.Attrs["ref"]
	switch {
	case m.err != nil:
		outcome = cachepolicy.Failed
		if !m.early {
			w.failures = append(w.failures, cacheFailure{ref: ref, err: m.err, required: m.export.Required})
		}
	case m.manifest.Digest == "":
		outcome = cachepolicy.Empty
	default:
		w.manifests[ref] = m.manifest
		if m.export.Entry.Attrs["mode"] != "max" {
			break // it holds the last results only
		}
		steps := m.node.tracker.present(w.work.stepsOf(m.export.Units))
		w.written = append(w.written, WrittenCache{Ref: ref, Manifest: m.manifest.Digest, Steps: steps})
	}
	w.writer.NoteEnd(m.export, outcome)
}

// begin starts the waves that are due.
func (w *waves) begin(ctx context.Context) {
	if !w.caches.shared || ctx.Err() != nil {
		return
	}
	ready := func(node int) bool {
		return w.nodes[node].conn != nil && !w.drains.has(w.nodes[node]) && w.underway[w.nodes[node]] < mostWaves
	}
	for _, x := range w.writer.Begin(ready) {
		w.write(ctx, x, true)
	}
}

// write writes a part of a cluster's cache, early or as the last thing of a run.
func (w *waves) write(ctx context.Context, x cachepolicy.Export, early bool) {
	n := w.nodes[x.Node]
	m := waveMessage{node: n, export: x, early: early}
	req, targets, err := w.request(x)
	c, name := n.conn, n.info.Name
	w.underway[n]++
	w.activity.cache(1)
	switch {
	case err != nil:
	case w.drains.has(n): // it is to go
		err, m.export.Required = errDrained, false
	case c == nil:
		err = errNodeLost
	}
	observe := w.workers.observe(n, &solveSource{targets: targets, export: true, id: x.Entry.Attrs["ref"]})
	w.workers.startWave(func() {
		if err == nil && len(req.Contents) > 0 {
			both, cancel := c.Within(ctx)
			defer cancel()
			var resp map[string]string
			resp, err = c.ExportCache(both, req, observe)
			m.manifest = cacheentry.Manifest(resp)
		}
		if err != nil {
			m.err = fmt.Errorf("node %s: write cache %s: %w", name, x.Entry.Attrs["ref"], fault.Plain(err))
		}
		w.workers.report(m)
	})
}

// request returns the export that writes x, and its targets.
func (w *waves) request(x cachepolicy.Export) (req daemon.ExportRequest, targets []string, err error) {
	known := w.lost.lookups(w.nodes[x.Node]).present()
	req.CacheTo = []bkclient.CacheOptionsEntry{cacheentry.ForClient(x.Entry)}
	for _, id := range x.Units {
		unit := w.work.units[id]
		if unit == nil || unit.IsEmpty() {
			continue
		}
		img, err := w.work.image(unit, known)
		if err != nil {
			return req, nil, err
		}
		req.Contents = append(req.Contents, img)
		targets = appendNew(targets, unit.Target.Name)
	}
	return req, targets, nil
}

// builtOn returns the nodes that built the units.
func (w *waves) builtOn(finish sched.Finish) map[ir.UnitID]int {
	nodes := map[ir.UnitID]int{}
	for u, o := range finish.Outcomes[:len(w.work.Jobs)] {
		if o.State != sched.Built {
			continue
		}
		for _, unit := range w.work.Jobs[u].Units {
			nodes[unit.ID] = int(o.Node)
		}
	}
	return nodes
}

// finish writes what is left of the shared caches, all at once, and joins the parts. A cache
// that cannot be written is only a warning, since everything that was asked for is built,
// unless the user requires the cache. images stood in for results that were sent.
func (w *waves) finish(ctx context.Context, finish sched.Finish, images []*cachestore.Image) error {
	w.wait(&w.workers.waves)
	if finish.Reason != "" || !w.caches.shared {
		return nil
	}
	nodes := w.builtOn(finish)
	for u, n := range nodes {
		if w.nodes[n].tracker.hasRun(w.work.steps[u]) {
			w.writer.NoteBuilt(u, n, true) // status may have come after the end
		}
	}
	w.writeAll(ctx, w.writer.Finish(nodes))
	rest := cachepolicy.Decide(w.writer.Rest(nodes))
	exports, joins := w.caches.input.Elsewhere(nodes)
	w.writeAll(ctx, slices.Concat(rest.Exports, exports))
	// A cluster that lacks a part is not to be joined.
	joins = slices.DeleteFunc(slices.Concat(rest.Joins, joins), func(j cachepolicy.Join) bool {
		return slices.ContainsFunc(w.failures, func(f cacheFailure) bool { return slices.Contains(j.Parts, f.ref) })
	})
	joins = append(w.writer.Joins(), joins...)
	var again []cachepolicy.Join
	for _, j := range w.join(ctx, joins, images) {
		if x := w.writer.Again(j, nodes); x != nil {
			w.writeAll(ctx, x)
			again = append(again, j)
		}
	}
	if len(again) > 0 {
		w.join(ctx, slices.DeleteFunc(w.writer.Joins(), func(j cachepolicy.Join) bool {
			return !slices.ContainsFunc(again, func(a cachepolicy.Join) bool { return a.Cluster == j.Cluster })
		}), images)
	}
	var errs []error
	for _, f := range w.failures {
		if f.required {
			errs = append(errs, f.err)
		} else {
			w.reporter.warn(f.err.Error())
		}
	}
	return errors.Join(errs...)
}

// writeAll writes parts of caches and waits for them.
func (w *waves) writeAll(ctx context.Context, list []cachepolicy.Export) {
	for _, x := range list {
		w.write(ctx, x, false)
	}
	w.wait(&w.workers.waves)
}
