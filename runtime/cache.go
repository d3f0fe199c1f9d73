package runtime

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
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
	writer   *cachepolicy.Writer
	// manifests are those of the caches that were written, by ref.
	manifests map[string]ocispecs.Descriptor
	failures  []cacheFailure
	// unwritten are the caches that targets write themselves and could not.
	unwritten map[outputOf]unwrittenCaches
}

// WrittenCache is a cache in a registry that a run has written whole: with the
// results of all steps, not only of the last ones.
type WrittenCache struct {
	Ref string
	// Manifest is the digest of what Ref stands for since; "" when it is not known.
	Manifest digest.Digest
	Steps    []digest.Digest // whose results it holds
	// Base is the manifest that Ref stood for before, of which everything is in it, too;
	// "" when there was none.
	Base digest.Digest
}

// heldBy returns the steps of units whose results are on a node.
func (r *run) heldBy(n *nodeRun, units []ir.UnitID) []digest.Digest {
	var list []digest.Digest
	seen := map[digest.Digest]bool{}
	for _, u := range units {
		for _, d := range r.steps[u] {
			if s := n.tracker.vertices[d]; s != nil && s.done && !seen[d] {
				seen[d] = true
				list = append(list, d)
			}
		}
	}
	return list
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
				r.caches.written = append(r.caches.written, WrittenCache{Ref: e.Attrs["ref"], Steps: r.heldBy(r.nodes[at], ids)})
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
	c.writer = cachepolicy.NewWriter(c.input, b.cached)
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
