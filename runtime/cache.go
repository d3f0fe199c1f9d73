package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/sched"
)

// caches are the decisions about caches of one run.
type caches struct {
	input    cachepolicy.Input
	imports  []cachepolicy.Import
	byUnit   map[ir.UnitID][]ir.CacheEntry // to be written with the outputs of the unit's job
	shared   bool                          // caches are written when all is built
	stores   map[string]content.Store      // of imports in directories
	warnings []string
	written  []WrittenCache
	// unwritten are the caches that targets write themselves and could not.
	unwritten map[outputOf]unwrittenCaches
}

// WrittenCache is a cache in a registry that a run has written whole: with the
// results of all steps, not only of the last ones.
type WrittenCache struct {
	Ref   string
	Steps []digest.Digest // those that the node held which wrote it
}

// wrote notes that the results of units on a node are in a cache.
func (r *run) wrote(ref string, n *nodeRun, units []ir.UnitID) {
	w := WrittenCache{Ref: ref}
	for _, v := range r.Graph.Vertices {
		s := n.tracker.vertices[v.Digest]
		if s != nil && s.done && v.Kind.IsStep() && slices.ContainsFunc(v.Users, func(u string) bool { return slices.Contains(units, ir.UnitID(u)) }) {
			w.Steps = append(w.Steps, v.Digest)
		}
	}
	r.caches.written = append(r.caches.written, w)
}

// writtenByTargets notes the caches that targets asked for and that were written
// with their outputs.
func (r *run) writtenByTargets() {
	for i, j := range r.Jobs {
		at := slices.IndexFunc(r.nodes, func(n *nodeRun) bool { return n.info.Name == r.results[i].Node })
		if r.results[i].State != Done || at < 0 || len(j.Units) == 0 {
			continue
		}
		var ids []ir.UnitID
		for _, u := range j.Units {
			ids = append(ids, u.ID)
		}
		for _, e := range r.caches.byUnit[ids[0]] {
			if e.Type == cacheRegistry && e.Attrs["mode"] == "max" && e.Attrs["ref"] != "" && e.Attrs["ignore-error"] == "" {
				r.wrote(e.Attrs["ref"], r.nodes[at], ids)
			}
		}
	}
}

// decideCaches decides what can be decided before the first solve: imports, and
// the caches that targets write themselves.
func decideCaches(b *Build) (caches, error) {
	c := caches{input: b.Cache, byUnit: map[ir.UnitID][]ir.CacheEntry{}, shared: !b.Cache.Repo.IsZero()}
	c.input.Nodes = map[ir.UnitID]int{}
	for n, parts := range b.Sched.Plan {
		for _, part := range parts {
			for _, u := range part {
				if int(u) >= len(b.Jobs) {
					continue
				}
				for _, unit := range b.Jobs[u].Units {
					c.input.Nodes[unit.ID] = n
				}
			}
		}
	}
	// Any node will do for a job that waits for one, but those that a target is
	// divided into are never on the same.
	of := map[string]int{}
	for _, part := range b.Sched.Pool {
		for _, u := range part {
			for _, unit := range b.Jobs[u].Units {
				c.input.Nodes[unit.ID] = of[b.Jobs[u].Target.Name]
			}
			of[b.Jobs[u].Target.Name]++
		}
	}
	c.input.Fleet = len(b.Sched.Nodes)
	p := cachepolicy.Decide(c.input)
	var err error
	if c.imports, c.stores, c.warnings, err = localImports(p.Imports, b.Dir); err != nil {
		return caches{}, err
	}
	for i := range c.imports {
		c.imports[i].Entry = b.Credentials.complete(c.imports[i].Entry)
	}
	for _, w := range p.Warnings {
		c.warnings = append(c.warnings, w.Text)
	}
	for _, e := range p.TargetExports {
		if e.Entry, err = localExport(e.Entry, b.Dir); err != nil {
			return caches{}, fmt.Errorf("target %s: %w", e.Target, err)
		}
		for _, u := range e.Units {
			c.byUnit[u] = append(c.byUnit[u], b.Credentials.complete(e.Entry))
		}
	}
	return c, nil
}

