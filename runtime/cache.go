package runtime

import (
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/sched"
)

// caches are the decisions about caches before the first solve. They do not change during a
// run.
type caches struct {
	input   cachepolicy.Input
	imports []cachepolicy.Import
	idle    []bool                        // by import: the nodes keep all that it could hold for the plan
	byUnit  map[ir.UnitID][]ir.CacheEntry // to be written with the outputs of the unit's job
	shared  bool                          // caches are written while nodes build, and when all is built
	stores  map[string]content.Store      // of imports in directories
}

// WrittenCache is a cache in a registry that a run has written whole: with the
// results of all steps, not only of the last ones.
type WrittenCache struct {
	Ref string
	// Manifest is the digest that Ref stands for now; "" when it is not known.
	Manifest digest.Digest
	Steps    []digest.Digest // whose results it holds
	// Base is the manifest that Ref stood for before; the new one has all its entries. "" when
	// there was none.
	Base digest.Digest
}

// decideCaches makes the decisions that need no solve: imports, and the caches that targets
// write themselves. It also returns warnings.
func decideCaches(b *Build) (c *caches, warnings []string, err error) {
	c = &caches{input: b.Cache, byUnit: map[ir.UnitID][]ir.CacheEntry{}, shared: !b.Cache.Repo.IsZero()}
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
	// A job without a node may get any. Only the jobs that a target is divided into are never on
	// the same node.
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
	if c.imports, c.stores, warnings, err = cacheentry.LocalImports(p.Imports, b.Dir); err != nil {
		return nil, nil, err
	}
	for i := range c.imports {
		c.imports[i].Entry = b.Credentials.Complete(c.imports[i].Entry)
	}
	for _, w := range p.Warnings {
		warnings = append(warnings, w.Text)
	}
	c.findIdle(b.Kept)
	for _, e := range p.TargetExports {
		if e.Entry, err = cacheentry.LocalExport(e.Entry, b.Dir); err != nil {
			return nil, nil, fmt.Errorf("target %s: %w", e.Target, err)
		}
		for _, u := range e.Units {
			c.byUnit[u] = append(c.byUnit[u], b.Credentials.Complete(e.Entry))
		}
	}
	return c, warnings, nil
}

// findIdle finds the imports that are of no use as long as all goes as planned: the results of
// all units that read them are known to be where the units are planned. The units of a cluster
// read an import all, or none of them does.
func (c *caches) findIdle(kept map[ir.UnitID]bool) {
	c.idle = make([]bool, len(c.imports))
	for i, im := range c.imports {
		c.idle[i] = true
		for u := range c.input.Nodes {
			if im.Reads([]ir.UnitID{u}) && !kept[u] {
				c.idle[i] = false
				break
			}
		}
	}
}

// importsOf returns the imports of a solve of jobs. Each solve reads the manifests of all
// its imports again, so it gets those of its own clusters only: other caches are of no use
// to it, nor is any where all is as planned and the nodes keep all results. Jobs that come to
// another node later do without what they share with those: such results are not looked up
// again there.
func (c *caches) importsOf(jobs []plan.Job, planned bool) []ir.CacheEntry {
	var units []ir.UnitID
	for _, j := range jobs {
		for _, u := range j.Units {
			units = append(units, u.ID)
		}
	}
	var entries []ir.CacheEntry
	for i, im := range c.imports {
		if im.Reads(units) && !(planned && c.idle[i]) {
			entries = append(entries, im.Entry)
		}
	}
	return entries
}

// probes returns a probe for each host of the run's caches that can be tried: those that caches
// are read from, and the others. The key is the host, as cacheentry.Server names it.
func (c *caches) probes(jobs []plan.Job) (read, other map[string]string) {
	read, other = map[string]string{}, map[string]string{}
	for _, im := range c.imports {
		if host, probe := cacheentry.Server(im.Entry), cacheentry.Probe(im.Entry); probe != "" && read[host] == "" {
			read[host] = probe
		}
	}
	add := func(e ir.CacheEntry) {
		if host, probe := cacheentry.Server(e), cacheentry.Probe(e); probe != "" && read[host] == "" && other[host] == "" {
			other[host] = probe
		}
	}
	for _, j := range jobs {
		for _, u := range j.Units {
			for _, e := range c.byUnit[u.ID] {
				add(e)
			}
		}
	}
	if c.shared {
		for _, store := range slices.Concat([]cachepolicy.Store{c.input.Store}, c.input.More) {
			add(store.Entry(store.Name + ":" + store.Prefix))
		}
	}
	return read, other
}

// silentMessage reports that a registry of caches does not answer a node.
type silentMessage struct {
	node *nodeRun
	host string
}

func (m silentMessage) take(r *run) []sched.Event {
	text := fmt.Sprintf("%s did not answer within %s: the caches in it are not used", cacheentry.Title(m.host), daemon.ReachTimeout)
	r.reporter.waits(m.node, text)
	r.reporter.warn(text)
	return r.exchange.noteSilent(m.node.id, m.host)
}