// importsOf returns what a solve of jobs reads. Each solve reads the manifests of all
// its imports anew, so it gets those of its own clusters only: caches of steps that
// it does not have are of no use to it.
func (c *caches) importsOf(jobs []plan.Job) []ir.CacheEntry {
	var units []ir.UnitID
	for _, j := range jobs {
		for _, u := range j.Units {
			units = append(units, u.ID)
		}
	}
	var entries []ir.CacheEntry
	for _, im := range c.imports {
		if im.Reads(units) {
			entries = append(entries, im.Entry)
		}
	}
	return entries
}

// decideExports decides which node writes which cluster, from where units were
// built.
func (c *caches) decideExports(r *run, finish sched.Finish) cachepolicy.Policy {
	in := c.input
	in.Nodes = map[ir.UnitID]int{}
	for u, o := range finish.Outcomes[:len(r.Jobs)] {
		if o.State != sched.Built {
			continue
		}
		for _, unit := range r.Jobs[u].Units {
			in.Nodes[unit.ID] = int(o.Node)
		}
	}
	return cachepolicy.Decide(in)
}

// exportCaches writes the shared caches, all at once. One that cannot be written is
// a warning, since what was asked for is built, or an error if the user wants it.
func (r *run) exportCaches(ctx context.Context, finish sched.Finish) error {
	if finish.Reason != "" || !r.caches.shared {
		return nil
	}
	var eg errgroup.Group
	policy := r.caches.decideExports(r, finish)
	errs, asked := make([]error, len(policy.Exports)), make([]bool, len(policy.Exports))
	for i, x := range policy.Exports {
		n := r.nodes[x.Node]
		c := n.conn
		if c == nil {
			continue
		}
		req := exportRequest{cacheTo: []bkclient.CacheOptionsEntry{cacheEntry(x.Entry)}}
		var targets []string
		for _, id := range x.Units {
			unit := r.units[id]
			if unit == nil || len(unit.Definition.GetDef()) == 0 {
				continue
			}
			img, err := r.image(unit)
			if err != nil {
				return err
			}
			req.images = append(req.images, img)
			targets = appendNew(targets, unit.Target.Name)
		}
		if len(req.images) == 0 {
			continue
		}
		asked[i] = true
		eg.Go(func() error {
			both, cancel := endWith(c.ended, ctx)
			defer cancel()
			observe := r.observeSolve(n, &solveSource{targets: targets, export: true, id: x.Entry.Attrs["ref"]})
			if _, err := c.exportCache(both, req, observe); err != nil {
				errs[i] = fmt.Errorf("node %s: write cache %s: %w", n.info.Name, x.Entry.Attrs["ref"], plain(err))
			}
			return nil
		})
	}
	r.pump(&eg)
	for i, x := range policy.Exports {
		if asked[i] && errs[i] == nil {
			r.wrote(x.Entry.Attrs["ref"], r.nodes[x.Node], x.Units)
		}
	}
	if err := errors.Join(errs...); err != nil {
		// Parts of a cluster that are missing are not to be joined.
		return r.unwritten(errs...)
	}
	return r.unwritten(r.joinCaches(ctx, policy.Joins)...)
}

// unwritten warns of caches that could not be written, or returns an error where
// they are required.
func (r *run) unwritten(errs ...error) error {
	if r.Cache.Required {
		return errors.Join(errs...)
	}
	for _, err := range errs {
		if err != nil {
			r.caches.warn(err.Error())
		}
	}
	return nil
}

// endWith returns a context that has the values of ctx and ends with either.
func endWith(ctx, other context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// key names the i-th result of a solve that has no platforms.
func key(i int) string { return strconv.Itoa(i) }
